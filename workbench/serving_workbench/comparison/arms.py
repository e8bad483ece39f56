"""Whom a comparison asks: versions and labels of a served model, other models, or any TensorFlow Serving endpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from typing import Any, Final

from serving_server.signatures import Signature
from serving_workbench.client import PredictClient
from serving_workbench.errors import PredictError, WorkbenchError
from serving_workbench.handle import ServedModel, connect
from serving_workbench.savedmodel import default_signature_name

__all__ = ["Arm", "opened", "same_signature"]

_ENDPOINT: Final = re.compile(r"(?P<address>[^/]+:\d+)/(?P<model>[^@]+)(?:@(?P<version>.+))?")
_SPELLINGS: Final = (
    "Write a version (2), a label ('canary'), another model ('small', 'small@3', 'small@canary'), or a server "
    "('host:8500/digits@3')."
)


@dataclasses.dataclass
class Arm:
    """One side of a comparison.

    Attributes
    ----------
    text : str
        As it is shown: ``digits@2``, ``host:8500/digits``.
    model : str
    version : int, str or None
        A number; of a server that is not ours also a label, or the version that answers unversioned requests.
    client : PredictClient
    served : ServedModel or None
        None: a server that is not ours.
    """

    text: str
    model: str
    version: int | str | None
    client: PredictClient
    served: ServedModel | None

    def signature(self, wanted: str | None) -> Signature:
        """Ask for a signature.

        Raises
        ------
        PredictError
            The arm does not answer.
        WorkbenchError
            It has no such signature.
        """
        try:
            found = self.client.signatures(self.model, self.version)
        except PredictError as error:
            raise PredictError(
                f"{self.text} does not tell its signatures: {error.message}", code=error.code, hint=error.hint
            ) from None
        if not found:
            raise WorkbenchError(f"{self.text} has no signature that can be called.")
        name = wanted or default_signature_name(found)
        if name not in found:
            raise WorkbenchError(f"{self.text} has no signature '{name}'; its signatures are {', '.join(found)}.")
        return found[name]

    def answer(self, inputs: dict[str, Any], signature: str, timeout: float) -> dict[str, Any]:
        """Return the outputs of some rows.

        Raises
        ------
        PredictError
        """
        return self.client.outputs(self.model, inputs, version=self.version, signature=signature, timeout=timeout)


@contextlib.contextmanager
def opened(model: ServedModel | str | None, a: Any, b: Any, instance: str | None) -> Iterator[tuple[Arm, Arm]]:
    """Return both arms, ready to answer.

    Versions that are not loaded are loaded beside what answers, and unloaded at the end.

    Parameters
    ----------
    model : ServedModel, str or None
        Whose versions and labels `a` and `b` are, where they name no other.
    a, b : int, str or ServedModel
    instance : str, optional
        Where models are looked for.

    Raises
    ------
    WorkbenchError
        An arm is none.
    """
    with contextlib.ExitStack() as stack:
        base = _served(model, instance, stack) if model is not None else None
        first, second = (_arm(given, base, instance, stack) for given in (a, b))
        for arm in (first, second):
            _load(arm, stack)
        yield first, second


def _served(model: ServedModel | str, instance: str | None, stack: contextlib.ExitStack) -> ServedModel:
    if isinstance(model, ServedModel):
        return model
    found = connect(model, instance)
    assert isinstance(found, ServedModel)
    stack.callback(found.close)
    return found


def _arm(given: Any, base: ServedModel | None, instance: str | None, stack: contextlib.ExitStack) -> Arm:
    if isinstance(given, ServedModel):
        return _own(given, given.version, stack)
    if isinstance(given, bool) or not isinstance(given, int | str):
        raise WorkbenchError(f"{given!r} cannot be compared.", hint=_SPELLINGS)
    text = str(given).strip()
    endpoint = _ENDPOINT.fullmatch(text)
    if endpoint:
        client = stack.enter_context(PredictClient(endpoint["address"]))
        return Arm(text, endpoint["model"], _version(endpoint["version"]), client, None)
    name, _, rest = text.partition("@")
    if rest:
        if base is not None and name == base.name:
            return _own(base, _version(rest), stack)
        return _own(_served(name, instance if base is None else base.server.name, stack), _version(rest), stack)
    if base is None:
        if isinstance(given, int) or text.isdigit():
            raise WorkbenchError(f"Version {text} of which model?", hint=_SPELLINGS)
        return _own(_served(text, instance, stack), None, stack)
    if text.isdigit():
        return _own(base, int(text), stack)
    if text in _labels(base):
        return _own(base, text, stack)
    if text == base.name:
        return _own(base, None, stack)
    models = base.server.control.status()["models"]
    if text in models:
        return _own(_served(text, base.server.name, stack), None, stack)
    labels = ", ".join(sorted(_labels(base))) or "none"
    raise WorkbenchError(
        f"'{text}' is neither a label of '{base.name}' ({labels}) nor a model that is served "
        f"({', '.join(sorted(models))}).",
        hint=_SPELLINGS,
    )


def _version(text: str | None) -> int | str | None:
    if text is None:
        return None
    return int(text) if text.isdigit() else text


def _labels(served: ServedModel) -> dict[str, int]:
    return dict(served.describe()["labels"])


def _loaded(served: ServedModel) -> set[int]:
    return {each["version"] for each in served.describe()["versions"] if each["state"] == "AVAILABLE"}


def _own(served: ServedModel, version: int | str | None, stack: contextlib.ExitStack) -> Arm:
    """Return an arm of our own server, with its version by number: labels and rollbacks may move meanwhile."""
    number: int | None
    if isinstance(version, str):
        labels = _labels(served)
        if version not in labels:
            known = ", ".join(sorted(labels)) or "none"
            raise WorkbenchError(f"'{served.name}' has no label '{version}'; it has {known}.", hint=_SPELLINGS)
        number, label = labels[version], f" ({version})"
    else:
        number, label = served.serving_version if version is None else version, ""
        if number is None:
            raise WorkbenchError(f"No version of '{served.name}' answers.", hint=f"Look at sw.status({served.name!r}).")
    client = stack.enter_context(PredictClient(served.grpc_endpoint))
    return Arm(f"{served.name}@{number}{label}", served.name, number, client, served)


def _load(arm: Arm, stack: contextlib.ExitStack) -> None:
    if arm.served is None or not isinstance(arm.version, int) or arm.version in _loaded(arm.served):
        return
    arm.served.load(arm.version)
    stack.callback(arm.served.unload, arm.version)


def same_signature(a: Arm, b: Arm, wanted: str | None) -> Signature:
    """Return the signature of both arms.

    Raises
    ------
    WorkbenchError
        Their inputs differ in name or dtype, so that the same rows cannot be sent to both.
    """
    first, second = a.signature(wanted), b.signature(wanted)
    required = {name for name in first.inputs if name not in first.defaults}
    other = {name for name in second.inputs if name not in second.defaults}
    for name in sorted(required ^ other):
        if name not in first.inputs or name not in second.inputs:
            has, lacks = (a, b) if name in first.inputs else (b, a)
            raise WorkbenchError(
                f"{has.text} takes an input '{name}', {lacks.text} does not: the same rows cannot be sent to both."
            )
    for name in sorted(first.inputs.keys() & second.inputs.keys()):
        one, two = first.inputs[name], second.inputs[name]
        if one.dtype != two.dtype:
            raise WorkbenchError(
                f"Input '{name}' is {one.dtype.name if one.dtype else 'unknown'} in {a.text} and "
                f"{two.dtype.name if two.dtype else 'unknown'} in {b.text}."
            )
    return first
