"""A gRPC server without models that answers when it is told to: ``python -m tests.load_stub``, for load generators.

with LoadStub(delays_ms=(1, 20)) as stub:
    sw.loadtest(stub.address, model="any", rate=200)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import uvloop

from serving_server.errors import StatusCode
from serving_server.http2.call import Call
from serving_server.http2.server import Http2Server
from serving_server.wire.messages import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    PredictResponse,
    SignatureDefMap,
)

__all__ = ["LoadStub"]

ROOT = Path(__file__).parent.parent
#: Requests after which the stub is said to be busy; a warm-up has fewer.
BUSY = 200
_SERVICE = b"/tensorflow.serving.PredictionService/"


class LoadStub:
    """The stub in a process of its own; it ends with its owner.

    Parameters
    ----------
    delays_ms : sequence of float
        Answers take these, in turn.
    freeze : (float, float), optional
        So many seconds after `BUSY` requests, it does nothing for so long.
    die_after : int
        Predict requests after which the process ends.
    fail_after : int
        Predict requests after which all are answered RESOURCE_EXHAUSTED; -1: all.
    threads : int
        Requests that are worked on at once, one after the other beyond; 0: all at once.
    exact : bool
        It sleeps while it works, which is more exact than a timer of the loop; for one request at a time.
    port : int
        0: a free one.
    times : Path, optional
        A file for what it saw of each Predict request: see `seen`. Of those that are answered at once or `exact`.

    Attributes
    ----------
    address : str
        ``127.0.0.1:port``.
    """

    def __init__(
        self,
        delays_ms: Sequence[float] = (0.0,),
        *,
        freeze: tuple[float, float] | None = None,
        die_after: int = 0,
        fail_after: int = 0,
        threads: int = 0,
        exact: bool = False,
        port: int = 0,
        times: Path | None = None,
    ) -> None:
        self._arguments = [
            f"--delays={','.join(map(str, delays_ms))}",
            f"--die-after={die_after}",
            f"--fail-after={fail_after}",
            f"--threads={threads}",
            f"--port={port}",
        ]
        if exact:
            self._arguments.append("--exact")
        if freeze is not None:
            self._arguments += [f"--freeze-at={freeze[0]}", f"--freeze-for={freeze[1]}"]
        if times is not None:
            self._arguments.append(f"--times={times}")
        self._times = times
        self.address = ""
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.load_stub", *self._arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address, "the stub did not start"
        return self

    def wait_busy(self) -> None:
        """Wait until it has had `BUSY` requests."""
        assert self.process is not None
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "busy\n"

    def __exit__(self, *exc_info: object) -> None:
        assert self.process is not None
        self.process.communicate(timeout=60)  # closes its input, which ends it

    def seen(self) -> list[tuple[float, float]]:
        """When each request was taken up and when its answer was handed over, once the stub has ended.

        On `time.perf_counter`, which all processes of a Linux machine share: a client's clock can be held to it.
        """
        assert self._times is not None
        return [(taken, answered) for taken, answered in json.loads(self._times.read_text())]


class _Methods:
    def __init__(self, options: argparse.Namespace) -> None:
        self._delays = [float(each) / 1e3 for each in options.delays.split(",")]
        self._options = options
        self._answer = bytes(PredictResponse().SerializeToString())
        self._count = 0
        self._freeze_due: float | None = None
        self._free = [0.0] * options.threads
        self._loop = asyncio.get_running_loop()
        self.times: list[tuple[float, float]] = []

    def predict(self, message: bytes | bytearray, call: Call) -> Callable[[], None] | None:
        taken = time.perf_counter()
        options = self._options
        number = self._count
        self._count += 1
        if number == BUSY:
            print("busy", flush=True)
        if options.die_after and number >= options.die_after:
            os._exit(0)
        if options.fail_after and number >= options.fail_after:
            call.fail(StatusCode.RESOURCE_EXHAUSTED, "the stub has had enough")
            return None
        if options.freeze_for and number == BUSY:
            self._loop.call_later(options.freeze_at, time.sleep, options.freeze_for)
        delay = self._delays[number % len(self._delays)]
        if self._free:
            now = self._loop.time()
            place = min(range(len(self._free)), key=self._free.__getitem__)
            self._free[place] = max(now, self._free[place]) + delay
            delay = self._free[place] - now
        if delay and options.exact:
            time.sleep(delay)
        elif delay:
            return self._loop.call_later(delay, call.answer, self._answer).cancel
        if options.times:
            self.times.append((taken, time.perf_counter()))
        call.answer(self._answer)
        return None

    def metadata(self, message: bytes | bytearray, call: Call) -> None:
        asked = GetModelMetadataRequest.FromString(bytes(message))
        answer = GetModelMetadataResponse(model_spec=asked.model_spec)
        answer.model_spec.version.value = 1
        definitions = SignatureDefMap()
        definition = definitions.signature_def["serving_default"]
        definition.method_name = "tensorflow/serving/predict"
        for side in (definition.inputs["x"], definition.outputs["y"]):
            side.name = "x:0"
            side.dtype = 1
            side.tensor_shape.dim.add(size=-1)
            side.tensor_shape.dim.add(size=4)
        answer.metadata["signature_def"].Pack(definitions)
        call.answer(answer.SerializeToString())


async def _serve(options: argparse.Namespace) -> list[tuple[float, float]]:
    methods = _Methods(options)
    server = Http2Server({_SERVICE + b"Predict": methods.predict, _SERVICE + b"GetModelMetadata": methods.metadata})
    ((host, port),) = await server.start_tcp("127.0.0.1", options.port)
    print(f"{host}:{port}", flush=True)
    gone = asyncio.Event()
    os.set_blocking(sys.stdin.fileno(), False)
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), gone.set)
    await gone.wait()
    await server.stop(0.0)
    return methods.times


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--delays", default="0")
    parser.add_argument("--freeze-at", type=float, default=0.0)
    parser.add_argument("--freeze-for", type=float, default=0.0)
    parser.add_argument("--die-after", type=int, default=0)
    parser.add_argument("--fail-after", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--times", default="")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        times = runner.run(_serve(options))
    if options.times:
        Path(options.times).write_text(json.dumps(times))


if __name__ == "__main__":
    main()
