"""What users pass to `predict`, as arrays of the signature's dtypes: every conversion that loses nothing, no other.

==================================  ====================================================================================
given                               becomes
==================================  ====================================================================================
array, list, scalar, Series         the signature's only input
dict                                one array per named input
DataFrame whose columns are the     one array per column, shaped as the input asks: [n] or [n, 1]
inputs' names
any other DataFrame                 the only input, as the matrix of all columns [n, columns]
==================================  ====================================================================================

Element types: float to a narrower float is rounded (that is what float32 models mean); integers fit or are refused; an
integer becomes a float only when that float equals it; text becomes UTF-8; everything else must match.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving_server.signatures import Signature, TensorSpec
from serving_workbench.errors import PredictError

__all__ = ["as_inputs", "is_dataframe", "shape_text"]

Array = NDArray[Any]


def is_dataframe(value: object) -> bool:
    """Whether it is a pandas DataFrame; pandas is not imported for those who do not use it."""
    # None also while another thread still imports it: nobody has a DataFrame then.
    kind = getattr(sys.modules.get("pandas"), "DataFrame", None)
    return kind is not None and isinstance(value, kind)


def shape_text(spec: TensorSpec) -> str:
    """Return a shape as people write it: ``[?, 4]``; ``[...]`` for an unknown rank."""
    if spec.shape is None:
        return "[...]"
    return f"[{', '.join('?' if size < 0 else str(size) for size in spec.shape)}]"


def as_inputs(value: object, signature: Signature) -> dict[str, Array]:
    """Return named arrays of exactly the signature's dtypes, fitting its shapes.

    Raises
    ------
    PredictError
        INVALID_ARGUMENT: an unknown or missing input, a lossy conversion or a shape that does not fit; the message
        names the input, what is wanted and what was given.
    """
    if is_dataframe(value):
        named = _from_dataframe(value, signature)
    elif isinstance(value, Mapping):
        named = {str(key): item for key, item in value.items()}
    else:
        named = {_only_input(signature, type(value).__name__): value}
    _check_names(named, signature)
    return {name: _fit(item, signature.inputs[name], signature) for name, item in named.items()}


def _refuse(message: str, hint: str | None = None) -> PredictError:
    return PredictError(message, code="INVALID_ARGUMENT", hint=hint)


def _only_input(signature: Signature, kind: str) -> str:
    required = [name for name in signature.inputs if name not in signature.defaults]
    if len(signature.inputs) == 1:
        return next(iter(signature.inputs))
    if len(required) == 1:
        return required[0]
    names = ", ".join(f"'{name}'" for name in signature.inputs)
    example = ", ".join(f"'{name}': ..." for name in signature.inputs)
    raise _refuse(
        f"Signature '{signature.name}' has {len(signature.inputs)} inputs ({names}); one {kind} cannot stand for all.",
        f"Pass a dict {{{example}}} or a DataFrame with these columns.",
    )


def _from_dataframe(frame: Any, signature: Signature) -> dict[str, object]:
    columns = [str(column) for column in frame.columns]
    known = set(signature.inputs)
    if known & set(columns) and (len(known) > 1 or len(columns) == 1):
        extra = [column for column in columns if column not in known]
        if extra:
            raise _refuse(
                f"The DataFrame has columns that signature '{signature.name}' does not know: {', '.join(extra)}.",
                f"Pass frame[{[c for c in columns if c in known]!r}].",
            )
        return {column: _column(frame.iloc[:, i], signature.inputs[column]) for i, column in enumerate(columns)}
    name = _only_input(signature, "DataFrame without these columns")
    if len(columns) == 1:
        return {name: _column(frame.iloc[:, 0], signature.inputs[name])}
    return {name: frame.to_numpy()}


def _column(series: Any, spec: TensorSpec) -> Array:
    values: Array = series.to_numpy()
    if values.dtype == object and len(values) and isinstance(values[0], list | np.ndarray):
        return _array(list(values), spec)  # a column of vectors
    return values.reshape(-1, 1) if spec.shape is not None and len(spec.shape) == 2 else values


def _check_names(named: Mapping[str, object], signature: Signature) -> None:
    for name in named:
        if name not in signature.inputs:
            known = ", ".join(f"'{n}'" for n in signature.inputs)
            raise _refuse(f"Signature '{signature.name}' has no input '{name}'; its inputs are {known}.")
    missing = [name for name in signature.inputs if name not in named and name not in signature.defaults]
    if missing:
        specs = ", ".join(_describe(signature.inputs[name]) for name in missing)
        raise _refuse(f"Input is missing for signature '{signature.name}': {specs}.")


def _describe(spec: TensorSpec) -> str:
    return f"'{spec.alias}' ({spec.dtype.name if spec.dtype else 'unknown'} {shape_text(spec)})"


def _array(item: object, spec: TensorSpec) -> Array:
    name = spec.alias
    if type(item).__module__.partition(".")[0] == "pandas":
        item = item.to_numpy()  # type: ignore[attr-defined]  # a Series or an extension array
    try:
        if spec.dtype is not None and spec.dtype.is_string and not isinstance(item, np.ndarray):
            # NumPy's own text types cut zero bytes at the end and take no mix of str and bytes.
            array = np.array(item, dtype=object)
        else:
            array = np.asarray(item)
    except ValueError as error:
        raise _refuse(f"Input '{name}' is no array: {error}", "Rows must all have the same length.") from error
    if array.dtype != object or array.size == 0:
        return array
    kinds = {type(element) for element in array.flat}
    if kinds <= {str, bytes, np.str_, np.bytes_}:
        return array
    if any(issubclass(kind, str | bytes) for kind in kinds):
        odd = next(kind.__name__ for kind in kinds if not issubclass(kind, str | bytes))
        raise _refuse(f"Input '{name}' mixes text with {odd} values.")
    try:
        # A DataFrame of int and float columns arrives as objects; so do Python numbers.
        numbers = np.array(array.tolist())
    except ValueError as error:
        raise _refuse(f"Input '{name}' is no array of numbers: {error}") from error
    if numbers.dtype == object:
        raise _refuse(
            f"Input '{name}' is no array of numbers: it holds {', '.join(sorted(k.__name__ for k in kinds))}."
        )
    return numbers


def _fit(item: object, spec: TensorSpec, signature: Signature) -> Array:
    cast = _cast(_array(item, spec), spec)
    _check_shape(cast, spec, signature)
    return cast


def _cast(array: Array, spec: TensorSpec) -> Array:
    assert spec.dtype is not None  # only usable signatures come here
    wanted = spec.dtype.numpy
    where = f"Input '{spec.alias}' takes {spec.dtype.name}"
    text = array.dtype.kind in "SUT" or (array.dtype == object and array.size > 0)
    if spec.dtype.is_string:
        if not text and array.size:
            raise _refuse(f"{where}; given {array.dtype}.", "Pass str or bytes, e.g. np.array(['a', 'b']).")
        return _as_bytes(array)
    if text:
        raise _refuse(f"{where}; given text, such as {array.ravel().tolist()[0]!r:.40}.")
    if array.size == 0 or array.dtype == wanted or np.can_cast(array.dtype, wanted, "safe"):
        return array.astype(wanted)
    if not _same_kind(array.dtype, wanted):
        raise _refuse(f"{where}; given {array.dtype}.", f"Convert it yourself if that is meant: x.astype('{wanted}').")
    with np.errstate(all="ignore"):
        cast = array.astype(wanted)
    # Rounding is meant; only a number that becomes an infinity is lost.
    rounds = array.dtype.kind not in "iu"
    kept = _finite(cast) | ~_finite(array) if rounds else cast == array
    # An unsigned and a signed integer of 64 bits compare as floats, where large neighbours are equal.
    if array.dtype.kind in "iu" and wanted.kind in "iu":
        kept = kept & ((cast < 0) == (array < 0))
    if not np.all(kept):
        bad = array[~kept].ravel()[0]
        raise _refuse(f"{where}; {bad!r:.40} (given as {array.dtype}) cannot be stored in it without loss.")
    return cast


def _same_kind(given: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    if _is_float(given):
        return _is_float(wanted) or wanted.kind == "c"
    if given.kind in "iu":
        return wanted.kind in "iufc" or _is_float(wanted)
    return given.kind == "c" and wanted.kind == "c"


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype.name == "bfloat16"  # ml_dtypes registers bfloat16 as kind V


def _finite(array: Array) -> Array:
    finite: Array = np.isfinite(array.astype(np.float32) if array.dtype.name == "bfloat16" else array)
    return finite


def _as_bytes(array: Array) -> Array:
    whole = np.empty(array.size, dtype=object)
    for index, element in enumerate(array.ravel().tolist()):
        whole[index] = element.encode() if isinstance(element, str) else element
    return whole.reshape(array.shape)


def _check_shape(array: Array, spec: TensorSpec, signature: Signature) -> None:
    if spec.shape is None:
        return
    wanted, given = spec.shape, array.shape
    if len(wanted) == len(given) and all(w in (-1, g) for w, g in zip(wanted, given, strict=True)):
        return
    hint = None
    if len(given) == len(wanted) - 1 and wanted[0] == -1:
        hint = "For one example add the batch dimension: x[np.newaxis]."
    raise _refuse(
        f"Input '{spec.alias}' of signature '{signature.name}' has shape {shape_text(spec)}; given {list(given)}.", hint
    )
