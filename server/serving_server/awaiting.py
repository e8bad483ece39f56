"""Waiting for models: until each has a version that answers, or it is known why not.

TensorFlow Serving waits without a limit, so that a model whose files are missing holds up a request to reload, or the
start, for ever. Here every wait ends, and tells of each model what is known.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from serving_server.errors import AbortedError, DeadlineExceededError, NotFoundError, ServingError
from serving_server.lifecycle.manager import Manager
from serving_server.lifecycle.states import State, VersionView

__all__ = ["ModelFailure", "ModelsUnavailableError", "has_failed", "outcome", "wait_until_available"]

log = logging.getLogger(__name__)


class ModelFailure:
    """Why a model does not answer.

    Attributes
    ----------
    model : str
    version : int or None
        The version that failed; None when there is none.
    error : ServingError
    """

    __slots__ = ("error", "model", "version")

    def __init__(self, model: str, version: int | None, error: ServingError) -> None:
        self.model = model
        self.version = version
        self.error = error

    def __str__(self) -> str:
        """Return the form of ``ServerCore::WaitUntilModelsAvailable``."""
        which = f"name: {self.model}" if self.version is None else f"name: {self.model} version: {self.version}"
        return f"{{{{{which}}} due to error: {self.error.code.name}: {self.error.message}}}"


class ModelsUnavailableError(ServingError):
    """Some models did not become available (UNKNOWN, as in TensorFlow Serving).

    Parameters
    ----------
    failures : iterable of ModelFailure
        One per model.
    what : str
        TensorFlow Serving says ``servable`` at the start and ``model`` in a reload.
    """

    def __init__(self, failures: Iterable[ModelFailure], what: str = "model") -> None:
        self.failures = tuple(failures)
        entries = "".join(f"{failure}, " for failure in self.failures)
        super().__init__(f"{len(self.failures)} {what}(s) did not become available: {{{entries}}}")

    def __reduce__(self) -> tuple[type[ServingError], tuple[str]]:  # type: ignore[override]
        return (ServingError, (self.message,))


def outcome(manager: Manager, model: str, problem: str | None, *, patient: bool) -> ModelFailure | bool:
    """Return what has become of a model.

    Parameters
    ----------
    problem : str or None
        What is wrong with its base path.
    patient : bool
        A missing base path may still appear, and a failed load is tried again until no try is left. Otherwise both
        count as failures, unless the next try is less than a second away.

    Returns
    -------
    bool or ModelFailure
        True: it answers. False: not known yet.
    """
    if not manager.has(model):
        return ModelFailure(model, None, AbortedError("it was removed by a later change"))
    if manager.serving_version(model) is not None:
        return True
    wanted = manager.wanted(model)
    if not wanted:
        if manager.looked(model):
            policy = manager.policy(model).to_json()
            problem = problem or f"none of the versions on disk is wanted by its policy {policy}"
        if problem is None or patient:
            return False
        return ModelFailure(model, None, NotFoundError(problem))
    views = [view for view in (manager.version(model, number) for number in wanted) if view is not None]
    failed = [view for view in views if has_failed(view, manager, patient=patient)]
    if not failed or len(failed) < len(wanted):
        return False
    view = max(failed, key=lambda view: view.version)
    return ModelFailure(model, view.version, ServingError(view.error_message, view.error_code))


def has_failed(view: VersionView, manager: Manager, *, patient: bool) -> bool:
    if view.state is State.END:
        return bool(view.error_message)
    waits = view.state is State.LOADING and bool(view.error_message)
    return waits and not patient and manager.load_retry_interval >= 1.0


async def wait_until_available(
    manager: Manager,
    models: Iterable[str],
    problem: Callable[[str], str | None],
    timeout: float,  # noqa: ASYNC109 - the error tells what was last seen
    *,
    patient: bool = False,
    what: str = "model",
) -> None:
    """Return when all models answer.

    Parameters
    ----------
    models : iterable of str
    problem : callable
        From a model's name to what is wrong with its base path.
    timeout : float
        Seconds.
    patient : bool
        See `outcome`.

    Raises
    ------
    ModelsUnavailableError
        When it is known of each model what has become of it, or at the end of the time; naming all that do not answer.
    """
    pending = sorted(set(models), reverse=True)
    failures: dict[str, ModelFailure] = {}

    def settled() -> bool:
        # Asked after each of thousands of changes, so it stops at the first model that is not.
        while pending:
            result = outcome(manager, pending[-1], problem(pending[-1]), patient=patient)
            if result is False:
                return False
            if isinstance(result, ModelFailure):
                failures[pending[-1]] = result
            pending.pop()
        return True

    try:
        await manager.wait_for(settled, timeout)
    except DeadlineExceededError:
        for model in pending:
            if (seen := outcome(manager, model, problem(model), patient=False)) is True:
                continue
            if isinstance(seen, ModelFailure):
                failures[model] = seen
                continue
            failures[model] = ModelFailure(model, *_last_seen(manager, model, problem(model), timeout))
    if failures:
        raise ModelsUnavailableError([failures[model] for model in sorted(failures)], what)


def _last_seen(manager: Manager, model: str, problem: str | None, timeout: float) -> tuple[int | None, ServingError]:
    views = [view for view in (manager.version(model, number) for number in manager.wanted(model)) if view is not None]
    if not views:
        return None, DeadlineExceededError(problem or f"no version was found within {timeout:g} s")
    view = max(views, key=lambda view: view.version)
    seen = f"still {view.state.name} after {timeout:g} s"
    if view.error_message:
        return view.version, ServingError(f"{view.error_message} ({seen})", view.error_code)
    return view.version, DeadlineExceededError(seen)
