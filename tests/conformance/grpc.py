"""gRPC: services, ModelSpec, the methods, their refusals, what else is on the port (servables/tensorflow/*.cc)."""

from __future__ import annotations

from typing import Final

from tests.conformance.row import MUST, SHOULD, SKIP, Row, Status

__all__ = ["ROWS"]

_SAME: Final = Status.SAME
_BETTER: Final = Status.BETTER
_DIFFERS: Final = Status.DIFFERS
_HINT: Final = "what the signature wants, or what there is, follows in parentheses"
_PREDICT: Final = "server/test_predict.py::"
_WIRE: Final = "server/test_transports_wire.py::"
_TENSORS: Final = "server/test_tensors.py::"
_CLASSIFY: Final = "server/test_classify.py::"
_REGRESS: Final = "server/test_regress.py::"
_MULTI: Final = "server/test_multi_inference.py::"
_METADATA: Final = "server/test_metadata.py::"
_RELOAD: Final = "server/test_reload.py::"
_TEXTS: Final = "conformance/test_predict_texts.py::"
_BAD: Final = (f"{_TEXTS}test_refusals_of_predict",)
_UNREGISTERED: Final = (f"{_TEXTS}test_what_is_not_registered",)
_EXAMPLE_ERRORS: Final = (f"{_CLASSIFY}test_signatures_that_cannot_classify",)
_REGRESS_ERRORS: Final = (f"{_REGRESS}test_signatures_that_cannot_regress",)
_METHOD_CHECK: Final = (f"{_CLASSIFY}test_requests_share_batches",)

ROWS: Final = (
    Row(
        MUST,
        "PredictionService: Predict, Classify, Regress, MultiInference, GetModelMetadata; "
        "ModelService: GetModelStatus, HandleReloadConfigRequest",
        _SAME,
        (
            "server/test_reflection.py::test_every_method_that_is_told_of_is_there",
            "foreign/test_clients.py::test_python",
            "foreign/test_clients.py::test_ovmsclient",
            "foreign/test_all_rpcs.py::test_the_stubs_of_tensorflow_serving",
            "foreign/test_all_rpcs.py::test_the_stubs_of_min_tfs_client",
            "foreign/test_all_rpcs.py::test_grpc_js",
        ),
    ),
    Row(
        MUST,
        "messages of up to INT32_MAX bytes, where grpcio alone takes 4 MiB",
        _SAME,
        (
            f"{_PREDICT}test_large_tensors_pass_and_answers_are_right",
            "conformance/test_flags.py::test_messages_as_large_as_tensorflow_serving_takes",
        ),
    ),
    Row(
        MUST,
        "error details are cut at 1024 characters and end in `...TRUNCATED`; REST is not cut",
        _SAME,
        (
            f"{_TEXTS}test_details_are_cut_for_every_method_and_not_over_rest",
            f"{_PREDICT}test_long_details_are_cut_on_grpc_only",
            f"{_REGRESS}test_long_texts_are_cut",
        ),
    ),
    Row(
        MUST,
        "a deadline that passes: DEADLINE_EXCEEDED `Timed out waiting for notification`",
        _DIFFERS,
        (
            f"{_PREDICT}test_a_deadline_that_passes_while_the_graph_runs",
            f"{_WIRE}test_a_deadline_that_passes_while_the_graph_runs",
        ),
        "over gRPC the text may be gRPC's own `Deadline Exceeded`, by what notices first; the answer is dropped, the "
        "graph runs to its end",
    ),
    Row(
        MUST, "unknown methods: UNIMPLEMENTED", _SAME, (*_UNREGISTERED, f"{_WIRE}test_odd_requests_are_answered_alike")
    ),
    # ModelSpec
    Row(MUST, "`Missing ModelSpec`; no name: `ModelSpec has no name specified.`", _SAME, _BAD),
    Row(
        MUST,
        "`Servable not found for request: Latest(<name>)`, `Specific(<name>, <version>)`",
        _BETTER,
        (*_BAD, "server/test_lifecycle_manager.py::test_requests_are_told_what_is_known"),
        "whether it is unknown, loading or failed, and why, follows in parentheses",
    ),
    Row(
        MUST,
        "neither version nor label: the highest AVAILABLE version",
        _SAME,
        (
            f"{_PREDICT}test_versions_are_told_apart",
            "server/test_lifecycle_manager.py::test_a_bad_new_version_leaves_the_old_one_serving",
        ),
    ),
    Row(
        MUST,
        "version_label: the version that the label points at",
        _SAME,
        (
            "server/test_labels.py::test_labels_resolve_in_both_protocols",
            "server/test_labels.py::test_a_label_moves_while_requests_of_one_kind_go_on",
        ),
    ),
    Row(
        MUST,
        "`Unrecognized servable version label: <l>`, also for an unknown model",
        _SAME,
        ("server/test_labels.py::test_unknown_labels_are_told_the_same_in_both_protocols",),
    ),
    Row(
        MUST,
        "before the first list of models: UNAVAILABLE `Model labels does not init yet.<l>`",
        _SAME,
        (
            f"{_TEXTS}test_a_label_and_no_list_of_models",
            "server/test_labels.py::test_no_label_is_known_before_the_first_list",
        ),
    ),
    # Predict
    Row(
        MUST,
        'signature_name "" means serving_default; FAILED_PRECONDITION `Serving signature key "<s>" not found.`',
        _BETTER,
        (*_BAD, f"{_PREDICT}test_the_answer_names_model_version_and_signature"),
        _HINT,
    ),
    Row(
        MUST,
        "signatures of any method may be called with Predict; with the check on INTERNAL "
        "`Expected prediction signature method_name to be one of {..}. Was: <m>`",
        _BETTER,
        _METHOD_CHECK,
        "the signature is named in parentheses",
    ),
    Row(
        MUST,
        "`input size does not match signature: 1!=2 len({a}) != len({a,b}). Sent extra: {}. "
        "Missing but required: {b}.`",
        _BETTER,
        _BAD,
        _HINT,
    ),
    Row(
        MUST,
        "`Signature input alias: b(feed name: b:0) not found in request and no default value provided. ..`",
        _BETTER,
        _BAD,
        _HINT,
    ),
    Row(
        MUST,
        "`tensor parsing error: <alias>` for an unset dtype, a wrong length, a bad shape",
        _BETTER,
        (*_BAD, f"{_PREDICT}test_a_tensor_that_does_not_parse_names_its_input"),
        "the cause follows in parentheses",
    ),
    Row(MUST, "`Inputs contains invalid name. Used request inputs: a, request input: a,z`", _BETTER, _BAD, _HINT),
    Row(
        MUST,
        "`output tensor alias not found in signature: ..`, `duplicate output tensor alias: ..`",
        _SAME,
        (*_BAD, f"{_PREDICT}test_output_filter"),
    ),
    Row(
        MUST,
        "`Expects arg[0] to be float but double is provided`, the index being the place in the feed",
        _BETTER,
        _BAD,
        "the input's name and type follow in parentheses; the feed is in the signature's order",
    ),
    Row(
        MUST,
        "Predict checks signature, names, tensors, output_filter and dtypes in this order",
        _DIFFERS,
        _BAD,
        "all names before any tensor: with two faults at once, `Inputs contains invalid name` may come before "
        "`tensor parsing error`",
    ),
    Row(
        MUST,
        "errors of the graph: the op's code and text, with `{{node ..}}`",
        _SAME,
        (
            f"{_TEXTS}test_errors_of_the_graph",
            f"{_PREDICT}test_an_error_of_the_graph_carries_the_op_s_code_and_text",
        ),
    ),
    Row(
        MUST,
        "inputs with a default in `SignatureDef.defaults` may be left out",
        _SAME,
        (f"{_PREDICT}test_an_input_with_a_default_may_be_left_out",),
    ),
    Row(
        MUST,
        "TensorProto: a short typed field repeats its last value, an empty one is zeros, a long one is cut; "
        "tensor_content wins",
        _SAME,
        (
            f"{_TEXTS}test_typed_fields_are_repeated_cut_and_outdone_by_content",
            f"{_TENSORS}test_typed_field_of_another_length",
            f"{_TENSORS}test_string_field_of_another_length",
            f"{_TENSORS}test_content_wins_over_the_typed_field",
        ),
    ),
    Row(
        MUST,
        "every dtype, half and bfloat16 in half_val, small integers in int_val",
        _SAME,
        (
            f"{_PREDICT}test_every_dtype_and_rank_passes_through_unchanged",
            f"{_TENSORS}test_half_and_bfloat16_travel_as_bits",
            f"{_TENSORS}test_small_ints_wrap_as_in_c",
        ),
    ),
    Row(
        MUST,
        "the shape is not checked against the signature",
        _BETTER,
        (
            f"{_PREDICT}test_a_shape_other_than_the_signature_s_is_left_to_the_graph",
            f"{_PREDICT}test_a_shape_that_the_graph_refuses_is_explained",
        ),
        "when the graph refuses it, the signature's shape is told",
    ),
    Row(
        MUST,
        "answers in typed fields, all outputs without a filter",
        _SAME,
        (
            f"{_PREDICT}test_the_answer_names_model_version_and_signature",
            f"{_PREDICT}test_all_dtypes_in_one_request",
            "server/test_predict_response.py::test_every_dtype_and_shape",
        ),
    ),
    Row(
        MUST,
        "model_spec of the answer: name, version served, effective signature; no label",
        _SAME,
        (
            f"{_PREDICT}test_the_answer_names_model_version_and_signature",
            f"{_CLASSIFY}test_classes_and_scores",
            "conformance/test_lifecycle_texts.py::test_labels_with_the_flag",
        ),
    ),
    # Classify, Regress
    Row(
        MUST,
        "Classify: classes and/or scores of tf.Examples",
        _SAME,
        (f"{_CLASSIFY}test_classes_and_scores", f"{_CLASSIFY}test_classes_alone_and_scores_alone"),
    ),
    Row(MUST, "Regress: one value for each tf.Example, of shape [b] or [b, 1]", _SAME, (f"{_REGRESS}test_values",)),
    Row(
        MUST,
        "example_list_with_context: the context is part of each example",
        _SAME,
        (
            f"{_CLASSIFY}test_a_context_is_part_of_each_example",
            f"{_REGRESS}test_a_context_is_part_of_each_example",
            f"{_MULTI}test_a_context",
        ),
    ),
    Row(
        MUST,
        "`Input is empty.`",
        _SAME,
        (f"{_CLASSIFY}test_no_examples", f"{_REGRESS}test_no_examples_and_no_model"),
    ),
    Row(
        MUST,
        "`No signature was found with the name: <s>`",
        _BETTER,
        (*_EXAMPLE_ERRORS, *_REGRESS_ERRORS),
        "the signatures that there are follow in parentheses",
    ),
    Row(
        MUST,
        "with the check on: `Expected classification signature method_name to be tensorflow/serving/classify. "
        "Was: <m>`, `Expected regression signature ..`",
        _SAME,
        _METHOD_CHECK,
    ),
    Row(
        MUST,
        "`Expected one input Tensor.`, `No classification inputs found in SignatureDef: ..`, `No regression inputs ..`",
        _SAME,
        (*_EXAMPLE_ERRORS, *_REGRESS_ERRORS),
    ),
    Row(
        MUST,
        "Classify's outputs: `Expected one or two output Tensors, found N`, `.. to contain at least one of "
        '"classes" or "scores". ..`',
        _SAME,
        _EXAMPLE_ERRORS,
    ),
    Row(MUST, "Regress' outputs: `Expected one output Tensor.`", _SAME, _REGRESS_ERRORS),
    Row(
        MUST,
        "Classify's result: `Expected Tensor shape: [batch_size num_classes] but got ..`, `.. Tensor of DT_..`, "
        "`.. batch size of ..`, `Tensors class and score should match in dim_size(1). ..`",
        _SAME,
        _EXAMPLE_ERRORS,
    ),
    Row(
        MUST,
        "Regress' result: `Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got ..`, "
        "`Expected output Tensor of DT_FLOAT.  Got: ..`",
        _SAME,
        _REGRESS_ERRORS,
    ),
    Row(
        MUST,
        "with the check off, a predict signature serves when its tensors' names fit",
        _SAME,
        (
            f"{_CLASSIFY}test_a_signature_for_predict_will_do_when_its_names_fit",
            f"{_REGRESS}test_a_signature_for_predict_will_do_when_its_names_fit",
        ),
    ),
    # MultiInference
    Row(
        MUST,
        "MultiInference: several signatures, one run of the union of their tensors",
        _SAME,
        (f"{_MULTI}test_several_signatures_in_one_run", f"{_MULTI}test_inputs_of_several_tensors"),
    ),
    Row(
        MUST,
        "MultiInference: the version comes from the first task",
        _SAME,
        (f"{_MULTI}test_the_version_is_the_first_task_s",),
    ),
    Row(
        MUST,
        "MultiInference: other names, duplicates, missing signatures, no tasks",
        _SAME,
        (f"{_MULTI}test_tasks_that_cannot_be",),
    ),
    Row(
        MUST,
        "MultiInference: UNIMPLEMENTED `Unsupported signature method_name: <m>`",
        _BETTER,
        (f"{_MULTI}test_tasks_that_cannot_be",),
        "the methods that there are follow in parentheses",
    ),
    # Metadata, status, reload
    Row(
        MUST,
        "GetModelMetadata: name, version, all signatures of the MetaGraphDef with defaults, "
        "`__saved_model_init_op` too",
        _SAME,
        (f"{_METADATA}test_all_signatures_of_the_meta_graph", f"{_PREDICT}test_metadata_holds_all_signatures"),
    ),
    Row(
        MUST,
        "`GetModelMetadataRequest must specify at least one metadata_field`, `Metadata field <f> is not supported`",
        _SAME,
        (f"{_METADATA}test_refusals", f"{_PREDICT}test_metadata_asks_for_the_field"),
    ),
    Row(
        MUST,
        "GetModelStatus: one version, or all ever seen, highest first",
        _SAME,
        (f"{_PREDICT}test_status_of_all_versions_and_of_one",),
    ),
    Row(
        MUST,
        "`Could not find version <v> of model <m>`, `Could not find any versions of model <m>`",
        _BETTER,
        (f"{_TEXTS}test_refusals_of_status",),
        "what is known of the model follows in parentheses",
    ),
    Row(MUST, "GetModelStatus ignores version_label", _SAME, ("server/test_labels.py::test_status_ignores_a_label",)),
    Row(
        MUST,
        "GetModelStatus: unloaded versions stay as END, failed ones with their error",
        _DIFFERS,
        (
            "server/test_lifecycle_policies.py::test_ended_versions_do_not_pile_up_without_end",
            "server/test_reload.py::test_models_that_cannot_be_loaded_are_all_named",
            "conformance/test_lifecycle_texts.py::test_models_that_cannot_be_served",
        ),
        "the oldest END versions beyond 1000 of a model are forgotten",
    ),
    Row(
        MUST,
        "HandleReloadConfigRequest follows a ModelConfigList; another config: `ServerModelConfig type not supported by "
        "HandleReloadConfigRequest. Only ModelConfigList is currently supported`",
        _SAME,
        (f"{_RELOAD}test_a_new_model_answers_when_the_call_returns", f"{_RELOAD}test_only_lists_of_models_are_taken"),
    ),
    Row(
        SHOULD,
        "HandleReloadConfigRequest: the increase of each metric named",
        _SAME,
        (
            "conformance/test_lifecycle_texts.py::test_a_reload_tells_by_how_much_a_metric_rose",
            "server/test_monitoring.py::test_a_reload_tells_by_how_much_a_metric_rose",
        ),
    ),
    # Other services
    Row(
        SHOULD,
        "grpc.health.v1 on request, for the server, ModelService and PredictionService",
        _BETTER,
        (
            "server/test_health.py::test_a_server_whose_models_answer_is_serving",
            "server/test_health.py::test_a_server_is_not_serving_before_its_models_answer",
            "server/test_health.py::test_who_watches_is_told_of_the_end",
        ),
        "NOT_SERVING before the models answer and while the server ends; Watch too",
    ),
    Row(
        SHOULD,
        "server reflection",
        _SAME,
        ("server/test_reflection.py::test_grpc_s_own_client_calls_predict_by_what_it_was_told",),
    ),
    Row(
        SHOULD,
        "tensorflow.ProfilerService on the same port: Profile, Terminate, Monitor",
        _DIFFERS,
        (
            "server/test_profiler.py::test_each_worker_writes_its_trace",
            "server/test_profiler.py::test_one_profile_at_a_time_and_it_can_be_ended",
        ),
        "one trace per loaded version, as each has a process",
    ),
    Row(SKIP, "SessionService is not registered", _SAME, _UNREGISTERED),
)
