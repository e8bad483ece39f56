"""The service-time curve S(b): how long one run takes, by its rows and by how many runs go on at once."""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Fit", "Piece", "ServiceCurve"]

Floats = NDArray[np.float64]


class Piece(NamedTuple):
    """``seconds = fixed + per_row * rows`` for rows from `first` to `last`."""

    first: int
    last: int
    fixed: float
    per_row: float


class Fit(NamedTuple):
    """One or two straight pieces through the medians, and the share of their variance that these explain."""

    pieces: tuple[Piece, ...]
    r2: float

    def __str__(self) -> str:
        texts = [
            f"{piece.fixed * 1e3:.3g} ms + {piece.per_row * 1e6:.3g} us x rows ({piece.first} to {piece.last})"
            for piece in self.pieces
        ]
        return f"{'; '.join(texts)}; R2 {self.r2:.3f}"


@dataclasses.dataclass(frozen=True)
class ServiceCurve:
    """Measured run times.

    Attributes
    ----------
    samples : dict of (int, int) to numpy.ndarray
        Seconds of single runs, float64, by (runs at once, rows). The same sizes for each number of runs at once.
    """

    samples: Mapping[tuple[int, int], Floats]

    def __post_init__(self) -> None:
        if not self.samples:
            raise ValueError("a service-time curve needs at least one measured size")
        medians: dict[int, dict[int, float]] = {}
        for (at_once, rows), values in sorted(self.samples.items()):
            if len(values) == 0 or rows < 1 or at_once < 1:
                raise ValueError(f"no usable run times for {rows} rows, {at_once} at once")
            medians.setdefault(at_once, {})[rows] = float(np.median(values))
        object.__setattr__(self, "_medians", medians)

    @classmethod
    def of(cls, seconds: Mapping[int, float]) -> ServiceCurve:
        """Return the curve of exactly known times in seconds by rows, the same however many run at once."""
        return cls({(1, rows): np.array([value], np.float64) for rows, value in seconds.items()})

    @property
    def at_once(self) -> list[int]:
        """Numbers of runs at once that were measured, ascending."""
        return sorted(self._by_level)

    @property
    def sizes(self) -> list[int]:
        """Rows that were measured, ascending."""
        return sorted(self._by_level[self.at_once[0]])

    @property
    def _by_level(self) -> dict[int, dict[int, float]]:
        found: dict[int, dict[int, float]] = getattr(self, "_medians")  # noqa: B009 - set past the frozen fields
        return found

    def median(self, rows: float, at_once: int = 1) -> float:
        """Return the median time of a run in seconds: straight lines between what was measured.

        Beyond the largest size the last line goes on; beyond the largest number of runs at once the processors are
        taken as full, so that the time grows in proportion.
        """
        levels = self.at_once
        place = bisect_left(levels, at_once)
        if place == len(levels):
            return self._at(levels[-1], rows) * (at_once / levels[-1] if len(levels) > 1 else 1.0)
        if levels[place] == at_once or place == 0:
            return self._at(levels[place], rows)
        low, high = levels[place - 1], levels[place]
        share = (at_once - low) / (high - low)
        return (1 - share) * self._at(low, rows) + share * self._at(high, rows)

    def _at(self, level: int, rows: float) -> float:
        medians = self._by_level[level]
        sizes = sorted(medians)
        if len(sizes) == 1:
            return medians[sizes[0]]
        place = min(max(bisect_left(sizes, rows), 1), len(sizes) - 1)
        low, high = sizes[place - 1], sizes[place]
        slope = (medians[high] - medians[low]) / (high - low)
        # Never below nothing, however noise tilts the first or the last line.
        return max(medians[low] + slope * (rows - low), 0.5 * min(medians.values()))

    def spread(self) -> Floats:
        """Return how single runs compare with the median of their kind, sorted ratios around 1: for a bootstrap."""
        ratios = [values / np.median(values) for values in self.samples.values()]
        return np.sort(np.concatenate(ratios))

    def fit(self, at_once: int = 1) -> Fit:
        """Return one or two straight pieces through the medians.

        Small runs count as much as large ones (relative errors). A second piece has to earn its two parameters
        (Schwarz' criterion).
        """
        medians = self._by_level[at_once]
        sizes = sorted(medians)
        x = np.array(sizes, np.float64)
        y = np.array([medians[size] for size in sizes])
        one, error = _line(x, y)
        pieces = [Piece(sizes[0], sizes[-1], *one)]
        best = _criterion(error, len(x), 2)
        for cut in range(2, len(x) - 1):
            left, left_error = _line(x[: cut + 1], y[: cut + 1])
            right, right_error = _line(x[cut:], y[cut:], from_nothing=False)
            score = _criterion(left_error + right_error, len(x), 4)
            if score < best - 2.0:
                best = score
                pieces = [Piece(sizes[0], sizes[cut], *left), Piece(sizes[cut], sizes[-1], *right)]
        predicted = np.array([_evaluate(pieces, size) for size in sizes])
        total = float(np.sum((y - y.mean()) ** 2))
        left_over = float(np.sum((y - predicted) ** 2))
        return Fit(tuple(pieces), 1.0 if total == 0 else 1.0 - left_over / total)

    def to_frame(self) -> Any:
        """Return a `pandas.DataFrame`: one row per number of runs at once and size, times in milliseconds."""
        import pandas as pd  # only for those who look

        rows = [
            {
                "at_once": at_once,
                "rows": rows,
                "median_ms": float(np.median(values)) * 1e3,
                "p10_ms": float(np.quantile(values, 0.1)) * 1e3,
                "p90_ms": float(np.quantile(values, 0.9)) * 1e3,
                "us_per_row": float(np.median(values)) * 1e6 / rows,
                "runs": len(values),
            }
            for (at_once, rows), values in sorted(self.samples.items())
        ]
        return pd.DataFrame(rows)

    def to_json(self) -> list[dict[str, Any]]:
        """Return a JSON value; `from_json` undoes it."""
        return [
            {"at_once": at_once, "rows": rows, "seconds": [float(f"{value:.6g}") for value in values]}
            for (at_once, rows), values in sorted(self.samples.items())
        ]

    @classmethod
    def from_json(cls, value: Sequence[Mapping[str, Any]]) -> ServiceCurve:
        """Undo `to_json`."""
        return cls({(row["at_once"], row["rows"]): np.array(row["seconds"], np.float64) for row in value})


def _line(x: Floats, y: Floats, *, from_nothing: bool = True) -> tuple[tuple[float, float], float]:
    """Return (fixed, per row) of least relative squared error, and that error.

    Rows cost something; `from_nothing`: so does a run without any.
    """
    design = np.stack([np.ones_like(x), x], axis=1) / y[:, None]
    (fixed, slope), *_ = np.linalg.lstsq(design, np.ones_like(y), rcond=None)
    if fixed < 0 and from_nothing:
        fixed, slope = 0.0, float(np.sum(x / y) / np.sum((x / y) ** 2))
    elif slope < 0:
        fixed, slope = float(np.sum(1 / y) / np.sum(1 / y**2)), 0.0
    error = float(np.sum(((fixed + slope * x) / y - 1) ** 2))
    return (float(fixed), float(slope)), error


def _criterion(error: float, count: int, parameters: int) -> float:
    return count * float(np.log(max(error / count, 1e-8))) + parameters * float(np.log(count))


def _evaluate(pieces: Sequence[Piece], rows: float) -> float:
    piece = next((piece for piece in pieces if rows <= piece.last), pieces[-1])
    return piece.fixed + piece.per_row * rows
