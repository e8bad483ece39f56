"""REST classify and regress: JSON to tf.Examples as protobuf builds them, and answers of a real server."""

from __future__ import annotations

import base64
import http.client
import json
import math
import urllib.parse
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_server.errors import InvalidArgumentError
from serving_server.rest.json_examples import parse_examples, to_example
from serving_server.rest.json_out import encode_classifications, encode_regressions
from serving_server.wire import messages
from tests.examples import example
from tests.servers import SharedServer

#: JSON has but one NaN.
FLOATS = st.floats(width=32).map(lambda value: math.nan if math.isnan(value) else value)
INT64 = st.integers(-(2**63), 2**63 - 1)
#: Literals of one kind, as Python writes them in JSON, each list with the field of `tensorflow.Feature` that takes it.
LITERALS = (
    st.tuples(st.just("int64_list"), st.lists(INT64 | st.booleans()))
    | st.tuples(st.just("float_list"), st.lists(FLOATS))
    | st.tuples(st.just("bytes_list"), st.lists(st.text() | st.binary()))
)


def _literal(value: Any) -> Any:
    return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


@given(st.lists(st.dictionaries(st.text(), st.tuples(LITERALS, st.booleans())), min_size=1), st.booleans())
def test_examples_are_those_that_protobuf_builds(
    wanted: list[dict[str, tuple[tuple[str, list[Any]], bool]]], first_is_context: bool
) -> None:
    documents, references = [], []
    for features in wanted:
        document: dict[str, Any] = {}
        reference = messages.Example()
        for name, ((field, values), bare) in features.items():
            literals = [_literal(value) for value in values]
            document[name] = literals[0] if bare and len(literals) == 1 else literals
            feature = reference.features.feature[name]
            for value in values:
                converted = value.encode() if isinstance(value, str) else int(value) if value is True else value
                getattr(feature, field).value.append(int(converted) if converted is False else converted)
        documents.append(document)
        references.append(reference)
    body: dict[str, Any] = {"signature_name": "s", "examples": documents}
    if first_is_context:
        body["context"] = documents[0]
    parsed = parse_examples(json.dumps(body).encode())
    assert parsed.signature_name == "s"
    for data, reference in zip(parsed.examples, references, strict=True):
        assert data == reference.SerializeToString(deterministic=True)
    assert parsed.context == (parsed.examples[0] if first_is_context else b"")


def test_the_kind_of_a_feature_is_that_of_its_literals() -> None:
    texts = {
        '{"x": 2}': example(x=2),
        '{"x": 2.0}': example(x=2.0),
        '{"x": 2e0}': example(x=2.0),
        '{"x": [1, true, false]}': example(x=[1, 1, 0]),
        '{"x": NaN}': example(x=float("nan")),
        '{"x": [-Inf, 1e39, 1e-50]}': example(x=[float("-inf"), float("inf"), 0.0]),
        '{"x": 18446744073709551616}': example(x=18446744073709551616.0),
        '{"x": -9223372036854775808}': example(x=-(2**63)),
        '{"x": {"b64": "/w=="}}': example(x=b"\xff"),
        '{"x": ["a", {"b64": "Yg=="}]}': example(x=["a", "b"]),
        '{"b64": "Yg=="}': example(b64="Yg=="),  # an example is never a base64 object
        "{}": example(),
    }
    for text, expected in texts.items():
        (data,) = parse_examples(b'{"examples": [' + text.encode() + b"]}").examples
        assert data == expected.SerializeToString(deterministic=True), text
    (data,) = parse_examples(b'{"examples": [{"x": []}]}').examples
    assert messages.Example.FromString(data).features.feature["x"].WhichOneof("kind") is None


def test_bytes_that_are_not_utf8_stay_as_they_are() -> None:
    (data,) = parse_examples(b'{"examples": [{"x": "\xff\xfe"}]}').examples
    assert data == example(x=b"\xff\xfe").SerializeToString()


EMPTY = "JSON Value: {\n    \"examples\": []\n} 'examples' value is an empty array"
DOCUMENT_ERRORS = {
    "": "JSON Parse error: The document is empty",
    "{nonsense": "JSON Parse error: Missing a name for object member. at offset: 1",
    "[]": "JSON Value: [] Is not object",
    '{"signature_name": 1}': (
        'JSON Value: {\n    "signature_name": 1\n} not formatted correctly. '
        "'signature_name' key must be a string value."
    ),
    "{}": "JSON Value: {} When method is classify, key 'examples' is expected and was not found",
    '{"examples": 1}': ("JSON Value: {\n    \"examples\": 1\n} Expecting 'examples' value to be an list/array"),
    '{"examples": []}': EMPTY,
    '{"examples": [], "examples": [{}, 1]}': EMPTY,
    '{"examples": [[]]}': "Example must be JSON object but got JSON Array",
    '{"examples": [{}, 1]}': "Example must be JSON object but got JSON Number",
    '{"examples": ["x"]}': "Example must be JSON object but got JSON String",
    '{"examples": [true]}': "Example must be JSON object but got JSON True",
    '{"examples": [null]}': "Example must be JSON object but got JSON Null",
    '{"context": 1, "examples": [{}]}': "Example must be JSON object but got JSON Number",
    '{"context": {"x": null}}': "Feature: x has element with unexpected JSON type: Null",
}
FEATURE_ERRORS = {
    "null": "Feature: x has element with unexpected JSON type: Null",
    "[null]": "Feature: x has element with unexpected JSON type: Null",
    "[[1]]": "Feature: x has element with unexpected JSON type: Array",
    "{}": "Feature: x has element with unexpected JSON type: Object",
    '{"b64": 1}': "Feature: x has element with unexpected JSON type: Object",
    '{"b64": "a", "c": 1}': "Feature: x has element with unexpected JSON type: Object",
    '{"b64": "!"}': "Unable to base64 decode (feature: x)",
    "[1, 2.0]": "Unexpected element type in feature: x expecting type: int64",
    "[true, 2.0]": "Unexpected element type in feature: x expecting type: int64",
    "[2.0, 1]": "Unexpected element type in feature: x expecting type: float",
    '["a", 1]': "Unexpected element type in feature: x expecting type: bytes",
    '[{"b64": ""}, 1]': "Unexpected element type in feature: x expecting type: bytes",
    '[1, {"b64": ""}]': "Unexpected element type in feature: x expecting type: int64",
    "9223372036854775808": "Feature: x has uint64 element. Only int64 is supported.",
    "[1, 18446744073709551615]": "Feature: x has uint64 element. Only int64 is supported.",
}


@pytest.mark.parametrize("text", [*DOCUMENT_ERRORS, *FEATURE_ERRORS])
def test_errors(text: str) -> None:
    body, message = text, DOCUMENT_ERRORS.get(text)
    if message is None:
        body, message = f'{{"examples": [{{"x": {text}}}]}}', FEATURE_ERRORS[text]
    with pytest.raises(InvalidArgumentError) as caught:
        parse_examples(body.encode())
    assert caught.value.message == message


def test_a_value_of_a_number_is_no_object() -> None:
    with pytest.raises(InvalidArgumentError, match="but got JSON False"):
        to_example(False)


def test_numbers_and_labels_in_answers() -> None:
    scores = np.float32([[0.1, 3], [1 / 3, 9e6], [1e-5, -0.0], [np.nan, np.inf]])
    labels = np.array([["a", 'b"\n'], ["", "ü"], ["c", "d"], ["e", "f"]], dtype=object)
    encoded = np.array([[text.encode() for text in row] for row in labels], dtype=object)
    text = encode_classifications(encoded, scores).decode()
    assert '["a",0.1]' in text
    assert "0.333333343]" in text
    assert '["ü",9000000.0]' in text or '["ü",9e+06]' in text or '["ü",9e6]' in text
    assert '["e",NaN],["f",Infinity]' in text
    answer = json.loads(text)["results"]
    assert [[pair[0] for pair in row] for row in answer] == labels.tolist()
    np.testing.assert_array_equal(np.float32([[pair[1] for pair in row] for row in answer]), scores)
    assert encode_classifications(encoded[:1], None) == b'{"results":[[["a",0.0],["b\\"\\n",0.0]]]}'
    assert encode_classifications(None, scores[:1]) == b'{"results":[[["",0.1],["",3.0]]]}'
    assert encode_classifications(None, scores[:2, :0]) == b'{"results":[[],[]]}'
    assert encode_regressions(np.float32([1.5, np.nan, 0])) == b'{"results":[1.5,NaN,0.0]}'


@given(st.integers(1, 40), st.integers(1, 4), st.data())
def test_scores_are_written_like_those_of_predict(examples: int, classes: int, data: st.DataObject) -> None:
    """However many there are: arrays of some size take another path."""
    numbers = data.draw(st.lists(st.floats(width=32), min_size=examples * classes, max_size=examples * classes))
    scores = np.float32(numbers).reshape(examples, classes)
    answer = json.loads(encode_classifications(None, scores))["results"]
    np.testing.assert_array_equal(np.float32([[pair[1] for pair in row] for row in answer]), scores)


# --- a real server ------------------------------------------------------------------------------------------------


def test_classify(shared_server: SharedServer) -> None:
    model = shared_server.serve("examples")
    body = {"examples": [{"x": 1.0}, {"x": [3.0], "k": 5, "s": "text"}]}
    answer = {"results": [[["a", 1.0], ["b", 3.5]], [["a", 3.0], ["b", 4.5]]]}
    assert shared_server.rest("POST", f"/v1/models/{model}:classify", body) == (200, answer)
    body["signature_name"] = "classes_only"  # type: ignore[assignment]
    answer = {"results": [[["a", 0.0], ["b", 0.0]]] * 2}
    assert shared_server.rest("POST", f"/v1/models/{model}/versions/1:classify", body) == (200, answer)


def test_regress(shared_server: SharedServer) -> None:
    model = shared_server.serve("examples")
    body = {"signature_name": "regress_column", "context": {"x": 1.0}, "examples": [{}, {"x": 3.0}]}
    assert shared_server.rest("POST", f"/v1/models/{model}:regress", body) == (200, {"results": [3.5, 4.5]})
    older = shared_server.rest("POST", f"/v1/models/{model}/versions/1:regress", body)
    assert older == (200, {"results": [2.5, 3.5]})


def test_special_values_are_bare_words(shared_server: SharedServer) -> None:
    model = shared_server.serve("examples")
    body = b'{"signature_name": "regress", "examples": [{"x": NaN}, {"x": -Infinity}, {"x": 0.1}]}'
    address = urllib.parse.urlsplit(shared_server.rest_url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)
    connection.request("POST", f"/v1/models/{model}:regress", body)
    response = connection.getresponse()
    text = response.read()
    connection.close()
    assert (response.status, response.headers["content-type"]) == (200, "application/json")
    assert b"".join(text.split()) == b'{"results":[NaN,-Infinity,3.05]}'


@pytest.mark.parametrize("verb", ["classify", "regress"])
def test_errors_of_a_server(shared_server: SharedServer, verb: str) -> None:
    model = shared_server.serve("examples")
    signature = verb
    good = {"signature_name": signature, "examples": [{"x": 1.0}]}

    def told(body: Any, target: str = model) -> tuple[int, str]:
        status, answer = shared_server.rest("POST", f"/v1/models/{target}:{verb}", body)
        assert list(answer) == ["error"]
        return status, answer["error"]

    assert told({"examples": []})[0] == 400
    status, text = told(good, "absent")
    assert status == 404
    assert text.startswith("Servable not found for request: Latest(absent)")
    # The text is read first, whatever the model.
    assert told(b"", "absent") == (400, "JSON Parse error: The document is empty")
    status, text = told(good, f"{model}/versions/9")
    assert status == 404
    # An integer is no float feature.
    status, text = told({**good, "examples": [{"x": 2}]})
    assert status == 400
    assert "Data types don't match. Data type: int64 but expected type: float" in text
    status, text = told({**good, "examples": [{"k": 2}]})
    assert status == 400
    assert "Feature: x (data type: float) is required" in text
    # The requests above have harmed nobody.
    assert shared_server.rest("POST", f"/v1/models/{model}:{verb}", good)[0] == 200
