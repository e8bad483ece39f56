"""`profile`: what users call."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Iterable, Sequence
from typing import Any, Final

from serving_server.signatures import Signature
from serving_server.tensors import to_proto
from serving_server.wire.messages import PredictRequest
from serving_workbench.errors import ControlError, WorkbenchError
from serving_workbench.handle import ServedModel, connect
from serving_workbench.inputs import as_inputs
from serving_workbench.profiling.comparison import ProfileComparison
from serving_workbench.profiling.linking import during
from serving_workbench.profiling.requests import RequestProfile
from serving_workbench.profiling.result import ProfileResult
from serving_workbench.savedmodel import default_signature_name
from serving_workbench.tuning.stepping import Steps, moving

__all__ = ["compare_profiles", "loaded_version", "profile"]

#: Rows of `data` that travel: they are repeated anyway.
_MOST_ROWS: Final = 64

#: Requests that the server is asked for: as many as it tells at once.
_MOST_REQUESTS: Final = 10_000

#: Of what there is to see.
PARTS: Final = ("ops", "memory", "startup")

_SECONDS: Final = 20.0
_LIVE_SECONDS: Final = 2.0
#: For the bar: about what memory and load take.
_OTHER_SECONDS: Final = 5.0


def profile(
    model: ServedModel | str,
    version: int | str | None = None,
    *,
    batches: int = 50,
    batch_sizes: Sequence[int] = (1, 8, 32),
    batch_size: int | None = None,
    data: object = None,
    signature: str | None = None,
    seconds: float | None = None,
    busy: float = 0.05,
    live: bool = False,
    parts: Sequence[str] = PARTS,
    trace: bool = True,
    progress: bool = True,
    instance: str | None = None,
) -> ProfileResult:
    """Find out where the time and the memory of a model's runs go, what a row costs by batch size, what the load took.

    The worker of that version makes runs of its own beside the requests that it answers, and TensorFlow's tracer
    watches half of them; the other half tells what the tracing costs. Nobody loses a request, and other versions are
    not traced.

    Parameters
    ----------
    model : ServedModel or str
        A handle, or the name of a model on the running instance.
    version : int or str, optional
        Number or label; by default the one that answers unversioned requests.
    batches : int
        Runs to trace, at least 3.
    batch_sizes : sequence of int
        Rows whose run time is measured, without tracing.
    batch_size : int, optional
        Rows of a traced run; by default the largest of `batch_sizes`.
    data : array_like, dict, DataFrame or Series, optional
        Rows to run, repeated as needed; by default the version's recorded warmup, else values that fit the signature.
    signature : str, optional
        By default ``serving_default``, or the only one.
    seconds : float, optional
        How long it may take, about (20); with `live`, how long to watch (2).
    busy : float
        Part of the time in which the profile's own runs may keep a processor busy. With less, others notice less of it.
    live : bool
        Watch the runs of live requests instead, whatever their sizes. `ProfileResult.live_requests` are these
        requests, and ``ops_of`` there leads from one of them to the ops of its run.
    parts : sequence of str
        What to look at: ``ops`` (with run times by batch size), ``memory`` (weights, and what a run takes by batch
        size; not with `live`), ``startup`` (where the time of the load went).
    trace : bool
        Keep TensorFlow's own trace, for `ProfileResult.to_tensorboard`.
    progress : bool
        Show a bar in notebooks and terminals.
    instance : str, optional
        Where a model's name is looked for.

    Returns
    -------
    ProfileResult

    Raises
    ------
    WorkbenchError
        There is no such version or signature, the rows do not fit, another profile of the version is running.
    ServerNotRunningError, ModelNotServedError
    """
    _check_parts(parts)
    if live and not {"ops", "startup"} & set(parts):
        raise WorkbenchError("A profile of live requests is one of their ops: memory is measured by own runs.")
    model = _handle(model, instance)
    number = loaded_version(model, version)
    found = ProfileResult(model.name, number, datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))
    control = model.server.control
    seconds = seconds if seconds is not None else _LIVE_SECONDS if live else _SECONDS
    wish: dict[str, Any] = {"live": live, "trace": trace, "seconds": seconds}
    rows: dict[str, Any] = {}
    if live:
        if data is not None or signature is not None or batch_size is not None:
            raise WorkbenchError("live=True watches requests as they come: data, signature and batch_size say nothing.")
    else:
        wish |= {"batches": batches, "busy": busy}
        rows["sizes"] = _sizes(batch_sizes)
        if batch_size is not None:
            wish["batch_size"] = batch_size
        chosen = _signature(model, number, signature)
        rows["signature"] = chosen.name
        if data is not None:
            rows["request"] = _request(data, chosen)
    try:
        with moving(Steps(f"profile {model.name}", seconds + _OTHER_SECONDS, enabled=progress)) as steps:
            if "ops" in parts:
                steps.step("live requests" if live else "ops")
                answer = model.server.ask(lambda: control.profile_ops(model.name, number, **wish, **rows))
                found.ops_data, found.requests = answer["profile"], answer["requests"]
                remembered = model.server.ask(
                    lambda: control.profile_requests(model.name, version=number, limit=_MOST_REQUESTS)
                )
                found.stages, found.live_data = _stages(model.name, remembered), during(remembered, found.ops_data)
            if "memory" in parts and not live:
                steps.step("memory")
                found.memory_data = model.server.ask(
                    lambda: control.profile_memory(model.name, number, busy=busy, **rows)
                )
            if "startup" in parts:
                steps.step("load")
                found.startup_data = model.server.ask(lambda: control.profile_startup(model.name, number))
    except ControlError as error:
        raise _in_words(error, model.name, number) from error
    return found


def compare_profiles(a: ProfileResult, b: ProfileResult) -> ProfileComparison:
    """Compare two profiles op by op, such as those of version 1 and version 2.

    Raises
    ------
    WorkbenchError
        Their runs were of different sizes, or live requests', whose sizes nobody knows.
    """
    return ProfileComparison(a, b)


def _check_parts(parts: Any) -> None:
    if isinstance(parts, str) or not parts or not set(parts) <= set(PARTS):
        raise WorkbenchError(f"parts={parts!r} must be some of {', '.join(map(repr, PARTS))}.")


def _handle(model: ServedModel | str, instance: str | None) -> ServedModel:
    if isinstance(model, str):
        found = connect(model, instance)
        assert isinstance(found, ServedModel)
        return found
    return model


def loaded_version(model: ServedModel, wanted: int | str | None) -> int:
    """Return the number that is meant.

    Raises
    ------
    WorkbenchError
    """
    found = model.describe()
    if isinstance(wanted, str):
        if wanted not in found["labels"]:
            known = ", ".join(f"'{each}'" for each in found["labels"]) or "none"
            raise WorkbenchError(f"'{model.name}' has no label '{wanted}'; its labels are: {known}.")
        return int(found["labels"][wanted])
    number = found["serving_version"] if wanted is None else wanted
    loaded = [each["version"] for each in found["versions"] if each["state"] == "AVAILABLE"]
    if number not in loaded:
        known = ", ".join(map(str, loaded)) or "none"
        raise WorkbenchError(f"Version {number} of '{model.name}' is not loaded; loaded are: {known}.")
    return int(number)


def _sizes(values: Any) -> list[int]:
    found = list(values) if isinstance(values, Iterable) and not isinstance(values, str | bytes) else []
    if not found or not all(hasattr(each, "__index__") and not isinstance(each, bool) and each > 0 for each in found):
        raise WorkbenchError(f"batch_sizes={values!r} is no list of positive whole numbers.")
    return [int(each) for each in found]


def _signature(model: ServedModel, version: int, wanted: str | None) -> Signature:
    found = model.signatures(version)
    name = wanted or default_signature_name(found)
    if name not in found:
        known = ", ".join(f"'{each}'" for each in found) or "none"
        raise WorkbenchError(f"'{model.name}' has no signature '{name}'; it has {known}.")
    return found[name]


def _stages(name: str, remembered: dict[str, Any]) -> dict[str, float] | None:
    if all(request["status"] != "OK" for request in remembered["requests"]):
        return None
    shares = RequestProfile(name, remembered).by_stage()["share"]
    return {str(stage): float(share) for stage, share in shares.items()}


def _request(data: object, signature: Signature) -> str:
    request = PredictRequest()
    request.model_spec.signature_name = signature.name
    for alias, array in as_inputs(data, signature).items():
        shape = signature.inputs[alias].shape
        open_rows = array.ndim > 0 and (shape is None or (shape != () and shape[0] < 0))
        request.inputs[alias].CopyFrom(to_proto(array[:_MOST_ROWS] if open_rows else array, as_content=True))
    return base64.b64encode(request.SerializeToString()).decode("ascii")


def _in_words(error: ControlError, name: str, version: int) -> WorkbenchError:
    if error.code == "ALREADY_EXISTS":
        return WorkbenchError(
            f"Another profile of '{name}' version {version} is running.", hint="Ask again when it has ended."
        )
    if "drawn to fit the signature" in error.message:
        return WorkbenchError(
            f"'{name}' version {version} cannot run values that were only drawn to fit its signature: "
            f"{error.message.splitlines()[0]}",
            hint="Give rows that it understands: data=X[:8].",
        )
    return error
