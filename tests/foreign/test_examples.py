"""TensorFlow's own tf.Examples and stubs against Classify, Regress and MultiInference, on both transports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import SharedServer

CLIENT = Path(__file__).with_name("clients") / "examples_stubs.py"


@pytest.mark.slow  # the client imports TensorFlow
def test_the_stubs_of_tensorflow_serving(grpc_server: SharedServer) -> None:
    model = grpc_server.serve("examples")
    command = [sys.executable, str(CLIENT), grpc_server.grpc_endpoint, model]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "classes": [[["a", 1.0], ["b", 3.5]], [["a", 3.0], ["b", 4.5]]],
        "values": [3.5],
        "multi": [["classification_result", "serving_default", 2], ["regression_result", "regress", 2]],
    }
