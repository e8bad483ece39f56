"""Templates of PredictRequests: whatever they return is what parsing returns."""

from __future__ import annotations

import random
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving_server.inference import Inference, Resolved
from serving_server.signatures import Signature, TensorSpec
from serving_server.tensors import DTYPES, Array, to_proto
from serving_server.transports import predict_codec as codec
from serving_server.transports.predict_templates import PredictTemplates
from serving_server.wire.messages import PredictRequest

NUMBERS = [dtype for dtype in DTYPES if not dtype.is_string]
#: Those whose typed field is packed memory.
TYPED = [dtype for dtype in NUMBERS if dtype.name in {"float", "double", "complex64", "complex128"}]


class Names(Inference):
    """Takes every target, with any inputs."""

    def __init__(self) -> None:
        self.inputs: dict[str, TensorSpec] = {}

    def signature(
        self, model: str, version: int | None, label: str | None, signature_name: str, caller: Any = None
    ) -> Resolved:
        signature = Signature(signature_name, "", self.inputs, {}, {})
        return cast("Resolved", type("Target", (), {"signature": signature, "target": (model, version, label)}))


def request(
    arrays: dict[str, Array], *, content: bool, version: int | None = None, outputs: tuple[str, ...] = ()
) -> Any:
    message = PredictRequest(output_filter=outputs)
    message.model_spec.name = "model"
    message.model_spec.signature_name = "s"
    if version is not None:
        message.model_spec.version.value = version
    for alias, array in arrays.items():
        message.inputs[alias].CopyFrom(to_proto(array, as_content=content))
    return message


def parsed(data: bytes) -> tuple[Any, dict[str, Array]]:
    message = codec.decode(PredictRequest, data)
    names = Names()
    names.inputs = dict.fromkeys(message.inputs, cast("TensorSpec", None))
    return message, codec.predict_inputs(names, message)[1]


def taught(*messages: bytes) -> PredictTemplates:
    """Templates that have seen each message as often as a server would have had to parse it."""
    templates = PredictTemplates()
    for data in messages:
        for _ in range(2):
            if templates.match(data) is None:
                templates.learn(data, *parsed(data))
    return templates


def assert_same(templates: PredictTemplates, data: bytes) -> bool:
    """If a template fits, it must say what parsing says; whether one does."""
    found = templates.match(data)
    if found is None:
        return False
    template, arrays = found
    message, wanted = parsed(data)
    assert template.spec == codec.target(message)
    assert template.signature == message.model_spec.signature_name
    assert template.output_filter == tuple(message.output_filter)
    assert arrays.keys() == wanted.keys()
    for alias, array in arrays.items():
        assert array.dtype == wanted[alias].dtype
        assert array.shape == wanted[alias].shape
        assert array.tobytes() == wanted[alias].tobytes()
    return True


def numbers(dtype: Any, shape: tuple[int, ...], seed: int) -> Array:
    size = int(np.prod(shape)) * dtype.numpy.itemsize
    raw = np.random.default_rng(seed).integers(0, 2 if dtype.name == "bool" else 256, size, dtype=np.uint8)
    return raw.view(dtype.numpy).reshape(shape)


@pytest.mark.parametrize("shape", [(1,), (3,), (), (2, 3), (1, 2, 3, 4)], ids=str)
@pytest.mark.parametrize("as_bytearray", [False, True])
@pytest.mark.parametrize(
    ("dtype", "content"),
    [(d, True) for d in NUMBERS] + [(d, False) for d in TYPED],
    ids=lambda v: getattr(v, "name", v),
)
def test_numbers_of_fixed_width(dtype: Any, content: bool, as_bytearray: bool, shape: tuple[int, ...]) -> None:
    one, other = (request({"x": numbers(dtype, shape, n)}, content=content).SerializeToString() for n in (1, 2))
    templates = taught(one)
    data = bytearray(other) if as_bytearray else other
    assert assert_same(templates, data)


def test_a_lesson_takes_two_requests_of_a_length() -> None:
    data = request({"x": np.float32([1, 2])}, content=False).SerializeToString()
    templates = PredictTemplates()
    templates.learn(data, *parsed(data))
    assert templates.match(data) is None
    templates.learn(data, *parsed(data))
    assert assert_same(templates, data)


@pytest.mark.parametrize(
    "array",
    [
        np.array([b"a", b"bc"], dtype=object),
        np.int32([1, 2]),
        np.array([True, False]),
        np.float16([1, 2]),
        np.float32([]),
        np.zeros((0, 3), np.float64),
    ],
    ids=lambda array: str(array.dtype),
)
def test_what_has_no_fixed_place_is_left_to_the_parser(array: Array) -> None:
    data = request({"x": array}, content=False).SerializeToString()
    assert taught(data, data).match(data) is None


def test_a_field_shorter_than_its_shape_is_left_to_the_parser() -> None:
    message = request({"x": np.float32([1, 2])}, content=False)
    message.inputs["x"].tensor_shape.dim[0].size = 4
    data = message.SerializeToString()
    assert taught(data).match(data) is None


@pytest.mark.parametrize("dtype", [1, 23])
def test_several_fields_of_numbers_are_left_to_the_parser(dtype: int) -> None:
    message = request({"x": np.float32([1, 2])}, content=False)
    message.inputs["x"].tensor_content = bytes(8 * (1 if dtype == 1 else 2))
    message.inputs["x"].dtype = dtype
    data = message.SerializeToString()
    assert taught(data, data).match(data) is None


def test_requests_of_one_length_are_told_apart() -> None:
    kinds = [
        request({"x": np.float32([1, 2])}, content=False),
        request({"y": np.float32([1, 2])}, content=False),
        request({"x": np.float64([1])}, content=True),
        request({"x": np.float32([1, 2])}, content=True),
        request({"x": np.int64([1])}, content=True),
    ]
    data = [kind.SerializeToString() for kind in kinds]
    templates = taught(*data)
    assert all(assert_same(templates, one) for one in data)


def test_version_and_filter_are_constant() -> None:
    array = np.float32([1, 2])
    one, other = (request({"x": array}, content=False, version=v).SerializeToString() for v in (1, 2))
    templates = taught(one)
    assert assert_same(templates, one)
    assert templates.match(other) is None
    filtered = request({"x": array}, content=False, outputs=("a", "b")).SerializeToString()
    assert assert_same(taught(filtered), filtered)


def test_what_is_remembered_is_bounded() -> None:
    templates = PredictTemplates()
    for size in range(1, 5000):
        data = request({"x": np.zeros(size, np.int8)}, content=True).SerializeToString()
        for _ in range(2):
            templates.learn(data, *parsed(data))
    assert len(templates._by_length) <= 4096
    for index in range(100):
        data = request({f"{index:02}": np.float32([1])}, content=True).SerializeToString()
        for _ in range(2):
            templates.learn(data, *parsed(data))
    assert max(map(len, templates._by_length.values())) <= 8
    long = request({"x" * 5000: np.float32([1])}, content=True).SerializeToString()
    assert taught(long).match(long) is None


inputs = st.dictionaries(
    st.sampled_from(["x", "y", "input_1", "\u00fc"]),
    st.tuples(st.sampled_from(DTYPES), st.sampled_from([(1,), (2,), (), (2, 2), (0,)]), st.booleans()),
    min_size=1,
    max_size=3,
)


@settings(max_examples=300, deadline=None)
@given(inputs=inputs, seed=st.integers(0, 1000), changes=st.integers(0, 3))
def test_generated_requests_and_damaged_ones(inputs: dict[str, Any], seed: int, changes: int) -> None:
    def build(seed: int) -> bytes:
        message = request({}, content=False)
        for alias, (dtype, shape, content) in inputs.items():
            if dtype.is_string:
                array: Array = np.full(shape, b"text", dtype=object)
            else:
                array = numbers(dtype, shape, seed)
            message.inputs[alias].CopyFrom(to_proto(array, as_content=content))
        return bytes(message.SerializeToString(deterministic=True))

    templates = taught(build(seed))
    assert_same(templates, build(seed + 1))
    damaged = bytearray(build(seed + 2))
    chance = random.Random(seed)
    for _ in range(changes):
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
    # Damage in the numbers makes other numbers; anywhere else no template may fit.
    assert_same(templates, bytes(damaged))
    templates = taught(build(seed))
    found = templates.match(bytes(damaged))
    assert found is None or len(found[1]) == len(inputs)
