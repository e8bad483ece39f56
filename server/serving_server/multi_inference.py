"""MultiInference: several classifications and regressions of the same examples, computed in one run.

Pure functions, used by every transport and by warmup. Rules and texts are TensorFlow Serving's (servables/tensorflow/
multi_inference.cc); what it leaves out follows in parentheses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from serving_server import classification, regression
from serving_server.classification import Classifications
from serving_server.errors import InvalidArgumentError, UnimplementedError
from serving_server.inputs import offered
from serving_server.signatures import CLASSIFY_METHOD, DEFAULT_SIGNATURE, REGRESS_METHOD, Signature
from serving_server.tensors import Array

__all__ = ["InferenceTask", "Plan", "PlannedTask", "plan", "results", "union"]


class InferenceTask(NamedTuple):
    """One of the wishes of a request, as sent; its version does not count."""

    model: str
    signature_name: str
    method_name: str


@dataclasses.dataclass(frozen=True, slots=True)
class PlannedTask:
    """A wish that can be fulfilled.

    Attributes
    ----------
    signature : Signature
    classifies : bool
        Whether it classifies; else it regresses.
    fetches : dict of str to str
        From the aliases of its outputs to names of tensors.
    """

    signature: Signature
    classifies: bool
    fetches: dict[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What one run must feed and fetch.

    Attributes
    ----------
    tasks : tuple of PlannedTask
    feeds, fetches : tuple of str
        Names of tensors, sorted, each once.
    """

    tasks: tuple[PlannedTask, ...]
    feeds: tuple[str, ...]
    fetches: tuple[str, ...]

    @property
    def name(self) -> str:
        """The signatures, as people read them."""
        return ", ".join(task.signature.name for task in self.tasks)

    def named(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return outputs by signature and alias, such as ``classify/scores``, in place of the names of tensors."""
        return {
            f"{task.signature.name}/{alias}": outputs[tensor]
            for task in self.tasks
            for alias, tensor in task.fetches.items()
        }


def plan(
    tasks: Sequence[InferenceTask], signatures: Mapping[str, Signature], definitions: Any, *, method_name: bool
) -> Plan:
    """Return what to run for a request.

    Parameters
    ----------
    tasks : sequence of InferenceTask
    signatures : mapping of str to Signature
        Of the version that answers.
    definitions : mapping of str to message
        The same as `SignatureDef` messages, to be quoted.
    method_name : bool
        Whether each signature's method must be the task's (``--enable_signature_method_name_check``).

    Raises
    ------
    InvalidArgumentError
        Tasks of different models, a signature that is missing, wanted twice or unfit.
    UnimplementedError
        A task is neither a classification nor a regression.
    """
    planned: dict[str, PlannedTask] = {}
    feeds: set[str] = set()
    fetches: set[str] = set()
    for task in tasks:
        if not task.model:
            raise InvalidArgumentError("Found ModelSpec with an empty model name.")
        if task.model != tasks[0].model:
            msg = (
                "All ModelSpecs in a MultiInferenceRequest must access the same model name. "
                f"(this one: {tasks[0].model}, {task.model})"
            )
            raise InvalidArgumentError(msg)
        name = task.signature_name or DEFAULT_SIGNATURE
        if name in planned:
            raise InvalidArgumentError(f"Duplicate evaluation of signature: {name}")
        signature = signatures.get(name)
        if signature is None:
            msg = f"Requested signature not found in model graph: {name} (this version has: {offered(signatures)})"
            raise InvalidArgumentError(msg)
        if task.method_name == CLASSIFY_METHOD:
            outputs = classification.check(signature, definitions[name], method_name=method_name)
        elif task.method_name == REGRESS_METHOD:
            outputs = regression.check(signature, definitions[name], method_name=method_name)
        else:
            msg = (
                f"Unsupported signature method_name: {task.method_name} (there are {CLASSIFY_METHOD} and "
                f"{REGRESS_METHOD})"
            )
            raise UnimplementedError(msg)
        tensors = {alias: signature.outputs[alias].tensor_name for alias in outputs}
        planned[name] = PlannedTask(signature, task.method_name == CLASSIFY_METHOD, tensors)
        feeds.update(spec.tensor_name for spec in signature.inputs.values())
        fetches.update(tensors.values())
    return Plan(tuple(planned.values()), tuple(sorted(feeds)), tuple(sorted(fetches)))


def union(wanted: Plan) -> Signature:
    """Return a signature of all that a plan feeds and fetches; its aliases are names of tensors.

    Its own name says the same, so that plans which need the same tensors share batches.
    """
    signatures = [task.signature for task in wanted.tasks]
    inputs = {spec.tensor_name: spec for signature in signatures for spec in signature.inputs.values()}
    outputs = {spec.tensor_name: spec for signature in signatures for spec in signature.outputs.values()}
    return Signature(
        f"MultiInference({', '.join(wanted.feeds)} -> {', '.join(wanted.fetches)})",
        "",
        {name: dataclasses.replace(inputs[name], alias=name) for name in wanted.feeds},
        {name: dataclasses.replace(outputs[name], alias=name) for name in wanted.fetches},
        {},
    )


def results(wanted: Plan, outputs: Mapping[str, Array], examples: int) -> list[Classifications | Array]:
    """Return what each task of a plan asked for, in its order.

    Parameters
    ----------
    wanted : Plan
    outputs : mapping of str to ndarray
        By the name of the tensor; not copied.
    examples : int
        How many were fed.

    Raises
    ------
    InvalidArgumentError
        As `classification.result` and `regression.result`.
    """
    answers: list[Classifications | Array] = []
    for task in wanted.tasks:
        own = {alias: outputs[tensor] for alias, tensor in task.fetches.items()}
        answers.append((classification if task.classifies else regression).result(own, examples))
    return answers
