"""Errors that travel to clients: each carries a gRPC status code and a message that names the thing.

Every room of the server raises these; only the transports know how a code looks on their wire
(`serving_server.transports`). The numbers are gRPC's (grpc/status.proto) and TensorFlow's (tsl error_codes.proto),
which agree.
"""

from __future__ import annotations

import enum


class StatusCode(enum.IntEnum):
    """Canonical status codes, numbered as on the gRPC wire."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class ServingError(Exception):
    """Base of all errors that a client may see.

    Parameters
    ----------
    message : str
        The text on the wire. Where TensorFlow Serving defines one, it is that text exactly.
    code : StatusCode, optional
        Only for errors relayed from elsewhere (a TensorFlow op, a worker); subclasses fix their own.
    """

    code = StatusCode.UNKNOWN

    def __init__(self, message: str, code: StatusCode | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code

    def __reduce__(self) -> tuple[type[ServingError], tuple[str, StatusCode]]:
        return (type(self), (self.message, self.code))


class InvalidArgumentError(ServingError):
    """The request itself is wrong: retrying it unchanged cannot succeed."""

    code = StatusCode.INVALID_ARGUMENT


class NotFoundError(ServingError):
    """The named model, version or file does not exist here."""

    code = StatusCode.NOT_FOUND


class AlreadyExistsError(ServingError):
    """The thing to be created is already there."""

    code = StatusCode.ALREADY_EXISTS


class FailedPreconditionError(ServingError):
    """The request is well formed but does not fit the state of the system."""

    code = StatusCode.FAILED_PRECONDITION


class PermissionDeniedError(ServingError):
    """The caller or the server process may not do this."""

    code = StatusCode.PERMISSION_DENIED


class UnauthenticatedError(ServingError):
    """No or a wrong token on a private channel."""

    code = StatusCode.UNAUTHENTICATED


class ResourceExhaustedError(ServingError):
    """A limit was reached: memory, a queue, a message size."""

    code = StatusCode.RESOURCE_EXHAUSTED


class DeadlineExceededError(ServingError):
    """The caller's time ran out."""

    code = StatusCode.DEADLINE_EXCEEDED


class UnavailableError(ServingError):
    """Not now: a retry may succeed."""

    code = StatusCode.UNAVAILABLE


class UnimplementedError(ServingError):
    """Understood, but not supported here."""

    code = StatusCode.UNIMPLEMENTED


class InternalError(ServingError):
    """A broken invariant of the server."""

    code = StatusCode.INTERNAL


class AbortedError(ServingError):
    """Something else was done meanwhile that makes it pointless."""

    code = StatusCode.ABORTED


class DataLossError(ServingError):
    """Stored data is cut off or was changed."""

    code = StatusCode.DATA_LOSS


class CancelledError(ServingError):
    """The caller went away."""

    code = StatusCode.CANCELLED
