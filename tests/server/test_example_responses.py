"""The bytes of classification and regression answers are those that protobuf writes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving_server.wire import example_responses as wire
from serving_server.wire import messages

FLOATS = st.floats(width=32)
SHAPES = st.tuples(st.integers(1, 5), st.integers(0, 5))


@given(st.data(), SHAPES)
def test_classifications(data: st.DataObject, shape: tuple[int, int]) -> None:
    scores = data.draw(st.none() | hnp.arrays(np.float32, shape, elements=FLOATS))
    texts = st.text(max_size=200).map(str.encode)
    labels = data.draw(hnp.arrays(object, shape, elements=texts) | (st.none() if scores is not None else st.nothing()))
    expected = messages.ClassificationResult()
    for row in range(shape[0]):
        classes = expected.classifications.add().classes
        for column in range(shape[1]):
            entry = classes.add()
            if labels is not None:
                entry.label = labels[row, column].decode()
            if scores is not None:
                entry.score = float(scores[row, column])
    written = wire.classification_result(labels, scores)
    assert written == expected.SerializeToString()
    answer = messages.ClassificationResponse.FromString(wire.response("m", 2**40, "s", written))
    assert answer.result == expected or np.isnan(scores).any()
    assert (answer.model_spec.name, answer.model_spec.version.value) == ("m", 2**40)


@given(hnp.arrays(np.float32, st.integers(1, 300), elements=FLOATS))
def test_regressions(values: np.ndarray) -> None:
    expected = messages.RegressionResult()
    for value in values.tolist():
        expected.regressions.add(value=value)
    written = wire.regression_result(values)
    assert written == expected.SerializeToString()
    entry = wire.inference_result("m", 3, "s", written, classifies=False)
    (result,) = messages.MultiInferenceResponse.FromString(entry).results
    assert result.regression_result.SerializeToString() == written
    assert (result.model_spec.name, result.model_spec.version.value, result.model_spec.signature_name) == ("m", 3, "s")


def test_labels_that_are_not_utf8_pass_through() -> None:
    assert b"\xff\xfe" in wire.classification_result(np.array([[b"\xff\xfe"]], dtype=object), None)
