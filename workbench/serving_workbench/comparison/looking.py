"""The rows where two arms differ, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from serving_workbench.comparison.result import CompareResult

__all__ = ["differing_rows", "disagreements"]

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


def disagreements(result: CompareResult, output: str | None, n: int | None) -> pd.DataFrame:
    """See `CompareResult.disagreements`."""
    import pandas as pd  # only for those who ask

    rows = result.rows
    positions = differing_rows(result, output)
    if rows is None:
        return pd.DataFrame(index=pd.Index(positions, name="row"))
    found: list[dict[str, Any]] = []
    index: list[Any] = []
    batched = all(len(array) == len(rows.ids) for array in rows.inputs.values())
    failed = sorted(rows.failed_a.keys() | rows.failed_b.keys()) if output is None else []
    chosen = [("differs", each) for each in positions] + [("failed", each) for each in failed]
    for kind, place in chosen if n is None else chosen[:n]:
        row = int(rows.answered[place]) if kind == "differs" else place
        record: dict[str, Any] = {
            f"input.{name}": _value(array[row] if batched else array) for name, array in rows.inputs.items()
        }
        if kind == "differs":
            for name in [output] if output is not None else list(rows.a):
                record[f"A.{name}"] = _answer(result, name, rows.a, place)
                record[f"B.{name}"] = _answer(result, name, rows.b, place)
        else:
            said = [
                f"{arm}: {words[row]}" for arm, words in (("A", rows.failed_a), ("B", rows.failed_b)) if row in words
            ]
            record["error"] = "; ".join(said)
        if rows.labels is not None:
            record["label"] = _value(rows.labels[row])
        found.append(record)
        index.append(rows.ids[row])
    return pd.DataFrame(found, index=pd.Index(index, name="row"))


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
