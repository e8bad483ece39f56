"""What a profile found: tables, advice, and its own price."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from serving_workbench.profiling import memory, operations, startup
from serving_workbench.profiling.advice import advice
from serving_workbench.profiling.memory import MemoryFit, in_words
from serving_workbench.tables import Table

if TYPE_CHECKING:
    import pandas as pd

    from serving_workbench.profiling.comparison import ProfileComparison
    from serving_workbench.profiling.requests import RequestProfile

__all__ = ["Overhead", "ProfileResult"]

#: Stand for what was not looked at.
_NONE: Final[dict[str, Any]] = {
    **dict.fromkeys(("ops", "sizes", "plain_ns", "profiled_ns"), ()),
    "batches": 0,
    "run_ns": 0,
    "rows": None,
}
_NO_MEMORY: Final[dict[str, Any]] = {"profile": {"weights": (), "sizes": ()}}

_SHOWN: Final = ("op", "type", "calls", "us per run", "share")
_SIZES: Final = ("rows", "us per run", "us per row")
_MEMORY: Final = ("rows", "peak", "inputs", "per row")
_WEIGHTS: Final = ("weights", "kind", "dtype", "shape", "size", "share")
_STARTUP: Final = ("step", "ms", "share", "what")


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
    ops_data : dict or None
        The server's answer (``profile`` of `serving_server.version_profiles.profile_ops`); None: not looked at.
    requests : int
        Requests of clients that the version had answered meanwhile.
    memory_data, startup_data : dict or None
        The same of `profile_memory` and `startup` there.
    stages : dict of str to float, or None
        Share of each stage in the time of the last requests that the server remembers of the version
        (`ServedModel.requests`); None: there are none.
    live_data : dict or None
        What the server remembers of the requests of that time; None: nothing.
    """

    model: str
    version: int
    date: str
    ops_data: dict[str, Any] | None = None
    requests: int = 0
    memory_data: dict[str, Any] | None = None
    startup_data: dict[str, Any] | None = None
    stages: dict[str, float] | None = None
    live_data: dict[str, Any] | None = None

    # -- tables --------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def ops(self) -> pd.DataFrame:
        """A row per op (`serving_workbench.profiling.operations.by_op`), the one with the most time first."""
        return operations.by_op(self.ops_data or _NONE)

    @functools.cached_property
    def types(self) -> pd.DataFrame:
        """The same by type of op."""
        return operations.by_type(self.ops)

    @functools.cached_property
    def batch_sizes(self) -> pd.DataFrame:
        """Run time by rows of a batch, without tracing: ``rows``, ``runs``, ``median_us``, ..., ``us_per_row``."""
        return operations.by_batch_size(self.ops_data or _NONE)

    @functools.cached_property
    def variables(self) -> pd.DataFrame:
        """A row per variable and larger constant (`serving_workbench.profiling.memory.weights_frame`)."""
        return memory.weights_frame((self.memory_data or _NO_MEMORY)["profile"])

    @functools.cached_property
    def memory(self) -> pd.DataFrame:
        """A row per batch size: what a run takes (`serving_workbench.profiling.memory.sizes_frame`)."""
        return memory.sizes_frame((self.memory_data or _NO_MEMORY)["profile"])

    @functools.cached_property
    def startup(self) -> pd.DataFrame:
        """A row per step of the load (`serving_workbench.profiling.startup.startup_frame`)."""
        return startup.startup_frame(self.startup_data or {"steps": []})

    @functools.cached_property
    def live_requests(self) -> RequestProfile | None:
        """Requests of the traced runs, or beside own runs at that time; None: the server remembers none."""
        from serving_workbench.profiling.requests import RequestProfile

        return None if self.live_data is None else RequestProfile(self.model, self.live_data)

    # -- numbers -------------------------------------------------------------------------------------------------------

    @property
    def runs(self) -> int:
        """Traced runs."""
        return int((self.ops_data or _NONE)["batches"])

    @property
    def rows(self) -> int | None:
        """Rows of a traced run; None for live requests."""
        rows = (self.ops_data or _NONE)["rows"]
        return None if rows is None else int(rows)

    @property
    def covered(self) -> float:
        """Part of the runs' time that lies in ops; the rest is the ``(framework)`` row."""
        return operations.self_covered(self.ops_data or _NONE)

    @property
    def overhead(self) -> Overhead | None:
        """What tracing costs; None for live requests, whose sizes differ from run to run."""
        data = self.ops_data or _NONE
        plain, traced = data["plain_ns"], data["profiled_ns"]
        return Overhead(float(np.median(plain)) / 1e3, float(np.median(traced)) / 1e3) if plain and traced else None

    @property
    def memory_fit(self) -> MemoryFit | None:
        """The line through what a run takes by its rows; None with fewer than two sizes."""
        return memory.fit(self.memory)

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
            Their runs were of different sizes, or live requests', whose sizes nobody knows.
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

        Requests and batches of that time are in it, with arrows from each request to its batch, and on to its run in a
        profile of live requests. Times are of CLOCK_MONOTONIC, as other traces of this machine may be.

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
        if self.ops_data is None:
            return f"{self.model} version {self.version}"
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
                "op": operations.short_name(row["name"]),
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

    def memory_table(self) -> Table:
        """Return what a run takes by batch size as a table."""
        rows = [
            {
                "rows": f"{row['rows']:.0f}",
                "peak": in_words(row["peak_bytes"]),
                "inputs": in_words(row["input_bytes"]),
                "per row": in_words(row["bytes_per_row"]),
            }
            for row in self.memory.to_dict("records")
        ]
        return Table(rows, _MEMORY, "Memory of a run by batch size", self.memory)

    def weights_table(self, most: int = 10) -> Table:
        """Return the largest weights as a table."""
        rows = [
            {
                "weights": row["name"],
                "kind": row["kind"],
                "dtype": row["dtype"],
                "shape": "x".join(map(str, row["shape"])),
                "size": in_words(row["bytes"]),
                "share": f"{100 * row['share']:.1f} %",
            }
            for row in self.variables.head(most).to_dict("records")
        ]
        left = len(self.variables) - most
        return Table(rows, _WEIGHTS, f"Weights{f' (and {left} more: .variables)' if left > 0 else ''}", self.variables)

    def startup_table(self) -> Table:
        """Return the steps of the load as a table."""
        rows = [
            {
                "step": row["step"],
                "ms": f"{1000 * row['seconds']:,.1f}",
                "share": f"{100 * row['share']:.0f} %",
                "what": row["what"],
            }
            for row in self.startup.to_dict("records")
        ]
        return Table(rows, _STARTUP, "Load", self.startup)

    def tables(self) -> list[Table]:
        """Return the tables of what was looked at."""
        found = []
        if self.ops_data is not None:
            found.append(self.ops_table())
            if len(self.batch_sizes):
                found.append(self.sizes_table())
        if self.memory_data is not None:
            found += [self.memory_table(), self.weights_table()]
        if self.startup_data is not None:
            found.append(self.startup_table())
        return found

    def summary(self) -> str:
        """Return all of it as text."""
        lines = [f"{self.title}.", *(f"- {sentence}" for sentence in self.advice)]
        for table in self.tables():
            lines += ["", repr(table)]
        if self.ops_data is not None:
            lines += ["", self.price]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        from serving_workbench.profiling.showing import as_html

        return as_html(self)
