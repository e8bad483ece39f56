"""The 48 flags of tensorflow_model_server (model_servers/main.cc, server.h)."""

from __future__ import annotations

from typing import Final

from tests.conformance.row import MUST, SHOULD, SKIP, Row, Status

__all__ = ["ROWS", "UPSTREAM"]

#: Every flag with its default. Three defaults there depend on the machine (threads per processor); here 0 stands for
#: "as many as fit".
UPSTREAM: Final[dict[str, bool | int | float | str]] = {
    "port": 8500,
    "grpc_socket_path": "",
    "rest_api_port": 0,
    "rest_api_num_threads": 0,
    "rest_api_timeout_in_ms": 30_000,
    "rest_api_enable_cors_support": False,
    "enable_batching": False,
    "batching_parameters_file": "",
    "enable_per_model_batching_parameters": False,
    "allow_version_labels_for_unavailable_models": False,
    "model_config_file": "",
    "model_config_file_poll_wait_seconds": 0,
    "model_name": "default",
    "model_base_path": "",
    "num_load_threads": 0,
    "num_unload_threads": 0,
    "max_num_load_retries": 5,
    "load_retry_interval_micros": 60_000_000,
    "file_system_poll_wait_seconds": 1,
    "flush_filesystem_caches": True,
    "tensorflow_session_parallelism": 0,
    "tensorflow_intra_op_parallelism": 0,
    "tensorflow_inter_op_parallelism": 0,
    "tensorflow_session_config_file": "",
    "per_process_gpu_memory_fraction": 0.0,
    "saved_model_tags": "serve",
    "ssl_config_file": "",
    "use_alts_credentials": False,
    "platform_config_file": "",
    "grpc_channel_arguments": "",
    "grpc_max_threads": 0,
    "enable_model_warmup": True,
    "num_request_iterations_for_warmup": 0,
    "monitoring_config_file": "",
    "version": False,
    "enable_signature_method_name_check": False,
    "enable_serialization_as_tensor_content": False,
    "enable_grpc_healthcheck_service": False,
    "enable_profiler": True,
    "prefer_tflite_model": False,
    "num_tflite_pools": 0,
    "num_tflite_interpreters_per_pool": 1,
    "mixed_precision": "",
    "remove_unused_fields_from_bundle_metagraph": True,
    "xla_cpu_compilation_enabled": False,
    "xla_gpu_compilation_enabled": False,
    "thread_pool_factory_config_file": "",
    "skip_initialize_tpu": False,
}

_SAME: Final = Status.SAME
_BETTER: Final = Status.BETTER
_CLI: Final = "server/test_command_line.py::"
_SESSION: Final = "server/test_session_options.py::"
_PROCESS: Final = "server/test_lifecycle_process.py::"
_POLL: Final = "server/test_config_poll.py::"
_ACCEPTED: Final = ("conformance/test_flags.py::test_a_flag_without_a_meaning_here_is_accepted_and_says_so",)
_REFUSED: Final = ("conformance/test_flags.py::test_a_flag_that_cannot_be_honoured_is_refused_with_its_reason",)
_FITS: Final = (f"{_CLI}test_what_does_not_fit_together_is_refused",)
_EFFECT: Final = "conformance/test_flags.py::"
_MEANS: Final = (f"{_EFFECT}test_what_flags_mean",)

ROWS: Final = (
    Row(
        MUST,
        "all 48 flags, with their types and defaults",
        _SAME,
        ("conformance/test_table.py::test_all_flags_of_tensorflow_serving_have_their_type_and_default",),
    ),
    Row(
        MUST,
        "`--name=value` only; bool as `--name`, `=true`, `=false`; a bad value prints `Couldn't interpret value ..`",
        _BETTER,
        (f"{_CLI}test_a_value_that_cannot_be_read_names_the_flag",),
        "what it takes follows in parentheses, and all of it once more below the usage",
    ),
    Row(
        MUST,
        "an unknown argument is named, and the server goes on",
        _BETTER,
        (f"{_CLI}test_an_unknown_argument_is_named_and_the_server_goes_on",),
        "a flag that may have been meant follows in parentheses",
    ),
    Row(
        MUST,
        "`--help`: usage on stdout, 255; `--version`: `TensorFlow ModelServer: <v>`, `TensorFlow Library: <v>`, 0",
        _BETTER,
        (f"{_CLI}test_version_and_help",),
        "the help is in groups",
    ),
    Row(
        MUST,
        "a start that fails says `Failed to start server. Error: <CODE>: <msg>` on stdout and exits with 255",
        _SAME,
        _FITS,
    ),
    Row(MUST, "`--port`; 0 needs `--grpc_socket_path`", _SAME, (*_FITS, f"{_CLI}test_a_port_in_use_is_named")),
    Row(
        MUST,
        "`--grpc_socket_path`: the unix socket besides, with the same credentials",
        _SAME,
        (
            "server/test_http2_transport.py::test_it_serves_by_tcp_and_by_a_unix_socket_within_its_arguments",
            "foreign/test_clients.py::test_by_the_unix_socket",
            "foreign/test_tls.py::test_by_tcp_and_by_the_unix_socket",
        ),
    ),
    Row(
        MUST,
        "`--rest_api_port`; equal to `--port`: an error is logged, the server runs without REST",
        Status.DIFFERS,
        (
            f"{_EFFECT}test_rest_on_the_port_of_grpc_is_left_out",
            f"{_EFFECT}test_rest_listens_to_ipv6_and_ipv4",
            f"{_CLI}test_a_port_in_use_is_named",
        ),
        "a port in use ends the start instead of a log line; `--bind_address` chooses another interface for both ports",
    ),
    Row(SHOULD, "`--rest_api_num_threads`", Status.ACCEPTED, _ACCEPTED, "one event loop serves all connections"),
    Row(
        MUST,
        "`--rest_api_timeout_in_ms`",
        _SAME,
        (
            "server/test_rest_server.py::test_timeout_becomes_the_deadline",
            f"{_EFFECT}test_config_file_batching_file_time_limit_and_tensor_content",
            *_MEANS,
        ),
    ),
    Row(MUST, "`--rest_api_enable_cors_support`", _SAME, ("server/test_rest_server.py::test_cors", *_MEANS)),
    Row(
        MUST,
        "`--enable_batching`, `--batching_parameters_file`",
        _SAME,
        (
            f"{_EFFECT}test_config_file_batching_file_time_limit_and_tensor_content",
            f"{_CLI}test_a_bad_batching_file_is_refused_with_its_line",
            *_FITS,
        ),
    ),
    Row(
        SHOULD,
        "`--enable_per_model_batching_parameters`",
        _SAME,
        (
            "server/test_batching_files.py::test_a_version_s_file_decides_and_a_model_without_one_is_not_batched",
            "server/test_batching_files.py::test_a_broken_file_fails_that_version_only",
        ),
    ),
    Row(
        MUST,
        "`--allow_version_labels_for_unavailable_models`",
        _SAME,
        (
            "server/test_labels.py::test_the_flag_lets_new_and_unmoved_labels_point_anywhere",
            "server/test_config_poll.py::test_labels_at_the_start_need_the_flag",
            "conformance/test_lifecycle_texts.py::test_labels_with_the_flag",
        ),
    ),
    Row(
        MUST,
        "`--model_config_file`; wins over `--model_name` and `--model_base_path`",
        _SAME,
        (
            f"{_CLI}test_a_config_file_serves_several_models",
            f"{_CLI}test_a_bad_model_config_is_refused",
            f"{_EFFECT}test_config_file_batching_file_time_limit_and_tensor_content",
        ),
    ),
    Row(
        MUST,
        "`--model_config_file_poll_wait_seconds`: a broken file is logged, the old configuration stays",
        _BETTER,
        (f"{_POLL}test_it_follows_the_file", f"{_POLL}test_a_broken_file_changes_nothing_and_is_told_with_its_line"),
        "the log names the line and the cause",
    ),
    Row(
        MUST,
        "`--model_name`, `--model_base_path`; one of this and a config file is required",
        _SAME,
        (f"{_PROCESS}test_ports_answer_loading_before_the_model_is_there", *_FITS),
    ),
    Row(
        SHOULD,
        "`--num_load_threads`",
        Status.DIFFERS,
        (
            "server/test_lifecycle_manager.py::test_the_highest_new_version_is_loaded_first_and_loads_are_limited",
            *_MEANS,
        ),
        "loads at once, of all models (0: 4); a slow load never holds up another",
    ),
    Row(
        SHOULD,
        "`--num_unload_threads`",
        Status.DIFFERS,
        ("server/test_lifecycle_policies.py::test_unloads_can_be_limited", *_MEANS),
        "0: unloads never wait for each other",
    ),
    Row(
        MUST,
        "`--max_num_load_retries`, `--load_retry_interval_micros`",
        _SAME,
        (
            "server/test_lifecycle_manager.py::test_failed_loads_are_tried_again_after_the_interval",
            "conformance/test_lifecycle_texts.py::test_models_that_cannot_be_served",
            *_MEANS,
        ),
    ),
    Row(
        MUST,
        "`--file_system_poll_wait_seconds`; 0: once; negative: never",
        _BETTER,
        ("server/test_lifecycle_source.py::test_poll_once_and_never", *_MEANS),
        "changes are also seen at once, by the system's notifications",
    ),
    Row(SKIP, "`--flush_filesystem_caches`", Status.ACCEPTED, _ACCEPTED),
    Row(
        MUST,
        "`--tensorflow_session_parallelism`, `--tensorflow_intra_op_parallelism`, `--tensorflow_inter_op_parallelism`; "
        "all three together are refused",
        Status.DIFFERS,
        (
            f"{_SESSION}test_thread_counts_of_the_flags_replace_the_file_s_even_when_they_are_zero",
            *_MEANS,
            *_FITS,
        ),
        "0 between ops does not mean as many as processors: ops run in the thread that calls, which costs least",
    ),
    Row(
        MUST,
        "`--tensorflow_session_config_file`",
        _BETTER,
        (
            "server/test_session_options.py::test_the_file_s_options_arrive_in_the_worker",
            "server/test_session_options.py::test_the_rest_of_the_file_reaches_the_session",
        ),
        "GPU memory grows as needed unless the file says `allow_growth: false`",
    ),
    Row(
        MUST,
        "`--per_process_gpu_memory_fraction`",
        Status.DIFFERS,
        ("server/test_session_options.py::test_memory_fraction", *_MEANS),
        "when it is not given, the fraction of the session config file stands; there it is overwritten with 0",
    ),
    Row(MUST, "`--saved_model_tags`", _SAME, (f"{_EFFECT}test_the_tags_choose_the_graph",)),
    Row(
        MUST,
        "`--ssl_config_file`: TLS and client certificates for gRPC",
        _SAME,
        (
            "server/test_tls.py::test_a_server_s_certificate",
            "server/test_tls.py::test_certificates_of_clients",
            "foreign/test_tls.py::test_by_tcp_and_by_the_unix_socket",
            "foreign/test_tls.py::test_clients_without_a_certificate_of_the_authority",
            "foreign/test_tls.py::test_rest_stays_without_tls_and_the_log_says_so",
        ),
    ),
    Row(SKIP, "`--use_alts_credentials`", Status.REFUSED, _REFUSED, "for Google's own machines"),
    Row(
        SHOULD,
        "`--platform_config_file`",
        _SAME,
        (
            "server/test_platform_config.py::test_every_part_is_read",
            "server/test_platform_config.py::test_its_batching_is_in_force_and_the_flag_is_not",
            "server/test_platform_config.py::test_what_cannot_be_honoured_names_file_and_part",
        ),
        "of `SessionBundleConfig`: session, batching, tags, warmup, TensorFlow Lite",
    ),
    Row(
        MUST,
        "`--grpc_channel_arguments`",
        Status.BETTER,
        (
            "server/test_http2_transport.py::test_channel_arguments_become_limits",
            "server/test_http2_transport.py::test_it_serves_by_tcp_and_by_a_unix_socket_within_its_arguments",
            "server/test_http2_transport.py::test_arguments_without_a_meaning_are_logged",
        ),
        "limits and ages are honoured by both transports; what means nothing here is logged",
    ),
    Row(MUST, "`--grpc_max_threads`", Status.ACCEPTED, _ACCEPTED, "one event loop serves all connections"),
    Row(
        MUST,
        "`--enable_model_warmup`, `--num_request_iterations_for_warmup`",
        _SAME,
        (
            "server/test_warmup.py::test_records_of_all_kinds",
            "server/test_warmup.py::test_without_warmup_nothing_is_read",
        ),
    ),
    Row(
        MUST,
        "`--monitoring_config_file`",
        Status.DIFFERS,
        (
            "server/test_monitoring.py::test_the_page_is_where_the_file_says",
            "server/test_monitoring.py::test_there_is_no_page_unless_it_is_enabled",
            "server/test_monitoring.py::test_a_wrong_file_stops_the_start",
        ),
        "a path that could not be reached is refused at the start",
    ),
    Row(
        MUST,
        "`--enable_signature_method_name_check`",
        _SAME,
        ("server/test_classify.py::test_requests_share_batches", "server/test_warmup.py::test_records_of_all_kinds"),
    ),
    Row(
        MUST,
        "`--enable_serialization_as_tensor_content`",
        _SAME,
        (
            f"{_EFFECT}test_config_file_batching_file_time_limit_and_tensor_content",
            "server/test_predict_response.py::test_every_dtype_and_shape",
        ),
    ),
    Row(
        SHOULD,
        "`--enable_grpc_healthcheck_service`",
        _SAME,
        (
            "server/test_health.py::test_a_server_whose_models_answer_is_serving",
            "server/test_health.py::test_it_is_off_unless_asked_for",
        ),
    ),
    Row(
        SHOULD,
        "`--enable_profiler`, on by default",
        _SAME,
        (
            "server/test_profiler.py::test_each_worker_writes_its_trace",
            "server/test_profiler.py::test_without_models_and_when_off",
        ),
    ),
    Row(
        SHOULD,
        "`--prefer_tflite_model`",
        _SAME,
        (
            "server/test_tflite.py::test_the_converter_s_signatures",
            "server/test_tflite.py::test_a_saved_model_beside_them_is_served_as_ever",
        ),
    ),
    Row(
        SHOULD,
        "`--num_tflite_pools`, `--num_tflite_interpreters_per_pool`",
        Status.ACCEPTED,
        _ACCEPTED,
        "each batch thread has an interpreter of its own",
    ),
    Row(
        SHOULD, "`--mixed_precision=bfloat16`", _SAME, ("server/test_session_options.py::test_mixed_precision", *_MEANS)
    ),
    Row(SKIP, "`--remove_unused_fields_from_bundle_metagraph`", Status.ACCEPTED, _ACCEPTED),
    Row(SKIP, "`--xla_cpu_compilation_enabled`, `--xla_gpu_compilation_enabled`", Status.ACCEPTED, _ACCEPTED),
    Row(SKIP, "`--thread_pool_factory_config_file`", Status.REFUSED, _REFUSED, "there are no factories to name"),
    Row(SKIP, "`--skip_initialize_tpu`", Status.ACCEPTED, _ACCEPTED),
    Row(
        SHOULD,
        "the image's entry point: `--port=8500 --rest_api_port=8501`, `$MODEL_NAME`, `$MODEL_BASE_PATH`, further flags",
        _SAME,
        ("foreign/test_container.py::test_the_entry_point_of_the_image",),
    ),
)
