"""Which resource a request line names: TensorFlow Serving's paths, its case rules and its error texts."""

from __future__ import annotations

import dataclasses
import enum
import functools
import re
from typing import Final
from urllib.parse import unquote_to_bytes

from serving_server.errors import InvalidArgumentError

__all__ = ["Route", "RouteKind", "match"]

#: Longer targets are matched anew each time, so that the memory of the last ones stays small.
_MAX_REMEMBERED: Final = 512

_INT64_MAX: Final = 2**63 - 1

# Whole request targets, query string included, as TensorFlow Serving matches them. `re.ASCII` keeps digits and letter
# case to ASCII, as RE2 does with these bytes.
_FLAGS: Final = re.IGNORECASE | re.ASCII | re.DOTALL
_VERSION_OR_LABEL: Final = r"(?:/versions/(\d+)|/labels/([^/:]+))?"
_INFERENCE = re.compile(rf"/v1/models/([^/:]+){_VERSION_OR_LABEL}:(classify|regress|predict)", _FLAGS)
_MODEL = re.compile(rf"/v1/models(?:/([^/:]+))?{_VERSION_OR_LABEL}(?:/(metadata))?", _FLAGS)
_API_PREFIX: Final = "/v1/"


class RouteKind(enum.Enum):
    """What a request asks for."""

    PREDICT = "predict"
    CLASSIFY = "classify"
    REGRESS = "regress"
    STATUS = "status"
    METADATA = "metadata"
    MODELS = "models"
    PREFLIGHT = "preflight"
    HEALTH = "healthz"
    READY = "readyz"
    UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True, slots=True)
class Route:
    """A resource of the REST API; `version` and `label` are never both set."""

    kind: RouteKind
    model: str = ""
    version: int | None = None
    label: str | None = None


_INFERENCE_KINDS: Final = {kind.value: kind for kind in (RouteKind.PREDICT, RouteKind.CLASSIFY, RouteKind.REGRESS)}
_PROBES: Final = {"/healthz": Route(RouteKind.HEALTH), "/readyz": Route(RouteKind.READY)}
_UNKNOWN: Final = Route(RouteKind.UNKNOWN)
_PREFLIGHT: Final = Route(RouteKind.PREFLIGHT)
_MODELS: Final = Route(RouteKind.MODELS)


def match(method: str, target: str) -> Route:
    """Return the route of a request.

    Parameters
    ----------
    method : str
        As sent, upper case.
    target : str
        Path with query string, still percent-encoded, bytes as Latin-1.

    Raises
    ------
    InvalidArgumentError
        A path under ``/v1/`` that names no resource for this method, no model, or a version beyond int64.
    """
    return _remembered(method, target) if len(target) <= _MAX_REMEMBERED else _match(method, target)


def _match(method: str, target: str) -> Route:
    if target[: len(_API_PREFIX)].lower() != _API_PREFIX:
        probe = _PROBES.get(target.partition("?")[0])
        return probe if probe is not None and method in {"GET", "HEAD"} else _UNKNOWN
    if method == "OPTIONS":
        return _PREFLIGHT
    if method == "POST":
        found = _INFERENCE.fullmatch(target)
        if found is not None:
            name, version, label, verb = found.groups()
            number = _number(version)
            # The expression ignores case, yet only the lower-case verbs mean something.
            if verb in _INFERENCE_KINDS:
                return Route(_INFERENCE_KINDS[verb], _decode(name), number, _decode(label) if label else None)
    elif method == "GET":
        found = _MODEL.fullmatch(target)
        if found is not None:
            name, version, label, resource = found.groups()
            number = _number(version)
            if name is version is label is resource is None:
                return _MODELS  # TensorFlow Serving: an error, as below
            if not name:
                raise InvalidArgumentError("Missing model name in request.")
            kind = RouteKind.METADATA if resource == "metadata" else RouteKind.STATUS
            return Route(kind, _decode(name), number, _decode(label) if label else None)
    raise InvalidArgumentError(f"Malformed request: {method} {target}")


_remembered = functools.lru_cache(maxsize=1024)(_match)


def _number(version: str | None) -> int | None:
    if version is None:
        return None
    # The length is looked at first: Python refuses to convert thousands of digits.
    digits = version.lstrip("0") or "0"
    if len(digits) > 19 or int(digits) > _INT64_MAX:
        raise InvalidArgumentError(f"Failed to convert version: {version} to numeric.")
    return int(digits)


def _decode(text: str) -> str:
    return unquote_to_bytes(text.encode("latin-1")).decode("utf-8", "replace")
