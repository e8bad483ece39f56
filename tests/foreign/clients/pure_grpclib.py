"""grpclib: gRPC in Python on the `h2` package."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import numpy as np
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.exceptions import GRPCError
from messages import PREDICT, PredictRequest, PredictResponse, request, y
from suite import TIMEOUT, Refused, endpoint, own_pair, run, trusted


def context() -> ssl.SSLContext | None:
    if trusted() is None:
        return None
    made = ssl.create_default_context(cafile=trusted())
    made.set_alpn_protocols(["h2"])
    pair = own_pair()
    if pair is not None:
        made.load_cert_chain(*pair)
    return made


with asyncio.Runner() as runner:

    async def connect() -> Channel:
        host, _, port = endpoint().rpartition(":")
        return Channel(host, int(port), ssl=context())

    channel = runner.run(connect())
    call = UnaryUnaryMethod(channel, PREDICT, PredictRequest, PredictResponse)

    async def ask(model: str, x: np.ndarray) -> Any:
        try:
            return y(await call(request(model, x), timeout=TIMEOUT))
        except GRPCError as error:
            raise Refused(error.status.value, error.message or "") from error

    async def ask_all(many: list[np.ndarray]) -> list[Any]:
        return await asyncio.gather(*(ask("half_plus_two", x) for x in many))

    run(lambda model, x: runner.run(ask(model, x)), lambda many: runner.run(ask_all(many)))
    channel.close()
