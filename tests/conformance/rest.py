"""REST: routes, JSON in, JSON out (model_servers/http_rest_api_*.cc, util/json_tensor.cc)."""

from __future__ import annotations

from typing import Final

from tests.conformance.row import MUST, SHOULD, Row, Status

__all__ = ["ROWS"]

_SAME: Final = Status.SAME
_DIFFERS: Final = Status.DIFFERS
_ROUTES: Final = "server/test_rest_routes.py::"
_SERVER: Final = "server/test_rest_server.py::"
_IN: Final = "server/test_rest_json_in.py::"
_OUT: Final = "server/test_rest_json_out.py::"
_EXAMPLES: Final = "server/test_rest_examples.py::"
_TEXTS: Final = "conformance/test_rest_texts.py::"
_PATHS: Final = f"{_TEXTS}test_paths_and_what_they_name"
_BODIES: Final = f"{_TEXTS}test_bodies"
_ODD: Final = f"{_TEXTS}test_odd_numbers_in_and_out"

ROWS: Final = (
    Row(
        MUST,
        "POST `/v1/models/<m>[/versions/<n>|/labels/<l>]:(classify|regress|predict)`",
        _SAME,
        (
            f"{_ROUTES}test_routes",
            f"{_SERVER}test_predict",
            f"{_EXAMPLES}test_classify",
            f"{_EXAMPLES}test_regress",
            "server/test_labels.py::test_labels_resolve_in_both_protocols",
        ),
    ),
    Row(
        MUST,
        "GET `/v1/models/<m>[/versions/<n>|/labels/<l>][/metadata]`",
        _SAME,
        (f"{_ROUTES}test_routes", f"{_SERVER}test_status_and_metadata"),
    ),
    Row(
        MUST,
        "paths match in any case, the verb and `metadata` in lower case only",
        _SAME,
        (f"{_TEXTS}test_paths_in_other_letters_and_encoded", _PATHS, f"{_ROUTES}test_routes"),
    ),
    Row(
        MUST,
        "paths match with their query string: it breaks a POST, and is part of the name of a GET",
        _SAME,
        (_PATHS, f"{_ROUTES}test_routes"),
    ),
    Row(
        MUST,
        "names and labels are percent-decoded, `%2F` too",
        _DIFFERS,
        (f"{_TEXTS}test_paths_in_other_letters_and_encoded", _PATHS, f"{_ROUTES}test_routes"),
        "decoded as there, but no model can be configured whose name has `/`, `:` or `\\` in it",
    ),
    Row(
        MUST,
        "`Malformed request: <METHOD> <path>`, also for other methods, verbs, slashes, label and version together",
        _SAME,
        (_PATHS, f"{_ROUTES}test_malformed"),
    ),
    Row(
        MUST,
        "GET `/v1/models`: 400 `Missing model name in request.`",
        _DIFFERS,
        (f"{_ROUTES}test_no_model", "server/test_monitoring.py::test_models_are_listed"),
        "it lists the models; other paths without a name are refused so",
    ),
    Row(
        MUST,
        "`Failed to convert version: <v> to numeric.`",
        _SAME,
        (_PATHS, f"{_ROUTES}test_version_beyond_int64"),
    ),
    Row(
        MUST,
        "outside `/v1/`: an HTML page with 404",
        _SAME,
        (f"{_TEXTS}test_paths_in_other_letters_and_encoded", f"{_SERVER}test_paths_outside_the_api_and_probes"),
    ),
    Row(
        MUST,
        "status by label returns all versions; metadata and inference resolve it",
        _SAME,
        (
            "server/test_labels.py::test_status_ignores_a_label",
            "server/test_labels.py::test_labels_resolve_in_both_protocols",
        ),
    ),
    Row(
        MUST,
        'errors are `{"error": ..}` of type application/json, with the HTTP status of their code',
        _SAME,
        (f"{_TEXTS}test_the_http_status_of_each_code", f"{_SERVER}test_errors", _PATHS),
    ),
    Row(
        MUST,
        "OPTIONS: 200 and no body when `Origin` holds http(s)://, else 400",
        _SAME,
        (f"{_TEXTS}test_a_preflight_without_the_flag", f"{_SERVER}test_cors", _PATHS),
    ),
    Row(MUST, "CORS headers on every answer, with the flag only", _SAME, (f"{_SERVER}test_cors",)),
    Row(
        MUST,
        "gzip requests are unpacked, up to 100 MiB; one that cannot be is an empty body; answers are not compressed",
        _SAME,
        (
            f"{_TEXTS}test_bodies_in_gzip_and_of_any_content_type",
            "server/test_rest_http1.py::test_gzip_bodies_are_unpacked",
        ),
    ),
    Row(
        MUST,
        "the content type of a request is not looked at",
        _SAME,
        (
            f"{_TEXTS}test_bodies_in_gzip_and_of_any_content_type",
            "foreign/test_tools.py::test_curl_gets_the_answer_by_rest",
        ),
    ),
    Row(
        MUST,
        "no limit of a request's size",
        _DIFFERS,
        ("foreign/test_tools.py::test_curl_sends_and_gets_4_mib_by_rest",),
        "2 GiB, as over gRPC",
    ),
    # JSON in
    Row(
        MUST,
        "`JSON Parse error: The document is empty`, `JSON Parse error: Invalid value. at offset: 0`, "
        "`JSON Value: <..> Is not object`",
        _SAME,
        (_BODIES, f"{_IN}test_broken_documents"),
    ),
    Row(
        MUST,
        "nesting has no limit",
        _SAME,
        (f"{_TEXTS}test_the_deepest_document_harms_nobody", f"{_IN}test_nesting_has_no_limit"),
    ),
    Row(
        MUST,
        "NaN, Inf, Infinity and their negatives; trailing text, duplicate keys, BOM, bytes that are no UTF-8, "
        "other keys",
        _SAME,
        (_ODD, f"{_IN}test_accepted"),
    ),
    Row(
        MUST,
        "values in error texts are cut at 256 bytes",
        _SAME,
        (f"{_TEXTS}test_errors_are_not_cut_but_values_in_them_are", f"{_IN}test_quotes_are_cut"),
    ),
    Row(
        MUST,
        "`.. 'signature_name' key must be a string value.`; "
        '`Serving signature name: "<s>" not found in signature def`',
        _SAME,
        (_BODIES, f"{_SERVER}test_errors"),
    ),
    Row(
        MUST,
        "`Missing 'inputs' or 'instances' key`, `.. expecting only one of ..`, `No values in 'instances' array`, "
        "`Expecting 'instances' to be an list/array`",
        _SAME,
        (_BODIES, f"{_IN}test_refused"),
    ),
    Row(
        MUST,
        "row format: values or objects, `Expecting object but got list at item N of input list` and its opposite",
        _SAME,
        (_BODIES, f"{_IN}test_rows_of_objects_and_named_columns", f"{_IN}test_refused"),
    ),
    Row(
        MUST,
        "row format: `Failed to process element: <i> key: <k> of 'instances' list. Error: INVALID_ARGUMENT: <inner>`, "
        "`.. keys must be equal to: a,b`, `.. does not have named input: <k>`",
        _SAME,
        (_BODIES, f"{_IN}test_refused", f"{_IN}test_refused_with_two_inputs"),
    ),
    Row(
        MUST,
        "row format: `Expecting tensor size: 2 but got: 3`, `Expecting shape [3,2] but got: [1,3,2]`",
        _SAME,
        (_BODIES, f"{_IN}test_refused"),
    ),
    Row(
        MUST,
        "`instances is a plain list, but expecting list of objects ..`, "
        "`inputs is a plain value/list, but expecting an object ..`",
        _SAME,
        (_BODIES, f"{_IN}test_refused_with_two_inputs"),
    ),
    Row(
        MUST,
        "columnar format: `Missing named input: <n> in 'inputs' object.`, also for one with a default; other names are "
        "ignored; scalars",
        _SAME,
        (_BODIES, f"{_IN}test_rows_of_objects_and_named_columns", f"{_IN}test_accepted"),
    ),
    Row(
        MUST,
        "ragged lists: `Encountered list at unexpected size: ..`, `.. level: ..`, `JSON Value: 1 found at incorrect "
        "level: ..`",
        _SAME,
        (_BODIES, f"{_IN}test_refused"),
    ),
    Row(
        MUST,
        "`JSON Value: <v> Type: <T> is not of expected type: <t>`",
        _SAME,
        (_BODIES, f"{_IN}test_refused"),
    ),
    Row(
        MUST,
        "number types: literals, ranges, wrap of 8 and 16 bits, no conversion of bool and text",
        _SAME,
        (_ODD, _BODIES, f"{_IN}test_accepted", f"{_IN}test_refused"),
    ),
    Row(
        MUST,
        "dtypes that JSON does not carry: `Conversion of JSON Value: <v> to type: half`, 501 columnar, 400 in rows",
        _SAME,
        (_BODIES, f"{_IN}test_dtypes_that_json_does_not_carry"),
    ),
    Row(
        MUST,
        "`b64` objects anywhere; `Unable to base64 decode`, `.. not formatted correctly for base64 data`",
        _SAME,
        (_BODIES, f"{_IN}test_accepted", f"{_IN}test_round_trip_of_strings"),
    ),
    Row(
        MUST,
        "classify and regress: examples and context; the kind of a feature by its literals",
        _SAME,
        (
            f"{_EXAMPLES}test_examples_are_those_that_protobuf_builds",
            f"{_EXAMPLES}test_the_kind_of_a_feature_is_that_of_its_literals",
            f"{_EXAMPLES}test_classify",
            f"{_EXAMPLES}test_regress",
        ),
    ),
    Row(
        MUST,
        "classify and regress: every error text, regress saying `When method is classify, ..` too",
        _SAME,
        (
            f"{_TEXTS}test_bodies_of_examples",
            f"{_EXAMPLES}test_errors",
            f"{_EXAMPLES}test_errors_of_a_server",
        ),
    ),
    # JSON out
    Row(
        MUST,
        "predictions and outputs, one output without its name",
        _SAME,
        (f"{_OUT}test_predict_answers", f"{_SERVER}test_predict"),
    ),
    Row(
        MUST,
        "`Tensor name: y has no shape information `, `.. has inconsistent batch size: 2 expecting: 1`",
        _SAME,
        (_BODIES, f"{_OUT}test_predict_answers_that_cannot_be_written"),
    ),
    Row(
        MUST,
        "`Failed to write JSON value for tensor type: half`",
        _SAME,
        (f"{_OUT}test_predict_answers_that_cannot_be_written", f"{_SERVER}test_errors"),
    ),
    Row(
        MUST,
        "floats with as many digits as `%g` and `%.9g` give, integers without a point",
        _DIFFERS,
        (
            _ODD,
            f"{_OUT}test_predict_answers",
            f"{_OUT}test_float32_values_are_those_of_printf",
            f"{_OUT}test_many_float32_values_are_those_of_printf",
        ),
        "the shortest digits that read back to the same value: other characters for some numbers, never another number",
    ),
    Row(
        MUST,
        "NaN, Infinity, -Infinity as bare words",
        _SAME,
        (
            _ODD,
            f"{_SERVER}test_predict_passes_values_that_are_not_finite",
            f"{_EXAMPLES}test_special_values_are_bare_words",
        ),
    ),
    Row(
        MUST,
        "text as its bytes; base64 for outputs whose name ends in `_bytes`",
        _SAME,
        (_ODD, f"{_OUT}test_strings_as_base64", f"{_OUT}test_predict_answers"),
    ),
    Row(
        MUST,
        "classify answers `results` with [label, score], regress with numbers",
        _SAME,
        (
            f"{_EXAMPLES}test_classify",
            f"{_EXAMPLES}test_regress",
            f"{_EXAMPLES}test_numbers_and_labels_in_answers",
        ),
    ),
    Row(
        MUST,
        "status and metadata as proto3 JSON with all fields",
        _SAME,
        (
            f"{_OUT}test_status",
            f"{_OUT}test_metadata",
            "server/test_metadata.py::test_all_signatures_of_the_meta_graph",
        ),
    ),
    Row(
        SHOULD,
        "the Prometheus path of the monitoring config; with a query: 400",
        _SAME,
        (
            "server/test_monitoring.py::test_the_page_is_where_the_file_says",
            "server/test_monitoring.py::test_any_other_target_of_that_path_is_an_error",
        ),
    ),
)
