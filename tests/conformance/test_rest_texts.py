"""Every refusal of the REST API by a real server: HTTP status and text are TensorFlow Serving's."""

from __future__ import annotations

import gzip
import http.client
import json
import urllib.parse
from typing import Any

import pytest

from serving_server.errors import StatusCode
from serving_server.rest.server import HTTP_STATUS
from tests.conformance.told import begins_as, differs
from tests.servers import SharedServer

HALF = "/v1/models/half_plus_two"
NOT_FLOAT = 'JSON Value: "x" Type: String is not of expected type: float'
ELEMENT = "Failed to process element: {} of 'instances' list. Error: INVALID_ARGUMENT: "
ELEMENT_KEY = "Failed to process element: {} key: {} of 'instances' list. Error: INVALID_ARGUMENT: "

#: method, path, body, status, text
TARGETS: tuple[tuple[str, str, Any, int, str], ...] = (
    ("PUT", f"{HALF}:predict", {}, 400, f"Malformed request: PUT {HALF}:predict"),
    ("DELETE", HALF, None, 400, f"Malformed request: DELETE {HALF}"),
    ("GET", f"{HALF}:predict", None, 400, f"Malformed request: GET {HALF}:predict"),
    ("POST", HALF, {}, 400, f"Malformed request: POST {HALF}"),
    ("POST", f"{HALF}:explain", {}, 400, f"Malformed request: POST {HALF}:explain"),
    ("POST", f"{HALF}:PREDICT", {}, 400, f"Malformed request: POST {HALF}:PREDICT"),
    ("POST", f"{HALF}:predict/", {}, 400, f"Malformed request: POST {HALF}:predict/"),
    ("POST", f"{HALF}:predict?x=1", {}, 400, f"Malformed request: POST {HALF}:predict?x=1"),
    ("GET", f"{HALF}/", None, 400, f"Malformed request: GET {HALF}/"),
    ("GET", f"{HALF}/versions/1/labels/l", None, 400, f"Malformed request: GET {HALF}/versions/1/labels/l"),
    ("GET", "/v1/nonsense", None, 400, "Malformed request: GET /v1/nonsense"),
    ("GET", "/v1/models/versions/1", None, 400, "Missing model name in request."),
    (
        "POST",
        f"{HALF}/versions/9223372036854775808:predict",
        {},
        400,
        "Failed to convert version: 9223372036854775808 to numeric.",
    ),
    ("OPTIONS", f"{HALF}:predict", None, 400, "Origin header is missing in CORS preflight"),
    # What is behind the question mark is part of the name.
    ("GET", f"{HALF}?x=1", None, 404, "Could not find any versions of model half_plus_two?x=1"),
    ("GET", "/v1/models/a%2Fb%3Ac", None, 404, "Could not find any versions of model a/b:c"),
    ("POST", "/v1/models/a%2Fb:predict", {"instances": [1]}, 404, "Servable not found for request: Latest(a/b)"),
    ("POST", "/v1/models/none:predict", {"instances": [1]}, 404, "Servable not found for request: Latest(none)"),
    ("POST", "/v1/models/none:predict", b"{", 400, "JSON Parse error: Missing a name for object member. at offset: 1"),
    ("GET", "/v1/models/none/metadata", None, 404, "Servable not found for request: Latest(none)"),
    (
        "POST",
        f"{HALF}/versions/9:predict",
        {"instances": [1]},
        404,
        "Servable not found for request: Specific(half_plus_two, 9)",
    ),
    ("GET", f"{HALF}/versions/9", None, 404, "Could not find version 9 of model half_plus_two"),
    ("GET", f"{HALF}/versions/9/metadata", None, 404, "Servable not found for request: Specific(half_plus_two, 9)"),
)


@pytest.mark.parametrize(("method", "path", "body", "status", "text"), TARGETS, ids=[f"{t[0]} {t[1]}" for t in TARGETS])
def test_paths_and_what_they_name(
    shared_server: SharedServer, method: str, path: str, body: Any, status: int, text: str
) -> None:
    got, answer = shared_server.rest(method, path, body)
    assert list(answer) == ["error"]
    assert not differs((got, answer["error"]), (status, text))


#: model, signature, body without the signature's name, status, text
BODIES: tuple[tuple[str, str, Any, int, str], ...] = (
    # The document.
    ("half_plus_two", "", b"", 400, "JSON Parse error: The document is empty"),
    ("half_plus_two", "", b"hello", 400, "JSON Parse error: Invalid value. at offset: 0"),
    ("half_plus_two", "", [1.5], 400, "JSON Value: [\n    1.5\n] Is not object"),
    (
        "half_plus_two",
        "",
        {"signature_name": 5},
        400,
        (
            "JSON Value: {\n    \"signature_name\": 5\n} not formatted correctly. 'signature_name' key must be a "
            "string value."
        ),
    ),
    (
        "half_plus_two",
        "none",
        {"instances": [1]},
        400,
        'Serving signature name: "none" not found in signature def',
    ),
    ("half_plus_two", "", {"x": 1}, 400, "Missing 'inputs' or 'instances' key"),
    (
        "half_plus_two",
        "",
        {"instances": []},
        400,
        "JSON Value: {\n    \"instances\": []\n} No values in 'instances' array",
    ),
    (
        "half_plus_two",
        "",
        {"instances": 1},
        400,
        "JSON Value: {\n    \"instances\": 1\n} Expecting 'instances' to be an list/array",
    ),
    (
        "half_plus_two",
        "",
        {"instances": [1], "inputs": 1},
        400,
        (
            'JSON Value: {\n    "instances": [\n        1\n    ],\n    "inputs": 1\n} Not formatted correctly '
            "expecting only one of 'inputs' or 'instances' keys to exist "
        ),
    ),
    # Rows.
    ("half_plus_two", "", {"instances": [1, "x"]}, 400, ELEMENT.format(1) + NOT_FLOAT),
    ("half_plus_two", "", {"instances": [{"x": 1}, {"x": "x"}]}, 400, ELEMENT_KEY.format(1, "x") + NOT_FLOAT),
    (
        "half_plus_two",
        "",
        {"instances": [{"x": [1], "y": 2}]},
        400,
        ELEMENT_KEY.format(0, "y") + "JSON object: does not have named input: y",
    ),
    (
        "half_plus_two",
        "",
        {"instances": [{"x": 1}, 2]},
        400,
        "Expecting object but got list at item 1 of input list",
    ),
    (
        "half_plus_two",
        "",
        {"instances": [2, {"x": 1}]},
        400,
        "Expecting value/list but got object at item 1 of input list",
    ),
    (
        "multi",
        "",
        {"instances": [[1], [2]]},
        400,
        (
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        ),
    ),
    (
        "multi",
        "",
        {"instances": [{"a": 1, "b": 2}, {"a": 1}]},
        400,
        "Failed to process element: 1 of 'instances' list. JSON object: {\n    \"a\": 1\n} keys must be equal to: a,b",
    ),
    (
        "half_plus_two",
        "",
        {"instances": [[1, 2], [3, 4, 5]]},
        400,
        ELEMENT.format(1) + "Expecting tensor size: 2 but got: 3",
    ),
    (
        "half_plus_two",
        "",
        {"instances": [[[1, 2]] * 3, [[[1, 2]] * 3]]},
        400,
        ELEMENT.format(1) + "Expecting shape [3,2] but got: [1,3,2]",
    ),
    # Columns.
    (
        "multi",
        "",
        {"inputs": [1]},
        400,
        (
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
            "tensorinfo_map"
        ),
    ),
    ("multi", "", {"inputs": {"a": 1}}, 400, "Missing named input: b in 'inputs' object."),
    ("with_default", "", {"inputs": {"x": [1]}}, 400, "Missing named input: bias in 'inputs' object."),
    (
        "half_plus_two",
        "",
        {"inputs": [[1, 2], [3, 4, 5]]},
        400,
        "Encountered list at unexpected size: 3 at level: 1 expected size: 2",
    ),
    ("half_plus_two", "", {"inputs": [1, [2]]}, 400, "Encountered list at unexpected level: 1 expected < 1"),
    (
        "half_plus_two",
        "",
        {"inputs": [[1], 1]},
        400,
        "JSON Value: 1 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
    ),
    # Types.
    ("half_plus_two", "", {"inputs": ["x"]}, 400, NOT_FLOAT),
    ("half_plus_two", "", {"inputs": [None]}, 400, "JSON Value: null Type: Null is not of expected type: float"),
    ("half_plus_two", "", {"inputs": [False]}, 400, "JSON Value: false Type: False is not of expected type: float"),
    ("half_plus_two", "", {"inputs": [True]}, 400, "JSON Value: true Type: True is not of expected type: float"),
    (
        "half_plus_two",
        "",
        {"inputs": [{"a": 1}]},
        400,
        'JSON Value: {\n    "a": 1\n} Type: Object is not of expected type: float',
    ),
    (
        "echo_all_dtypes",
        "float64",
        {"inputs": ["x"]},
        400,
        'JSON Value: "x" Type: String is not of expected type: double',
    ),
    (
        "echo_all_dtypes",
        "int32",
        {"inputs": [1.0]},
        400,
        "JSON Value: 1.0 Type: Number is not of expected type: int32",
    ),
    (
        "echo_all_dtypes",
        "int8",
        {"inputs": [2**31]},
        400,
        "JSON Value: 2147483648 Type: Number is not of expected type: int8",
    ),
    (
        "echo_all_dtypes",
        "int64",
        {"inputs": [2**63]},
        400,
        "JSON Value: 9223372036854775808 Type: Number is not of expected type: int64",
    ),
    (
        "echo_all_dtypes",
        "uint32",
        {"inputs": [2**32]},
        400,
        "JSON Value: 4294967296 Type: Number is not of expected type: uint32",
    ),
    ("echo_all_dtypes", "uint64", {"inputs": [-1]}, 400, "JSON Value: -1 Type: Number is not of expected type: uint64"),
    ("echo_all_dtypes", "bool", {"inputs": [1]}, 400, "JSON Value: 1 Type: Number is not of expected type: bool"),
    ("echo_all_dtypes", "string", {"inputs": [1]}, 400, "JSON Value: 1 Type: Number is not of expected type: string"),
    ("echo_all_dtypes", "string", {"inputs": [{"b64": "A"}]}, 400, "Unable to base64 decode"),
    (
        "echo_all_dtypes",
        "string",
        {"inputs": [{"b64": 1}]},
        400,
        'JSON Value: {\n    "b64": 1\n} not formatted correctly for base64 data',
    ),
    *(
        ("echo_all_dtypes", name, {"inputs": [1]}, 501, f"Conversion of JSON Value: 1 to type: {name}")
        for name in ("half", "bfloat16", "uint16", "complex64", "complex128")
    ),
    *(
        (
            "echo_all_dtypes",
            name,
            {"instances": [1]},
            400,
            ELEMENT.format(0).replace("INVALID_ARGUMENT", "UNIMPLEMENTED")
            + f"Conversion of JSON Value: 1 to type: {name}",
        )
        for name in ("half", "uint16")
    ),
    # Answers.
    ("no_batch_dim", "total", {"instances": [1, 2]}, 400, "Tensor name: total has no shape information "),
)


@pytest.mark.parametrize(
    ("model", "signature", "body", "status", "text"),
    BODIES,
    ids=[f"{b[0]} {b[1]} {b[2] if isinstance(b[2], bytes) else json.dumps(b[2])}" for b in BODIES],
)
def test_bodies(shared_server: SharedServer, model: str, signature: str, body: Any, status: int, text: str) -> None:
    shared_server.serve(model)
    if signature:
        body = {"signature_name": signature, **body}
    got, answer = shared_server.rest("POST", f"/v1/models/{model}:predict", body)
    assert not differs((got, answer["error"]), (status, text))


NO_EXAMPLES = "When method is classify, key 'examples' is expected and was not found"
EXAMPLES: tuple[tuple[Any, str], ...] = (
    ({}, f"JSON Value: {{}} {NO_EXAMPLES}"),
    ({"examples": 1}, "JSON Value: {\n    \"examples\": 1\n} Expecting 'examples' value to be an list/array"),
    ({"examples": []}, "JSON Value: {\n    \"examples\": []\n} 'examples' value is an empty array"),
    ({"examples": [[]]}, "Example must be JSON object but got JSON Array"),
    ({"examples": [{"x": [1, 2.0]}]}, "Unexpected element type in feature: x expecting type: int64"),
    ({"examples": [{"x": [2.0, 1]}]}, "Unexpected element type in feature: x expecting type: float"),
    ({"examples": [{"x": None}]}, "Feature: x has element with unexpected JSON type: Null"),
    ({"examples": [{"x": [[1]]}]}, "Feature: x has element with unexpected JSON type: Array"),
    ({"examples": [{}], "signature_name": "none"}, "No signature was found with the name: none"),
)


@pytest.mark.parametrize("verb", ["classify", "regress"])
@pytest.mark.parametrize(("body", "text"), EXAMPLES)
def test_bodies_of_examples(shared_server: SharedServer, verb: str, body: Any, text: str) -> None:
    """Regress says "classify" too, as TensorFlow Serving does."""
    model = shared_server.serve("examples")
    status, answer = shared_server.rest("POST", f"/v1/models/{model}:{verb}", body)
    assert not differs((status, answer["error"]), (400, text))


def _raw(
    server: SharedServer, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers by lower-case name, and the body as it came."""
    address = urllib.parse.urlsplit(server.rest_url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def test_paths_in_other_letters_and_encoded(shared_server: SharedServer) -> None:
    body = b'{"instances": [2]}'
    for path in ("/V1/Models/half_plus_two/VERSIONS/0001:predict", "/v1/models/h%61lf_plus_tw%6F/versions/1:predict"):
        status, _, answer = _raw(shared_server, "POST", path, body)
        assert (status, json.loads(answer)) == (200, {"predictions": [3.0]})
    # The resource itself is in lower case only: this asks for the status, and of all versions.
    status, _, answer = _raw(shared_server, "GET", f"{HALF}/METADATA")
    assert (status, len(json.loads(answer)["model_version_status"])) == (200, 2)
    status, headers, _ = _raw(shared_server, "GET", "/nothing")
    assert (status, headers["content-type"].partition(";")[0]) == (404, "text/html")
    # An answer to HEAD has no body to carry the text.
    assert _raw(shared_server, "HEAD", HALF)[0] == 400


def test_a_preflight_without_the_flag(shared_server: SharedServer) -> None:
    for origin, wanted in (("https://a.example", 200), ("http://a", 200), ("a.example", 400)):
        status, headers, body = _raw(shared_server, "OPTIONS", "/v1/whatever", Origin=origin)
        assert (status, body == b"") == (wanted, wanted == 200)
        assert not [name for name in headers if name.startswith("access-control")]


def test_bodies_in_gzip_and_of_any_content_type(shared_server: SharedServer) -> None:
    body = b'{"instances": [2]}'
    packed = gzip.compress(body)
    for sent, more in ((body, {}), (body, {"Content_Type": "image/png"}), (packed, {"Content_Encoding": "gzip"})):
        status, headers, answer = _raw(shared_server, "POST", f"{HALF}:predict", sent, Accept_Encoding="gzip", **more)
        assert (status, json.loads(answer)) == (200, {"predictions": [4.0]})
        assert headers["content-type"] == "application/json"
        assert "content-encoding" not in headers
    # What cannot be unpacked counts as an empty body, whether it is broken or holds more than 100 MiB.
    for sent in (packed[:-4], gzip.compress(b'{"instances": [2]' + b" " * (100 << 20) + b"}", 1)):
        status, _, answer = _raw(shared_server, "POST", f"{HALF}:predict", sent, Content_Encoding="gzip")
        assert (status, begins_as(json.loads(answer)["error"], "JSON Parse error: The document is empty")) == (
            400,
            True,
        )


def test_the_deepest_document_harms_nobody(shared_server: SharedServer) -> None:
    levels = 500_000
    body = b'{"unknown": ' + b"[" * levels + b"]" * levels + b', "instances": [2]}'
    status, _, answer = _raw(shared_server, "POST", f"{HALF}:predict", body)
    assert (status, json.loads(answer)) == (200, {"predictions": [4.0]})


def test_errors_are_not_cut_but_values_in_them_are(shared_server: SharedServer) -> None:
    name = "n" * 2000
    status, answer = shared_server.rest("POST", f"{HALF}:predict", {"signature_name": name, "instances": [1]})
    assert not differs((status, answer["error"]), (400, f'Serving signature name: "{name}" not found in signature def'))
    status, answer = shared_server.rest("POST", f"{HALF}:predict", {"inputs": ["x" * 2000]})
    assert status == 400
    text, remark, _ = answer["error"].partition(" (signature ")
    assert text.endswith("... Type: String is not of expected type: float")
    assert remark
    assert len(text) < 340


def test_odd_numbers_in_and_out(shared_server: SharedServer) -> None:
    shared_server.serve("echo_all_dtypes")
    for signature, sent, wanted in (
        ("float32", b"[NaN, Inf, -Infinity, 1e39, 3]", b"[NaN,Infinity,-Infinity,Infinity,3.0]"),
        ("float64", b"[0.1, 1e22, -0.0, 5]", b"[0.1,1e+22,-0.0,5.0]"),
        ("int8", b"[300, -1]", b"[44,-1]"),
        ("uint64", b"[18446744073709551615]", b"[18446744073709551615]"),
        ("bool", b"[true, false]", b"[true,false]"),
        ("string", b'["\xc3\xa9", "\xff", {"b64": "YQ=="}]', b'["\xc3\xa9","\xff","a"]'),
    ):
        body = b'{"signature_name": "%b", "instances": %b} and what follows' % (signature.encode(), sent)
        status, _, answer = _raw(shared_server, "POST", "/v1/models/echo_all_dtypes:predict", body)
        packed = b"".join(answer.split()).replace(b"1e22", b"1e+22")  # both are right
        assert (status, packed) == (200, b'{"predictions":' + wanted + b"}")


def test_the_http_status_of_each_code() -> None:
    wanted = {
        200: "OK",
        400: "INVALID_ARGUMENT FAILED_PRECONDITION OUT_OF_RANGE",
        401: "UNAUTHENTICATED",
        403: "PERMISSION_DENIED",
        404: "NOT_FOUND",
        409: "ALREADY_EXISTS ABORTED",
        429: "RESOURCE_EXHAUSTED",
        499: "CANCELLED",
        500: "UNKNOWN INTERNAL DATA_LOSS",
        501: "UNIMPLEMENTED",
        503: "UNAVAILABLE",
        504: "DEADLINE_EXCEEDED",
    }
    assert {StatusCode[name]: status for status, names in wanted.items() for name in names.split()} == HTTP_STATUS
