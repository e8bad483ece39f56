"""How the extension refuses: one place that maps errors to HTTP, and the base of its handlers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import responses
from typing import Any, Final

from jupyter_server.base.handlers import APIHandler
from jupyter_server.extension.handler import ExtensionHandlerMixin
from tornado import web

from serving_jupyter.extension.deploying import DeployRefusedError
from serving_jupyter.extension.supervisor import Supervisor
from serving_workbench.errors import ControlError, WorkbenchError

__all__ = ["RefusedError", "ServingHandler", "refusals"]

#: By the name of the workbench's error class; others are 500.
_STATUS: Final = {
    "LaunchError": 503,
    "RecordError": 409,
    "ServerNotRunningError": 404,
    "ServerStartingError": 503,
    "ModelNotServedError": 404,
    "ExportError": 400,
    "PublishError": 400,
    "DeployError": 409,
    "ProofError": 409,
    "PredictError": 409,
}
#: After which a server that starts, or starts again, may answer.
_RETRY_SECONDS: Final = 1
#: By the code of a `ControlError`; others are 502: the serving process did not do its part.
_STATUS_OF_CODE: Final = {
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "FAILED_PRECONDITION": 409,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


class RefusedError(web.HTTPError):
    """An answer other than success, with a message for whoever asked."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, "%s", message)
        self.message = message


@contextmanager
def refusals() -> Iterator[None]:
    """Turn the workbench's errors into answers."""
    try:
        yield
    except ControlError as error:
        raise RefusedError(_STATUS_OF_CODE.get(error.code, 502), str(error)) from error
    except WorkbenchError as error:
        raise RefusedError(_STATUS.get(type(error).__name__, 500), str(error)) from error
    except DeployRefusedError as error:
        status = _STATUS_OF_CODE.get(error.code, 502) if error.code else _STATUS.get(error.kind, 500)
        raise RefusedError(status, str(error)) from error


class ServingHandler(ExtensionHandlerMixin, APIHandler):
    """Base of all handlers: errors are JSON, ``{"message": ...}``, with a message that says what to do."""

    auth_resource = "serving"

    @property
    def supervisor(self) -> Supervisor:
        """The one of this Jupyter server."""
        found: Supervisor = self.extensionapp.supervisor
        return found

    def json_object(self) -> dict[str, Any]:
        """Return the request's JSON object, empty without a body."""
        try:
            body = json.loads(self.request.body or b"{}")
        except ValueError as error:
            raise RefusedError(400, f"The body is not JSON: {error}.") from error
        if not isinstance(body, dict):
            raise RefusedError(400, f"The body must be a JSON object, not {json.dumps(body)[:60]}.")
        return body

    def fields(self, allowed: dict[str, type | tuple[type, ...]]) -> dict[str, Any]:
        """Return the request's JSON object after a check of its fields' names and types."""
        body = self.json_object()
        for name, value in body.items():
            kind = allowed.get(name)
            if kind is None:
                raise RefusedError(400, f"Unknown field '{name}'; known: {', '.join(allowed)}.")
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise RefusedError(400, f"The field '{name}' must not be {json.dumps(value)[:60]}.")
        return body

    def write_error(self, status_code: int, **named: Any) -> None:
        """Answer an error as JSON."""
        error = named.get("exc_info", (None, None, None))[1]
        if status_code == 503:
            self.set_header("Retry-After", _RETRY_SECONDS)
        message = error.message if isinstance(error, RefusedError) else responses.get(status_code, "Unknown error")
        if isinstance(error, web.HTTPError) and not isinstance(error, RefusedError) and error.log_message:
            message = error.log_message % error.args if error.args else str(error)
        self.finish(json.dumps({"message": message, "reason": getattr(error, "reason", None)}))
