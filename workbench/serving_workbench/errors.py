"""Errors of the workbench: what happened, to which object, and what to try.

One base for everything a user can cause or repair, so that magics can show it as one line and scripts can catch it.
"""

from __future__ import annotations

__all__ = [
    "CommandLineError",
    "ControlError",
    "DeployError",
    "ExportError",
    "LaunchError",
    "LoadError",
    "ModelNotServedError",
    "PredictError",
    "ProofError",
    "PublishError",
    "RecordError",
    "RemoteKernelWarning",
    "ServerNotRunningError",
    "VersionSkewWarning",
    "WorkbenchError",
    "WorkbenchWarning",
]


class WorkbenchError(Exception):
    """Base of the workbench's errors.

    Parameters
    ----------
    message : str
        What happened, to which object.
    step : str, optional
        The step of a deploy that failed: ``launch``, ``export``, ``detect``, ``load``, ``warm up``, ``prove``...
    hint : str, optional
        What to try: a full sentence. It is part of ``str(error)``.
    """

    def __init__(self, message: str, *, step: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.step = step
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class CommandLineError(WorkbenchError):
    """A magic or a command of the terminal was not typed right."""


class WorkbenchWarning(UserWarning):
    """Base of the workbench's warnings: something works, but not as one might think."""


class VersionSkewWarning(WorkbenchWarning):
    """Two processes that work together have different versions of the workbench."""


class RemoteKernelWarning(WorkbenchWarning):
    """The kernel, and what it starts, run on another machine than the Jupyter server."""


class ExportError(WorkbenchError):
    """The model cannot be written as (or is not) a SavedModel that can be served."""


class PublishError(WorkbenchError):
    """A version folder cannot be written where the server looks for it, or a name is not usable."""


class LaunchError(WorkbenchError):
    """The serving process did not start."""


class RecordError(WorkbenchError):
    """A record file of a server exists but cannot be trusted."""


class ServerNotRunningError(WorkbenchError):
    """No server of that instance name runs (for this user, with this Jupyter runtime folder)."""


class ModelNotServedError(WorkbenchError):
    """The server runs, but does not serve that model or version."""


class ControlError(WorkbenchError):
    """The server refused a request on its private control channel, or did not answer.

    Parameters
    ----------
    code : str
        Name of the gRPC status, such as ``NOT_FOUND``; ``UNAVAILABLE`` when nothing answered.
    """

    def __init__(self, message: str, *, code: str, step: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, step=step, hint=hint)
        self.code = code


class PredictError(WorkbenchError):
    """A prediction failed: refused here before sending, or by the server.

    Parameters
    ----------
    code : str
        Name of the gRPC status; ``INVALID_ARGUMENT`` for inputs that were refused before sending.
    """

    def __init__(self, message: str, *, code: str, step: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, step=step, hint=hint)
        self.code = code


class LoadError(WorkbenchError):
    """A load test could not begin: the server does not answer, or answers with an error.

    Parameters
    ----------
    code : str
        Name of the gRPC status; ``UNKNOWN`` for an error of HTTP, which the message tells.
    """

    def __init__(self, message: str, *, code: str, step: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, step=step, hint=hint)
        self.code = code


class DeployError(WorkbenchError):
    """A new version was not put into service; the version that served before still does."""


class ProofError(DeployError):
    """The served answer is not the answer of the model in the notebook.

    Parameters
    ----------
    output : str, optional
        The output that differs most; None when no single output is at fault.
    max_abs, max_rel : float, optional
        Largest absolute and relative difference over that output.
    index : tuple of int, optional
        Where the largest absolute difference is.
    served, expected : object, optional
        The two values there.
    """

    def __init__(
        self,
        message: str,
        *,
        step: str | None = "prove",
        hint: str | None = None,
        output: str | None = None,
        max_abs: float | None = None,
        max_rel: float | None = None,
        index: tuple[int, ...] | None = None,
        served: object = None,
        expected: object = None,
    ) -> None:
        super().__init__(message, step=step, hint=hint)
        self.output = output
        self.max_abs = max_abs
        self.max_rel = max_rel
        self.index = index
        self.served = served
        self.expected = expected
