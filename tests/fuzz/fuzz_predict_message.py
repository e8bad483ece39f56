"""PredictRequest bytes: what a template makes of a message is what parsing makes of it."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from serving_server.errors import ServingError
from serving_server.inference import Inference, Resolved
from serving_server.signatures import Signature, TensorSpec
from serving_server.stamps.asked import Asked
from serving_server.tensors import DTYPES, Array, to_proto
from serving_server.transports import predict_codec as codec
from serving_server.transports.predict_templates import PredictTemplates
from serving_server.wire.messages import PredictRequest

__all__ = ["SEEDS", "TOKENS", "assert_same", "check", "parsed"]

_EDIT = 4
_MAX_EDITS = 8


class _Target:
    """A signature with any inputs; nobody counts what is refused."""

    def __init__(self, signature: Signature, target: tuple[str, int | None, str | None]) -> None:
        self.signature = signature
        self.target = target

    def refused(self, error: ServingError, received: float, asked: Asked | None) -> None:
        pass


class _Names(Inference):
    """Takes every target, with any inputs."""

    def __init__(self, names: Any) -> None:
        self.inputs: dict[str, TensorSpec] = dict.fromkeys(names, cast("TensorSpec", None))

    def signature(
        self, model: str, version: int | None, label: str | None, signature_name: str, caller: Any = None
    ) -> Resolved:
        signature = Signature(signature_name, "", self.inputs, {}, {})
        return cast("Resolved", _Target(signature, (model, version, label)))


def parsed(data: bytes) -> tuple[Any, dict[str, Array]]:
    """Return a request and its inputs; raises as a server would answer."""
    message = codec.decode(PredictRequest, data)
    return message, codec.predict_inputs(_Names(message.inputs), message)[1]


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
        assert _bits(array) == _bits(wanted[alias])
    return True


def _bits(array: Array) -> bytes:
    """Its bytes, all NaNs made alike: parsing goes through a double, which makes a signalling NaN quiet."""
    if array.dtype.kind in "fc":
        parts = np.array(array).reshape(-1).view(array.real.dtype)
        parts[np.isnan(parts)] = np.nan
        array = parts
    return array.tobytes()


def check(data: bytes) -> None:
    """One input: how to change the message into another of its length, then the message.

    The first byte is the number of changes; each is two bytes of position, one of value and one that is not used.
    """
    if not data:
        return
    count = min(data[0] % (_MAX_EDITS + 1), (len(data) - 1) // _EDIT)
    first = data[1 + _EDIT * count :]
    other = bytearray(first)
    for index in range(count):
        at, value = int.from_bytes(data[1 + _EDIT * index : 3 + _EDIT * index], "big"), data[3 + _EDIT * index]
        if other:
            other[at % len(other)] = value
    try:
        message, arrays = parsed(first)
    except ServingError:
        pass  # what cannot be read teaches nothing
    else:
        templates = PredictTemplates()
        for _ in range(2):
            templates.learn(first, message, arrays)
        assert_same(templates, first)
        assert_same(templates, bytes(other))
    if count:
        try:
            parsed(bytes(other))
        except ServingError:
            return


def _seeds() -> list[bytes]:
    seeds = []
    for dtype in DTYPES:
        for content in (False, True):
            if dtype.is_string:
                array: Array = np.array([b"one", b""], dtype=object)
            else:
                array = np.ones((1, 3), dtype.numpy)
            seeds.append(_request({"x": to_proto(array, as_content=content)}))
    scalar, pair = to_proto(np.float32(1)), to_proto(np.array([[1, 2]], np.int64), as_content=True)
    seeds.append(_request({"a": scalar, "b": pair}, version=3, outputs=("y",)))
    seeds.append(_request({"\u00fc": scalar}, label="stable"))
    short = to_proto(np.array([1, 2], np.float32))
    short.tensor_shape.dim[0].size = 4
    large = to_proto(np.array([1], np.float32))
    large.tensor_shape.dim[0].size = 2**40
    both = to_proto(np.array([1, 2], np.float32))
    both.tensor_content = bytes(8)
    unknown = to_proto(np.array([1], np.float32))
    unknown.tensor_shape.unknown_rank = True
    negative = to_proto(np.array([1], np.float32))
    negative.tensor_shape.dim[0].size = -1
    strings = to_proto(np.array([b"ab"], dtype=object))
    strings.ClearField("string_val")
    strings.tensor_content = b"\x02ab"
    seeds += [_request({"x": tensor}) for tensor in (short, large, both, unknown, negative, strings)]
    seeds.append(PredictRequest().SerializeToString())
    edit = b"\x02" + b"\0\x20\x01\0" + b"\0\x08\x05\0"
    return [b"\0" + seed for seed in seeds] + [edit + seed for seed in seeds]


def _request(tensors: dict[str, Any], version: int | None = None, label: str = "", outputs: Any = ()) -> bytes:
    message = PredictRequest(output_filter=outputs)
    message.model_spec.name = "model"
    message.model_spec.signature_name = "s"
    if version is not None:
        message.model_spec.version.value = version
    if label:
        message.model_spec.version_label = label
    for alias, tensor in tensors.items():
        message.inputs[alias].CopyFrom(tensor)
    return bytes(message.SerializeToString(deterministic=True))


SEEDS = _seeds()

TOKENS = [
    *[b"\x0a\x05model", b"\x1a\x01s", b"\x12\x02\x08\x01", b"\x08\x01", b"\x12\x04\x12\x02\x08\x01", b"\x0a\x01x"],
    *[
        b"\x22\x04\0\0\x80\x3f",
        b"\x2a\x04\0\0\x80\x3f",
        b"\x1a\x01y",
        b"\x80\x80\x80\x80\x80\x01",
        b"\xff\xff\xff\xff\x0f",
    ],
]
