"""REST answers: arrays, statuses, metadata and errors as JSON text whose values equal TensorFlow Serving's.

White space and the spelling of a number (``1e-05``, ``0.00001``) may differ; every value is the same once read.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
from google.protobuf import json_format

from serving_server.errors import InvalidArgumentError
from serving_server.rest.json_text import ENCODING_ERRORS, format_float, to_single
from serving_server.tensors import by_numpy

__all__ = [
    "encode_classifications",
    "encode_error",
    "encode_metadata",
    "encode_predict",
    "encode_regressions",
    "encode_status",
]

Array = npt.NDArray[Any]

#: TensorFlow's names of the dtypes that TensorFlow Serving writes.
_WRITABLE: Final = frozenset(
    {"float", "double", "int32", "int16", "int8", "uint8", "int64", "uint32", "uint64", "bool", "string"}
)
_BYTES_SUFFIX: Final = "_bytes"
_NUMPY: Final = orjson.OPT_SERIALIZE_NUMPY

_FLOAT32: Final = np.dtype(np.float32)
#: Up to here an array's text has no number of more than six digits: two brackets, and a number that has at least a
#: digit, a point and six more.
_SHORT: Final = 9
#: Below this size a Python expression per long number is cheaper than a dozen NumPy calls.
_FEW: Final = 24
#: Numbers that may have more than six significant digits.
_LONG_NUMBER = re.compile(rb"-?(?=[0-9.]{8})[0-9]+\.[0-9]+(?:e[+-]?[0-9]+)?")
_ESCAPED = re.compile(rb'["\\\x00-\x1f]')


def encode_predict(outputs: dict[str, Array], row_format: bool) -> bytes:
    """Return the JSON answer of a predict request.

    Parameters
    ----------
    outputs : dict of str to ndarray
        By alias. Strings are object arrays of bytes; they are written as text, or as ``{"b64": ...}`` when the alias
        ends in ``_bytes``.
    row_format : bool
        ``{"predictions": [...]}``, one element per row, instead of ``{"outputs": ...}``. A single output goes without
        its name.

    Returns
    -------
    bytes
        UTF-8 JSON, except that a model's strings pass through when they are not UTF-8, and that NaN and infinities are
        bare tokens.

    Raises
    ------
    InvalidArgumentError
        A dtype that JSON does not carry; in row format also a scalar, or unequal numbers of rows.
    """
    if not outputs:
        raise InvalidArgumentError("Cannot convert empty tensor map to JSON")
    if len(outputs) == 1:
        ((alias, array),) = outputs.items()
        if array.dtype is _FLOAT32 and array.ndim and 0 < array.size < _FEW and array.flags.c_contiguous:
            return _encode_few(array, row_format)
    if row_format:
        _check_rows(outputs)
    if len(outputs) == 1:
        ((alias, array),) = outputs.items()
        text = _encode_array(_prepare(array), alias)
        return b'{"%b":%b}' % (b"predictions" if row_format else b"outputs", text)
    if not row_format:
        members = [_name(alias) + _encode_array(_prepare(array), alias) for alias, array in outputs.items()]
        return b'{"outputs":{%b}}' % b",".join(members)
    columns = [_encode_rows(alias, array) for alias, array in outputs.items()]
    return b'{"predictions":[%b]}' % b",".join(b"{%b}" % b",".join(row) for row in zip(*columns, strict=True))


def _encode_few(array: Array, row_format: bool) -> bytes:
    """Return the answer for a few float32 numbers: what most classifiers and regressions give."""
    text = orjson.dumps(array, option=_NUMPY)
    # A row of so few characters has no number with more than six digits.
    if len(text) > _SHORT or b"null" in text:
        text = _finish_floats(text, array)
    return (b'{"predictions":%b}' if row_format else b'{"outputs":%b}') % text


def _check_rows(outputs: dict[str, Array]) -> None:
    rows = -1
    for alias, array in outputs.items():
        if not array.ndim:
            raise InvalidArgumentError(f"Tensor name: {alias} has no shape information ")
        if rows not in {-1, array.shape[0]}:
            raise InvalidArgumentError(
                f"Tensor name: {alias} has inconsistent batch size: {array.shape[0]} expecting: {rows}"
            )
        rows = array.shape[0]


def _name(alias: str) -> bytes:
    return orjson.dumps(alias) + b":"


def _encode_rows(alias: str, array: Array) -> list[bytes]:
    """Return ``"alias":value`` for each row."""
    name = _name(alias)
    array = _prepare(array)
    if array.ndim == 1 and array.dtype != object:
        return [name + text for text in _encode_array(array, alias)[1:-1].split(b",") if text]
    return [name + _encode_array(array[index, ...], alias) for index in range(array.shape[0])]


def _prepare(array: Array) -> Array:
    """Return `array` as `_encode_array` takes it: C order, native, a writable dtype."""
    dtype = by_numpy(array.dtype)
    if dtype.name not in _WRITABLE:
        raise InvalidArgumentError(f"Failed to write JSON value for tensor type: {dtype.name}")
    if dtype.is_string:
        return array if array.dtype == object else array.astype(object)
    array = np.asarray(array, dtype=dtype.numpy, order="C")
    return _round_like_printf(array) if array.dtype == np.float32 and array.size >= _FEW else array


def _encode_array(array: Array, alias: str) -> bytes:
    """Return the nested lists of a prepared array, or the bare value of a scalar."""
    if not array.ndim:
        return _encode_array(array.reshape(1), alias)[1:-1]
    if array.dtype == object:
        return _encode_strings(array, as_base64=alias.endswith(_BYTES_SUFFIX))
    text = orjson.dumps(array, option=_NUMPY)
    return _finish_floats(text, array) if array.dtype.kind == "f" else text


def _finish_floats(text: bytes, array: Array) -> bytes:
    """Return what orjson has written of a float array with TensorFlow Serving's numbers."""
    if array.dtype == np.float32:
        # Six digits read back to the same float32 exactly when the shortest text has no more of them.
        text = _LONG_NUMBER.sub(_nine_digits, text)
    if b"null" in text:
        # What orjson writes for NaN and infinities; they come in the order of the array.
        special = iter(array[~np.isfinite(array)].tolist())
        text = re.sub(b"null", lambda _: format_float(next(special), single=False).encode(), text)
    return text


def _nine_digits(match: re.Match[bytes]) -> bytes:
    shortest = match[0]
    if len(shortest.partition(b"e")[0].replace(b".", b"").strip(b"-0")) <= 6:
        return shortest
    text = b"%.9g" % to_single(float(shortest))
    return text if b"." in text or b"e" in text else text + b".0"


def _round_like_printf(array: Array) -> Array:
    """Return float64 values whose shortest text is the one that TensorFlow Serving prints for a float32 array.

    That is the value rounded to six significant decimal digits where this reads back as the same float32, else to nine.
    With powers of ten up to 1e22, which are exact in float64, one multiplication, `rint` and one division give exactly
    the float64 that is nearest to the decimal number. Values out of that range, and those so near to the middle between
    two decimals that the multiplication's rounding could decide, are printed one by one.
    """
    flat = array.reshape(-1)
    wide = flat.astype(np.float64)
    size = np.abs(wide)
    with np.errstate(all="ignore"):  # zeros, NaN and infinities are put right below
        exponent = np.floor(np.log10(size))
        exact = (exponent >= -14) & (exponent <= 5)
        power = np.where(exact, exponent, 0.0)
        scale = 10.0 ** (5.0 - power)
        six = np.rint(wide * scale) / scale
        scale *= 1000.0
        scaled = wide * scale
        nine = np.rint(scaled)
        exact &= np.abs(np.abs(scaled - nine) - 0.5) > 1e-4
        result = np.where(six.astype(np.float32) == flat, six, nine / scale)
    others = np.flatnonzero(~exact & (size > 0) & np.isfinite(wide))
    result[others] = [float(format_float(value, single=True)) for value in wide[others].tolist()]
    np.copyto(result, wide, where=~np.isfinite(wide) | (size == 0))
    return result.reshape(array.shape)


def _encode_strings(array: Array, *, as_base64: bool) -> bytes:
    texts = [_encode_string(value, as_base64) for value in array.reshape(-1).tolist()]
    if not texts:
        return orjson.dumps(np.empty(array.shape, dtype=np.int8), option=_NUMPY)
    for size in reversed(array.shape):
        texts = [b"[" + b",".join(texts[at : at + size]) + b"]" for at in range(0, len(texts), size)]
    return texts[0]


def _encode_string(value: bytes | str, as_base64: bool) -> bytes:
    raw = value.encode("utf-8", ENCODING_ERRORS) if isinstance(value, str) else value
    if as_base64:
        return b'{"b64":"%b"}' % binascii.b2a_base64(raw, newline=False)
    return b'"' + _ESCAPED.sub(_escape, raw) + b'"'


def _escape(match: re.Match[bytes]) -> bytes:
    return orjson.dumps(match[0].decode("ascii"))[1:-1]


def encode_regressions(values: Array) -> bytes:
    """Return the JSON answer of a regress request: float32 [examples]."""
    return b'{"results":%b}' % _encode_array(_prepare(values), "")


def encode_classifications(labels: Array | None, scores: Array | None) -> bytes:
    """Return the JSON answer of a classify request: for each example a list of pairs (label, score).

    Parameters
    ----------
    labels : ndarray of object or None
        bytes, [examples, classes]; None: all are empty.
    scores : ndarray of float32 or None
        [examples, classes]; None: all are 0.
    """
    known = labels if labels is not None else scores
    assert known is not None  # `serving_server.classification.check` sees to it
    examples, classes = known.shape
    names = (
        [b'""'] * known.size if labels is None else [_encode_string(name, False) for name in labels.ravel().tolist()]
    )
    if scores is None or not known.size:
        numbers = [b"0.0"] * known.size
    else:
        numbers = _encode_array(_prepare(scores.reshape(-1)), "")[1:-1].split(b",")
    pairs = [b"[%b,%b]" % pair for pair in zip(names, numbers, strict=True)]
    rows = [b"[%b]" % b",".join(pairs[row * classes : (row + 1) * classes]) for row in range(examples)]
    return b'{"results":[%b]}' % b",".join(rows)


def encode_status(versions: Iterable[tuple[int, str, str, str]]) -> bytes:
    """Return the answer of ``GET /v1/models/<name>``.

    Parameters
    ----------
    versions : iterable of (version, state, error code, error message)
        Highest version first; state and code by name, such as ``AVAILABLE`` and ``OK``.
    """
    return orjson.dumps({"model_version_status": _versions(versions)}, option=orjson.OPT_INDENT_2)


def _versions(versions: Iterable[tuple[int, str, str, str]]) -> list[dict[str, Any]]:
    return [
        {"version": str(version), "state": state, "status": {"error_code": code, "error_message": _text(message)}}
        for version, state, code, message in versions
    ]


def encode_models(
    models: Iterable[tuple[str, Iterable[tuple[int, str, str, str]], Mapping[str, int]]],
) -> bytes:
    """Return the answer of ``GET /v1/models``, which TensorFlow Serving does not have.

    Parameters
    ----------
    models : iterable of (name, versions, labels)
        Versions as for `encode_status`; labels with the version of each.
    """
    entries = [
        {
            "name": name,
            "model_version_status": _versions(versions),
            "version_labels": {label: str(version) for label, version in labels.items()},
        }
        for name, versions, labels in models
    ]
    return orjson.dumps({"models": entries}, option=orjson.OPT_INDENT_2)


def encode_readiness(unready: Mapping[str, str]) -> bytes:
    """Return the answer of ``GET /readyz``, by the models that do not answer and why."""
    if not unready:
        return b'{"status":"ready"}'
    return orjson.dumps({"status": "loading", "models": {name: _text(why) for name, why in unready.items()}})


def encode_metadata(name: str, version: int, signature_def_map: Any) -> bytes:
    """Return the answer of ``GET /v1/models/<name>/metadata``.

    Parameters
    ----------
    name, version : str, int
        The model as it was asked for, and the version that answers.
    signature_def_map : SignatureDefMap
        All signatures of the version, printed by the rules of proto3 JSON with the field names of the protos.
    """
    signatures = json_format.MessageToDict(
        signature_def_map, always_print_fields_with_no_presence=True, preserving_proto_field_name=True
    )
    answer = {
        "model_spec": {"name": _text(name), "signature_name": "", "version": str(version)},
        "metadata": {"signature_def": signatures},
    }
    return orjson.dumps(answer, option=orjson.OPT_INDENT_2)


def encode_error(message: str) -> bytes:
    """Return ``{"error": message}``."""
    return orjson.dumps({"error": _text(message)})


def _text(message: str) -> str:
    """Return text that may hold undecodable bytes of a request as text that every JSON reader takes."""
    return message.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
