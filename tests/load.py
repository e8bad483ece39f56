"""A steady stream of Predict requests that checks every answer; the witness of swaps, crashes and drains."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from typing import Any, Self

import grpc.aio
import numpy as np

from serving_server.tensors import to_array, to_proto
from serving_server.wire.messages import PredictRequest, PredictResponse

__all__ = ["Answer", "HalfPlusTwoLoad"]


@dataclasses.dataclass(frozen=True)
class Answer:
    """One request: when it was sent (s, monotonic), and either the version and whether y was right, or the error."""

    sent: float
    seconds: float
    version: int | None
    right: bool
    error: str


class HalfPlusTwoLoad:
    """Asks a half_plus_two model at a fixed rate, in a thread of its own, until stopped.

    Parameters
    ----------
    endpoint : str
        host:port
    model : str
    rate : float
        Requests per second, sent on schedule whether or not the earlier ones were answered.
    """

    def __init__(self, endpoint: str, model: str, rate: float = 200.0) -> None:
        self._endpoint = endpoint
        self._model = model
        self._interval = 1 / rate
        self.answers: list[Answer] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive(), "the load did not stop"

    @property
    def failed(self) -> list[Answer]:
        """Requests that got an error."""
        return [answer for answer in self.answers if answer.error]

    @property
    def wrong(self) -> list[Answer]:
        """Answers that are not what the version they name computes."""
        return [answer for answer in self.answers if not answer.error and not answer.right]

    async def _run(self) -> None:
        async with grpc.aio.insecure_channel(self._endpoint) as channel:
            call = channel.unary_unary(
                "/tensorflow.serving.PredictionService/Predict",
                request_serializer=PredictRequest.SerializeToString,
                response_deserializer=PredictResponse.FromString,
            )
            tasks = set()
            due = time.monotonic()
            number = 0
            while not self._stop.is_set():
                task = asyncio.create_task(self._one(call, float(number % 1000)))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                number += 1
                due += self._interval
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            if tasks:
                await asyncio.wait(tasks, timeout=60)

    async def _one(self, call: Any, x: float) -> None:
        request = PredictRequest()
        request.model_spec.name = self._model
        request.inputs["x"].CopyFrom(to_proto(np.float32([x])))
        sent = time.monotonic()
        try:
            response = await call(request, timeout=60)
        except grpc.aio.AioRpcError as error:
            text = f"{error.code().name}: {error.details()}"
            self.answers.append(Answer(sent, time.monotonic() - sent, None, False, text))
            return
        version = response.model_spec.version.value
        y = to_array(response.outputs["y"]).tolist()
        # Copies of version 1 (adds two) are published under odd numbers, of version 2 (adds three) under even ones.
        right = y == [x * 0.5 + (2.0 if version % 2 else 3.0)]
        self.answers.append(Answer(sent, time.monotonic() - sent, version, right, ""))
