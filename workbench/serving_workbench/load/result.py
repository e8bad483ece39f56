"""What a load test found: raw arrays, and what can be made of them."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from serving_workbench.load.objective import seconds_text
from serving_workbench.load.records import Records, status_name
from serving_workbench.load.summary import MIN_P99, Setup, Summary, summarise
from serving_workbench.tables import Table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["LoadResult"]


class LoadResult:
    """One run of `loadtest`; also a partial one, after an interrupt or the server's end.

    Attributes
    ----------
    setup : Setup
        What was asked for.
    records : Records
        What happened to each request: arrays.
    """

    def __init__(self, setup: Setup, records: Records) -> None:
        self.setup = setup
        self.records = records

    @functools.cached_property
    def summary(self) -> Summary:
        """Rates, percentiles with intervals, verdicts, and sentences (`Summary`)."""
        return summarise(self.setup, self.records)

    # -- the most asked for --------------------------------------------------------------------------------------------

    @property
    def rate(self) -> float:
        """Good answers per second."""
        return self.summary.rate

    @property
    def p50(self) -> float:
        """Median latency from the scheduled time, seconds."""
        return self.summary.p50

    @property
    def p99(self) -> float:
        """99th percentile of it; see ``summary.latency[99.0]`` for its interval."""
        return self.summary.p99

    @property
    def complete(self) -> bool:
        """Whether it ran to its end."""
        return not self.records.reason

    @property
    def saturated(self) -> bool:
        """Whether the server was given more than it could answer."""
        return self.summary.saturated

    @property
    def client_limited(self) -> bool:
        """Whether the load generator was the limit, so that no verdict is given."""
        return self.summary.client_limited

    @property
    def slo_met(self) -> bool | None:
        """Whether the objective holds; None: none was given, or the run does not decide it."""
        return self.summary.slo_met

    @property
    def ok(self) -> bool:
        """Whether all requests were answered well, to the end, and the numbers may be believed."""
        summary = self.summary
        return self.complete and summary.good == summary.requests and not (summary.saturated or summary.client_limited)

    def percentile(self, percent: float) -> float:
        """Return a percentile of the good answers' latency, after the warm-up, in seconds."""
        records, summary = self.records, self.summary
        counted = records.good & (records.scheduled >= summary.start) & (records.scheduled < summary.stop)
        chosen = records.latency[counted]
        return float(np.percentile(chosen, percent)) if len(chosen) else float("nan")

    # -- other forms ---------------------------------------------------------------------------------------------------

    def to_frame(self) -> pd.DataFrame:
        """Return a `pandas.DataFrame` with a row for each request, times in seconds.

        Columns: ``scheduled``, ``sent``, ``answered``, ``latency``, ``send_latency``, ``status`` (name), ``waited``,
        ``counted`` (false in the warm-up).
        """
        import pandas as pd  # only for those who ask

        records, summary = self.records, self.summary
        codes, places = np.unique(records.status, return_inverse=True)
        status = pd.Categorical.from_codes(places, pd.Index([status_name(int(code)) for code in codes]))
        return pd.DataFrame(
            {
                "scheduled": records.scheduled,
                "sent": records.sent,
                "answered": records.answered,
                "latency": records.latency,
                "send_latency": records.send_latency,
                "status": status,
                "waited": records.waited,
                "counted": (records.scheduled >= summary.start) & (records.scheduled < summary.stop),
            }
        )

    def table(self) -> Table:
        """Return the percentiles as a table, with their 95 % intervals."""
        summary = self.summary
        rows = []
        for percent, found in summary.latency.items():
            enough = summary.good >= MIN_P99 * (1 if percent <= 99 else 0.01 / (1 - percent / 100))
            if not enough and percent >= 99:
                continue
            row = {
                "percentile": f"p{percent:g}",
                "latency": seconds_text(found.value),
                "95 % interval": f"[{seconds_text(found.low)}, {seconds_text(found.high)}]",
            }
            if self.setup.open:
                row["from sending"] = seconds_text(summary.send_latency[percent].value)
            rows.append(row)
        columns = ["percentile", "latency", "95 % interval", *(["from sending"] if self.setup.open else [])]
        return Table(rows, columns, self.headline, summary)

    @property
    def headline(self) -> str:
        """The run in one line."""
        setup, summary = self.setup, self.summary
        load = f"{setup.arrivals} arrivals, {setup.rate:.6g}/s" if setup.open else f"{setup.concurrency} in flight"
        return f"{setup.model} at {setup.target}: {load} for {summary.stop:.3g} s over {setup.protocol}"

    def facts(self) -> list[str]:
        """Return the lines that are shown beside the table."""
        setup, summary = self.setup, self.summary
        offered = f" of {summary.offered_rate:.6g} offered" if setup.open else ""
        lines = [f"answered {summary.rate:.6g}/s{offered}; {summary.good} good of {summary.requests} requests counted"]
        if summary.warmup_cut:
            lines[0] += f", after {summary.warmup_cut} of the warm-up ({summary.start:.3g} s)"
        if setup.slo is not None:
            verdict = {True: "met", False: "missed", None: "no verdict"}[summary.slo_met]
            share = summary.within / summary.requests if summary.requests else float("nan")
            lines.append(f"{setup.slo}: {verdict}; {100 * share:.4g} % within, goodput {summary.goodput:.6g}/s")
        client = f"client: {summary.client_cpu_per_request * 1e6:.3g} us CPU per request"
        client += f", {100 * summary.client_cpu:.3g} % of a core"
        if setup.open:
            client += f"; sent late by {seconds_text(summary.lag_p99)} (p99)"
        busy = self.records.client.machine_busy
        if math.isfinite(busy):
            client += f"; machine {100 * busy:.0f} % busy"
        lines.append(client)
        lines += summary.notes
        return lines

    def plot(self) -> Figure:
        """Return the pictures of the run as a matplotlib `Figure`."""
        from serving_workbench.load.plots import draw  # matplotlib takes half a second: only for those who look

        return draw(self)

    def save(self, path: str | Path) -> Path:
        """Write it to a file (``.npz``: arrays, and the rest as JSON) for `load`; an existing one is replaced whole."""
        from serving_workbench.load.files import save

        return save(self, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> LoadResult:
        """Read a file of `save`.

        Raises
        ------
        WorkbenchError
            It is none.
        """
        from serving_workbench.load.files import load

        return load(Path(path))

    def to_csv(self, path: str | Path) -> Path:
        """Write a line for each request: the columns of `to_frame`."""
        from serving_workbench.load.files import to_csv

        return to_csv(self, Path(path))

    def to_json(self, path: str | Path | None = None) -> str:
        """Return setup and summary as JSON, and write it to a file if one is named."""
        from serving_workbench.load.files import to_json

        return to_json(self, None if path is None else Path(path))

    def to_hgrm(self, path: str | Path) -> Path:
        """Write the distribution of the latency in milliseconds as HdrHistogram's tools plot it.

        Raises
        ------
        WorkbenchError
            The package ``hdrhistogram`` is not installed: ``pip install '.[tune]'`` in the clone.
        """
        from serving_workbench.load.files import to_hgrm

        return to_hgrm(self, Path(path))

    # -- show ----------------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return "\n".join([repr(self.table()), *self.facts()])

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        from serving_workbench.load.plots import as_html

        return {"text/plain": repr(self), "text/html": as_html(self)}
