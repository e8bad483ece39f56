"""Memory of a version: its weights, what a run takes by batch size, the line through it, and whether that fits."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from serving_workbench.profiling.operations import short_name

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MemoryFit", "fit", "in_words", "sentences", "sizes_frame", "weights_frame"]

_WEIGHTS: Final = ("name", "kind", "dtype", "shape", "bytes", "share", "used")
_SIZES: Final = ("rows", "peak_bytes", "input_bytes", "output_bytes", "run_bytes", "bytes_per_row")
_UNITS: Final = ("bytes", "KB", "MB", "GB", "TB")


def in_words(count: float) -> str:
    """Return a number of bytes in decimal units: ``8.4 MB``."""
    value, unit = float(count), 0
    while abs(value) >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f} {_UNITS[unit]}" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


@dataclasses.dataclass(frozen=True)
class MemoryFit:
    """What one run takes: ``fixed + per_row * rows`` bytes, by least squares through the sizes that were measured.

    Attributes
    ----------
    fixed, per_row : float
        Bytes.
    error : float
        Largest difference of a measured size from the line, as part of the measured value.
    """

    fixed: float
    per_row: float
    error: float

    def run_bytes(self, rows: int) -> float:
        """Return what one run of so many rows takes, inputs included."""
        return max(0.0, self.fixed + self.per_row * rows)


def weights_frame(data: dict[str, Any]) -> pd.DataFrame:
    """Return a row per variable and larger constant: ``name``, ``kind``, ``dtype``, ``shape``, ``bytes``, ``share``.

    ``used`` tells whether any signature needs it.
    """
    import pandas as pd  # only for those who ask

    found = pd.DataFrame(
        [{**each, "shape": tuple(each["shape"])} for each in data["weights"]], columns=pd.Index(_WEIGHTS)
    )
    total = found["bytes"].sum()
    found["share"] = found["bytes"] / total if total else 0.0
    return found


def sizes_frame(data: dict[str, Any]) -> pd.DataFrame:
    """Return a row per batch size.

    Returns
    -------
    DataFrame
        ``rows``; ``peak_bytes``: the most that the ops of a run held at once; ``input_bytes``; ``output_bytes``, which
        are part of the peak; ``run_bytes``: peak and inputs together; ``bytes_per_row`` of these.
    """
    import pandas as pd

    rows = [
        {
            **each,
            "run_bytes": each["peak_bytes"] + each["input_bytes"],
            "bytes_per_row": (each["peak_bytes"] + each["input_bytes"]) / each["rows"],
        }
        for each in data["sizes"]
    ]
    return pd.DataFrame(rows, columns=pd.Index(_SIZES))


def fit(sizes: pd.DataFrame) -> MemoryFit | None:
    """Return the line through the sizes; None with fewer than two."""
    if len(sizes) < 2:
        return None
    rows, taken = sizes["rows"].to_numpy(float), sizes["run_bytes"].to_numpy(float)
    per_row, fixed = np.polyfit(rows, taken, 1)
    away = np.abs(fixed + per_row * rows - taken) / np.maximum(taken, 1.0)
    return MemoryFit(float(fixed), float(per_row), float(away.max()))


def sentences(data: dict[str, Any], version_fit: MemoryFit | None, *, available: int, batching: Any) -> list[str]:
    """Return what is worth knowing, a warning first.

    Parameters
    ----------
    data : dict
        The server's answer.
    version_fit : MemoryFit or None
    available : int
        Bytes that the server's machine has left.
    batching : dict or None
        The batching parameters in force.
    """
    found = []
    if version_fit is not None and batching is not None:
        # Larger requests are split: what runs has no more rows than this.
        limit = "max_batch_size" if batching.get("max_execution_batch_size") is None else "max_execution_batch_size"
        rows, threads = batching[limit], batching["num_batch_threads"]
        needed = threads * version_fit.run_bytes(rows)
        what = f"{threads} batch threads with {rows} rows each take {in_words(needed)} at once"
        if needed > available:
            fewer = "Set fewer num_batch_threads."
            if version_fit.per_row > 0:
                most = int(max(0.0, available / threads - version_fit.fixed) / version_fit.per_row)
                fewer = f"Set {limit} to {most} at most, or fewer num_batch_threads."
            found.append(f"WARNING: {what}, and {in_words(available)} are available. {fewer}")
        else:
            found.append(f"{what}; {in_words(available)} are available.")
    weights = sum(each["bytes"] for each in data["weights"] if each["kind"] == "variable")
    if data["weights"]:
        largest = data["weights"][0]
        total = sum(each["bytes"] for each in data["weights"])
        found.append(
            f"Weights: {in_words(total)} ({in_words(weights)} in variables), the largest {largest['name']} with "
            f"{in_words(largest['bytes'])}; the worker has {in_words(data['resident_bytes'])} resident, TensorFlow's "
            "libraries included."
        )
    idle = sum(each["bytes"] for each in data["weights"] if not each["used"])
    if data["weights"] and idle > 0.05 * total:
        found.append(
            f"{in_words(idle)} of that is restored and used by no signature: Keras' export writes copies, optimizers "
            "have state. It is given back when all signatures are frozen."
        )
    if version_fit is not None:
        found.append(
            f"A run takes {in_words(round(version_fit.fixed))} and {in_words(version_fit.per_row)} per row "
            f"(the line is within {100 * version_fit.error:.0f} % of what was measured)."
        )
    if data["ops"]:
        op = data["ops"][0]
        kind = op["type"].removeprefix("_Mkl")
        found.append(
            f"Most of it is asked for by {short_name(op['name'])} ({kind}): {in_words(op['total_bytes'])} in the "
            "largest batch."
        )
    if data["failed"] is not None:
        found.append(f"A batch of {data['failed']['rows']} fails: {data['failed']['message'].splitlines()[0]}")
    return found
