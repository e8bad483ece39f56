"""Why a request finds no servable: TF Serving's exact text, and what is known beyond it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from serving_server.errors import NotFoundError, ServingError, UnavailableError
from serving_server.lifecycle.states import State
from serving_server.lifecycle.version import Version

__all__ = ["no_such_model", "no_such_servable"]


def no_such_model(model: str, version: int | None, names: Collection[str]) -> NotFoundError:
    """Return the error for a model that this server does not have."""
    has = f"this server has: {', '.join(sorted(names))}" if names else "this server has no models"
    return NotFoundError(f"{_request(model, version)} (no model of that name; {has})")


def no_such_servable(
    model: str, version: int | None, versions: Mapping[int, Version], held: Collection[int], problem: str | None
) -> ServingError:
    """Return the error for a known model of which no version, or not the wanted one, can serve.

    NotFoundError, except that a version whose worker crashed and is being restarted is Unavailable: the client
    should try again.
    """
    if version is None:
        wanted = [versions[number] for number in sorted(versions, reverse=True) if number not in held]
        live = [candidate for candidate in wanted if candidate.state is not State.END]
        candidate = next((c for c in live if c.restarting), None) or next(iter(live or wanted), None)
    else:
        candidate = versions.get(version)
    if candidate is not None and candidate.restarting:
        reason = "" if candidate.error is None else f": {candidate.error.message}"
        return UnavailableError(
            f"model {model} version {candidate.number} is restarting after its worker ended{reason}; try again"
        )
    if candidate is not None:
        known = _describe(candidate)
    elif version is None and held:
        numbers = ", ".join(map(str, sorted(held)))
        known = f"version {numbers} is held: name the version in the request, or promote it"
    elif version is None:
        known = problem or "no version has been found yet"
    else:
        ready = [number for number in sorted(versions) if versions[number].state is State.AVAILABLE]
        known = f"available versions: {', '.join(map(str, ready))}" if ready else problem or "no version is available"
    return NotFoundError(f"{_request(model, version)} ({known})")


def _request(model: str, version: int | None) -> str:
    which = f"Latest({model})" if version is None else f"Specific({model}, {version})"
    return f"Servable not found for request: {which}"


def _describe(version: Version) -> str:
    name = f"version {version.number}"
    message = "" if version.error is None else version.error.message
    match version.state:
        case State.START | State.LOADING:
            return f"{name} is loading; the last try failed: {message}" if message else f"{name} is loading"
        case State.UNLOADING:
            return f"{name} is being unloaded"
        case State.END if message and version.load_seconds is None:
            return f"{name} failed to load: {message}"
        case State.END if message:
            return f"{name} failed: {message}"
        case _:
            return f"{name} was unloaded"
