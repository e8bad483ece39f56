"""What a run comes to: rates, percentiles with intervals, and whether they may be believed."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from serving_workbench.load.analysis import (
    Estimate,
    LittlesLaw,
    Saturation,
    binomial_verdict,
    littles_law,
    needed_requests,
    percentiles,
    saturation,
    warm_up,
)
from serving_workbench.load.objective import Objective
from serving_workbench.load.records import Records, status_name

__all__ = ["PERCENTS", "Setup", "Summary", "client_limited", "summarise"]

PERCENTS: Final = (50.0, 90.0, 95.0, 99.0, 99.9)
#: Requests below which p99 (p99.9: ten times as many) is not printed: its interval would be wider than it is worth.
MIN_P99: Final = 1000
#: Share of a core, and of the measured p99, beyond which the sender was the limit.
_MAX_CPU: Final = 0.85
_MAX_LAG: Final = 0.10
#: Shares of all processors' time beyond which the machine itself is told of.
_MAX_BUSY: Final = 0.95
_MAX_STOLEN: Final = 0.05


@dataclass(frozen=True)
class Setup:
    """What was asked for.

    Attributes
    ----------
    target, model, protocol : str
    version : int or None
    signature : str or None
    arrivals : str
        Kind of schedule; ``closed`` for a closed loop.
    rate : float or None
        Requests per second that were asked for, or are in a ramp or a replay on average; None for a closed loop.
    concurrency : int or None
        Of a closed loop.
    seconds : float
    warmup : float or None
        Seconds at the beginning that do not count; None: found by MSER-5.
    seed : int
    connections, max_in_flight : int
    rows : float
        Mean rows per request; NaN when that is not known.
    data : str
        What the requests are, in words.
    slo : Objective or None
    """

    target: str
    model: str
    protocol: str
    version: int | None
    signature: str | None
    arrivals: str
    rate: float | None
    concurrency: int | None
    seconds: float
    warmup: float | None
    seed: int
    connections: int
    max_in_flight: int
    rows: float
    data: str
    slo: Objective | None

    @property
    def open(self) -> bool:
        """Whether requests came at given times."""
        return self.concurrency is None


@dataclass(frozen=True)
class Summary:
    """Numbers of a run, over what counts of it: from the end of the warm-up to the end of the window.

    Attributes
    ----------
    requests, good : int
        Scheduled (closed loop: sent) in it; of these answered well.
    statuses : dict of str to int
        All requests of the run by status name, also those of the warm-up.
    start, stop : float
        What counts, seconds from the beginning.
    warmup_cut : int
        Requests before `start`.
    steady : bool
        False: MSER-5 found no steady state, nothing was cut.
    offered_rate, rate, goodput : float
        Requests per second: scheduled; answered well; answered well within the objective (NaN without one).
    latency, send_latency : dict of float to Estimate
        Percentiles in seconds of the good answers, from the scheduled time, and from sending. In a closed loop both are
        service times, not what users would wait at a given rate.
    lag_p99 : float
        Seconds by which the sender was late, of requests that did not wait for `max_in_flight`.
    waited : int
        Requests that did.
    client_cpu : float
        Of a core.
    client_cpu_per_request : float
        Seconds.
    client_limited : bool
        The sender was the limit: there is no verdict, and the percentiles are partly its own.
    saturation : Saturation or None
        Of an open loop.
    littles_law : LittlesLaw
    slo : Objective or None
    within : int
        Requests answered well within the objective.
    slo_met : bool or None
        None: no objective, or not decided.
    notes : list of str
        Sentences for the user, the most important first.
    """

    requests: int
    good: int
    statuses: dict[str, int]
    start: float
    stop: float
    warmup_cut: int
    steady: bool
    offered_rate: float
    rate: float
    goodput: float
    latency: dict[float, Estimate]
    send_latency: dict[float, Estimate]
    lag_p99: float
    waited: int
    client_cpu: float
    client_cpu_per_request: float
    client_limited: bool
    saturation: Saturation | None
    littles_law: LittlesLaw
    slo: Objective | None
    within: int
    slo_met: bool | None
    notes: list[str]

    @property
    def saturated(self) -> bool:
        """Whether more came than was answered: latencies then depend on how long it went on."""
        return self.saturation is not None and self.saturation.saturated

    @property
    def p50(self) -> float:
        """Median latency from the scheduled time, seconds."""
        return self.latency[50.0].value

    @property
    def p99(self) -> float:
        """99th percentile of it."""
        return self.latency[99.0].value


def client_limited(cpu_share: float, lag_p99: float, latency_p99: float) -> str:
    """Say why the sender rather than the server set the measured latency; empty when it did not.

    >>> client_limited(0.95, 0.0, 0.01)
    "the load generator used 95 % of a core"
    """
    if cpu_share > _MAX_CPU:
        return f"the load generator used {100 * cpu_share:.0f} % of a core"
    if math.isfinite(lag_p99) and lag_p99 > _MAX_LAG * latency_p99:
        return f"the load generator was late by {100 * lag_p99 / latency_p99:.0f} % of the p99 that it measured"
    return ""


def summarise(setup: Setup, records: Records) -> Summary:
    """Compute the summary of a run; under a second for a million requests."""
    ran = float(records.ticks[-1, 0]) if len(records.ticks) else 0.0
    stop = min(setup.seconds, ran) if records.reason else setup.seconds
    good = records.good
    latency = records.latency
    start, steady = _begin(setup, records)
    counted = (records.scheduled >= start) & (records.scheduled < stop)
    chosen = counted & good
    length = max(stop - start, 1e-9)
    requests, answers = int(counted.sum()), int(chosen.sum())
    ends = records.answered
    with np.errstate(invalid="ignore"):
        # A rate of answers is taken by when they came: those of a backlog come after the window.
        rate = int((good & (ends >= start) & (ends < stop)).sum()) / length
        within = int((chosen & (latency <= setup.slo.seconds)).sum()) if setup.slo is not None else 0
    lag = records.lag[counted & ~records.waited]
    lag = lag[np.isfinite(lag)]
    lag_p99 = float(np.percentile(lag, 99)) if setup.open and len(lag) else 0.0
    found = percentiles(latency[chosen], PERCENTS)
    sent_based = percentiles(records.send_latency[chosen], PERCENTS) if setup.open else found
    cpu, cpu_per_request = _cpu(records, start, stop)
    limited = client_limited(cpu, lag_p99, found[99.0].value)
    load = saturation(records.scheduled, ends, stop, start) if setup.open and stop > start else None
    if load is not None and records.reason == "backlog":
        load = Saturation(True, load.ratio, load.growth, load.reason or "the backlog became too long")
    law = littles_law(records.sent, ends, records.ticks[:, 0], records.ticks[:, 2], start, stop)
    met = None
    if setup.slo is not None and not limited and not (load is not None and load.saturated):
        met = binomial_verdict(requests - within, requests, setup.slo.percent)
    elif setup.slo is not None and load is not None and load.saturated:
        met = False  # whatever the percentile was so far, it grows
    codes = np.bincount(records.status.astype(np.int64)) if len(records) else np.zeros(0, np.int64)
    statuses = Counter({status_name(int(code)): int(codes[code]) for code in np.flatnonzero(codes)})
    summary = Summary(
        requests=requests,
        good=answers,
        statuses=dict(statuses.most_common()),
        start=start,
        stop=stop,
        warmup_cut=int((records.scheduled < start).sum()),
        steady=steady,
        offered_rate=requests / length,
        rate=rate,
        goodput=within / length if setup.slo is not None else math.nan,
        latency=found,
        send_latency=sent_based,
        lag_p99=lag_p99,
        waited=int(records.waited[counted].sum()),
        client_cpu=cpu,
        client_cpu_per_request=cpu_per_request,
        client_limited=bool(limited),
        saturation=load,
        littles_law=law,
        slo=setup.slo,
        within=within,
        slo_met=met,
        notes=[],
    )
    summary.notes.extend(_notes(setup, records, summary, limited))
    return summary


def _begin(setup: Setup, records: Records) -> tuple[float, bool]:
    """Return where what counts begins, and whether it is steady."""
    if setup.warmup is not None:
        return setup.warmup, True
    answered = records.good
    found = warm_up(records.latency[answered])
    return (float(records.scheduled[answered][found.cut]) if found.cut else 0.0), found.steady


def _cpu(records: Records, start: float, stop: float) -> tuple[float, float]:
    ticks = records.ticks
    inside = ticks[(ticks[:, 0] >= start) & (ticks[:, 0] <= stop + 0.05)]
    if len(inside) < 2:
        return 0.0, math.nan
    seconds, cpu = inside[-1, 0] - inside[0, 0], inside[-1, 1] - inside[0, 1]
    with np.errstate(invalid="ignore"):
        answers = int(((records.answered >= inside[0, 0]) & (records.answered < inside[-1, 0])).sum())
    return float(cpu / seconds), float(cpu / answers) if answers else math.nan


def _notes(setup: Setup, records: Records, summary: Summary, limited: str) -> list[str]:
    notes = []
    reasons: dict[str, str] = {
        "backlog": "it was ended early, as the backlog became too long",
        "gone": "it was ended early, as the server could not be reached any more",
        "full": "it was ended early, as there was no room for more requests",
        "crashed": "the load generator's process died; what it had noted is here",
        "stopped": "it was interrupted; what was answered until then is here",
    }
    if records.reason:
        notes.append(f"Partial: {reasons.get(records.reason, records.reason)} ({summary.stop:.3g} s).")
    if limited:
        hint = "Send more rows per request, or fewer requests."
        if summary.client_cpu <= _MAX_CPU:
            hint = "The machine is busy, or answers come as fast as a process wakes up."
        notes.append(f"No verdict: {limited}, so this measures the client as well. {hint}")
    if summary.saturation is not None and summary.saturated:
        text = summary.saturation.reason
        notes.append(f"Saturated: {text}. Percentiles grow with the length of such a run.")
    elif not summary.steady:
        notes.append("No steady state: latencies still changed in the second half. Run longer.")
    bad = summary.requests - summary.good
    if bad:
        first = next(iter(records.texts.values()), "")
        kinds = ", ".join(f"{count} {name}" for name, count in summary.statuses.items() if name != "OK")
        text = f"{bad} of {summary.requests} requests got no good answer"
        notes.append(f"{text}; in the whole run {kinds}{': ' + first[:200] if first else ''}.")
    if summary.waited:
        notes.append(f"{summary.waited} requests waited in the client, as {setup.max_in_flight} were in flight.")
    if summary.good < MIN_P99:
        notes.append(f"p99 needs {MIN_P99 - summary.good} more requests.")
    if setup.slo is not None and summary.slo_met is None and not limited:
        missed = summary.requests - summary.within
        more = needed_requests(missed, setup.slo.percent) - summary.requests
        notes.append(f"{setup.slo} is not decided: it takes {max(more, 1)} more requests without another miss.")
    if not summary.littles_law.holds:
        law = summary.littles_law
        notes.append(
            f"Little's law does not hold: {law.counted:.3g} in flight were counted, latencies say {law.computed:.3g}."
        )
    if records.client.machine_busy > _MAX_BUSY:
        notes.append("The machine was busy all the time: latencies hold waiting for a processor, on either side.")
    if records.client.stolen > _MAX_STOLEN:
        notes.append(f"Other virtual machines took {100 * records.client.stolen:.0f} % of the processors' time.")
    if not setup.open:
        notes.append("A closed loop: latencies are service times at this concurrency, not waiting times at a rate.")
    return notes


def plain(value: Any) -> Any:
    """Return dataclasses, NumPy numbers and infinite floats as what JSON holds."""
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
