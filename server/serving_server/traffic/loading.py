"""Versions that are about to get requests: found on disk, loaded, or told why not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence

from serving_server.awaiting import has_failed
from serving_server.errors import (
    AbortedError,
    DeadlineExceededError,
    FailedPreconditionError,
    NotFoundError,
    UnavailableError,
)
from serving_server.lifecycle.manager import Manager
from serving_server.lifecycle.states import State

__all__ = ["find_on_disk", "wait_loaded"]


async def find_on_disk(
    manager: Manager, poll: Callable[[str], Awaitable[None]], model: str, versions: Collection[int]
) -> None:
    """Return when all versions are known to be on disk.

    Raises
    ------
    NotFoundError
        The model is unknown, or a version is not there.
    """
    manager.policy(model)  # unknown models first
    if not manager.on_disk(model).issuperset(versions):
        await poll(model)
    found = manager.on_disk(model)
    for version in versions:
        if version not in found:
            known = ", ".join(map(str, sorted(found))) or "none"
            raise NotFoundError(f"version {version} of model {model} is not on disk; its versions are: {known}")


async def wait_loaded(
    manager: Manager, model: str, versions: Sequence[int], seconds: float, superseded: Callable[[], bool]
) -> None:
    """Return when all versions are AVAILABLE; they must be wanted already.

    Raises
    ------
    AbortedError
        `superseded` has become true, which `Manager.wake` has it asked.
    FailedPreconditionError
        A version cannot be loaded.
    DeadlineExceededError
        After so many seconds.
    UnavailableError
        The server is shutting down.
    """

    def settled() -> bool:
        views = [manager.version(model, version) for version in versions]
        return (
            superseded()
            or not manager.has(model)
            or any(view is not None and has_failed(view, manager, patient=False) for view in views)
            or all(view is not None and view.state is State.AVAILABLE for view in views)
        )

    try:
        await manager.wait_for(settled, seconds)
    except DeadlineExceededError:
        views = [manager.version(model, version) for version in versions]
        seen = [f"version {v.version} is {v.state.name}" for v in views if v is not None and v.state != State.AVAILABLE]
        msg = f"the versions of model {model} were not all available after {seconds:g} s: {', '.join(seen)}"
        raise DeadlineExceededError(f"{msg} (requests are answered as before)") from None
    if superseded():
        raise AbortedError(f"nothing has changed for model {model}: meanwhile something else was decided about it")
    if not manager.has(model):
        raise UnavailableError(f"nothing has changed for model {model}: the server is shutting down")
    for version in versions:
        view = manager.version(model, version)
        if view is None or view.state is not State.AVAILABLE:
            why = "" if view is None else f": {view.error_message}"
            msg = f"version {version} of model {model} cannot be loaded{why} (requests are answered as before)"
            raise FailedPreconditionError(msg)
