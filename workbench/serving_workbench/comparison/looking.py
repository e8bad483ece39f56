"""The rows where two arms differ, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from serving_workbench.comparison.result import CompareResult

__all__ = ["Place", "classes", "differing_rows", "disagreements", "places", "record"]

#: Elements of an input or output that are shown as they are; more are shown as an array.
_FEW: Final = 12


def differing_rows(result: CompareResult, output: str | None = None) -> list[int]:
    """Return positions among the answered rows that differ in an output, or in any.

    Raises
    ------
    KeyError
        There is no such output.
    """
    heads = {head.name: head for head in result.heads}
    if output is not None:
        if output not in heads:
            raise KeyError(f"There is no output '{output}'; there are {', '.join(heads)}.")
        return sorted(heads[output].differing)
    return sorted({row for head in result.heads for row in head.differing})


#: A row that is worth a look: ``("differs", position among the answered)`` or ``("failed", number of the row)``.
Place = tuple[str, int]


def places(result: CompareResult, output: str | None = None) -> list[Place]:
    """Return the rows that differ in an output, or in any and those that an arm failed in.

    Raises
    ------
    KeyError
        There is no such output.
    """
    rows = result.rows
    failed = sorted(rows.failed_a.keys() | rows.failed_b.keys()) if rows is not None and output is None else []
    return [("differs", each) for each in differing_rows(result, output)] + [("failed", each) for each in failed]


def classes(result: CompareResult, output: str) -> tuple[list[Any], list[Any]] | None:
    """Return what A and B said in each answered row, as `Head.confusion` counts it; None where that is not known.

    For scores of classes these are the numbers of the best ones; for integers, booleans and strings, the values.
    """
    head = next(each for each in result.heads if each.name == output)
    rows = result.rows
    if rows is None or not head.confusion or output not in rows.a or output not in rows.b:
        return None
    found = []
    for outputs in (rows.a, rows.b):
        array = np.asarray(outputs[output])
        found.append(array.argmax(axis=1).tolist() if head.kind == "scores" else [_value(each) for each in array])
    return found[0], found[1]


def record(result: CompareResult, place: Place, output: str | None = None) -> tuple[Any, dict[str, Any]]:
    """Return what a row is called, and its inputs, both answers and label, by columns of `disagreements`."""
    rows = result.rows
    assert rows is not None
    kind, position = place
    row = int(rows.answered[position]) if kind == "differs" else position
    batched = all(len(array) == len(rows.ids) for array in rows.inputs.values())
    found: dict[str, Any] = {
        f"input.{name}": _value(array[row] if batched else array) for name, array in rows.inputs.items()
    }
    if kind == "differs":
        for name in [output] if output is not None else list(rows.a):
            found[f"A.{name}"] = _answer(result, name, rows.a, position)
            found[f"B.{name}"] = _answer(result, name, rows.b, position)
    else:
        said = [f"{arm}: {words[row]}" for arm, words in (("A", rows.failed_a), ("B", rows.failed_b)) if row in words]
        found["error"] = "; ".join(said)
    if rows.labels is not None:
        found["label"] = _value(rows.labels[row])
    return rows.ids[row], found


def disagreements(result: CompareResult, output: str | None, n: int | None) -> pd.DataFrame:
    """See `CompareResult.disagreements`."""
    import pandas as pd  # only for those who ask

    if result.rows is None:
        return pd.DataFrame(index=pd.Index(differing_rows(result, output), name="row"))
    chosen = places(result, output)
    found = [record(result, place, output) for place in (chosen if n is None else chosen[:n])]
    return pd.DataFrame([cells for _, cells in found], index=pd.Index([name for name, _ in found], name="row"))


def _answer(result: CompareResult, name: str, outputs: dict[str, Any], place: int) -> Any:
    value = outputs[name][place]
    head = next((each for each in result.heads if each.name == name), None)
    if head is not None and head.kind == "scores":
        scores = np.asarray(value)
        best = int(scores.argmax())
        return f"{best} ({scores[best]:.3f})"
    return _value(value)


def _value(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    array = np.asarray(value)
    if array.ndim == 0:
        return array.item() if array.dtype != object else value
    if array.dtype == object:
        return [_value(each) for each in array.ravel().tolist()] if array.ndim == 1 else array
    return array.tolist() if array.size <= _FEW else array
