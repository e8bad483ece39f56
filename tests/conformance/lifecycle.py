"""Versions, labels, configuration (core/, sources/storage_path/, model_servers/server_core.cc)."""

from __future__ import annotations

from typing import Final

from tests.conformance.row import MUST, SHOULD, SKIP, Row, Status

__all__ = ["ROWS"]

_SAME: Final = Status.SAME
_BETTER: Final = Status.BETTER
_DIFFERS: Final = Status.DIFFERS
_MANAGER: Final = "server/test_lifecycle_manager.py::"
_SOURCE: Final = "server/test_lifecycle_source.py::"
_STATES: Final = "server/test_lifecycle_states.py::"
_POLICIES: Final = "server/test_lifecycle_policies.py::"
_PROCESS: Final = "server/test_lifecycle_process.py::"
_LABELS: Final = "server/test_labels.py::"
_RELOAD: Final = "server/test_reload.py::"
_POLL: Final = "server/test_config_poll.py::"
_TEXTS: Final = "conformance/test_lifecycle_texts.py::"
_UNSERVABLE: Final = f"{_TEXTS}test_models_that_cannot_be_served"

ROWS: Final = (
    Row(
        MUST,
        "states START 10, LOADING 20, AVAILABLE 30, UNLOADING 40 (told before it stops serving), END 50",
        _SAME,
        (f"{_MANAGER}test_a_version_goes_through_every_state", f"{_STATES}test_states_have_the_numbers_of_the_wire"),
    ),
    Row(
        MUST,
        "a version is a child whose whole name is an integer, plain files too; of duplicates the last wins, with a "
        "warning",
        _SAME,
        (
            f"{_SOURCE}test_names_of_versions",
            f"{_SOURCE}test_scan_finds_numbers_only",
            f"{_SOURCE}test_duplicates_warn_once_and_the_last_name_wins",
        ),
    ),
    Row(
        MUST,
        "policies latest{num_versions, 0 = 1}, all, specific{versions}",
        _SAME,
        (
            f"{_STATES}test_unset_fields_mean_what_they_mean_in_tf_serving",
            f"{_STATES}test_choose",
            f"{_RELOAD}test_policy_and_base_path_of_a_known_model_change",
        ),
    ),
    Row(
        MUST,
        "specific versions that are missing: a warning",
        _DIFFERS,
        (f"{_MANAGER}test_a_policy_that_names_no_version_on_disk_does_not_stop_the_service",),
        "what serves stays when none of them is there",
    ),
    Row(
        MUST,
        "no versions: the warning `No versions of servable <m> found under base path <p>. ..`, and all are unloaded",
        _DIFFERS,
        (
            _UNSERVABLE,
            f"{_SOURCE}test_an_empty_base_path_warns_once_and_keeps_what_is_loaded",
            f"{_SOURCE}test_tf_servings_way_with_an_empty_base_path",
            f"{_POLL}test_flags_of_tensorflow_serving_s_library",
        ),
        "told once; what is loaded stays, unless `--servable_versions_always_present=false`",
    ),
    Row(
        MUST,
        "a missing base path: `Could not find base path <p> for servable <m> with error <..>`",
        _BETTER,
        (
            _UNSERVABLE,
            f"{_POLICIES}test_a_missing_base_path_is_told_in_tf_serving_s_words",
            f"{_PROCESS}test_a_missing_base_path_is_named_and_hurts_no_other_model",
        ),
        "told once, and no other model is held up",
    ),
    Row(
        MUST,
        "availability-preserving: the old version serves until the new one is AVAILABLE; the highest is loaded first",
        _SAME,
        (
            f"{_MANAGER}test_the_old_version_serves_until_the_new_one_is_available",
            f"{_MANAGER}test_the_highest_new_version_is_loaded_first_and_loads_are_limited",
            f"{_MANAGER}test_of_several_unwanted_versions_only_the_highest_waits_for_the_new_one",
            f"{_PROCESS}test_fifty_swaps_under_load_lose_and_falsify_nothing",
        ),
    ),
    Row(
        SHOULD,
        "resource-preserving: unload first",
        _SAME,
        (
            f"{_POLICIES}test_resource_preserving_unloads_before_it_loads",
            f"{_POLL}test_flags_of_tensorflow_serving_s_library",
        ),
        "by `--aspired_version_policy`",
    ),
    Row(
        MUST,
        "an unload waits for running requests",
        _DIFFERS,
        (f"{_MANAGER}test_drain_waits_for_running_requests", f"{_MANAGER}test_drain_is_bounded"),
        "for a bounded time",
    ),
    Row(
        MUST,
        "a version wanted again while it unloads is loaded after the unload",
        _SAME,
        (f"{_MANAGER}test_a_version_wanted_again_while_unloading_is_loaded_after_the_unload",),
    ),
    Row(
        MUST,
        "a failed load is retried; unwanting the version cancels that; then END with the error",
        _SAME,
        (
            _UNSERVABLE,
            f"{_MANAGER}test_failed_loads_are_tried_again_after_the_interval",
            f"{_MANAGER}test_unwanting_a_version_cancels_its_retries",
        ),
    ),
    Row(
        MUST,
        "a failed version is not tried again while it stays wanted",
        _BETTER,
        (
            f"{_MANAGER}test_a_failed_version_stays_failed_until_it_was_gone",
            f"{_PROCESS}test_a_half_copied_version_heals_when_the_copy_ends",
        ),
        "unless its folder has changed",
    ),
    Row(
        MUST,
        "a bad new version leaves the old one serving",
        _SAME,
        (
            f"{_PROCESS}test_a_bad_new_version_says_why_and_leaves_the_old_one_serving",
            f"{_MANAGER}test_a_bad_new_version_leaves_the_old_one_serving",
        ),
    ),
    Row(
        MUST,
        "no saved_model.pb: NOT_FOUND `Specified file path does not appear to contain a SavedModel bundle ..`",
        _BETTER,
        (_UNSERVABLE,),
        "and what the folder holds, in parentheses",
    ),
    Row(
        MUST,
        "`export.meta`: UNIMPLEMENTED `Session Bundle is deprecated and removed.`",
        _SAME,
        (_UNSERVABLE,),
    ),
    Row(
        MUST,
        "start: ports open when every model is AVAILABLE, or the start fails with `1 servable(s) did not become "
        "available: ..` (UNKNOWN)",
        _DIFFERS,
        (
            f"{_PROCESS}test_ports_answer_loading_before_the_model_is_there",
            f"{_POLL}test_the_start_can_wait_for_the_models",
            f"{_POLL}test_a_start_that_waits_ends_with_the_model_that_fails",
            f"{_POLL}test_a_start_that_waits_ends_in_time",
        ),
        "ports open at once and say what is loading; `--wait_for_models` for the other way, in a bounded time",
    ),
    Row(
        MUST,
        "an empty config at the start is accepted, and nothing is served",
        _SAME,
        (f"{_TEXTS}test_a_start_without_models",),
    ),
    Row(
        MUST,
        "ReloadConfig: a new list replaces the old one, a model left out is unloaded",
        _SAME,
        (
            _UNSERVABLE,
            f"{_RELOAD}test_a_model_left_out_is_unloaded",
            f"{_RELOAD}test_a_new_model_answers_when_the_call_returns",
        ),
    ),
    Row(
        MUST,
        "`Illegal to list model <m> multiple times in config list`; `Expected model <m> to have an absolute path or "
        "URI; got base_path()=<p>`",
        _SAME,
        (
            f"{_RELOAD}test_a_bad_list_changes_nothing",
            "server/test_command_line.py::test_a_bad_model_config_is_refused",
        ),
    ),
    Row(
        MUST,
        "`Model <m> requests unsupported platform <p>`; `Illegal setting neither ModelServerConfig::model_type "
        "(deprecated) nor ModelServerConfig::model_platform, ..`; `model_type: TENSORFLOW`",
        _SAME,
        (
            f"{_RELOAD}test_a_bad_list_changes_nothing",
            f"{_RELOAD}test_the_deprecated_model_type",
            "server/test_command_line.py::test_a_config_file_serves_several_models",
        ),
    ),
    Row(
        MUST,
        "`Illegal to change a model's platform. For model <m> platform was <a> and new platform requested is <b>`",
        _SAME,
        (f"{_RELOAD}test_the_platform_of_a_model_stays",),
    ),
    Row(
        MUST,
        "ReloadConfig waits for new models: `N model(s) did not become available: {..}` (UNKNOWN)",
        _BETTER,
        (
            _UNSERVABLE,
            f"{_RELOAD}test_models_that_cannot_be_loaded_are_all_named",
            f"{_RELOAD}test_a_wait_ends_before_its_callers_deadline",
        ),
        "the wait has an end, and each model is named with its cause; the list begins with `{{{name:`, as logs of "
        "TensorFlow Serving show it",
    ),
    Row(
        MUST,
        "a changed base path reloads no version that is loaded",
        _SAME,
        (
            f"{_TEXTS}test_another_base_path_reloads_no_version_that_is_loaded",
            f"{_RELOAD}test_policy_and_base_path_of_a_known_model_change",
        ),
    ),
    Row(
        MUST,
        "custom_model_config is refused",
        _SAME,
        (
            f"{_RELOAD}test_only_lists_of_models_are_taken",
            f"{_POLL}test_a_broken_file_changes_nothing_and_is_told_with_its_line",
        ),
    ),
    Row(
        MUST,
        "labels are set for all models at once; `Request to assign label to version <v> of model <m>, which is not "
        "currently available for inference` stops the whole reload",
        _SAME,
        (f"{_LABELS}test_a_label_of_an_unavailable_version_stops_the_whole_reload",),
    ),
    Row(
        MUST,
        "labels are checked before the models of the same list load, so at the start they need the flag",
        _SAME,
        (
            f"{_LABELS}test_labels_of_a_model_that_the_same_list_brings_are_refused",
            f"{_POLL}test_labels_at_the_start_need_the_flag",
        ),
    ),
    Row(
        MUST,
        "with the flag a label may be new or unmoved; one that moves must point at what is available",
        _SAME,
        (
            f"{_TEXTS}test_labels_with_the_flag",
            f"{_LABELS}test_the_flag_lets_new_and_unmoved_labels_point_anywhere",
        ),
    ),
    Row(
        MUST,
        "a broken config file at the start: `Error parsing text-format tensorflow.serving.ModelServerConfig` on "
        "stderr, and the end",
        _BETTER,
        (f"{_POLL}test_a_file_that_cannot_be_parsed_ends_the_start",),
        "with line and cause",
    ),
    Row(
        SKIP,
        "an estimate of a model's memory before its load",
        _DIFFERS,
        (f"{_PROCESS}test_twenty_loads_and_unloads_give_all_memory_back",),
        "there is none; a load that fails for want of memory ends its own process only",
    ),
    Row(
        SHOULD,
        "base paths and files of flags on gs:// and what else tf.io.gfile knows",
        Status.BETTER,
        (
            "server/test_remote_models.py::test_a_bucket_s_versions_are_served_and_followed",
            "server/test_remote_models.py::test_a_config_file_in_a_bucket_and_models_that_no_file_system_knows",
            "server/test_remote_models.py::test_a_question_that_hangs_ends_in_time_and_the_next_has_another_process",
            "server/test_file_system_plugin.py::test_models_on_a_file_system_of_a_plugin",
        ),
        "an upload that was loaded too early is loaded again when it is whole; a store that fails, hangs or is empty "
        "unloads nothing. TensorFlow's wheel knows gs:// only, tested with its own client against a store on the "
        "test's machine; others, as s3://, need a plugin of TensorFlow's by `--custom_op_libraries`. Warmup is not "
        "recorded into a bucket",
    ),
)
