"""What a profile found: tables, advice, and its own price."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from serving_workbench.profiling import operations
from serving_workbench.profiling.advice import advice
from serving_workbench.tables import Table

if TYPE_CHECKING:
    import pandas as pd

    from serving_workbench.profiling.comparison import ProfileComparison

__all__ = ["Overhead", "ProfileResult"]

_SHOWN: Final = ("op", "type", "calls", "us per run", "share")
_SIZES: Final = ("rows", "us per run", "us per row")


@dataclasses.dataclass(frozen=True)
class Overhead:
    """What tracing costs a run.

    Attributes
    ----------
    plain_us, traced_us : float
        Median run times without and with it, microseconds, as the caller's clock sees them.
    """

    plain_us: float
    traced_us: float

    @property
    def share(self) -> float:
        """By what part of its time a run is longer; below 0 when the noise is larger than the price."""
        return self.traced_us / self.plain_us - 1

    def __str__(self) -> str:
        return (
            f"tracing makes a run {100 * self.share:+.1f} % longer "
            f"(median {self.traced_us:,.1f} us with it, {self.plain_us:,.1f} without)"
        )


@dataclasses.dataclass
class ProfileResult:
    """The result of `serving_workbench.profile`.

    Attributes
    ----------
    model : str
    version : int
    date : str
        ISO 8601, UTC.
    ops_data : dict
        The server's answer (``profile`` of `serving_server.version_profiles.profile_ops`).
    requests : int
        Requests of clients that the version had answered meanwhile.
    """

    model: str
    version: int
    date: str
    ops_data: dict[str, Any]
    requests: int = 0

    # -- tables --------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def ops(self) -> pd.DataFrame:
        """A row per op (`serving_workbench.profiling.operations.by_op`), the one with the most time first."""
        return operations.by_op(self.ops_data)

    @functools.cached_property
    def types(self) -> pd.DataFrame:
        """The same by type of op."""
        return operations.by_type(self.ops)

    @functools.cached_property
    def batch_sizes(self) -> pd.DataFrame:
        """Run time by rows of a batch, without tracing: ``rows``, ``runs``, ``median_us``, ..., ``us_per_row``."""
        return operations.by_batch_size(self.ops_data)

    # -- numbers -------------------------------------------------------------------------------------------------------

    @property
    def runs(self) -> int:
        """Traced runs."""
        return int(self.ops_data["batches"])

    @property
    def rows(self) -> int | None:
        """Rows of a traced run; None for live requests."""
        rows = self.ops_data["rows"]
        return None if rows is None else int(rows)

    @property
    def covered(self) -> float:
        """Part of the runs' time that lies in ops; the rest is the ``(framework)`` row."""
        return operations.self_covered(self.ops_data)

    @property
    def overhead(self) -> Overhead | None:
        """What tracing costs; None for live requests, whose sizes differ from run to run."""
        plain, traced = self.ops_data["plain_ns"], self.ops_data["profiled_ns"]
        return Overhead(float(np.median(plain)) / 1e3, float(np.median(traced)) / 1e3) if plain and traced else None

    @property
    def advice(self) -> list[str]:
        """What it says, in sentences."""
        return advice(self)

    # -- other forms ---------------------------------------------------------------------------------------------------

    def compare(self, other: ProfileResult) -> ProfileComparison:
        """Compare with another profile, op by op; this one is A.

        Raises
        ------
        WorkbenchError
            Their runs were of different sizes.
        """
        from serving_workbench.profiling.comparison import ProfileComparison

        return ProfileComparison(self, other)

    def to_tensorboard(self, logdir: str | Path) -> Path:
        """Write TensorFlow's own trace where ``tensorboard --logdir`` finds it; return the file.

        Raises
        ------
        WorkbenchError
            There is none, as it was not asked for or is too large, or it cannot be written.
        """
        from serving_workbench.profiling.files import write_tensorboard

        return write_tensorboard(self, Path(logdir))

    def chrome_trace(self, path: str | Path) -> Path:
        """Write runs and ops as a trace for ``chrome://tracing`` or https://ui.perfetto.dev; return the file.

        Times are of CLOCK_MONOTONIC, so that it can be laid over other traces of this machine.

        Raises
        ------
        WorkbenchError
            It cannot be written.
        """
        from serving_workbench.profiling.files import write_chrome

        return write_chrome(self, Path(path))

    def save(self, path: str | Path) -> Path:
        """Write all of it to a file for `load`; an existing one is replaced whole."""
        from serving_workbench.profiling.files import save

        return save(self, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> ProfileResult:
        """Read a file of `save`.

        Raises
        ------
        WorkbenchError
            It is none.
        """
        from serving_workbench.profiling.files import load

        return load(Path(path))

    # -- show ----------------------------------------------------------------------------------------------------------

    @property
    def title(self) -> str:
        """One line: what was profiled."""
        what = "live requests" if self.rows is None else f"{self.rows} row{'s' if self.rows != 1 else ''} each"
        return f"{self.model} version {self.version}: {self.runs} runs traced, {what}"

    @property
    def price(self) -> str:
        """One line: what the profile itself costs."""
        cost = "not measured on live requests, as their sizes differ" if self.overhead is None else str(self.overhead)
        return f"Price: {cost}; {self.requests:,} requests of clients were answered meanwhile."

    def ops_table(self, most: int = 15) -> Table:
        """Return the first so many ops as a table."""
        rows = [
            {
                "op": row["name"],
                "type": row["type"],
                "calls": f"{row['calls']:,}",
                "us per run": f"{row['us_per_run']:,.1f}",
                "share": f"{100 * row['share']:.1f} %",
            }
            for row in self.ops.head(most).to_dict("records")
        ]
        return Table(rows, _SHOWN, "Ops, by their own time", self.ops)

    def sizes_table(self) -> Table:
        """Return the run times by batch size as a table."""
        rows = [
            {
                "rows": f"{row['rows']:.0f}",
                "us per run": f"{row['median_us']:,.1f} [{row['low_us']:,.1f}, {row['high_us']:,.1f}]",
                "us per row": f"{row['us_per_row']:,.1f}",
            }
            for row in self.batch_sizes.to_dict("records")
        ]
        return Table(rows, _SIZES, "Run time by batch size (median and quartiles)", self.batch_sizes)

    def summary(self) -> str:
        """Return all of it as text."""
        lines = [f"{self.title}.", *(f"- {sentence}" for sentence in self.advice), "", repr(self.ops_table())]
        if len(self.batch_sizes):
            lines += ["", repr(self.sizes_table())]
        lines += ["", self.price]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        from serving_workbench.profiling.showing import as_html

        return as_html(self)
