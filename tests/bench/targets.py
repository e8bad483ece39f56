"""What the data-plane benchmark asks: models with their inputs, ways into servers, and what was measured there."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import statistics
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
import psutil

from serving_server.tensors import to_array, to_proto
from serving_server.wire.messages import PredictRequest, PredictResponse
from tests.bench import load_h2load, load_own, load_wrk
from tests.bench.bench_models import PAYLOAD_FLOATS
from tests.bench.rest_peer import RestPeer
from tests.bench.rounds import Round
from tests.servers import ServerProcess

__all__ = ["PREDICT", "SHAPES", "Case", "Target", "cases", "front_rss", "make_targets", "rss", "start_servers"]

PREDICT: Final = "/tensorflow.serving.PredictionService/Predict"
BATCHING: Final = """max_batch_size { value: 64 } batch_timeout_micros { value: 0 }
max_enqueued_batches { value: 1000 } num_batch_threads { value: 2 }"""

#: Requests in flight as (connections, streams per connection) for gRPC; REST has one per connection.
SHAPES: Final = {1: (1, 1), 4: (2, 2), 8: (2, 4), 64: (8, 8), 128: (16, 8), 512: (64, 8), 4096: (512, 8)}


@dataclasses.dataclass(frozen=True)
class Case:
    """One model: its input, the largest batch, and whether each answer has the same bytes in every batch."""

    name: str
    array: Any
    batch: int = 64
    exact: bool = False

    def grpc_body(self, alias: str) -> bytes:
        request = PredictRequest()
        request.model_spec.name = self.name
        content = self.array.dtype != object
        request.inputs[alias].CopyFrom(to_proto(self.array, as_content=content))
        return bytes(request.SerializeToString())

    def rest_body(self) -> bytes:
        values = [v.decode() for v in self.array] if self.array.dtype == object else self.array.tolist()
        return json.dumps({"instances": values}).encode()

    def of_rows(self, rows: int) -> Case:
        """The same with more rows in a request."""
        return dataclasses.replace(self, array=np.repeat(self.array, rows, axis=0))


def cases() -> list[Case]:
    """All of them."""
    rng = np.random.default_rng(0)
    return [
        Case("half_plus_two", np.float32([2.5]), exact=True),
        Case("mlp", rng.random((1, 784), dtype=np.float32)),
        Case("mobilenet", rng.standard_normal((1, 96, 96, 3)).astype(np.float32)),
        Case("strings", np.array([b"what language is this?"], dtype=object)),
        Case("payload", rng.random((1, PAYLOAD_FLOATS), dtype=np.float32), 8, exact=True),
    ]


@dataclasses.dataclass
class Target:
    """One way into a server, and what was measured there: rounds, each with the server's CPU per request (us)."""

    label: str
    server: ServerProcess | RestPeer
    url: str
    body: bytes
    grpc: bool
    exact: bool
    generator: str = ""  # another than the run's
    answer: bytes = b""
    rounds: list[tuple[Round, float]] = dataclasses.field(default_factory=list)

    def measure(self, generator: str, in_flight: int, seconds: float | None, count: int = 0) -> Round:
        """One round of a closed loop."""
        connections, streams = SHAPES[in_flight] if self.grpc else (in_flight, 1)
        before = cpu(self.server)
        amount: dict[str, Any] = {"connections": connections, "streams": streams, "seconds": seconds, "count": count}
        if self.generator == "wrk":
            found = load_wrk.run(self.url, self.body, connections=connections, seconds=seconds or 1.0)
        elif generator == "h2load":
            found = load_h2load.run(self.url, self.body, grpc=self.grpc, **amount)
        else:
            # Its warm-up would be in the server's CPU, and there was a round to warm up before.
            amount |= {"expect": self.answer, "exact": self.exact, "warmup": 0.0}
            found = load_own.run(self.url, self.body, grpc=self.grpc, **amount)
        used = cpu(self.server) - before
        self.rounds.append((found, used / max(1, found.requests) * 1e6))
        return found

    def measure_open(self, rate: float, seconds: float) -> Round:
        """One round of an open loop, with Poisson arrivals."""
        return load_own.run(
            self.url,
            self.body,
            connections=8 if self.grpc else 64,
            streams=1,
            seconds=seconds,
            grpc=self.grpc,
            expect=self.answer,
            exact=self.exact,
            rate=rate,
        )

    def median(self, what: Callable[[Round, float], float]) -> float:
        """The median over the rounds of ``what(round, cpu)``."""
        return statistics.median(what(found, used) for found, used in self.rounds)

    def ratio(self, base: Target, what: Callable[[Round, float], float]) -> float:
        """The median ratio to another target, of rounds that were neighbours."""
        pairs = zip(self.rounds, base.rounds, strict=True)
        return statistics.median(what(*mine) / what(*other) for mine, other in pairs)

    def ask(self) -> bytes:
        """One answer, by another client."""
        if self.grpc:
            host = self.url.split("/")[2]
            unlimited = [("grpc.max_receive_message_length", -1)]
            with grpc.insecure_channel(host, options=unlimited) as channel:
                return bytes(channel.unary_unary(PREDICT)(self.body, timeout=30))
        with urllib.request.urlopen(self.url, self.body, timeout=30) as answer:
            return bytes(answer.read())

    def check(self) -> None:
        """Every request of the rounds must have got an answer of the size of a right one.

        h2load looks at no answer, so their size is what tells of errors, within a quarter: answers that are cut off by
        the end of a round count their bytes, but not as answers, which is much where few large ones fit into a round.
        An error is a small part of the size. JSON varies by its digits.
        """
        sizes = {round(found.bytes_per_answer) for found, _ in self.rounds}
        failed = [found for found, _ in self.rounds if found.failed]
        varies = self.grpc and max(sizes) > 1.25 * min(sizes)
        if failed or varies or min(sizes) < 10:
            why = failed[0].error if failed else ""
            raise RuntimeError(f"{self.label} {self.url}: {failed} failed ({why}), answers of {sorted(sizes)} bytes")


def _processes(server: ServerProcess | RestPeer) -> list[psutil.Process]:
    if isinstance(server, RestPeer):
        return server.processes()
    forkserver = server.control("GET", "/status")[1]["forkserver"]["pid"]
    return [psutil.Process(server.pid), *psutil.Process(forkserver).children()]


def cpu(server: ServerProcess | RestPeer) -> float:
    """User and system seconds of the front and all workers so far."""
    total = 0.0
    for process in _processes(server):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def rss(server: ServerProcess | RestPeer) -> float:
    """Resident memory of the front and the workers, MB."""
    return sum(process.memory_info().rss for process in _processes(server)) / 1e6


def front_rss(server: ServerProcess) -> float:
    """Resident memory of the front, MB."""
    return float(psutil.Process(server.pid).memory_info().rss / 1e6)


@contextlib.contextmanager
def start_servers(folder: Path, sources: dict[str, Path], wanted: list[Case]) -> Iterator[dict[str, ServerProcess]]:
    """Ours with each gRPC transport, by the transport's name."""
    batching = folder / "batching.pbtxt"
    batching.write_text(BATCHING)
    flags = ["--enable_batching", f"--batching_parameters_file={batching}"]
    with contextlib.ExitStack() as stack:
        found = {}
        for transport in ("own", "grpcio"):
            server = ServerProcess(*flags, f"--grpc_transport={transport}", directory=folder / transport)
            found[transport] = stack.enter_context(server)
        for server in found.values():
            for case in wanted:
                parameters = {
                    "max_batch_size": case.batch,
                    "max_enqueued_batches": 1000,
                    "num_batch_threads": 2,
                }
                server.put_model(case.name, sources[case.name], batching=parameters)
                server.wait_available(case.name, timeout=120)
        yield found


def make_targets(servers: dict[str, ServerProcess], peer: RestPeer, case: Case) -> list[Target]:
    """All ways to ask for a case; their answers must agree."""
    _, metadata = servers["own"].rest("GET", f"/v1/models/{case.name}/metadata")
    (alias,) = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]
    body = case.grpc_body(str(alias))
    found = [
        Target(f"gRPC {name}", server, f"http://{server.grpc_endpoint}{PREDICT}", body, True, case.exact)
        for name, server in servers.items()
    ]
    if case.name != "payload":
        own = servers["own"]
        path = f"/v1/models/{case.name}:predict"
        found.append(Target("REST", own, own.rest_url + path, case.rest_body(), False, case.exact))
        if case.name == "half_plus_two":
            if load_wrk.available():
                url = own.rest_url + path
                found.append(Target("REST, by wrk", own, url, case.rest_body(), False, case.exact, "wrk"))
            found.append(Target("tornado", peer, peer.rest_url + path, case.rest_body(), False, case.exact))
    for target in found:
        target.answer = target.ask()
    _compare(found)
    return found


def _compare(targets: list[Target]) -> None:
    answers: list[Any] = [PredictResponse.FromString(target.answer) for target in targets if target.grpc]
    for answer in answers[1:]:
        for alias, tensor in answers[0].outputs.items():
            np.testing.assert_allclose(to_array(answer.outputs[alias]), to_array(tensor), rtol=1e-5, atol=1e-6)
    jsons = [json.loads(target.answer)["predictions"] for target in targets if not target.grpc]
    for predictions in jsons[1:]:
        np.testing.assert_allclose(predictions, jsons[0], rtol=1e-5)
