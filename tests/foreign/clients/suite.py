"""What each foreign client in Python does; a script beside this file says how its library does it.

The job comes as the only argument, in JSON: `endpoint` (host:port), `authority` (path of the certificate to trust,
null: no TLS), `certificate` and `key` (paths of the client's own, or null). The result goes to the standard output, in
JSON too: `answer`, `error` ([code, text]), `several` and `large`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["LARGE", "SEVERAL", "TIMEOUT", "Refused", "credentials", "endpoint", "own_pair", "run", "trusted"]

JOB = json.loads(sys.argv[1])

#: Seconds that one call may take.
TIMEOUT = 60

#: Requests on one connection, all at once where the library can.
SEVERAL = 50

#: float32 values of a message of 4 MiB.
LARGE = 2**20

#: Asks `model` for y of x.
Predict = Callable[[str, np.ndarray], Any]


class Refused(Exception):  # noqa: N818 - it is an answer
    """A gRPC status that is not OK."""

    def __init__(self, code: Any, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text


def endpoint() -> str:
    """Return host:port."""
    return str(JOB["endpoint"])


def trusted() -> str | None:
    """Return the path of the certificate to trust, or None: no TLS."""
    path: str | None = JOB["authority"]
    return path


def own_pair() -> tuple[str, str] | None:
    """Return the paths of the client's certificate and key, or None: it has none."""
    return (JOB["certificate"], JOB["key"]) if JOB["certificate"] else None


def credentials() -> Any:
    """Return the same for grpcio, or None: no TLS."""
    import grpc

    path, pair = trusted(), own_pair()
    if path is None:
        return None
    certificate, key = (Path(part).read_bytes() for part in pair) if pair else (None, None)
    return grpc.ssl_channel_credentials(Path(path).read_bytes(), key, certificate)


def run(
    predict: Predict,
    predict_all: Callable[[list[np.ndarray]], list[Any]] | None = None,
    large: int = LARGE,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Do the suite and print its result.

    Parameters
    ----------
    predict : callable
        ``predict(model, x)`` returns y, or raises `Refused`.
    predict_all : callable, optional
        The same for many x on half_plus_two, at once; one after the other when there is none.
    large : int
        float32 values of the large message.
    more : mapping, optional
        What this client found besides.
    """
    found: dict[str, Any] = {
        **(more or {}),
        "answer": np.asarray(predict("half_plus_two", np.float32([1, 2]))).tolist(),
    }
    try:
        found["error"] = ["OK", repr(predict("absent", np.float32([1])))]
    except Refused as refused:
        found["error"] = [refused.code, refused.text]
    many = [np.float32([number]) for number in range(SEVERAL)]
    answers = predict_all(many) if predict_all else [predict("half_plus_two", x) for x in many]
    found["several"] = [np.asarray(answer).tolist() for answer in answers]
    values = np.asarray(predict("half_plus_two", (np.arange(large) % 1024).astype(np.float32)))
    assert values.dtype == np.float32
    found["large"] = hashlib.sha256(values.tobytes()).hexdigest()
    print(json.dumps(found))
