"""Classify, Regress and MultiInference, decided once for gRPC, REST and warmup: what runs, and what comes of it.

Each is one run of the graph that feeds the serialized examples to one input, or to several at once, so that these
requests wait in the same queues and share batches as those of Predict do. Everything runs on the loop.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar, cast

from serving_server import classification, multi_inference, regression
from serving_server.batching.task import OnDone, Task
from serving_server.classification import Classifications
from serving_server.errors import InternalError, ResourceExhaustedError, ServingError
from serving_server.inference import Resolved
from serving_server.inputs import check_dtypes, example_signature
from serving_server.mirroring.mirror import Mirror, Union
from serving_server.multi_inference import InferenceTask, Plan
from serving_server.request_log import record
from serving_server.request_log.record import Record
from serving_server.request_log.registry import RequestLogs
from serving_server.servable import ServedVersion
from serving_server.signatures import CLASSIFY_METHOD, REGRESS_METHOD
from serving_server.stamps.asked import Asked
from serving_server.tensors import Array
from serving_server.traffic.router import Arm, Caller

__all__ = ["MAX_UNIONS", "ExampleInference", "OnAnswer"]

T = TypeVar("T")

#: Sets of tensors that the MultiInference requests of one version may ask for. The worker keeps a callable of each.
MAX_UNIONS: Final = 64

#: (model, version, label, caller) to the version that answers, and the arm of the split that chose it.
Lookup = Callable[[str, int | None, str | None, Caller | None], tuple[ServedVersion, Arm | None]]

#: Called once, later, on the loop, with the answer or with an error; the answer's arrays are good inside it only.
OnAnswer = Callable[[T | None, ServingError | None], None]


class ExampleInference:
    """Answers requests whose input is a list of tf.Examples.

    Parameters
    ----------
    lookup : callable
        From what a ModelSpec names to the version that answers; see `Inference.routed`.
    check_method_names : bool
        Refuse signatures that were not made for the method (``--enable_signature_method_name_check``).
    request_logs : RequestLogs
        What is shown the requests.
    mirrors : mapping of str to Mirror
        What copies requests, by model.
    """

    def __init__(
        self,
        lookup: Lookup,
        *,
        check_method_names: bool,
        request_logs: RequestLogs,
        mirrors: Mapping[str, Mirror],
    ) -> None:
        self._lookup = lookup
        self._request_logs = request_logs
        self._mirrors = mirrors
        self._check = check_method_names
        self._loop = asyncio.get_running_loop()

    # -- Classify and Regress ------------------------------------------------------------------------------------------

    def classification(
        self, model: str, version: int | None, label: str | None, signature_name: str, caller: Caller | None = None
    ) -> Resolved:
        """Return the target of a Classify request; `caller` as for `Inference.servable`.

        Raises
        ------
        ServingError
            As `Inference.servable`, or the signature is missing or cannot classify.
        """
        found = self._target(CLASSIFY_METHOD, *self._lookup(model, version, label, caller), signature_name)
        return self._marked(found, version, label, caller) if self._mirrors else found

    def regression(
        self, model: str, version: int | None, label: str | None, signature_name: str, caller: Caller | None = None
    ) -> Resolved:
        """Return the target of a Regress request; raises as `classification` does."""
        found = self._target(REGRESS_METHOD, *self._lookup(model, version, label, caller), signature_name)
        return self._marked(found, version, label, caller) if self._mirrors else found

    def _marked(self, resolved: Resolved, version: int | None, label: str | None, caller: Caller | None) -> Resolved:
        mirror = self._mirrors.get(resolved.servable.model)
        if mirror is None or version is not None or label is not None or caller is None:
            return resolved
        return mirror.marked(resolved)

    def _target(self, method: str, servable: ServedVersion, arm: Arm | None, name: str) -> Resolved:
        if arm is None:
            return self._of(method, servable, name)
        found = arm.resolved.get((method, name))
        if found is None:
            try:
                found = dataclasses.replace(self._of(method, servable, name), arm=arm)
            except ServingError as error:
                arm.failed(error.code)  # a signature that only the other version has is a failure of this one
                raise
            arm.resolved[method, name] = found
        return cast("Resolved", found)

    def _of(self, method: str, servable: ServedVersion, name: str) -> Resolved:
        found = servable.resolved.get((method, name))
        if found is None:
            signature = example_signature(servable.signatures, name)
            definition = servable.signature_defs.signature_def[signature.name]
            check = (classification if method == CLASSIFY_METHOD else regression).check
            outputs = check(signature, definition, method_name=self._check)
            found = Resolved(servable, signature, outputs, servable.statistics.requests(signature.name))
            servable.resolved[method, name] = found
        return cast("Resolved", found)

    def classify(
        self,
        resolved: Resolved,
        strings: Array,
        deadline: float | None,
        on_done: OnAnswer[Classifications],
        received: float = 0.0,
        asked: Asked | None = None,
    ) -> Callable[[], None]:
        """Classify examples.

        Parameters
        ----------
        resolved : Resolved
            From `classification`.
        strings : ndarray of object
            Serialized examples, [number of examples] (see `serving_server.examples`).
        deadline : float or None
            On the loop's clock.
        on_done : callable
            Not called after a cancel.
        received, asked
            As of `Task`.

        Returns
        -------
        callable
            Cancels the request.

        Raises
        ------
        ServingError
            When the signature's input takes no strings, or the request cannot be queued.
        """
        count = len(strings)

        def read(outputs: Mapping[str, Array]) -> Classifications:
            return classification.result(outputs, count)

        def make(answer: Classifications) -> Record:
            served = resolved.servable
            return record.classify(served.model, served.version, resolved.signature, strings, answer)

        tapped = self._tapped(resolved, make, on_done)
        return self._run("Classify", resolved, strings, deadline, read, tapped, received, asked)

    def regress(
        self,
        resolved: Resolved,
        strings: Array,
        deadline: float | None,
        on_done: OnAnswer[Array],
        received: float = 0.0,
        asked: Asked | None = None,
    ) -> Callable[[], None]:
        """Give each example a value; as `classify`, with a target from `regression`."""
        count = len(strings)

        def read(outputs: Mapping[str, Array]) -> Array:
            return regression.result(outputs, count)

        def make(answer: Array) -> Record:
            served = resolved.servable
            return record.regress(served.model, served.version, resolved.signature, strings, answer)

        tapped = self._tapped(resolved, make, on_done)
        return self._run("Regress", resolved, strings, deadline, read, tapped, received, asked)

    # -- MultiInference ------------------------------------------------------------------------------------------------

    def multi(
        self, version: int | None, label: str | None, tasks: Sequence[InferenceTask], caller: Caller | None = None
    ) -> tuple[Resolved, Plan]:
        """Return the target of a MultiInference request, and what of it each task wants.

        Parameters
        ----------
        version, label
            Of the first task: as in TensorFlow Serving, those of the others do not count.
        tasks : sequence of InferenceTask
        caller : Caller, optional
            As for `Inference.servable`; all tasks go to one version.

        Raises
        ------
        ServingError
            As `Inference.servable` and `multi_inference.plan`.
        """
        servable, arm = self._lookup(tasks[0].model if tasks else "", version, label, caller)
        try:
            found, wanted = self._union(servable, tasks)
        except ServingError as error:
            if arm is not None:
                arm.failed(error.code)
            raise
        if arm is not None:
            found = dataclasses.replace(found, arm=arm)
        return (self._marked(found, version, label, caller) if self._mirrors else found), wanted

    def _union(self, servable: ServedVersion, tasks: Sequence[InferenceTask]) -> tuple[Resolved, Plan]:
        definitions = servable.signature_defs.signature_def
        wanted = multi_inference.plan(tasks, servable.signatures, definitions, method_name=self._check)
        unions: dict[Any, Resolved] = servable.resolved.setdefault(("unions",), {})
        key = (wanted.feeds, wanted.fetches)
        found = unions.get(key)
        if found is None:
            if len(unions) >= MAX_UNIONS:
                msg = (
                    f"MultiInference requests have asked version {servable.version} of model {servable.model} for "
                    f"{MAX_UNIONS} different sets of tensors; it takes no more. Ask for sets that were asked for "
                    "before, or by Classify and Regress"
                )
                raise ResourceExhaustedError(msg)
            signature = multi_inference.union(wanted)
            requests = servable.statistics.requests(signature.name)
            found = unions[key] = Resolved(servable, signature, wanted.fetches, requests)
        return found, wanted

    def infer(
        self,
        resolved: Resolved,
        wanted: Plan,
        strings: Array,
        deadline: float | None,
        on_done: OnAnswer[list[Classifications | Array]],
        received: float = 0.0,
        asked: Asked | None = None,
    ) -> Callable[[], None]:
        """Fulfil all tasks of a plan in one run; as `classify`, with target and plan from `multi`."""
        count = len(strings)

        def read(outputs: Mapping[str, Array]) -> list[Classifications | Array]:
            return multi_inference.results(wanted, outputs, count)

        def make(answers: list[Classifications | Array]) -> Record:
            served = resolved.servable
            return record.multi_inference(served.model, served.version, wanted, strings, answers)

        tapped = self._tapped(resolved, make, on_done)
        union = None
        if resolved.mirror is not None:
            union = Union(wanted, partial(self._union, tasks=_tasks_of(resolved.servable.model, wanted)))
        return self._run("MultiInference", resolved, strings, deadline, read, tapped, received, asked, union)

    # ------------------------------------------------------------------------------------------------------------------

    def _tapped(self, resolved: Resolved, make: Callable[[T], Record], on_done: OnAnswer[T]) -> OnAnswer[T]:
        if not self._request_logs.by_model:
            return on_done
        return self._request_logs.tapped(resolved.servable.model, resolved.version, make, on_done)

    def _run(
        self,
        api: str,
        resolved: Resolved,
        strings: Array,
        deadline: float | None,
        read: Callable[[Mapping[str, Array]], T],
        on_done: OnAnswer[T],
        received: float,
        asked: Asked | None,
        union: Union | None = None,
    ) -> Callable[[], None]:
        def done(outputs: dict[str, Array] | None, error: ServingError | None) -> None:
            if outputs is None:
                on_done(None, error or InternalError("no outputs and no error"))
                return
            try:
                answer = read(outputs)
            except ServingError as problem:
                if task.outcomes is not None:
                    # The graph has run, but its client gets an error: it counts as that, not as an answer too.
                    task.outcomes.failed(problem.code, task.arrived, task.point)
                    task.outcomes = None
                on_done(None, problem)
            else:
                on_done(answer, None)

        signature = resolved.signature
        inputs = dict.fromkeys(signature.inputs, strings)
        on_outputs: OnDone = done
        if resolved.mirror is not None:
            on_outputs = resolved.mirror.watched(resolved, inputs, resolved.outputs, api, done, union)
        now = self._loop.time()
        task = Task(signature, inputs, resolved.outputs, now, deadline, on_outputs, api, received, asked)
        if resolved.arm is not None:
            task.outcomes, task.point = resolved.arm.outcomes, resolved.arm.point
        try:
            check_dtypes(signature, inputs)
            return resolved.servable.submit(task)
        except ServingError as error:
            resolved.refused(error, received, asked)
            raise


def _tasks_of(model: str, wanted: Plan) -> list[InferenceTask]:
    """Return the tasks of a plan as a client would write them, for another version to plan."""
    return [
        InferenceTask(model, task.signature.name, CLASSIFY_METHOD if task.classifies else REGRESS_METHOD)
        for task in wanted.tasks
    ]
