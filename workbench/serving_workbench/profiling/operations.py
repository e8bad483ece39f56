"""Tables of a profile: per op, per type of op, per batch size. Times in microseconds."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FRAMEWORK", "by_batch_size", "by_op", "by_type", "plain_type", "self_covered", "short_name"]

#: The row of what is no op's time: TensorFlow's executor and the call of the session.
FRAMEWORK: Final = "(framework)"

_OPS: Final = ("name", "type", "calls", "total_us", "self_us", "us_per_run", "share", "bytes_per_run")
_TYPES: Final = ("type", "ops", "calls", "total_us", "self_us", "us_per_run", "share", "bytes_per_run")
_SIZES: Final = ("rows", "runs", "median_us", "low_us", "high_us", "us_per_row")

_CALLS: Final = re.compile(r"^(?:(?:Stateful)?PartitionedCall(?:_\d+)?/)+")


def self_covered(data: dict[str, Any]) -> float:
    """Return the part of the runs' time that lies in ops. With several inter-op threads it may exceed 1."""
    return sum(op["self_ns"] for op in data["ops"]) / data["run_ns"] if data["run_ns"] else 0.0


def plain_type(name: str) -> str:
    """Return the type of an op as the graph has it: oneDNN's kernels of the same ops have a prefix."""
    return name.removeprefix("_Mkl")


def short_name(name: str) -> str:
    """Return the name of an op without the calls that every op of an exported Keras model lies in, to be shown."""
    return _CALLS.sub("", name)


def by_op(data: dict[str, Any]) -> pd.DataFrame:
    """Return a row per op, the one with the most time of its own first, and the `FRAMEWORK` row.

    Returns
    -------
    DataFrame
        ``name``, ``type``; ``calls``, ``total_us``, ``self_us`` (without the ops inside) over all traced runs;
        ``us_per_run``: self time of a run; ``share`` of the runs' time; ``bytes_per_run`` asked of the allocator.
    """
    import pandas as pd  # only for those who ask

    runs = max(1, data["batches"])
    rows: list[dict[str, Any]] = [
        {
            "name": op["name"],
            "type": plain_type(op["type"]),
            "calls": op["calls"],
            "total_us": op["total_ns"] / 1e3,
            "self_us": op["self_ns"] / 1e3,
            "bytes_per_run": op["bytes"] / runs,
        }
        for op in data["ops"]
    ]
    rest = max(0, data["run_ns"] - sum(op["self_ns"] for op in data["ops"])) / 1e3
    if data["batches"]:
        rows.append({"name": FRAMEWORK, "type": "", "calls": data["batches"], "total_us": rest, "self_us": rest})
        rows[-1]["bytes_per_run"] = 0.0
    for row in rows:
        row["us_per_run"] = row["self_us"] / runs
        row["share"] = row["self_us"] * 1e3 / data["run_ns"] if data["run_ns"] else 0.0
    rows.sort(key=lambda row: -row["self_us"])
    return pd.DataFrame(rows, columns=pd.Index(_OPS))


def by_type(ops: pd.DataFrame) -> pd.DataFrame:
    """Return a row per type of op of `by_op`, with ``ops``: how many there are."""
    import pandas as pd

    named = ops.assign(type=ops["type"].where(ops["type"] != "", FRAMEWORK))
    summed = named.groupby("type", sort=False)[["calls", "total_us", "self_us", "us_per_run", "share", "bytes_per_run"]]
    found = summed.sum().assign(ops=named.groupby("type", sort=False).size()).reset_index()
    found = found.sort_values("self_us", ascending=False, kind="stable", ignore_index=True)
    return pd.DataFrame(found, columns=pd.Index(_TYPES))


def by_batch_size(data: dict[str, Any]) -> pd.DataFrame:
    """Return a row per size: median and quartiles of the run time, without tracing; and per row of the batch."""
    import pandas as pd

    rows = []
    for each in data.get("sizes", []):
        low, median, high = np.percentile(np.array(each["run_ns"]) / 1e3, [25, 50, 75])
        rows.append(
            {
                "rows": each["rows"],
                "runs": len(each["run_ns"]),
                "median_us": median,
                "low_us": low,
                "high_us": high,
                "us_per_row": median / each["rows"],
            }
        )
    return pd.DataFrame(rows, columns=pd.Index(_SIZES))
