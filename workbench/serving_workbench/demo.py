"""The whole story in one run: `python -m serving_workbench.demo`, which is what `make demo` does.

A small Keras model learns scikit-learn's digits and is served; gRPC and REST clients ask it; a second version goes live
while a client keeps asking; both are compared on rows that neither has seen; the first comes back by a rollback. Every
answer is checked, and the exit code says whether all was as it should be. All files, the record of the server included,
are in a temporary folder, so servers that the user runs are not touched and nothing is left behind.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
import numpy as np
from numpy.typing import NDArray

from serving_server.tensors import to_array, to_proto
from serving_server.wire.messages import PredictRequest, PredictResponse
from serving_workbench.comparison.entry import compare
from serving_workbench.deploy import serve
from serving_workbench.errors import WorkbenchError
from serving_workbench.handle import ServedModel

__all__ = ["main"]

Array = NDArray[Any]
Result = TypeVar("Result")

_NAME = "digits"
#: Rows that no model sees in training.
_HELD_OUT = 360
#: Requests per second of the client that goes on asking during the deploy.
_RATE = 100.0
#: Answers that it must have got before and after the deploy, and the seconds it has for them.
_ANSWERS, _PATIENCE = 25, 20.0
#: What a batch of another size may change in an answer: relatively, absolutely.
_RTOL, _ATOL = 1e-4, 1e-5


class DemoError(Exception):
    """Something was not as it should be; the message says what."""


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; return 0 when everything was as it should be, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m serving_workbench.demo", description="Train, serve, ask, deploy under load, compare, roll back."
    )
    parser.parse_args(arguments)
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="serving-demo-") as folder:
            # The server is found by this process and its children only.
            os.environ["JUPYTER_RUNTIME_DIR"] = str(Path(folder, "runtime"))
            _run(Path(folder, "models"))
    except KeyboardInterrupt:
        print("\nInterrupted; the server is stopped.", file=sys.stderr)
        return 130
    except (DemoError, WorkbenchError) as error:
        step = f"{error.step}: " if isinstance(error, WorkbenchError) and error.step else ""
        print(f"\nThe demo failed. {step}{error}", file=sys.stderr)
        return 1
    print(f"\nEverything was right, in {time.monotonic() - began:.0f} s. The server is stopped and its files are gone.")
    print("The same in a notebook: `make lab` opens JupyterLab; there open 01_quickstart.ipynb.")
    return 0


def _run(folder: Path) -> None:
    digits, linear, deep = _timed("Load scikit-learn's digits, and TensorFlow with Keras", _load)
    _timed(f"Train a linear model on {len(digits.train_x)} rows", lambda: _train(linear, digits, epochs=10))
    served = _deploy(linear, folder, digits)
    try:
        print(f"  gRPC {served.grpc_endpoint}")
        print(f"  REST {served.rest_url}/v1/models/{_NAME}:predict")
        with contextlib.closing(_Stub(served)) as stub:
            _ask(served, stub, digits, _answers(linear, digits))
            _timed("Train another model, with two hidden layers", lambda: _train(deep, digits, epochs=30))
            expected = {1: _answers(linear, digits), 2: _answers(deep, digits)}
            _deploy_under_load(served, stub, deep, folder, digits, expected)
            _compare(served, stub, digits, expected)
            _roll_back(served, stub, digits, expected)
    finally:
        _timed("Stop the server", served.server.stop)
    _check(not served.server.is_running(), f"The server (pid {served.server.pid}) still runs.")


# --- the models ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Digits:
    """Images as rows of 64 values from 0 to 1 (float32), and the digits that they show."""

    train_x: Array
    train_y: Array
    test_x: Array
    test_y: Array


def _load() -> tuple[_Digits, Any, Any]:
    """Return the data and two models that have learnt nothing yet."""
    os.environ["KERAS_BACKEND"] = "tensorflow"  # no other one writes a SavedModel
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # so small a model is no faster on a GPU
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import requests  # noqa: F401 - needed later: better to miss it now
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DemoError(f"{error}. Install what the demo needs, in the clone: pip install '.[demo]'") from error
    with _native_messages_hidden():
        import keras

        keras.utils.set_random_seed(1)
        linear, deep = _network(keras), _network(keras, 128, 64)

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    x, y = (pixels[order] / 16).astype(np.float32), labels[order]
    return _Digits(x[:-_HELD_OUT], y[:-_HELD_OUT], x[-_HELD_OUT:], y[-_HELD_OUT:]), linear, deep


@contextlib.contextmanager
def _native_messages_hidden() -> Iterator[None]:
    """Keep what TensorFlow's libraries say at first (no GPU, oneDNN is on) off the screen; Python's errors pass."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _network(keras: Any, *hidden: int) -> Any:
    layers = [keras.layers.Dense(units, activation="relu") for units in hidden]
    model = keras.Sequential([keras.Input((64,), name="pixels"), *layers, keras.layers.Dense(10, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def _train(model: Any, digits: _Digits, epochs: int) -> None:
    model.fit(digits.train_x, digits.train_y, epochs=epochs, batch_size=32, verbose=0)


def _answers(model: Any, digits: _Digits) -> Array:
    """What the model itself says to the held-out rows: [rows, 10]."""
    return np.asarray(model.predict(digits.test_x, verbose=0))


# --- the clients ---------------------------------------------------------------------------------------------------


class _Stub:
    """TensorFlow Serving's gRPC call, as any program would make it: a channel, a method, messages."""

    def __init__(self, served: ServedModel) -> None:
        # Without the option a proxy of the environment would be asked for a server on this very machine.
        self._channel = grpc.insecure_channel(served.grpc_endpoint, options=[("grpc.enable_http_proxy", 0)])
        self._call = self._channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            request_serializer=PredictRequest.SerializeToString,
            response_deserializer=PredictResponse.FromString,
        )
        signature = served.signatures()["serving_default"]
        (self._input,), (self._output,) = signature.inputs, signature.outputs

    def predict(self, rows: Array, version: int | None = None) -> tuple[Array, int]:
        """Return the answer [rows, 10] and the version that gave it; raises `grpc.RpcError`."""
        request = PredictRequest()
        request.model_spec.name = _NAME
        if version is not None:
            request.model_spec.version.value = version
        request.inputs[self._input].CopyFrom(to_proto(rows))
        response = self._call(request, timeout=10)
        return to_array(response.outputs[self._output]), response.model_spec.version.value

    def close(self) -> None:
        self._channel.close()


class _Background:
    """A client in a thread that asks row after row at a steady rate, and judges every answer."""

    def __init__(self, stub: _Stub, digits: _Digits, expected: dict[int, Array]) -> None:
        self.answers: Counter[int] = Counter()  # by the version that the answer names
        self.failed: list[str] = []
        self.wrong = 0
        self._stub = stub
        self._rows = digits.test_x
        self._expected = expected
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._ask_on, name="demo-client")

    def _ask_on(self) -> None:
        began, sent = time.monotonic(), 0
        while not self._end.wait(max(0.0, began + sent / _RATE - time.monotonic())):
            row = sent % len(self._rows)
            sent += 1
            try:
                answer, version = self._stub.predict(self._rows[row : row + 1])
            except grpc.RpcError as error:
                self.failed.append(f"{error.code().name}: {error.details()}")
                continue
            self.answers[version] += 1
            if version not in self._expected or not _close(answer[0], self._expected[version][row]):
                self.wrong += 1

    def wait_for(self, version: int) -> None:
        """Return when this version has answered often enough; DemoError when it takes too long."""
        wanted, until = self.answers[version] + _ANSWERS, time.monotonic() + _PATIENCE
        while self.answers[version] < wanted:
            if time.monotonic() > until:
                raise DemoError(f"Version {version} answered {self.answers[version]} requests in {_PATIENCE:g} s.")
            self._end.wait(0.01)

    def __enter__(self) -> _Background:  # noqa: PYI034 - not meant to be derived from
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


# --- the steps -----------------------------------------------------------------------------------------------------


def _deploy(model: Any, folder: Path, digits: _Digits) -> ServedModel:
    sample = digits.test_x[:1]
    served = _timed(
        f"Serve it as '{_NAME}'",
        lambda: serve(model, _NAME, root=folder, sample=sample, progress=False, timeout=90),
    )
    steps = ", ".join(f"{step} {seconds:.2f} s" for step, seconds in served.seconds.items() if seconds >= 0.005)
    print(f"  Version {served.version} is live: {steps}")
    return served


def _ask(served: ServedModel, stub: _Stub, digits: _Digits, expected: Array) -> None:
    import requests

    answer, version = stub.predict(digits.test_x)
    _check(version == 1, f"gRPC was answered by version {version}.")
    _check(_close(answer, expected), "The answer over gRPC is not what the model itself says.")
    print(f"Ask over gRPC: {len(answer)} rows, all equal to the model's own answers.")

    url = f"{served.rest_url}/v1/models/{_NAME}:predict"
    with requests.Session() as session:
        session.trust_env = False  # no proxy between this machine and itself
        response = session.post(url, json={"instances": digits.test_x.tolist()}, timeout=10)
    _check(response.ok, f"REST answered {response.status_code}: {response.text[:200]}")
    _check(_close(np.asarray(response.json()["predictions"]), expected), "The answer over REST is not the model's own.")
    print(f"Ask over REST: {len(expected)} rows, all equal to the model's own answers.")


def _deploy_under_load(
    served: ServedModel, stub: _Stub, model: Any, folder: Path, digits: _Digits, expected: dict[int, Array]
) -> None:
    # Of the policy "latest 1", which is the default, version 1 would be unloaded once version 2 answers; it is needed
    # for the comparison.
    served.server.control.put_policy(_NAME, {"latest": {"num_versions": 2}})
    print(f"A client asks {_RATE:g} times a second from now on.")
    with _Background(stub, digits, expected) as client:
        client.wait_for(version=1)
        _deploy(model, folder, digits)
        client.wait_for(version=2)
    first, second = client.answers[1], client.answers[2]
    print(
        f"  {first + second} requests meanwhile: {first} answered by version 1, then {second} by version 2; "
        f"{len(client.failed)} failed, {client.wrong} wrong."
    )
    _check(not client.failed, f"Requests failed during the deploy; the first: {client.failed[:1]}")
    _check(client.wrong == 0, "Some answers were not those of the version that they name.")


def _compare(served: ServedModel, stub: _Stub, digits: _Digits, expected: dict[int, Array]) -> None:
    for version, own in expected.items():
        answer, named = stub.predict(digits.test_x, version)
        _check(named == version and _close(answer, own), f"Version {version} does not answer as itself.")
    margins = {"accuracy": 0.02, "latency": 0.5}
    found = compare(served, 1, 2, data=digits.test_x, labels=digits.test_y, margins=margins, progress=False)
    print("Compare both on rows that neither has seen; version 2 may be 2 points worse, and take half as long again:")
    print(f"  {found.verdict}")
    for reason in found.reasons:
        print(f"  - {reason}")
    print(f"  They name different digits in {len(found.heads[0].differing)} rows: result.disagreements() lists them.")
    accuracy = found.metric("accuracy")
    _check(
        min(accuracy.a, accuracy.b) > 0.8, f"A version is right in {min(accuracy.a, accuracy.b):.0%} of the rows only."
    )


def _roll_back(served: ServedModel, stub: _Stub, digits: _Digits, expected: dict[int, Array]) -> None:
    to = _timed("Roll back", served.rollback)
    answer, version = stub.predict(digits.test_x)
    _check(to == version == 1, f"The rollback led to version {to}; version {version} answers.")
    _check(_close(answer, expected[1]), "The answers after the rollback are not those of version 1.")
    print("  Version 1 answers again.")


def _close(answer: Array, expected: Array) -> bool:
    return answer.shape == expected.shape and np.allclose(answer, expected, _RTOL, _ATOL)


def _check(fine: bool, otherwise: str) -> None:
    if not fine:
        raise DemoError(otherwise)


def _timed(what: str, work: Callable[[], Result]) -> Result:
    """Do the work; print what it is, and how long it took."""
    print(f"{what} ...", end=" ", flush=True)
    began = time.monotonic()
    try:
        result = work()
    except BaseException:
        print("failed.", flush=True)
        raise
    print(f"{time.monotonic() - began:.1f} s", flush=True)
    return result


if __name__ == "__main__":
    sys.exit(main())
