"""TensorFlow's own client of the profiler, which TensorBoard uses, on both transports."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np

from tests.foreign.tensorflow_clients import TensorFlowClients
from tests.servers import SharedServer


def test_a_trace_while_requests_come(
    grpc_server: SharedServer, tensorflow_clients: TensorFlowClients, tmp_path: Path
) -> None:
    # TensorFlow names ops that it takes for expensive; those of half_plus_two are so for their first runs only.
    model, rows = grpc_server.serve("mlp"), np.zeros((64, 784), np.float32)
    ended, errors = threading.Event(), []

    def ask() -> None:
        try:
            while not ended.is_set():
                grpc_server.predict(model, {"image": rows})
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        told = json.loads(
            tensorflow_clients.run("profiler.py", grpc_server.grpc_endpoint, str(tmp_path)).splitlines()[-1]
        )
    finally:
        ended.set()
        thread.join()
    assert errors == []
    (trace,) = (tmp_path / "plugins" / "profile").glob("*/*_mlp_1.xplane.pb")
    assert b"MatMul" in trace.read_bytes()
    # What TensorFlow's own server answers to Monitor: it is there for TPUs only.
    assert told == ["refused", "UNIMPLEMENTED: unimplemented."]
