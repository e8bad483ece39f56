"""Two profiles, op by op: what became slower, faster, new, or is gone."""

from __future__ import annotations

import functools
import html
import math
from typing import TYPE_CHECKING, Any, Final

from serving_workbench.errors import WorkbenchError
from serving_workbench.profiling.operations import short_name
from serving_workbench.tables import Table

if TYPE_CHECKING:
    import pandas as pd

    from serving_workbench.profiling.result import ProfileResult

__all__ = ["ProfileComparison"]

_SHOWN: Final = ("op", "type", "A us", "B us", "difference us")


class ProfileComparison:
    """Profile A against profile B.

    Parameters
    ----------
    a, b : ProfileResult
        Of runs of the same size.

    Raises
    ------
    WorkbenchError
        They are not.
    """

    def __init__(self, a: ProfileResult, b: ProfileResult) -> None:
        for each in (a, b):
            if each.ops_data is None:
                raise WorkbenchError(f"The profile of {_name(each)} has no ops: they were not looked at.")
        if a.rows is None and b.rows is None:
            raise WorkbenchError(
                f"The runs of {_name(a)} and {_name(b)} are of live requests, whose sizes are not known.",
                hint="Profile both with the same batch_size.",
            )
        if a.rows != b.rows:
            raise WorkbenchError(
                f"The runs of {_name(a)} are of {_rows(a)}, those of {_name(b)} of {_rows(b)}.",
                hint="Profile both with the same batch_size.",
            )
        self.a = a
        self.b = b

    @functools.cached_property
    def ops(self) -> pd.DataFrame:
        """A row per op of either, the largest difference first.

        Returns
        -------
        DataFrame
            ``name``, ``type``; ``a_us``, ``b_us``: own time of a run, NaN where there is no such op;
            ``difference_us``: B - A, an op that is missing counting as 0; ``ratio``: B / A.
        """
        return self._joined(["name", "type"], self.a.ops, self.b.ops)

    @functools.cached_property
    def types(self) -> pd.DataFrame:
        """The same by type of op."""
        return self._joined(["type"], self.a.types, self.b.types)

    @staticmethod
    def _joined(keys: list[str], a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
        columns = [*keys, "us_per_run"]
        found = a[columns].merge(b[columns], on=keys, how="outer", suffixes=("_a", "_b"))
        found = found.rename(columns={"us_per_run_a": "a_us", "us_per_run_b": "b_us"})
        found["difference_us"] = found["b_us"].fillna(0.0) - found["a_us"].fillna(0.0)
        found["ratio"] = found["b_us"] / found["a_us"]
        return found.sort_values("difference_us", key=abs, ascending=False, ignore_index=True)

    @property
    def a_us(self) -> float:
        """Time of A's run by the tracer, microseconds."""
        return _run_us(self.a)

    @property
    def b_us(self) -> float:
        """Time of B's."""
        return _run_us(self.b)

    def table(self, most: int = 15) -> Table:
        """Return the largest differences as a table."""
        rows = [
            {
                "op": short_name(row["name"]),
                "type": row["type"],
                "A us": _microseconds(row["a_us"]),
                "B us": _microseconds(row["b_us"]),
                "difference us": f"{row['difference_us']:+,.1f}",
            }
            for row in self.ops.head(most).to_dict("records")
        ]
        return Table(rows, _SHOWN, f"{_name(self.a)} (A) against {_name(self.b)} (B), us per run", self.ops)

    def sentence(self) -> str:
        """Return what differs, in a sentence or two."""
        change = f"{100 * (self.b_us / self.a_us - 1):+.0f} %" if self.a_us else "?"
        text = f"A run of {_rows(self.a)} takes {self.a_us:,.0f} us in A and {self.b_us:,.0f} us in B ({change})."
        new = [short_name(row["name"]) for row in self.ops.to_dict("records") if math.isnan(row["a_us"])]
        gone = [short_name(row["name"]) for row in self.ops.to_dict("records") if math.isnan(row["b_us"])]
        for names, what in ((new, "only in B"), (gone, "only in A")):
            if names:
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                text += f" Ops {what}: {', '.join(names[:5])}{more}."
        return text

    def summary(self) -> str:
        """Return it as text."""
        return f"{self.sentence()}\n\n{self.table()!r}"

    def __repr__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.sentence())}</p>{self.table()._repr_html_()}"


def _run_us(result: ProfileResult) -> float:
    # Not the sum of its ops, which several threads may run at once.
    assert result.ops_data is not None
    return float(result.ops_data["run_ns"]) / 1e3 / max(1, result.runs)


def _name(result: ProfileResult) -> str:
    return f"{result.model}@{result.version}"


def _rows(result: ProfileResult) -> str:
    return "live requests" if result.rows is None else f"{result.rows} row{'s' if result.rows != 1 else ''}"


def _microseconds(value: Any) -> str | None:
    return None if math.isnan(value) else f"{value:,.1f}"
