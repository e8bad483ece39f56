"""What a profile writes for TensorBoard, read by its plugin: xprof, in a process and an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import serving_workbench as sw
from tests.foreign.packages import xprof_packages

pytestmark = pytest.mark.slow

#: Prints what xprof makes of the trace that is its argument.
_READ = """
import json, sys
from xprof.convert import raw_to_tool_data as convert
path = sys.argv[1]
answer = {"tools": convert.xspace_to_tool_names([path])}
for tool in ("overview_page", "framework_op_stats", "trace_viewer"):
    data = convert.xspace_to_tool_data([path], tool, {})[0]
    answer[tool] = json.loads(data)
print(json.dumps(answer))
"""


@pytest.fixture(scope="module")
def served(warm: str, models_dir: Path) -> Iterator[sw.ServedModel]:
    model = sw.serve(models_dir / "dominated" / "1", "shown", instance=warm, progress=False)
    yield model
    model.close()


def test_the_plugin_shows_ops_and_runs(served: sw.ServedModel, pytestconfig: pytest.Config, tmp_path: Path) -> None:
    packages = xprof_packages(pytestconfig)
    trace = sw.profile(served, batches=10, batch_sizes=(64,), busy=1.0).to_tensorboard(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(packages)}
    command = [sys.executable, "-c", _READ, str(trace)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    assert {"overview_page", "framework_op_stats", "trace_viewer@"} <= set(answer["tools"])
    assert answer["overview_page"]
    table = answer["framework_op_stats"][0]
    names = [column["id"] for column in table["cols"]]
    ops = [dict(zip(names, (cell["v"] for cell in row["c"]), strict=True)) for row in table["rows"]]
    heavy = next(op for op in ops if op["operation"] == "heavy_product")
    assert heavy["type"] in {"MatMul", "_MklMatMul"}  # oneDNN's kernel where there is one
    assert heavy["host_or_device"] == "Host"
    assert heavy["occurrences"] >= 10  # the tracer's first run is among them
    steps = {
        event["args"]["step_num"]
        for event in answer["trace_viewer"]["traceEvents"]
        if "step_num" in event.get("args", {})
    }
    assert len(steps) == 10
