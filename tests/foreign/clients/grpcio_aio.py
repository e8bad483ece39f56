"""grpcio on asyncio."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import numpy as np
from messages import PREDICT, PredictRequest, PredictResponse, request, y
from suite import TIMEOUT, Refused, credentials, endpoint, run

UNLIMITED = [("grpc.max_receive_message_length", -1)]

with asyncio.Runner() as runner:

    async def connect() -> grpc.aio.Channel:
        known = credentials()
        if known is None:
            return grpc.aio.insecure_channel(endpoint(), UNLIMITED)
        return grpc.aio.secure_channel(endpoint(), known, UNLIMITED)

    channel = runner.run(connect())
    call = channel.unary_unary(PREDICT, PredictRequest.SerializeToString, PredictResponse.FromString)

    async def ask(model: str, x: np.ndarray) -> Any:
        try:
            return y(await call(request(model, x), timeout=TIMEOUT))
        except grpc.aio.AioRpcError as error:
            raise Refused(error.code().value[0], error.details()) from error

    async def ask_all(many: list[np.ndarray]) -> list[Any]:
        return await asyncio.gather(*(ask("half_plus_two", x) for x in many))

    run(lambda model, x: runner.run(ask(model, x)), lambda many: runner.run(ask_all(many)))
    runner.run(channel.close())
