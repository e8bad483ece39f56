"""Batching (batching/, servables/tensorflow/bundle_factory_util, TensorFlow's shared_batch_scheduler.h)."""

from __future__ import annotations

from typing import Final

from tests.conformance.row import MUST, SHOULD, SKIP, Row, Status

__all__ = ["ROWS"]

_SAME: Final = Status.SAME
_BETTER: Final = Status.BETTER
_DIFFERS: Final = Status.DIFFERS
_FILE: Final = "server/test_batching.py::"
_TEXTS: Final = "conformance/test_batching_texts.py::"
_REFUSED: Final = (
    f"{_TEXTS}test_what_cannot_be_batched",
    f"{_FILE}test_what_cannot_be_batched_is_refused_and_named",
)
_IN_FORCE: Final = "conformance/test_flags.py::test_config_file_batching_file_time_limit_and_tensor_content"

ROWS: Final = (
    Row(
        MUST,
        "max_batch_size (1000) limits a request and a batch: `Task size 40 is larger than maximum input batch size 32`",
        _SAME,
        (*_REFUSED, _IN_FORCE, f"{_FILE}test_requests_fill_a_batch_and_each_gets_its_rows"),
    ),
    Row(
        MUST,
        "the defaults of all parameters",
        _DIFFERS,
        ("conformance/test_flags.py::test_batching_parameters_that_nobody_gave",),
        "num_batch_threads is at most what one worker can use",
    ),
    Row(MUST, "batch_timeout_micros", _SAME, (f"{_FILE}test_a_batch_that_does_not_fill_runs_at_the_timeout",)),
    Row(
        MUST,
        "max_enqueued_batches: UNAVAILABLE `The batch scheduling queue to which this task was submitted is full; ..`",
        _SAME,
        (f"{_FILE}test_a_full_queue_refuses_with_unavailable",),
    ),
    Row(
        MUST,
        "num_batch_threads",
        _DIFFERS,
        (f"{_FILE}test_more_batch_threads_than_a_worker_can_have_are_taken",),
        "per version, so that one model's load does not take another's; at most 64",
    ),
    Row(
        MUST,
        "allowed_batch_sizes: padded up with copies of a row, results cut",
        _SAME,
        (
            f"{_FILE}test_batches_are_padded_to_an_allowed_size_and_the_padding_cut",
            f"{_FILE}test_strings_are_batched_and_padded_too",
        ),
    ),
    Row(
        MUST,
        "`Last entry in allowed_batch_sizes must match max_batch_size; last entry was 8; expected 16`",
        _DIFFERS,
        (
            f"{_FILE}test_bad_parameters_are_refused_and_change_nothing",
            "server/test_command_line.py::test_a_bad_batching_file_is_refused_with_its_line",
            "server/test_batching_files.py::test_a_broken_file_fails_that_version_only",
        ),
        "the global file ends the start instead of every load; a version's own file fails that version",
    ),
    Row(
        MUST, "pad_variable_length_inputs", _SAME, (f"{_FILE}test_rows_of_different_length_are_padded_when_asked_for",)
    ),
    Row(
        MUST,
        "enable_large_batch_splitting, max_execution_batch_size",
        _SAME,
        (
            f"{_FILE}test_a_request_larger_than_a_batch_is_split_and_joined_when_asked_for",
            f"{_FILE}test_an_error_in_one_piece_of_a_split_request_fails_it_once",
        ),
    ),
    Row(
        MUST,
        "a queue for each set of tensors fed and fetched, and for each version",
        _SAME,
        (f"{_TEXTS}test_each_set_of_outputs_has_a_queue_of_its_own",),
    ),
    Row(
        MUST,
        "requests go in whole; the open batch closes when the next does not fit, when full, or at the timeout",
        _SAME,
        (
            f"{_FILE}test_a_request_that_does_not_fit_closes_the_open_batch",
            f"{_FILE}test_requests_fill_a_batch_and_each_gets_its_rows",
        ),
    ),
    Row(
        MUST,
        "`Batching Run() must have at least one input tensor`",
        _SAME,
        (f"{_TEXTS}test_a_request_without_inputs",),
    ),
    Row(
        MUST,
        "`Batching Run() input tensors must have at least one dimension`, `.. must have equal 0th-dimension size`",
        _BETTER,
        _REFUSED,
        "the tensor is named in parentheses",
    ),
    Row(
        MUST,
        "FAILED_PRECONDITION `Batched output tensor has 0 dimensions`, `Batched output tensor's 0th dimension does not "
        "equal the sum of the 0th dimension sizes of the input tensors`",
        _BETTER,
        _REFUSED,
        "the tensor is named in parentheses",
    ),
    Row(
        MUST,
        "other inner shapes without padding: FAILED_PRECONDITION for the whole batch",
        _DIFFERS,
        (f"{_FILE}test_without_padding_other_shapes_get_batches_of_their_own",),
        "they get batches of their own, and are answered",
    ),
    Row(
        MUST,
        "late tasks: RESOURCE_EXHAUSTED (429) `Run() timeout exceeded while waiting in batching queue`",
        _BETTER,
        (_IN_FORCE, f"{_FILE}test_a_request_that_waits_past_its_deadline_is_dropped_from_the_queue"),
        "each at its own deadline, not when all of its batch are late",
    ),
    Row(
        MUST,
        "a batch runs with the latest deadline of its tasks",
        _DIFFERS,
        ("server/test_predict.py::test_a_deadline_that_passes_while_the_graph_runs",),
        "each task is answered at its own deadline; the run itself has none and goes on to its end",
    ),
    Row(
        MUST,
        "an error of the run goes to all tasks of the batch",
        _DIFFERS,
        (f"{_FILE}test_one_bad_request_does_not_spoil_its_batch",),
        "they are run again one by one: only the bad one gets the error",
    ),
    Row(
        SHOULD,
        "thread_pool_name",
        Status.ACCEPTED,
        ("conformance/test_flags.py::test_batching_parameters_that_nobody_gave",),
        "read, and used nowhere: there is no shared pool to name",
    ),
    Row(
        SKIP,
        "options of the BatchFunction op, mixed priorities",
        _SAME,
        ("server/test_command_line.py::test_a_bad_batching_file_is_refused_with_its_line",),
        "BatchingParameters has no fields for them",
    ),
)
