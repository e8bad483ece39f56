"""Single requests of a served model: how long each stage took, which batch they ran in, which of them were slow.

The server stamps every answered request (`serving_server.stamps`); here its rows become frames, pictures and events.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from serving_workbench.client_stamps import ClientStamp, kept
from serving_workbench.errors import ModelNotServedError, WorkbenchError
from serving_workbench.profiling.client_side import client_columns, joined, whole_path
from serving_workbench.profiling.operations import short_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from serving_workbench.profiling.result import ProfileResult
    from serving_workbench.server import Server

__all__ = ["RequestProfile", "read_requests"]

#: What is not a stage, in order; behind them one column per stage, in microseconds.
_COLUMNS: Final = (
    "id",
    "request_id",
    "status",
    "batch",
    "version",
    "signature",
    "reason",
    "lane",
    "mates",
    "batch_rows",
    "padding_rows",
    "rows",
    "pieces",
    "received",
    "received_ns",
    "total_us",
)

#: Of a request's batch; missing where a request ended before it was in one.
_OF_BATCH: Final = ("batch", "lane", "mates", "batch_rows", "padding_rows")

#: Width of the bars of a text, in characters.
_WIDTH: Final = 50

#: Ops in a text.
_OPS: Final = 5


def read_requests(server: Server, name: str, **query: Any) -> RequestProfile:
    """Ask a server for the requests of a model that it remembers.

    Parameters
    ----------
    server : Server
    name : str
    **query
        ``limit``, ``slowest``, ``version``, ``batch``, ``request_id``; None is left out.

    Raises
    ------
    ModelNotServedError
        The server does not know the model.
    ControlError
        A parameter makes no sense (``INVALID_ARGUMENT``).
    """
    given = {key: value for key, value in query.items() if value is not None}
    control = server.control
    asked = perf_counter_ns()
    try:
        answer = server.ask(lambda: control.profile_requests(name, **given))
    except WorkbenchError as error:
        if getattr(error, "code", "") == "NOT_FOUND":
            raise ModelNotServedError(f"The server '{server.name}' does not serve a model '{name}'.") from error
        raise
    # The server has read its clock meanwhile: another machine's, or that of a time namespace, says nothing in between.
    one_clock = asked <= answer["clock"]["monotonic_ns"] <= perf_counter_ns()
    return RequestProfile(name, answer, kept(), one_clock=one_clock)


class RequestProfile:
    """Requests that a server remembers, with their stages and batches.

    Parameters
    ----------
    model : str
    answer : mapping
        The server's, of ``/models/<name>/profile/requests``.
    stamps : iterable of ClientStamp
        Requests of clients, joined by their ids.
    one_clock : bool
        The stamps' clock is the server's.

    Attributes
    ----------
    model : str
    stages : list of str
        Names of the stages, in the order in which a request passes them.
    frame : DataFrame
        One row per request, in the server's order: ``id``, ``request_id`` (the client's ``x-request-id``, if any),
        ``status`` (``OK``, or the gRPC code of a request that failed, timed out or was refused), ``batch`` (missing for
        requests that ended before they were in one, like all that is told of it), ``version``, ``signature``,
        ``reason`` (why the batch ran: ``full``, ``timeout``, ``immediate``, ``alone``), ``lane`` (which thread of the
        version), ``mates`` (other requests in the batch), ``batch_rows``, ``padding_rows``, ``rows``, ``pieces`` (of a
        request larger than a batch, else 0), ``received`` (a UTC time), ``received_ns`` (by CLOCK_MONOTONIC of the
        server's machine), ``total_us`` and a column per stage: ``decode_us``, ``batch_wait_us``, ...; these add up to
        ``total_us``. Of requests that this process has sent the client's side follows, else NaN: ``client_encode_us``,
        ``transport_out_us``, ``transport_back_us``, ``client_decode_us``; with ``total_us`` they add up to
        ``client_total_us``. ``transport_us`` is out and back, all that is known where the server has another clock.
    batches : DataFrame
        One row per batch, by its number: rows, padding, ``mates`` (ids of its requests) and points in time in
        nanoseconds.
    """

    def __init__(
        self, model: str, answer: Mapping[str, Any], stamps: Iterable[ClientStamp] = (), *, one_clock: bool = True
    ) -> None:
        self.model = model
        self.stages: list[str] = list(answer["stages"])
        self._requests: dict[str, dict[str, Any]] = {
            row["id"]: row for row in joined(answer["requests"], stamps, one_clock=one_clock)
        }
        self._batches: dict[int, dict[str, Any]] = {batch["batch"]: batch for batch in answer["batches"]}
        self._epoch_ns = answer["clock"]["unix_ns"] - answer["clock"]["monotonic_ns"]
        self.frame = self._frame()
        self.batches = (
            pd.DataFrame(list(self._batches.values())).set_index("batch") if self._batches else pd.DataFrame()
        )

    def _frame(self) -> pd.DataFrame:
        rows = []
        for row in self._requests.values():
            facts: dict[str, Any] = {}
            if row["batch"] is not None:
                batch = self._batches[row["batch"]]
                facts = {name: batch[name] for name in ("reason", "lane", "padding_rows")}
                facts |= {"mates": batch["requests"] - 1, "batch_rows": batch["rows"]}
            rows.append({**row, **facts, **{f"{name}_us": row["stages_us"][name] for name in self.stages}})
        frame = pd.DataFrame(rows, columns=[name for name in self._columns() if name != "received"])
        times = [column for column in self._columns() if column.endswith("_us")]
        frame = frame.astype(dict.fromkeys(times, float) | dict.fromkeys(_OF_BATCH, "Int64"))  # also without rows
        received = pd.to_datetime(frame["received_ns"].astype("int64") + self._epoch_ns, utc=True)
        frame.insert(_COLUMNS.index("received"), "received", received)
        return frame.assign(**client_columns(self._requests.values()))

    def _columns(self) -> list[str]:
        return [*_COLUMNS, *(f"{name}_us" for name in self.stages)]

    def __len__(self) -> int:
        return len(self.frame)

    def slowest(self, n: int = 10, by: str = "total_us") -> pd.DataFrame:
        """Return the `n` rows of `frame` that took longest, slowest first; ``client_total_us``: for their clients."""
        return self.frame.sort_values(by, ascending=False, kind="stable").head(n)

    def by_stage(self) -> pd.DataFrame:
        """Return one row per stage: mean, median, 99th percentile and maximum in us, and its share of all time.

        Of answered requests: those that failed waited for something else.
        """
        answered = self.frame[self.frame["status"] == "OK"]
        times = answered[[f"{name}_us" for name in self.stages]].set_axis(self.stages, axis="columns")
        total = answered["total_us"].sum()
        return pd.DataFrame(
            {
                "mean_us": times.mean(),
                "p50_us": times.median(),
                "p99_us": times.quantile(0.99),
                "max_us": times.max(),
                "share": times.sum() / total if total else float("nan"),
            }
        ).rename_axis("stage")

    def request(self, which: str | None = None) -> dict[str, Any]:
        """Return one request as the server tells it, with its batch as ``batch`` and its client's side as ``client``.

        Either is None where there is none.

        Parameters
        ----------
        which : str, optional
            An ``id``, or a ``request_id`` (the latest of that name); by default the slowest.

        Raises
        ------
        WorkbenchError
            There is no such request among these.
        """
        row = self._requests.get(which) if which is not None else None
        if row is None and which is None and self._requests:
            row = max(self._requests.values(), key=lambda each: each["total_us"])
        if row is None:
            named = [each for each in self._requests.values() if which is not None and each["request_id"] == which]
            if not named:
                raise WorkbenchError(
                    f"No request {which!r} among the {len(self)} of '{self.model}' that were read."
                    if which is not None
                    else f"No request of '{self.model}' was read.",
                    hint="The server remembers the last ones only; .frame shows their ids.",
                )
            row = max(named, key=lambda each: each["received_ns"])
        return {**row, "batch": None if row["batch"] is None else self._batches[row["batch"]]}

    def explain(self, which: str | None = None, ops: ProfileResult | None = None) -> str:
        """Return the stages of a request as bars of text, between the client's if they are known.

        With `ops`, the first ops of its run follow. `which` and errors as of `request`, and of `ops_of`.
        """
        row = self.request(which)
        path = whole_path(row, self.stages)
        whole = max(sum(took for _, took in path), 1e-9)
        lines = [_title(self.model, row)]
        at = 0.0
        for name, took in path:
            start = round(at * _WIDTH / whole)
            at += took
            bar = "█" * (round(at * _WIDTH / whole) - start)
            lines.append(f"{name:<14}{took:>12,.1f} us {100 * took / whole:>5.1f} %  |{' ' * start}{bar}".rstrip())
        lines.append(f"{'total':<14}{whole:>12,.1f} us")
        if ops is not None:
            found = self.ops_of(row["id"], ops)
            within = found["self_us"].sum()  # Python's part, and the tracer's, of the stage are not in it
            lines.append(f"Of the run of batch {row['batch']['batch']}, {within:,.1f} us in TensorFlow:")
            lines += [
                f"{op['self_us']:>26,.1f} us {100 * op['share']:>5.1f} %  {short_name(op['name'])} {op['type']}"
                for op in found.head(_OPS).to_dict("records")
            ]
        return "\n".join(lines)

    def waterfall(self, which: str | None = None) -> Figure:
        """Return the same as a picture, with a bar per stage where it lies in time."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # only for those who look
        from matplotlib.figure import Figure

        row = self.request(which)
        names, took = zip(*whole_path(row, self.stages), strict=True)
        whole = sum(took)
        figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=80)
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        starts = [sum(took[:index]) for index in range(len(took))]
        colours = ["#E69F00" if name.endswith("wait") else "#0072B2" for name in names]
        axes.barh(names, took, left=starts, color=colours)
        for name, start, length in zip(names, starts, took, strict=True):
            right = start + length < 0.8 * whole
            place, align = (start + length, "left") if right else (start, "right")
            axes.annotate(
                f"{length:,.1f} us", (place, name), (3 if right else -3, 0), textcoords="offset points",
                ha=align, va="center", fontsize=8,
            )  # fmt: skip
        axes.invert_yaxis()
        since = "was there" if len(names) == len(self.stages) else "was begun by its client"
        axes.set_xlabel(f"us since the request {since}; orange: waits")
        axes.set_title(_title(self.model, row), fontsize=9)
        return figure

    def title(self, which: str | None = None) -> str:
        """Return a request in a line: how long it took, in which batch; `which` and errors as of `request`."""
        return _title(self.model, self.request(which))

    def chrome_trace(self, path: str | Path, ops: ProfileResult | None = None) -> Path:
        """Write these requests and their batches as a trace for https://ui.perfetto.dev; return the file.

        Parameters
        ----------
        path : str or Path
        ops : ProfileResult, optional
            Its runs and ops are added, and the requests of its own time: all are on the clock of the server's machine.
            Arrows lead from batches to their runs, if it is of live requests.

        Raises
        ------
        WorkbenchError
            It cannot be written, or `ops` has no ops.
        """
        from serving_workbench.profiling.files import write_events

        return write_events(self.trace_events(ops), Path(path))

    def trace_events(self, ops: ProfileResult | None = None) -> list[dict[str, Any]]:
        """Return the Chrome trace events that `chrome_trace` writes (see `serving_workbench.profiling.events`)."""
        from serving_workbench.profiling.linking import trace_events

        return trace_events(self._requests, self._batches, self.stages, ops)

    def ops_of(self, which: str | None, ops: ProfileResult) -> pd.DataFrame:
        """Return the ops of the run that a request was in, the one with the most time of its own first.

        Parameters
        ----------
        which : str or None
            As of `request`. Of a request in pieces, the run of the last one.
        ops : ProfileResult
            Of live requests, while this one was among them: ``sw.profile(model, live=True)``.

        Returns
        -------
        DataFrame
            ``name``, ``type``, ``calls``, ``total_us``, ``self_us`` (without the ops inside), ``share`` of the run.

        Raises
        ------
        WorkbenchError
            There is no such request, its run was not traced, or not all of its ops were kept.
        """
        from serving_workbench.profiling.linking import ops_of_batch

        row = self.request(which)
        if row["batch"] is None:
            raise WorkbenchError(
                f"Request {row['id']} of '{self.model}' ended before it was in a batch: it has no run."
            )
        return ops_of_batch(ops, row["batch"])

    def __repr__(self) -> str:
        if not len(self):
            return f"<RequestProfile of '{self.model}': no requests>"
        shares = self.by_stage()["share"].dropna().nlargest(3)
        told = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        middle = self.frame["total_us"].median()
        return (
            f"<RequestProfile of '{self.model}': {len(self)} requests in {len(self._batches)} batches, "
            f"median {middle:,.0f} us in the server; most time: {told}>"
        )

    def _repr_html_(self) -> str:
        return str(self.slowest().to_html(index=False))


def _title(model: str, row: Mapping[str, Any]) -> str:
    batch = row["batch"]
    name = row["id"] if row["request_id"] is None else f"{row['id']} ({row['request_id']})"
    status = "" if row["status"] == "OK" else f" {row['status']} after"
    client = f" of the client's {row['client']['client_total_us']:,.0f}" if row["client"] else ""
    begin = f"Request {name} of {model} version {row['version']}:{status} {row['total_us']:,.0f} us{client}, "
    if batch is None:
        return f"{begin}in no batch"
    others = batch["requests"] - 1
    mates = f" with {others} other request{'s' if others != 1 else ''}" if others else " alone"
    if batch["reason"] == "alone":  # it says so already
        mates = ""
    rows = f"{batch['rows']} row{'s' if batch['rows'] != 1 else ''}"
    padding = f" and {batch['padding_rows']} of padding" if batch["padding_rows"] else ""
    again = ", again after a batch that failed" if batch["retried"] else ""
    return f"{begin}in batch {batch['batch']} ({batch['reason']}, {rows}{padding}){mates}{again}"
