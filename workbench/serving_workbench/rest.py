"""One request to a server's REST API: the body goes as it is, the answer comes as it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from time import perf_counter
from typing import Any
from urllib.parse import quote

from serving_workbench.client_stamps import HEADER, ClientStamp, fresh_id, keep
from serving_workbench.errors import PredictError

__all__ = ["is_rest_request", "predict_by_rest"]

_CODES = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 412: "FAILED_PRECONDITION", 503: "UNAVAILABLE"}
_MAX_ANSWER = 1 << 30


def is_rest_request(body: Any) -> bool:
    """Whether JSON is the body of a predict request: ``instances`` or ``inputs``, and no field of another name."""
    if not isinstance(body, Mapping):
        return False
    return len({"instances", "inputs"} & body.keys()) == 1 and body.keys() <= {"instances", "inputs", "signature_name"}


def predict_by_rest(
    rest_url: str, name: str, body: Mapping[str, Any], *, version: int | str | None = None, timeout: float = 10.0
) -> dict[str, Any]:
    """Send a predict request; return the answer, ``{"predictions": ...}`` or ``{"outputs": ...}``.

    It has an ``x-request-id``, and leaves its times in `serving_workbench.client_stamps`; connecting is transport.

    Parameters
    ----------
    rest_url : str
    name : str
        Model name.
    body : mapping
        ``instances`` or ``inputs``, and perhaps ``signature_name``: TensorFlow Serving's REST API.
    version : int or str, optional
        A number, or a label.
    timeout : float
        Seconds.

    Raises
    ------
    PredictError
        With the server's message, and the gRPC status that it stands for.
    """
    which = "" if version is None else f"/{'labels' if isinstance(version, str) else 'versions'}/{quote(str(version))}"
    import urllib.error  # 20 ms with their imports: only for those who ask
    import urllib.request

    request_id = fresh_id()
    begun = perf_counter()
    request = urllib.request.Request(  # noqa: S310 - http, as the record of the server has it
        f"{rest_url}/v1/models/{quote(name)}{which}:predict",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", HEADER: request_id},
    )
    # The server is on this machine: a proxy from the environment would send the request away.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    sent = perf_counter()
    try:
        with opener.open(request, timeout=timeout) as answer:
            text = answer.read(_MAX_ANSWER)
        answered = perf_counter()
        found = dict(json.loads(text))
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(_MAX_ANSWER).decode("utf-8", "replace")
        code = _CODES.get(error.code, "UNKNOWN")
        raise PredictError(f"{code}: {_message(said)}", code=code) from None
    except TimeoutError:
        raise PredictError(
            f"DEADLINE_EXCEEDED: nothing came in {timeout:g} s from '{name}'.", code="DEADLINE_EXCEEDED"
        ) from None
    except (OSError, ValueError) as error:
        raise PredictError(
            f"UNAVAILABLE: {getattr(error, 'reason', error)}",
            code="UNAVAILABLE",
            hint=f"No server answers at {rest_url}: it was stopped or restarted; serve or connect again.",
        ) from None
    keep(ClientStamp(request_id, begun, sent, answered, perf_counter()))
    return found


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return text[:200]
