"""How the outputs of two arms differ on the same rows: one `Head` per output, whatever its kind."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serving_workbench.comparison.drift import class_drift, jensen_shannon, number_drift
from serving_workbench.comparison.evidence import Head, Metric
from serving_workbench.errors import WorkbenchError

__all__ = ["KINDS", "compare_head", "compare_outputs", "flatten", "kind_of"]

Array = NDArray[Any]
Floats = NDArray[np.float64]

#: What an output can be taken for.
KINDS: Final = ("scores", "float", "embedding", "integer", "boolean", "string", "ragged")

#: Of differences that are none: those of float32 in another order of additions.
RTOL: Final = 1e-4
ATOL: Final = 1e-5
#: Values of each arm beyond which a confusion of all pairs is no help.
_CONFUSED: Final = 50
#: Columns from which on a matrix of floats is an embedding, unless it is one of scores.
_WIDE: Final = 8
_TOP: Final = 5


def flatten(outputs: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Return outputs with their names; nested ones by path, as ``boxes/scores``.

    Parameters
    ----------
    outputs : mapping, list, tuple or array
        A dict of arrays as servers answer, or a nesting of dicts, lists and tuples of them.
    """
    if isinstance(outputs, Mapping):
        for key in sorted(outputs, key=str):
            yield from flatten(outputs[key], f"{path}/{key}" if path else str(key))
    elif isinstance(outputs, tuple):
        for number, each in enumerate(outputs):
            yield from flatten(each, f"{path}/{number}" if path else str(number))
    else:
        yield path or "output", outputs


def kind_of(a: Any, b: Any = None) -> str:
    """Return what an output is by its dtype, shape and values.

    Floats [n, k] whose rows are not negative and sum to 1 in both arms are scores of classes; other floats [n, k] with
    k of 8 and more, one vector per row, an embedding. A list of rows of unequal length is ragged.
    """
    if _is_ragged(a) or (b is not None and _is_ragged(b)):
        return "ragged"
    array = np.asarray(a)
    if array.dtype == bool:
        return "boolean"
    if array.dtype.kind in "iu":
        return "integer"
    if array.dtype.kind in "SUO":
        return "string"
    if array.ndim == 2 and array.shape[1] > 1:
        others = [np.asarray(each, np.float64) for each in (a, b) if each is not None]
        if all(_sums_to_one(each) for each in others):
            return "scores"
        if array.shape[1] >= _WIDE:
            return "embedding"
    return "float"


def _is_ragged(values: Any) -> bool:
    if isinstance(values, np.ndarray):
        return values.dtype == object and values.size > 0 and isinstance(values.flat[0], list | tuple | np.ndarray)
    return isinstance(values, list) and len({np.shape(row) for row in values}) > 1


def _sums_to_one(values: Floats) -> bool:
    finite = values[np.isfinite(values).all(axis=1)] if values.ndim == 2 else values
    return bool(len(finite)) and bool((finite > -1e-6).all()) and bool(np.allclose(finite.sum(axis=1), 1, atol=1e-2))


def compare_outputs(
    a: Any,
    b: Any,
    *,
    atol: float = ATOL,
    rtol: float = RTOL,
    kinds: Mapping[str, str] | None = None,
    drift: bool = True,
    seed: int = 0,
) -> list[Head]:
    """Compare all outputs of two arms.

    Parameters
    ----------
    a, b : mapping of str to array_like
        First axis: rows, aligned. Nested dicts and tuples are taken apart.
    atol, rtol : float
        Floats differ when ``abs(b - a) > atol + rtol * abs(a)``.
    kinds : mapping of str to str, optional
        What outputs are, one of `KINDS`, where their looks deceive.
    drift : bool
        Whether to measure how far the distributions moved.

    Raises
    ------
    WorkbenchError
        `kinds` names no output, or no kind.
    """
    first, second = dict(flatten(a)), dict(flatten(b))
    for name, kind in (kinds or {}).items():
        if name not in first and name not in second:
            raise WorkbenchError(f"kinds names '{name}'; the outputs are {', '.join(sorted(first.keys() | second))}.")
        if kind not in KINDS:
            raise WorkbenchError(f"kinds says '{name}' is '{kind}'; there are {', '.join(KINDS)}.")
    found = []
    for name in dict.fromkeys([*first, *second]):
        if name not in first or name not in second:
            arm = "A" if name not in first else "B"
            given: Any = second.get(name, first.get(name))
            rows = len(given) if np.ndim(given) else 1
            found.append(Head(name, "missing", rows, failures=(f"Output '{name}' is missing in {arm}.",)))
            continue
        wanted = (kinds or {}).get(name)
        found.append(
            compare_head(name, first[name], second[name], atol=atol, rtol=rtol, kind=wanted, drift=drift, seed=seed)
        )
    return found


def compare_head(
    name: str,
    a: Any,
    b: Any,
    *,
    atol: float = ATOL,
    rtol: float = RTOL,
    kind: str | None = None,
    drift: bool = True,
    seed: int = 0,
) -> Head:
    """Compare one output; see `compare_outputs`."""
    kind = kind or kind_of(a, b)
    if kind == "ragged":
        return _ragged(name, list(a), list(b), atol, rtol)
    first, second = np.asarray(a), np.asarray(b)
    failures = []
    if _family(first.dtype) != _family(second.dtype) or (first.dtype.kind not in "SUO" and first.dtype != second.dtype):
        failures.append(f"Output '{name}' is {first.dtype} in A and {second.dtype} in B.")
    if first.ndim == 0 and second.ndim == 0:
        first, second = first.reshape(1), second.reshape(1)
    if first.shape != second.shape:
        failures.append(f"Output '{name}' has shape {list(first.shape)} in A and {list(second.shape)} in B.")
        rows = min(len(first) if first.ndim else 1, len(second) if second.ndim else 1)
        return Head(name, kind, rows, failures=tuple(failures))
    if _family(first.dtype) != _family(second.dtype):
        return Head(name, kind, len(first), tuple(range(len(first))), failures=tuple(failures))
    if kind in ("string", "integer", "boolean"):
        head = _exact(name, kind, first, second, drift, seed)
    else:
        head = _floats(
            name, kind, np.asarray(first, np.float64), np.asarray(second, np.float64), atol, rtol, drift, seed
        )
    head.failures = (*failures, *head.failures)
    return head


def _family(dtype: np.dtype[Any]) -> str:
    if dtype.kind in "SUO":
        return "string"
    return "boolean" if dtype.kind == "b" else "integer" if dtype.kind in "iu" else "float"


def _exact(name: str, kind: str, a: Array, b: Array, drift: bool, seed: int) -> Head:
    rows = len(a)
    first, second = _text(a) if kind == "string" else a, _text(b) if kind == "string" else b
    unequal = np.asarray(first != second).reshape(rows, -1).any(axis=1) if rows else np.zeros(0, bool)
    differing = np.flatnonzero(unequal)
    measures = {"agreement": 1 - len(differing) / rows if rows else 1.0}
    if kind == "integer":
        distance = np.abs(np.asarray(b, np.float64) - np.asarray(a, np.float64))
        measures["max abs difference"] = float(distance.max()) if distance.size else 0.0
    confusion = _confusion(first, second) if first.ndim == 1 else []
    moved: Metric | None = None
    if drift and first.ndim == 1 and rows > 1:
        few = len(set(first.tolist()) | set(second.tolist())) <= _CONFUSED
        if kind == "integer" and not few:
            moved = number_drift(name, a, b, seed=seed)
        elif few:
            moved = class_drift(name, first, second, seed=seed)
    return Head(
        name,
        kind,
        rows,
        tuple(differing.tolist()),
        measures,
        drift=moved,
        confusion=confusion,
        per_row=unequal.astype(float).tolist(),
    )


def _text(array: Array) -> Array:
    if array.dtype != object:
        return array.astype(object)
    whole = np.empty(array.size, dtype=object)
    for index, each in enumerate(array.ravel().tolist()):
        whole[index] = each.decode("utf-8", "backslashreplace") if isinstance(each, bytes) else each
    return whole.reshape(array.shape)


def _confusion(a: Array, b: Array) -> list[tuple[Any, Any, int]]:
    first, second = a.tolist(), b.tolist()
    if len(set(first)) > _CONFUSED or len(set(second)) > _CONFUSED:
        return []
    counts = Counter(zip(first, second, strict=True))
    return [(one, other, count) for (one, other), count in sorted(counts.items(), key=lambda item: str(item[0]))]


def _floats(name: str, kind: str, a: Floats, b: Floats, atol: float, rtol: float, drift: bool, seed: int) -> Head:
    rows = len(a)
    failures = []
    for what, test in (("NaN", np.isnan), ("infinite values", np.isinf)):
        bad_a, bad_b = test(a), test(b)
        odd = np.flatnonzero((bad_a != bad_b).reshape(rows, -1).any(axis=1)) if rows else np.zeros(0, int)
        if len(odd):
            only_b = int((bad_b & ~bad_a).sum())
            where = "B" if only_b == int((bad_a != bad_b).sum()) else "A" if only_b == 0 else "one arm"
            failures.append(
                f"Output '{name}' has {what} in {where} only, in {len(odd)} of {rows} rows; the first is {odd[0]}."
            )
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.abs(b - a)
        same_odd = (np.isnan(a) & np.isnan(b)) | (a == b)
        distance = np.where(same_odd, 0.0, distance)
        beyond = ~same_odd & ~(distance <= atol + rtol * np.abs(a))
    flat = distance.reshape(rows, -1) if rows else distance.reshape(0, 1)
    per_row = np.where(np.isfinite(flat), flat, math.inf).max(axis=1) if rows and flat.shape[1] else np.zeros(rows)
    different = beyond.reshape(rows, -1).any(axis=1) if rows else np.zeros(0, bool)
    finite = np.isfinite(a) & np.isfinite(b)
    measures = {
        "max abs difference": float(distance[finite].max()) if finite.any() else 0.0,
        "mean abs difference": float(distance[finite].mean()) if finite.any() else 0.0,
        "rms difference": float(np.sqrt((distance[finite] ** 2).mean())) if finite.any() else 0.0,
        "mean relative difference": _relative(a, distance, finite),
        "share beyond tolerance": float(beyond.mean()) if beyond.size else 0.0,
    }
    if finite.sum() > 1 and a[finite].std() > 0 and b[finite].std() > 0:
        measures["correlation"] = float(np.corrcoef(a[finite], b[finite])[0, 1])
    confusion: list[tuple[Any, Any, int]] = []
    moved: Metric | None = None
    signed = (b - a)[..., 0] if kind == "embedding" and a.ndim > 1 else b - a
    if kind == "scores" and rows:
        best_a, best_b = a.argmax(axis=1), b.argmax(axis=1)
        different = best_a != best_b
        measures["agreement"] = float(1 - different.mean())
        top = min(_TOP, a.shape[1])
        if top < a.shape[1]:
            measures[f"top-{top} overlap"] = _overlap(a, b, top)
        whole = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
        if whole.any():
            measures["Jensen-Shannon distance"] = float(
                np.nan_to_num(jensen_shannon(np.clip(a[whole], 0, None), np.clip(b[whole], 0, None))).mean()
            )
        confusion = _confusion(best_a, best_b)
        signed = b.max(axis=1) - a.max(axis=1)  # of the confidence
        if drift:
            moved = class_drift(name, best_a, best_b, seed=seed)
    elif kind == "embedding" and rows:
        measures["cosine"] = _cosine(a.reshape(rows, -1), b.reshape(rows, -1))
        signed = per_row
    if moved is None and drift and kind in ("float", "embedding") and finite.any():
        moved = number_drift(name, _thinned(a), _thinned(b), seed=seed)
    shown = signed.reshape(rows, -1).mean(axis=1) if rows and np.size(signed) else np.zeros(rows)
    return Head(
        name,
        kind,
        rows,
        tuple(np.flatnonzero(different).tolist()),
        measures,
        tuple(failures),
        moved,
        confusion,
        [float(each) for each in np.asarray(shown, np.float64)],
    )


def _thinned(values: Floats) -> Floats:
    """Return at most 20,000 values, the same places of both arms: images have millions."""
    flat = values.ravel()
    return flat[:: max(1, len(flat) // 20_000)]


def _relative(a: Floats, distance: Floats, finite: Array) -> float:
    nonzero = finite & (a != 0)
    return float((distance[nonzero] / np.abs(a[nonzero])).mean()) if nonzero.any() else 0.0


def _overlap(a: Floats, b: Floats, top: int) -> float:
    first = np.argpartition(-a, top - 1, axis=1)[:, :top]
    second = np.argpartition(-b, top - 1, axis=1)[:, :top]
    return float((first[:, :, None] == second[:, None, :]).any(axis=2).mean())


def _cosine(a: Floats, b: Floats) -> float:
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = (a * b).sum(axis=1) / lengths
    known = np.isfinite(cosines)
    return float(cosines[known].mean()) if known.any() else math.nan


def _ragged(name: str, a: list[Any], b: list[Any], atol: float, rtol: float) -> Head:
    rows = min(len(a), len(b))
    failures: tuple[str, ...] = ()
    if len(a) != len(b):
        failures = (f"Output '{name}' has {len(a)} rows in A and {len(b)} in B.",)
    differing, lengths, largest, per_row = [], 0, 0.0, []
    for row in range(rows):
        first, second = np.asarray(a[row]), np.asarray(b[row])
        if first.shape != second.shape:
            lengths += 1
            differing.append(row)
            per_row.append(math.nan)
            continue
        head = compare_head(
            name, first.reshape(1, -1), second.reshape(1, -1), atol=atol, rtol=rtol, drift=False, kind=_flat(first)
        )
        distance = head.measures.get("max abs difference", 1 - head.measures.get("agreement", 1.0))
        per_row.append(distance)
        largest = max(largest, distance)
        if head.differing or head.failures:
            differing.append(row)
    measures = {
        "agreement": 1 - len(differing) / rows if rows else 1.0,
        "rows of another length": float(lengths),
        "max abs difference": largest,
    }
    return Head(name, "ragged", rows, tuple(differing), measures, failures, per_row=per_row)


def _flat(array: Array) -> str:
    return {"b": "boolean", "i": "integer", "u": "integer", "f": "float"}.get(array.dtype.kind, "string")
