"""Clients to paste: curl, Python over REST, Python over gRPC, and this library. They run as they are.

The values shown are drawn from the signature. A large input is written as an expression that makes it, so that the
text stays short and yet works.
"""

from __future__ import annotations

import json
import shlex
import urllib.request
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving_server.signatures import DEFAULT_SIGNATURE, Signature
from serving_workbench import sampling
from serving_workbench.instance_name import DEFAULT_INSTANCE

__all__ = ["curl", "python_grpc", "python_rest", "python_workbench", "snippets"]

Arrays = dict[str, NDArray[Any]]
#: Numbers that are written out; a larger input becomes an expression.
_WRITTEN_OUT = 32


def snippets(name: str, signature: Signature, rest_url: str, grpc_endpoint: str, instance: str) -> dict[str, str]:
    """Return the clients by title; REST is left out for complex numbers, which JSON does not have."""
    found = {}
    if all(spec.dtype is not None and spec.dtype.numpy.kind != "c" for spec in signature.inputs.values()):
        found["curl"] = curl(name, signature, rest_url)
        found["Python, REST"] = python_rest(name, signature, rest_url)
    found["Python, gRPC"] = python_grpc(name, signature, grpc_endpoint)
    found["Python, this library"] = python_workbench(name, signature, instance)
    return found


def curl(name: str, signature: Signature, rest_url: str) -> str:
    """Return a command line; it goes around an HTTP proxy of the environment, which cannot reach this machine."""
    url = shlex.quote(_url(name, rest_url))
    options = "--noproxy '*' " if urllib.request.getproxies().get("http") else ""
    inputs = sampling.draw(signature, 1, with_defaults=True)
    if all(_is_small(array) for array in inputs.values()):
        body = json.dumps(_request(signature, {key: _plain(array) for key, array in inputs.items()}))
        return f"curl {options}-d {shlex.quote(body)} {url}"
    program = f"import json; print(json.dumps({_request_expression(signature)}))"
    return f"python3 -c {shlex.quote(program)} | curl {options}-d @- {url}"


def python_rest(name: str, signature: Signature, rest_url: str) -> str:
    """Return a program that uses `requests`."""
    return (
        "import requests\n\n"
        "session = requests.Session()\n"
        "session.trust_env = False  # no proxy between this machine and itself\n"
        f"body = {_request_expression(signature)}\n"
        f"answer = session.post({_url(name, rest_url)!r}, json=body, timeout=10)\n"
        "answer.raise_for_status()\n"
        "print(answer.json())\n"
    )


def python_grpc(name: str, signature: Signature, grpc_endpoint: str) -> str:
    """Return a program that uses TensorFlow Serving's own stub (`pip install tensorflow-serving-api`)."""
    lines = [
        "import grpc",
        "import tensorflow as tf",
        "from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc",
        "",
        f"channel = grpc.insecure_channel({grpc_endpoint!r}, options=[('grpc.enable_http_proxy', 0)])",
        "stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)",
        "request = predict_pb2.PredictRequest()",
        f"request.model_spec.name = {name!r}",
    ]
    if signature.name != DEFAULT_SIGNATURE:
        lines.append(f"request.model_spec.signature_name = {signature.name!r}")
    for key, array in sampling.draw(signature, 1).items():
        spec = signature.inputs[key]
        assert spec.dtype is not None
        dtype = {"float": "float32", "double": "float64"}.get(spec.dtype.name, spec.dtype.name)
        lines.append(f"request.inputs[{key!r}].CopyFrom(tf.make_tensor_proto({_expression(array)}, dtype=tf.{dtype}))")
    lines += [
        "answer = stub.Predict(request, timeout=10)",
        "for name, tensor in answer.outputs.items():",
        "    print(name, tf.make_ndarray(tensor))",
        "channel.close()",
    ]
    return "\n".join(lines) + "\n"


def python_workbench(name: str, signature: Signature, instance: str) -> str:
    """Return a program that finds the server by itself."""
    inputs = sampling.draw(signature, 1)
    where = "" if instance == DEFAULT_INSTANCE else f", instance={instance!r}"
    which = "" if signature.name == DEFAULT_SIGNATURE else f", signature={signature.name!r}"
    if len(inputs) == 1 and len(signature.inputs) == 1:
        x = _expression(next(iter(inputs.values())))
    else:
        x = f"{{{', '.join(f'{key!r}: {_expression(array)}' for key, array in inputs.items())}}}"
    return (
        f"import serving_workbench as sw\n\nserved = sw.connect({name!r}{where})\nprint(served.predict({x}{which}))\n"
    )


def _url(name: str, rest_url: str) -> str:
    return f"{rest_url}/v1/models/{name}:predict"


def _request(signature: Signature, values: dict[str, Any]) -> dict[str, Any]:
    """Return the body of a REST request: rows where every input has a batch dimension, else named tensors."""
    body: dict[str, Any] = {}
    if signature.name != DEFAULT_SIGNATURE:
        body["signature_name"] = signature.name
    single = len(signature.inputs) == 1
    if not sampling.batch_axis(signature):
        body["inputs"] = next(iter(values.values())) if single else values
    elif single:
        body["instances"] = next(iter(values.values()))
    else:
        body["instances"] = [{key: value[0] for key, value in values.items()}]
    return body


def _request_expression(signature: Signature) -> str:
    """Return the same body as Python source; large inputs are written as expressions."""
    inputs = sampling.draw(signature, 1, with_defaults=True)
    if all(_is_small(array) for array in inputs.values()):
        return repr(_request(signature, {key: _plain(array) for key, array in inputs.items()}))
    rows = sampling.batch_axis(signature) and len(signature.inputs) > 1
    values = {key: _Source(_expression(array[0] if rows else array)) for key, array in inputs.items()}
    if rows:
        return repr(_request(signature, {key: [value] for key, value in values.items()}))
    return repr(_request(signature, values))


class _Source(str):
    """Source text that stays itself inside the `repr` of a list or dict."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _is_small(array: NDArray[Any]) -> bool:
    return array.size <= _WRITTEN_OUT


def _plain(array: NDArray[Any]) -> Any:
    """Return nested lists of Python values, floats with the 4 digits they were drawn with, bytes as text."""
    if array.dtype == object:
        return np.vectorize(lambda element: element.decode(), otypes=[object])(array).tolist()
    if array.dtype.kind in "fV":
        return array.astype(np.float64).round(4).tolist()
    if array.dtype.kind == "c":
        return array.astype(np.complex128).round(4).tolist()
    return array.tolist()


def _expression(array: NDArray[Any]) -> str:
    """Return Python source for an array of this shape."""
    if _is_small(array):
        return repr(_plain(array))
    text = repr(_plain(array.reshape(-1)[:1])[0])
    for size in reversed(array.shape):
        text = f"[{text}] * {size}" if size != 1 else f"[{text}]"
    return text
