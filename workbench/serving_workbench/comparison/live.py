"""A live split compared while requests come: nothing is lost by looking early, and it may stop when it is sure."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from serving_server.sequential import MIN_REQUESTS, Sums, difference_of_means, difference_of_shares
from serving_workbench.comparison.by_key import KeyCounts, KeyTotals
from serving_workbench.comparison.evidence import Check, Estimate, Metric, Role
from serving_workbench.comparison.margins import Margins
from serving_workbench.comparison.periods import ArmCounts, counts_of, objective_of, steady
from serving_workbench.comparison.result import CompareResult
from serving_workbench.comparison.sample_ratio import sample_ratio
from serving_workbench.comparison.verdict import decide
from serving_workbench.errors import WorkbenchError
from serving_workbench.exposures import exposure_pages
from serving_workbench.handle import ServedModel, connect
from serving_workbench.load_settings import different_settings
from serving_workbench.tuning.stepping import Steps

if TYPE_CHECKING:
    from serving_workbench.control import ControlClient

__all__ = ["ERRORS", "MISSES", "RUN_TIME", "LiveReader", "compare_live"]

RUN_TIME: Final = "run time"
ERRORS: Final = "error rate"
MISSES: Final = "misses of the objective"
TOTAL: Final = "latency under shared load"
FEEDBACK: Final = "feedback"

_SEQUENCE: Final = "confidence sequence"
_EXACT: Final = "exact confidence sequence (beta-binomial mixture)"
#: What a method says of its unit.
_OVER: Final = {"requests": "", "keys": " over keys"}
UNEQUAL: Final = (
    "The shares are unequal: a version with few requests runs slower by itself, as its caches are colder, so run time "
    "decides nothing. Give both the same weight, or use sw.switchback."
)
#: How often the server is asked. Seconds.
_LOOK: Final = 0.5
#: Points of the sequence that are kept; beyond, every other one is dropped.
_POINTS: Final = 400


class LiveReader:
    """Reads a split and keeps the sequence of its primary metric.

    Parameters
    ----------
    control : ControlClient
    name : str
    a, b : int
        Versions.
    since : float
        Periods that began at this time or later count (seconds since 1970).
    margins : Margins
    objective : float or None
        Milliseconds, beyond which an answer is a miss; None: none is.
    keyed : bool
        Whether the split is by key: then the keys are what is compared.
    feedback : callable, optional
        Returns values by key.

    Attributes
    ----------
    traffic : dict
        The server's last answer about the split.
    """

    def __init__(
        self,
        control: ControlClient,
        name: str,
        a: int,
        b: int,
        *,
        since: float,
        margins: Margins,
        objective: float | None,
        keyed: bool = False,
        feedback: Callable[[], Mapping[str, float]] | None = None,
    ) -> None:
        self._control = control
        self._name = name
        self._a, self._b = a, b
        self._since = since
        self._margins = margins
        self._objective = objective
        self._keys = KeyTotals(a, b, since=since, objective=objective) if keyed else None
        self._feedback = feedback
        self._began = time.time()
        self.traffic: dict[str, Any] = {}
        self._steady_since: float | None = None  # when the shares began that are counted
        self._moved = 0  # how often other ones have begun
        self._settings: tuple[float, str | None] | None = None  # of the period that began then
        self.sequence: dict[str, list[float]] = {name: [] for name in ("seconds", "n", "value", "low", "high", "share")}

    def read(self) -> CompareResult:
        """Ask the server and return what is known now.

        Raises
        ------
        WorkbenchError
            The split has ended.
        """
        self.traffic = traffic = self._control.traffic(self._name)
        periods = steady(traffic["periods"], self._a, self._b, self._since)
        self._begin_anew(periods)
        counts = counts_of(periods, self._a), counts_of(periods, self._b)
        alike = _alike(*counts)
        requests = counts[0].requests + counts[1].requests
        source = f"live split, {requests:,} requests"
        if self._keys is None:
            metrics = self._metrics(*counts, "requests", alike=alike)
            checks = [_ratio(self._a, self._b, counts, counts, "requests")]
        else:
            for page in exposure_pages(self._control, self._name, self._keys.last):
                self._keys.add(page)
            keys = self._keys.counts()
            metrics = self._metrics(*keys, "keys", alike=alike)
            checks = [_ratio(self._a, self._b, keys, counts, "keys"), *_key_checks(self._keys, requests)]
            source = f"live split by key, {requests:,} requests"
        metrics = self._margins.applied(metrics)
        if not alike:  # also where a margin was declared for it
            metrics = [dataclasses.replace(each, role="shown") if each.name == RUN_TIME else each for each in metrics]
        self._note(metrics, counts)
        ended = traffic["ended"]
        differing = self._different_settings(traffic)
        if differing is not None:
            checks.append(Check("settings", False, differing, fatal=False))
        if self._moved:
            text = f"The shares have changed {self._moved} times: what was answered before the last time is left out."
            checks.append(Check("changes", True, text, fatal=False))
        if not alike:
            checks.append(Check("shares", False, UNEQUAL, fatal=False))
        if ended and not traffic["weights"]:
            checks.append(Check("split", True, f"The split has ended: {ended['reason']}.", fatal=False))
        if traffic["unrouted"]:
            text = f"{traffic['unrouted']:,} requests found none of the versions available."
            checks.append(Check("unrouted", False, text, fatal=False))
        return CompareResult(
            model=self._name,
            a=f"{self._name}@{self._a}",
            b=f"{self._name}@{self._b}",
            source=source,
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            metrics=metrics,
            heads=[],
            slices=[],
            checks=checks,
            margins=self._margins,
            sequence={name: list(values) for name, values in self.sequence.items()},
        )

    def _begin_anew(self, periods: Sequence[Mapping[str, Any]]) -> None:
        """Forget what was seen under other shares: days differ, and so do versions then that do not."""
        begun = periods[0]["since"] if periods else None
        if begun is None or begun == self._steady_since:
            return
        if self._steady_since is not None:
            self._moved += 1
            for values in self.sequence.values():
                values.clear()
            if self._keys is not None:
                self._keys = KeyTotals(self._a, self._b, since=begun, objective=self._objective)
        self._steady_since = begun

    def _different_settings(self, traffic: Mapping[str, Any]) -> str | None:
        """Say what the versions were loaded with that differs; asked anew when a version was loaded since."""
        since = traffic["periods"][-1]["since"] if traffic["periods"] else 0.0
        if self._settings is None or self._settings[0] != since:
            model = self._control.model(self._name)
            self._settings = since, different_settings(model, self._a, self._b)
        return self._settings[1]

    def _metrics(self, a: ArmCounts | KeyCounts, b: ArmCounts | KeyCounts, unit: str, *, alike: bool) -> list[Metric]:
        found = []
        if self._feedback is not None:
            found.append(self._feedback_metric(self._feedback()))
        role: Role = "guardrail" if found else "primary"
        found.append(_relative(RUN_TIME, a.run, b.run, role if alike else "shown", unit))
        found.append(_share(ERRORS, a.errors, a.requests, b.errors, b.requests, unit))
        if self._objective is not None:
            found.append(_share(MISSES, a.misses, a.answered, b.misses, b.answered, unit))
        found.append(_relative(TOTAL, a.total, b.total, "shown", unit))
        return found

    def _feedback_metric(self, values: Mapping[str, float]) -> Metric:
        """Return the mean of what users fed back, by key: a key's version is that of its requests."""
        assert self._keys is not None
        sums = {self._a: [0, 0.0, 0.0], self._b: [0, 0.0, 0.0]}
        for key, value in values.items():
            version = self._keys.version_of(_point_of(self._name, str(key)))
            if version is not None:
                kept = sums[version]
                kept[0] += 1
                kept[1] += float(value)
                kept[2] += float(value) ** 2
        first, second = (Sums(int(each[0]), each[1], each[2]) for each in (sums[self._a], sums[self._b]))
        value, low, high = difference_of_means(first, second)
        estimate = Estimate(value, low, high, first.n + second.n, f"{_SEQUENCE} over keys")
        return Metric(FEEDBACK, first.mean, second.mean, estimate, role="primary")

    def _note(self, metrics: list[Metric], counts: Sequence[ArmCounts]) -> None:
        found = metrics[0].difference  # feedback or run time, also while it decides nothing
        given = counts[0].given + counts[1].given
        row = (
            time.time() - self._began,
            float(counts[0].requests + counts[1].requests),
            found.value,
            found.low,
            found.high,
            counts[1].given / given if given else math.nan,
        )
        if self.sequence["n"] and self.sequence["n"][-1] == row[1]:
            return  # nothing came
        if len(self.sequence["n"]) >= _POINTS:
            for values in self.sequence.values():
                del values[1::2]
        for values, value in zip(self.sequence.values(), row, strict=True):
            values.append(value)


def _relative(name: str, a: Sums, b: Sums, role: Any, unit: str) -> Metric:
    value, low, high = (_ratio_of(each) for each in difference_of_means(a, b))
    method = f"{_SEQUENCE} of the mean logarithm{_OVER[unit]}"
    if min(a.n, b.n) < MIN_REQUESTS:
        method = f"{min(a.n, b.n)} {unit} of one version: nothing is said below {MIN_REQUESTS}"
    level_a, level_b = (1e3 * math.exp(each.mean) if each.n else math.nan for each in (a, b))
    estimate = Estimate(value, low, high, a.n + b.n, method)
    return Metric(name, level_a, level_b, estimate, relative=True, higher_is_better=False, role=role, unit="ms")


def _ratio_of(log_ratio: float) -> float:
    if math.isnan(log_ratio):
        return math.nan  # nothing is known
    return math.inf if log_ratio > 50 else math.expm1(log_ratio) if log_ratio > -50 else -1.0


def _share(name: str, events_a: float, of_a: int, events_b: float, of_b: int, unit: str) -> Metric:
    value, low, high = difference_of_shares(events_a, of_a, events_b, of_b)
    level_a, level_b = (events / of if of else math.nan for events, of in ((events_a, of_a), (events_b, of_b)))
    return Metric(
        name,
        level_a,
        level_b,
        Estimate(value, low, high, of_a + of_b, _EXACT + _OVER[unit]),
        higher_is_better=False,
        unit="%",
    )


def _alike(a: ArmCounts, b: ArmCounts) -> bool:
    """Whether both arms were given about as many requests."""
    return 0.8 * max(a.expected, b.expected) <= min(a.expected, b.expected)


def _ratio(a: int, b: int, seen: Sequence[ArmCounts | KeyCounts], declared: Sequence[ArmCounts], unit: str) -> Check:
    names = (f"version {a}", f"version {b}")
    given = dict(zip(names, (each.given for each in seen), strict=True))
    return sample_ratio(given, dict(zip(names, (each.expected for each in declared), strict=True)), unit)


def _key_checks(keys: KeyTotals, requests: int) -> list[Check]:
    """Return what is to be known of the keys that the comparison rests on."""
    texts = []
    lost = requests - keys.requests
    if lost > 0:
        texts.append(f"{lost:,} of {requests:,} requests were forgotten by the server before they were read.")
    if keys.keyless:
        texts.append(f"{keys.keyless:,} requests came without the key and are left out.")
    if keys.level:
        texts.append(f"One of {2**keys.level} keys is followed, as there are so many; which, a hash decides.")
    return [Check("keys", not lost > 0, " ".join(texts), fatal=False)] if texts else []


def _point_of(model: str, key: str) -> int:
    """Return the point of a key as the server has it: BLAKE2b of four bytes, over name, a zero byte and key."""
    return int.from_bytes(hashlib.blake2b(model.encode() + b"\0" + key.encode(), digest_size=4).digest(), "big")


def compare_live(
    model: ServedModel | str,
    a: int,
    b: int,
    *,
    weights: Mapping[int, float] | None = None,
    key: str | None = None,
    margins: Any = None,
    slo_ms: float | None = None,
    feedback: Callable[[], Mapping[str, float]] | None = None,
    seconds: float = 60.0,
    stop_early: bool = True,
    keep: bool = False,
    instance: str | None = None,
    progress: bool = True,
) -> CompareResult:
    """Compare two versions by the live requests that a split gives to them.

    Intervals are confidence sequences: they hold at all times at once, so the comparison may be looked at, and may
    stop, whenever it has decided. Versions share processors and queues; what tells them apart is the time in the graph,
    and the whole time is shown as that under shared load.

    When the split is by key, the key is the unit: run time, errors and misses are averaged over the requests of each
    key, intervals are over these averages, and the sample ratio is of distinct keys. Up to 100,000 keys are followed, a
    fair sample of them when there are more. As a key that comes back changes its average, these sequences are
    approximate where the others hold at all times at once.

    Parameters
    ----------
    model : ServedModel or str
    a, b : int
        Versions: in service, and candidate.
    weights : dict of int to float, optional
        Of the split that is set, and ended at the end; ``{a: 50, b: 50}`` by default, or the split that is there.
    key : str, optional
        Name of a header whose values stay with their version.
    margins : dict, str or sequence of str, optional
        For ``run time`` (relative; 0.1 by default), ``error rate`` (0.01), ``misses of the objective`` (0.01) and
        ``feedback``.
    slo_ms : float, optional
        Objective in milliseconds.
    feedback : callable, optional
        Returns values by key so far, larger ones better, such as whether a user was satisfied; needs a split by key.
        Then it is the primary metric, and the key is the unit.
    seconds : float
        How long to look at most.
    stop_early : bool
        Whether to stop when it is decided.
    keep : bool
        Leave the split as it is at the end.
    instance : str, optional
    progress : bool
        Show a bar.

    Returns
    -------
    CompareResult
        After Ctrl-C what was known then. ``sequence`` has how the primary metric came to be known.

    Raises
    ------
    WorkbenchError
        The split does not have these versions, or an argument is wrong.
    ControlError
        A version cannot be loaded.
    """
    wanted = Margins.parse(margins)
    wanted.check([RUN_TIME, ERRORS, MISSES, *([FEEDBACK] if feedback is not None else [])])
    if a == b:
        raise WorkbenchError(
            f"A live split gives requests to different versions; {a} is given twice.",
            hint="sw.aa compares a version with itself.",
        )
    found = model if isinstance(model, ServedModel) else connect(model, instance)
    assert isinstance(found, ServedModel)
    control = found.server.control
    traffic = control.traffic(found.name)
    ours = weights is not None or not traffic["weights"]
    if ours and traffic["weights"]:
        raise WorkbenchError(
            f"Requests of '{found.name}' are split already ({', '.join(traffic['weights'])}).",
            hint=f"Leave weights= out to look at that split, or end it first: {found.name}.traffic({{}}).",
        )
    if not ours and (slo_ms is not None or key is not None):
        raise WorkbenchError(
            f"Requests of '{found.name}' are split already: slo_ms= and key= go with a split that is set here.",
            hint=f"End it first: {found.name}.traffic({{}}).",
        )
    if feedback is not None and key is None and not traffic["key"]:
        raise WorkbenchError(
            "Feedback is of keys, and the split is by lot: nobody could tell which version a key has seen.",
            hint='Give the name of the header too, such as key="x-serving-key".',
        )
    parts = {str(version) for version in (weights if weights is not None else traffic["weights"] or (a, b))}
    for version in (a, b):
        if str(version) not in parts:
            raise WorkbenchError(
                f"Version {version} has no part in the split of '{found.name}' ({', '.join(sorted(parts))})."
            )
    since = 0.0
    if ours:
        since = time.time()
        chosen = {a: 50.0, b: 50.0} if weights is None else dict(weights)
        options: dict[str, Any] = {} if slo_ms is None else {"slo_ms": slo_ms}
        if key is not None:
            options["key"] = key
        plain = {str(version): float(weight) for version, weight in chosen.items()}
        traffic = control.put_traffic(found.name, plain, seconds=60.0, **options)
    else:
        since = traffic["since"] or 0.0
    steps = Steps("live", seconds, enabled=progress)
    began = time.monotonic()
    result: CompareResult | None = None
    try:
        reader = LiveReader(
            control,
            found.name,
            a,
            b,
            since=since,
            margins=wanted,
            objective=objective_of(traffic),
            keyed=bool(traffic["key"]),
            feedback=feedback,
        )
        result = reader.read()
        while time.monotonic() - began < seconds:
            time.sleep(min(_LOOK, max(0.0, seconds - (time.monotonic() - began))))
            result = reader.read()
            steps.step("requests", result.source.rpartition(", ")[2])
            if stop_early and decide(result.metrics, (), result.checks).kind in ("SHIP", "REJECT"):
                break
    except KeyboardInterrupt:
        if result is None:
            raise  # nothing is known yet
        result.complete = False
    finally:
        steps.close()
        if ours and not keep:
            control.delete_traffic(found.name)
    result.seconds = dict(steps.seconds)
    return result
