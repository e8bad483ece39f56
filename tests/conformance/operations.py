"""Warmup, request logs, metrics, profiler, TLS, odds and ends."""

from __future__ import annotations

from typing import Final

from tests.conformance.row import MUST, SHOULD, SKIP, Row, Status

__all__ = ["ROWS"]

_SAME: Final = Status.SAME
_BETTER: Final = Status.BETTER
_DIFFERS: Final = Status.DIFFERS
_WARMUP: Final = ("server/test_warmup.py::test_records_of_all_kinds",)
_LOG: Final = "server/test_request_log.py::"
_METRICS: Final = "server/test_metrics.py::"
_MONITORING: Final = "server/test_monitoring.py::"
_CALLS: Final = "conformance/test_metrics_of_calls.py::test_what_calls_add"
_REPLAYED: Final = "server/test_lifecycle_process.py::test_warmup_records_are_replayed_and_a_bad_one_fails_the_load"
_UNWANTED: Final = "server/test_warmup.py::test_without_warmup_nothing_is_read"

ROWS: Final = (
    Row(
        MUST,
        "warmup: records of Predict, Classify, Regress, MultiInference run before AVAILABLE, whatever model they name; "
        "an empty one is nothing",
        _SAME,
        (*_WARMUP, _REPLAYED),
    ),
    Row(MUST, "warmup: `Number of warmup records exceeds the maximum (1000) at <path>`", _SAME, _WARMUP),
    Row(MUST, "warmup: UNIMPLEMENTED `Unsupported log_type for warmup: 5`", _SAME, _WARMUP),
    Row(
        MUST,
        "warmup: DATA_LOSS `.. Please verify your warmup data is in TFRecord format.`, INVALID_ARGUMENT "
        "`Failed to parse warmup record: ..`; a failing record fails the load",
        _SAME,
        (*_WARMUP, _REPLAYED),
    ),
    Row(
        SHOULD,
        "warmup passes through the batcher",
        _DIFFERS,
        _WARMUP,
        "records run as they are, in the worker, before there is a queue: none is refused for its size",
    ),
    Row(
        SHOULD,
        "num_model_warmup_threads of a platform config",
        Status.ACCEPTED,
        ("server/test_platform_config.py::test_every_part_is_read",),
        "records run one after another",
    ),
    Row(
        SHOULD,
        "logging_config: request logs",
        _BETTER,
        (
            f"{_LOG}test_requests_of_both_protocols_are_logged_and_warm_the_next_version_up",
            f"{_LOG}test_requests_of_examples_are_logged_with_their_answers",
            f"{_LOG}test_files_are_rotated_and_the_oldest_removed",
            f"{_LOG}test_a_rate_of_zero_logs_nothing_and_a_half_about_half",
        ),
        "TensorFlow Serving's binary has no collector and refuses; here they are TFRecord files, rotated",
    ),
    Row(
        MUST,
        "metrics: the format, names with `:`, `# TYPE` without HELP, counters without `_total`",
        _DIFFERS,
        (f"{_METRICS}test_the_text_is_as_tensorflow_serving_writes_it", _CALLS),
        "families of our own, named `serving_workbench_`, have help and units as Prometheus advises",
    ),
    Row(
        MUST,
        "metrics: request_count of Predict, Classify, Regress and every call of REST, by model and status",
        _SAME,
        (_CALLS, f"{_MONITORING}test_requests_by_grpc", f"{_MONITORING}test_requests_by_rest"),
    ),
    Row(
        MUST,
        "metrics: request_latency by model, API and entrypoint, 33 buckets of 10 x 1.8^i us",
        _SAME,
        (_CALLS, f"{_MONITORING}test_requests_by_grpc", f"{_MONITORING}test_requests_by_rest"),
    ),
    Row(
        MUST,
        "metrics: runtime_latency by model, API and runtime TF1",
        _SAME,
        (_CALLS, f"{_MONITORING}test_requests_by_grpc", f"{_MONITORING}test_requests_by_rest"),
    ),
    Row(
        MUST,
        "metrics: batching_session: queuing_latency, wrapped_run_count, input_batch_size, processed_batch_size, "
        "padding_size",
        _SAME,
        (f"{_METRICS}test_batches_in_all_sizes", f"{_MONITORING}test_batches"),
    ),
    Row(
        SHOULD,
        "metrics: request_example_counts, request_example_count_total of MultiInference",
        _SAME,
        (_CALLS, f"{_METRICS}test_examples_of_multi_inference"),
    ),
    Row(
        SHOULD,
        "metrics: request_log_count, model_warmup_latency, model_warmup_records_read",
        _SAME,
        (f"{_METRICS}test_loads_and_warmups_by_directory",),
    ),
    Row(
        SHOULD,
        "metrics: `:tensorflow:cc:saved_model:load_attempt_count`, `load_latency`",
        _SAME,
        (
            f"{_MONITORING}test_versions_workers_and_the_server",
            f"{_METRICS}test_loads_and_warmups_by_directory",
        ),
    ),
    Row(
        SKIP,
        "metrics of TensorFlow's core",
        _DIFFERS,
        (f"{_METRICS}test_loads_and_warmups_by_directory",),
        "its registry cannot be read from Python; the saved_model pair is counted by the server itself",
    ),
    Row(
        SHOULD,
        "TensorFlow's own profiler client captures a trace",
        _SAME,
        ("foreign/test_profiler_client.py::test_a_trace_while_requests_come",),
    ),
    Row(
        MUST,
        "SSLConfig: server_key and server_cert as PEM text, custom_ca, client_verify",
        _SAME,
        (
            "server/test_tls.py::test_certificates_of_clients",
            "server/test_tls.py::test_an_authority_alone_asks_clients_for_nothing",
            "server/test_tls.py::test_fields_that_are_wrong",
            "foreign/test_tls.py::test_clients_without_a_certificate_of_the_authority",
        ),
    ),
    Row(
        SKIP,
        "saved_model_config.pb; `enable_saved_model_config` is UNIMPLEMENTED",
        Status.REFUSED,
        ("server/test_platform_config.py::test_what_cannot_be_honoured_names_file_and_part",),
        "the field is refused as there; the file is not read, as its optimizers are not in TensorFlow's wheel",
    ),
    Row(
        SHOULD,
        "TensorFlow Lite models, with and without signatures, and with those in the metadata",
        _SAME,
        (
            "server/test_tflite.py::test_the_converter_s_signatures",
            "server/test_tflite.py::test_a_model_without_signatures_goes_by_its_tensors_names",
            "server/test_tflite.py::test_signatures_in_the_metadata_are_preferred",
            "server/test_tflite.py::test_many_clients_with_many_shapes_get_their_own_answers",
        ),
    ),
    Row(
        SHOULD,
        "custom ops",
        _BETTER,
        ("server/test_custom_ops.py::test_a_model_with_a_custom_op_is_served_with_its_library_and_explained_without",),
        "`--custom_op_libraries`; no rebuild",
    ),
    Row(
        SKIP,
        "MLMD gauge, Remote Predict op, Hashmap servable, static source",
        _DIFFERS,
        ("server/test_reload.py::test_a_bad_list_changes_nothing",),
        "not there; another platform than tensorflow is refused",
    ),
    Row(
        MUST,
        "SavedModels of TensorFlow 1 (estimators too) and 2 and Keras 3, several signatures, assets",
        _SAME,
        (
            "server/test_model_formats.py::test_predict",
            "server/test_model_formats.py::test_classify_and_regress",
            "server/test_model_formats.py::test_the_init_op_reads_a_file_of_the_assets",
            "server/test_model_formats.py::test_a_trained_keras_model_answers_alike_in_both_protocols",
            "server/test_predict.py::test_an_input_with_a_default_may_be_left_out",
        ),
    ),
    Row(
        MUST,
        "GPU memory: growth, fraction, allocator, visible devices",
        _BETTER,
        (
            "server/test_session_options.py::test_growth",
            "server/test_session_options.py::test_memory_fraction",
            "server/test_session_options.py::test_what_the_environment_decides_is_told",
            "server/test_session_options.py::test_devices",
            "server/test_session_options.py::test_a_model_config_may_choose_devices",
        ),
        "growth is on by default, and a model config may choose cards",
    ),
)
