"""Where users of TensorFlow Serving have asked for more; the numbers are of its issues."""

from __future__ import annotations

from typing import Final

from tests.conformance.row import SHOULD, SKIP, Row, Status

__all__ = ["ROWS"]

_BETTER: Final = Status.BETTER

ROWS: Final = (
    Row(
        SHOULD,
        "list all models (#795, #938)",
        _BETTER,
        ("server/test_monitoring.py::test_models_are_listed",),
        "`GET /v1/models`, which upstream answers with 400",
    ),
    Row(
        SHOULD,
        "health and readiness without a model name (#671, #1754)",
        _BETTER,
        (
            "server/test_rest_server.py::test_paths_outside_the_api_and_probes",
            "server/test_monitoring.py::test_the_page_is_where_the_file_says",
        ),
        "`/healthz`, `/readyz`, which says who is not ready",
    ),
    Row(
        SHOULD,
        "one wrong path blocks no other model (#2189, #1693)",
        _BETTER,
        (
            "server/test_config_200.py::test_198_of_200_models_are_served_and_the_other_two_explained",
            "server/test_lifecycle_process.py::test_a_missing_base_path_is_named_and_hurts_no_other_model",
        ),
        "of 200 models with two bad ones, 198 are served and the two explained",
    ),
    Row(
        SHOULD,
        "a vanished folder does not unload what serves (#1480, #2273)",
        _BETTER,
        ("server/test_lifecycle_process.py::test_a_vanished_folder_keeps_what_serves",),
        "unless asked to",
    ),
    Row(
        SHOULD,
        "a model that failed once does not block a reload for ever (#1565)",
        _BETTER,
        (
            "server/test_reload.py::test_a_model_that_failed_and_is_listed_anew_is_tried_anew",
            "server/test_reload.py::test_a_wait_ends_before_its_callers_deadline",
        ),
        "bounded wait, result for each model",
    ),
    Row(
        SHOULD,
        "END versions do not pile up (#1488, #612)",
        _BETTER,
        (
            "conformance/test_lifecycle_texts.py::test_another_base_path_reloads_no_version_that_is_loaded",
            "server/test_lifecycle_policies.py::test_ended_versions_do_not_pile_up_without_end",
        ),
        "the list of models shows those that failed only; GetModelStatus keeps all, up to a bound",
    ),
    Row(
        SHOULD,
        "`Servable not found` says whether it is unknown, loading or failed (#441, #750)",
        _BETTER,
        (
            "server/test_lifecycle_manager.py::test_requests_are_told_what_is_known",
            "server/test_lifecycle_process.py::test_ports_answer_loading_before_the_model_is_there",
        ),
        "behind the exact text",
    ),
    Row(
        SHOULD,
        "input errors print what the signature wants (#435, #719)",
        _BETTER,
        (
            "server/test_predict.py::test_bad_requests_get_tensorflow_serving_s_text_and_a_hint",
            "server/test_rest_server.py::test_errors",
        ),
        "behind the exact text, over gRPC and REST",
    ),
    Row(
        SHOULD,
        "requests above max_batch_size can be split (#1401)",
        _BETTER,
        ("server/test_batching.py::test_a_request_larger_than_a_batch_is_split_and_joined_when_asked_for",),
        "`enable_large_batch_splitting`",
    ),
    Row(
        SHOULD,
        "metrics by version and signature, build info, start time (#462, #1959)",
        _BETTER,
        (
            "server/test_monitoring.py::test_requests_by_grpc",
            "server/test_monitoring.py::test_versions_workers_and_the_server",
        ),
        "families of our own beside TensorFlow Serving's",
    ),
    Row(
        SHOULD,
        "warmup recorded from live traffic (#385, #733)",
        _BETTER,
        ("server/test_warmup_recording.py::test_all_kinds_are_recorded_and_warm_the_next_version_up",),
        "one command",
    ),
    Row(
        SHOULD,
        "requests split over versions by weight, in one server (#197, PR #788)",
        _BETTER,
        (
            "server/test_traffic.py::test_predict_follows_the_weights",
            "server/test_traffic.py::test_every_api_gives_a_key_the_same_version",
            "server/test_mirroring.py::test_pairs_of_both_versions_and_answers_of_one",
        ),
        "changed while requests run, sticky by a header; or copied to another version",
    ),
    Row(
        SHOULD,
        "ports open while models load (#979, #1175)",
        _BETTER,
        ("server/test_lifecycle_process.py::test_ports_answer_loading_before_the_model_is_there",),
        "and say what is loading",
    ),
    Row(
        SHOULD,
        "memory is given back after an unload (#1664, #1346)",
        _BETTER,
        ("server/test_lifecycle_process.py::test_twenty_loads_and_unloads_give_all_memory_back",),
        "a process per version",
    ),
    Row(
        SHOULD,
        "models change at run time (#422, #765)",
        _BETTER,
        (
            "server/test_reload.py::test_labels_and_models_change_in_one_call",
            "server/test_labels.py::test_labels_by_the_control_channel",
        ),
        "reload, and a control channel for one model at a time",
    ),
    Row(
        SHOULD,
        "a client without TensorFlow (#557, #2140)",
        _BETTER,
        (
            "workbench/test_client.py::test_every_dtype_comes_back_as_it_went",
            "workbench/test_package.py::test_import_is_light",
        ),
        "`serving_workbench.connect`",
    ),
    Row(
        SHOULD,
        "with batching, errors name the tensor and the remedy (#276, #2043)",
        _BETTER,
        ("server/test_batching.py::test_what_cannot_be_batched_is_refused_and_named",),
        "behind the exact text",
    ),
    Row(
        SHOULD,
        "labels over REST (#1413, #1555)",
        _BETTER,
        ("server/test_labels.py::test_labels_resolve_in_both_protocols",),
        "for inference, metadata and, though it is ignored there, status",
    ),
    Row(
        SHOULD,
        "loading one model does not hold up the others (#1866, #996)",
        _BETTER,
        (
            "server/test_lifecycle_manager.py::test_models_do_not_disturb_each_other",
            "server/test_lifecycle_process.py::test_fifty_swaps_under_load_lose_and_falsify_nothing",
        ),
        "each version loads in a process of its own",
    ),
    Row(
        SHOULD,
        "GPU memory is not taken whole (#249, #1929)",
        _BETTER,
        ("server/test_session_options.py::test_memory_grows_and_ops_run_in_the_caller_s_thread_when_nothing_is_said",),
        "it grows as needed; a fraction and cards may be chosen for a model",
    ),
    Row(
        SHOULD,
        "requests and answers can be logged, and sent again (#408, #1846)",
        _BETTER,
        ("server/test_request_log.py::test_requests_of_both_protocols_are_logged_and_warm_the_next_version_up",),
        "as PredictionLog records, by `logging_config`",
    ),
    Row(
        SHOULD,
        "a profile on demand, without a look at the model's code (#2149, #1755)",
        _BETTER,
        ("foreign/test_profiler_client.py::test_a_trace_while_requests_come",),
        "of each loaded version",
    ),
    Row(
        SKIP,
        "half over REST, numbers and bools converted, ragged lists (#1639, #1136, #435)",
        Status.MISSING,
        (),
        "refused as upstream does; gRPC carries every dtype",
    ),
    Row(SKIP, "arm64 (#1816, #1948)", Status.MISSING, (), "it should run where TensorFlow's wheel does; not tested"),
    Row(
        SKIP,
        "batching that tunes itself (#1312, #1529)",
        Status.MISSING,
        (),
        "its parameters change at run time, and `tune` searches when asked; nothing changes by itself",
    ),
    Row(SKIP, "thousands of models, loaded on demand (#1403)", Status.MISSING, (), "200 in one file are tested"),
    Row(
        SKIP, "Python code before and after the model (#54, #495)", Status.MISSING, (), "export it as part of the graph"
    ),
    Row(
        SKIP,
        "weighted routing between models (PR #788)",
        Status.MISSING,
        (),
        "requests are split over versions of one model, not over models",
    ),
)
