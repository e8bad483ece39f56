"""Ramps: a candidate gets more requests step by step, and none any more when it is surely worse than allowed.

They run in the server, so that they go on when the notebook that began them is gone, and go back when it is.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from pathlib import Path
from typing import Any, Final

from serving_server.errors import FailedPreconditionError, ServingError
from serving_server.lifecycle.manager import Manager
from serving_server.lifecycle.states import Specific, State
from serving_server.metrics.exposition import Family
from serving_server.traffic.guarding import Judgment, joined, judge
from serving_server.traffic.journal import Journal
from serving_server.traffic.ramp_plan import RampPlan
from serving_server.traffic.splits import Splits

__all__ = ["Ramps"]

log = logging.getLogger(__name__)

#: How often a running ramp is looked at. Seconds.
_LOOK: Final = 0.1
#: States in which a ramp is over.
_OVER: Final = ("finished", "rolled back", "aborted", "ended")
_STATES: Final = ("running", "paused", *_OVER)
_PREFIX: Final = "serving_workbench_ramp_"


class _Ramp:
    """One ramp, running or over."""

    def __init__(self, number: int, model: str, plan: RampPlan) -> None:
        self.number = number
        self.model = model
        self.plan = plan
        self.state = "running"
        self.step = 0
        self.reason: str | None = None
        self.began = time.time()
        self.step_began = self.began
        self.counted_from = self.began  # before the weights of the step came into force
        self.judgments: list[Judgment] = []
        self.requests: dict[str, int] = {}
        self.task: asyncio.Task[None] | None = None

    @property
    def weight(self) -> float:
        """Share of the requests that its version is to get now."""
        return self.plan.steps[self.step] / 100 if self.state not in _OVER else 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "ramp": self.number,
            "state": self.state,
            "step": self.step + 1,
            "percent": self.plan.steps[self.step] if self.state in ("running", "paused") else None,
            "reason": self.reason,
            "began": self.began,
            "step_began": self.step_began,
            "requests": self.requests,
            "judgments": [each.to_json() for each in self.judgments],
            "plan": self.plan.to_json(),
        }


class Ramps:
    """Starts, watches and ends ramps. All calls on the loop.

    Parameters
    ----------
    manager : Manager
    splits : Splits
    journal : Path or None
        Where its events are kept beyond the end of the server.
    """

    def __init__(self, manager: Manager, splits: Splits, journal: Path | None = None) -> None:
        self._manager = manager
        self._splits = splits
        self._journal = Journal(journal)
        self._ramps: dict[str, _Ramp] = {}
        last = max(
            (event.get("ramp", 0) for name in self._journal.models() for event in self._journal.of(name)), default=0
        )
        self._numbers = itertools.count(last + 1)
        for name in sorted(self._journal.models()):
            event = self._journal.of(name)[-1]
            if event["event"] not in _OVER:
                # Its counts are lost, so nobody could tell what the candidate did: nothing goes on by itself.
                reason = "the server that ran it has ended; all requests go to the version that the policy chooses"
                self._journal.add(name, event["ramp"], "ended", reason=reason)

    async def start(self, model: str, plan: RampPlan) -> None:
        """Begin a ramp; its first step is in force when this returns.

        Raises
        ------
        FailedPreconditionError
            The baseline is not what answers, or a ramp of this model runs already.
        ServingError
            The candidate is not on disk, or cannot be loaded; see `Splits.put`.
        """
        self._manager.policy(model)  # unknown models first
        running = self._ramps.get(model)
        if running is not None and running.state not in _OVER:
            raise FailedPreconditionError(
                f"a ramp of model {model} to version {running.plan.candidate} is {running.state}; abort it first"
            )
        serving = self._manager.serving_version(model)
        if model in self._splits.routers:
            raise FailedPreconditionError(f"requests of model {model} are split already; end the split first")
        if serving != plan.baseline:
            raise FailedPreconditionError(
                f"a ramp begins at the version that answers, which is {serving or 'none'} of model {model}, not "
                f"{plan.baseline}; roll back to it first, so that there is something to go back to"
            )
        ramp = _Ramp(next(self._numbers), model, plan)  # its requests count from here
        before = self._ramps.get(model)
        self._ramps[model] = ramp
        try:
            await self._splits.put(model, plan.wish(0))
        except BaseException:
            if before is None:
                self._ramps.pop(model, None)
            else:
                self._ramps[model] = before
            raise
        if ramp.state in _OVER:  # aborted while its first step was prepared
            self._splits.end(model, "the ramp was aborted")
            raise FailedPreconditionError(f"the ramp of model {model} was taken back while it began")
        ramp.began = ramp.step_began = time.time()
        self._journal.add(model, ramp.number, "begun", plan=plan.to_json())
        self._note_step(ramp)
        ramp.task = asyncio.get_running_loop().create_task(self._run(ramp))

    def pause(self, model: str) -> None:
        """Stay at the present step, guarded, until `resume`. Idempotent.

        Raises
        ------
        FailedPreconditionError
            No ramp runs.
        """
        ramp = self._active(model)
        if ramp.state == "running":
            ramp.state = "paused"
            self._journal.add(model, ramp.number, "paused", step=ramp.step + 1)

    def resume(self, model: str) -> None:
        """Go on after `pause`. Idempotent."""
        ramp = self._active(model)
        if ramp.state == "paused":
            ramp.state = "running"
            self._journal.add(model, ramp.number, "resumed", step=ramp.step + 1)

    def abort(self, model: str) -> None:
        """Give all requests back to the baseline; without a ramp, do nothing."""
        self._manager.policy(model)
        ramp = self._ramps.get(model)
        if ramp is not None and ramp.state not in _OVER:
            self._end(ramp, "aborted", "it was taken back")

    def forget(self, model: str) -> None:
        """Drop the ramp of a model that is removed; its journal stays."""
        ramp = self._ramps.pop(model, None)
        if ramp is not None and ramp.state not in _OVER:
            self._close(ramp, "ended", "the model was removed")

    def close(self) -> None:
        """End all of them: the server ends."""
        for ramp in self._ramps.values():
            if ramp.state not in _OVER:
                self._close(ramp, "ended", "the server ends")

    def summary(self, model: str) -> dict[str, Any] | None:
        """Return the last ramp of a model, running or over; None when there was none since the server began."""
        ramp = self._ramps.get(model)
        return None if ramp is None else ramp.to_json()

    def families(self) -> list[Family]:
        """Return the metrics: of the last ramp of each model, running or over."""
        steps: dict[tuple[str, str], int] = {}
        weights: dict[tuple[str, str], float] = {}
        states: dict[tuple[str, str, str], int] = {}
        for model, ramp in self._ramps.items():
            labels = model, str(ramp.plan.candidate)
            steps[labels] = ramp.step + 1
            weights[labels] = ramp.weight
            # One series per state, so that an alert on one is a comparison with 1.
            states |= {(*labels, state): int(state == ramp.state) for state in _STATES}
        labels = ("model_name", "version")
        weight = "Share of the requests that the ramp gives to its version now; 0 when it is over."
        return [
            Family(_PREFIX + "step", "gauge", labels, steps, help="Step of a ramp to a version, from 1."),
            Family(_PREFIX + "weight", "gauge", labels, weights, help=weight),
            Family(_PREFIX + "state", "gauge", (*labels, "state"), states, help="1 for the state that a ramp is in."),
        ]

    def journal(self, model: str) -> list[dict[str, Any]]:
        """Return the events of all ramps of a model, oldest first."""
        self._manager.policy(model)
        return self._journal.of(model)

    # -- a ramp that runs ----------------------------------------------------------------------------------------------

    async def _run(self, ramp: _Ramp) -> None:
        try:
            while ramp.state not in _OVER:
                await asyncio.sleep(_LOOK)
                if ramp.state in _OVER or self._replaced(ramp) or self._breached(ramp):
                    return
                if ramp.state == "running" and self._passed(ramp):
                    await self._advance(ramp)
        except ServingError as error:
            if ramp.state not in _OVER:
                self._end(ramp, "rolled back", f"the next step failed: {error.message}")
        except Exception as error:
            log.exception("the ramp of model %s failed", ramp.model)
            if ramp.state not in _OVER:
                self._end(ramp, "rolled back", f"it failed: {type(error).__name__}: {error}")

    def _replaced(self, ramp: _Ramp) -> bool:
        """End a ramp whose split is not its own any more: somebody decided otherwise, and is not overruled."""
        router = self._splits.routers.get(ramp.model)
        if router is not None and router.weights == ramp.plan.wish(ramp.step).weights:
            return False
        ended = (self._splits.summary(ramp.model) or {}).get("ended") or {}
        reason = "the weights were changed by hand" if router is not None else ended.get("reason", "the split ended")
        self._close(ramp, "ended", f"{reason}")
        return True

    def _breached(self, ramp: _Ramp) -> bool:
        router = self._splits.routers[ramp.model]
        plan = ramp.plan
        view = self._manager.version(ramp.model, plan.candidate)
        if view is None or view.state is not State.AVAILABLE:
            state = "gone" if view is None else view.state.name
            self._end(ramp, "rolled back", f"version {plan.candidate} is not available ({state})")
            return True
        found = [
            joined(
                arm.outcomes
                for period in router.periods
                if period.since >= ramp.counted_from
                for arm in period.arms
                if arm.version == version
            )
            for version in (plan.baseline, plan.candidate)
        ]
        ramp.requests = {str(plan.baseline): found[0].requests, str(plan.candidate): found[1].requests}
        ramp.judgments = judge(plan, found[0], found[1])
        worse = [each for each in ramp.judgments if each.breached]
        if worse:
            self._end(ramp, "rolled back", "; ".join(map(str, worse)))
        return bool(worse)

    def _passed(self, ramp: _Ramp) -> bool:
        plan = ramp.plan
        enough = ramp.requests.get(str(plan.candidate), 0) >= plan.min_requests
        return enough and time.time() - ramp.step_began >= plan.hold

    async def _advance(self, ramp: _Ramp) -> None:
        plan = ramp.plan
        self._journal.add(ramp.model, ramp.number, "passed", **self._told(ramp))
        if ramp.step + 1 < len(plan.steps):
            ramp.counted_from = time.time()
            ramp.step += 1  # before the weights change, so that they are seen to be its own
            await self._splits.put(ramp.model, plan.wish(ramp.step))
            ramp.step_began = time.time()
            self._note_step(ramp)
        elif plan.finish == "hold":
            self._close(ramp, "finished", f"version {plan.candidate} keeps {plan.steps[-1]:g} % of the requests")
        else:
            self._manager.set_policy(ramp.model, Specific([plan.candidate]))
            self._manager.promote(ramp.model, plan.candidate)  # it may have been held: loaded beside by hand
            self._close(ramp, "finished", f"version {plan.candidate} answers all requests")

    def _note_step(self, ramp: _Ramp) -> None:
        self._journal.add(
            ramp.model,
            ramp.number,
            "step",
            step=ramp.step + 1,
            percent=ramp.plan.steps[ramp.step],
            version=ramp.plan.candidate,
        )

    def _end(self, ramp: _Ramp, state: str, reason: str) -> None:
        """Give all requests back to the baseline: it answers when nothing is split."""
        self._close(ramp, state, reason)
        self._splits.end(ramp.model, f"the ramp was {state}: {reason}")

    def _close(self, ramp: _Ramp, state: str, reason: str) -> None:
        ramp.state, ramp.reason = state, reason
        self._journal.add(ramp.model, ramp.number, state, reason=reason, **self._told(ramp))
        task, ramp.task = ramp.task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    @staticmethod
    def _told(ramp: _Ramp) -> dict[str, Any]:
        return {
            "step": ramp.step + 1,
            "percent": ramp.plan.steps[ramp.step],
            "requests": dict(ramp.requests),
            "judgments": [each.to_json() for each in ramp.judgments],
        }

    def _active(self, model: str) -> _Ramp:
        self._manager.policy(model)
        ramp = self._ramps.get(model)
        if ramp is None or ramp.state in _OVER:
            raise FailedPreconditionError(f"no ramp of model {model} is running")
        return ramp
