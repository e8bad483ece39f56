"""`sw.profile` against real servers: right about a known model; its files; two versions op by op; what is refused."""

from __future__ import annotations

import base64
import copy
import dataclasses
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import serving_workbench as sw
from serving_server.signatures import Signature, TensorSpec
from serving_server.tensors import by_name, to_array
from serving_server.wire.messages import PredictRequest
from serving_workbench.errors import WorkbenchError
from serving_workbench.profiling import memory
from serving_workbench.profiling.entry import _request
from serving_workbench.profiling.operations import FRAMEWORK
from serving_workbench.tuning.stepping import Steps, moving
from tests.models import copy_version
from tests.servers import wait_until

SHAPES = {"rows": (-1, 2), "any": None, "fixed": (99,)}
QUICK: dict[str, Any] = {"batches": 8, "busy": 1.0}


@pytest.fixture(scope="module")
def served(warm: str, models_dir: Path) -> Iterator[sw.ServedModel]:
    """The model ``dominated``: version 2 in service, version 1 loaded too."""
    model = sw.serve(models_dir / "dominated" / "1", "profiled", instance=warm, progress=False)
    base = Path(model.describe()["base_path"])
    copy_version(models_dir / "dominated" / "2", base / "2")
    model.config(policy={"specific": {"versions": [1, 2]}})
    model.server.control.poll("profiled")
    model.load(2)
    yield model
    model.close()  # the server would end with its last model, and others use it


@pytest.fixture(scope="module")
def result(served: sw.ServedModel) -> sw.ProfileResult:
    return sw.profile(served, 1, batches=20, batch_sizes=(1, 64), busy=1.0)


def test_a_bar_moves_while_one_answer_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps("profile", 1.0, enabled=False)
    ticks: list[float] = []
    monkeypatch.setattr(steps, "tick", lambda: ticks.append(steps.spent))
    with moving(steps):
        steps.step("ops")
        wait_until(lambda: len(ticks) >= 3, what="a bar that moves")
    assert steps.seconds["ops"] > 0
    assert "serving-workbench bar" not in {thread.name for thread in threading.enumerate()}


def test_the_heavy_product_is_found(result: sw.ProfileResult) -> None:
    top = result.ops.iloc[0]
    assert (top["name"], top["type"], top["calls"]) == ("heavy_product", "MatMul", 20)
    assert top["share"] > 0.6
    assert result.ops["share"].sum() == pytest.approx(1.0, abs=1e-6)  # nothing is hidden: the rest has a row
    assert result.ops["name"].tolist().count(FRAMEWORK) == 1
    assert result.covered > 0.8
    assert (result.rows, result.runs) == (64, 20)
    assert result.types.iloc[0]["type"] == "MatMul"
    assert result.types.set_index("type").loc["MatMul", "ops"] == 2
    assert result.types["self_us"].sum() == pytest.approx(result.ops["self_us"].sum())
    assert result.batch_sizes["rows"].tolist() == [1, 64]
    assert (result.batch_sizes["us_per_row"] > 0).all()


def test_it_says_what_it_found_and_what_it_cost(result: sw.ProfileResult) -> None:
    text = result.summary()
    assert "% of the run is one MatMul: heavy_product." in text
    assert "profiled version 1: 20 runs traced, 64 rows each" in text
    assert "A batch of 64 costs" in text or "hardly cheaper" in text
    assert "Price: tracing makes a run" in text
    assert "drawn to fit the signature" in text
    overhead = result.overhead
    assert overhead is not None
    assert overhead.plain_us > 0
    assert overhead.share == overhead.traced_us / overhead.plain_us - 1
    assert repr(result) == text
    page = result._repr_html_()
    assert "heavy_product" in page
    assert "<script" not in page


def test_advice_follows_the_numbers(result: sw.ProfileResult) -> None:
    data = copy.deepcopy(result.ops_data)
    data["run_ns"] *= 10  # nine tenths are no op's
    data["sizes"] = [{"rows": 1, "run_ns": [4000]}, {"rows": 32, "run_ns": [32_000]}]
    data["failed"] = {"rows": 64, "message": "too large\nfor this"}
    data["frozen"] = data["batched"] = False
    changed = sw.ProfileResult("m", 1, result.date, data, 3)
    text = "\n".join(changed.advice)
    assert "TensorFlow's own, between ops" in text
    assert "A batch of 32 costs 4.0 times less per row than one of 1 (1 us a row against 4): see %tune." in text
    assert "A batch of 64 fails: too large\n" in text
    assert "not frozen" in text
    assert "no batch dimension" in text
    assert "were traced in" not in text
    assert "left out" not in text
    data["asked"], data["traced_seconds"], data["events_left_out"] = 50, 1.0, 7
    text = "\n".join(changed.advice)
    assert "Of 50 runs, 20 were traced in the 1 s for them: a larger seconds= makes room." in text
    assert "7 were left out" in text
    changed.stages = {"batch_wait": 0.45, "thread_wait": 0.15, "run": 0.4}
    assert changed.advice[0] == (
        "60 % of the last requests' time in the server is queue wait "
        "(45 % for the batch to fill, 15 % for a thread): see %tune."
    )
    data["batches"], data["ops"], data["runs"] = 0, [], []
    data["source"] = "live"
    assert "No run was seen" in sw.ProfileResult("m", 1, result.date, data, 0).summary()


def test_files(result: sw.ProfileResult, tmp_path: Path) -> None:
    again = sw.ProfileResult.load(result.save(tmp_path / "p.json.gz"))
    assert again.summary() == result.summary()
    trace = result.to_tensorboard(tmp_path / "logs")
    assert trace.parent.parent == tmp_path / "logs" / "plugins" / "profile"
    assert trace.name == "profiled_1.xplane.pb"
    assert trace.stat().st_size > 1000
    (tmp_path / "other").write_text("{}")
    for wrong in ("other", "nix"):
        with pytest.raises(WorkbenchError, match=wrong):
            sw.ProfileResult.load(tmp_path / wrong)
    without = copy.copy(result)
    without.ops_data = {**result.ops_data, "trace": None}
    with pytest.raises(WorkbenchError, match="has no trace"):
        without.to_tensorboard(tmp_path)
    with pytest.raises(WorkbenchError, match="cannot be written"):
        result.save(tmp_path / "other" / "x")


def test_the_trace_for_perfetto_is_nested(result: sw.ProfileResult, tmp_path: Path) -> None:
    value = json.loads(result.chrome_trace(tmp_path / "trace.json").read_text())
    events = [event for event in value["traceEvents"] if event["ph"] == "X"]
    named = {(event["pid"], event["tid"]) for event in value["traceEvents"] if event["name"] == "thread_name"}
    runs = {event["args"]["run"]: event for event in events if event["cat"] == "run"}
    assert [runs[number]["name"] for number in range(20)] == [f"profiling run {number}" for number in range(20)]
    assert {(event["pid"], event["tid"]) for event in events} <= named
    for event in events:
        assert event["dur"] >= 0
        assert event["args"]["batch"] is None  # the server numbers batches, and these are none
        run = runs[event["args"]["run"]]
        # Whole nanoseconds as microseconds with three digits: sums differ in the last one.
        assert run["ts"] - 0.002 <= event["ts"] <= event["ts"] + event["dur"] <= run["ts"] + run["dur"] + 0.002


def test_two_versions_op_by_op(result: sw.ProfileResult, served: sw.ServedModel) -> None:
    second = sw.profile(served, 2, batch_sizes=[64], **QUICK)
    found = result.compare(second)
    rows = found.ops.set_index("name")
    assert np.isnan(rows.loc["squashed", "a_us"])
    assert rows.loc["squashed", "difference_us"] == rows.loc["squashed", "b_us"] > 0
    assert rows.loc["heavy_product", "ratio"] > 0
    assert (found.ops["difference_us"].abs().diff().dropna() <= 0).all()
    assert found.ops["difference_us"].sum() == pytest.approx(found.b_us - found.a_us)
    assert "Ops only in B: squashed." in found.summary()
    assert "squashed" in found._repr_html_()
    assert sw.compare_profiles(second, result).ops.set_index("name").loc["squashed", "difference_us"] < 0
    # Threads that run ops at once: the run is shorter than their sum.
    assert result.ops_data is not None
    both = copy.deepcopy(result.ops_data)
    both["run_ns"] //= 2
    halved = sw.ProfileResult("m", 1, result.date, both)
    assert sw.compare_profiles(halved, result).a_us == pytest.approx(found.a_us / 2)
    live = sw.ProfileResult("m", 1, result.date, {**both, "rows": None})
    with pytest.raises(WorkbenchError, match=r"live requests, whose sizes are not known"):
        live.compare(live)
    with pytest.raises(WorkbenchError, match=r"64 rows.*1 row.*same batch_size"):
        sw.compare_profiles(result, sw.profile(served, 2, batch_size=1, **QUICK))


def test_given_rows_labels_and_live_requests(served: sw.ServedModel, warm: str) -> None:
    served.label("blessed", 1)
    found = sw.profile("profiled", "blessed", data=np.ones((3, 512), np.float32), instance=warm, **QUICK)
    assert found.version == 1
    assert found.ops_data["source"] == "given"
    assert "drawn" not in found.summary()
    served.predict(np.ones((1, 512), np.float32), version=1)
    live = sw.profile(served, 1, live=True, seconds=0.05)
    assert live.stages is not None
    assert sum(live.stages.values()) == pytest.approx(1.0)
    assert live.overhead is None
    assert live.rows is None
    assert "not measured on live requests" in live.summary()


def test_only_rows_are_cut() -> None:
    specs = {alias: TensorSpec(alias, f"{alias}:0", by_name("float"), shape) for alias, shape in SHAPES.items()}
    data = {alias: np.ones((99, 2) if alias == "rows" else 99, np.float32) for alias in SHAPES}
    request = _request(data, Signature("serving_default", "", specs, {}, {}))
    sent = PredictRequest.FromString(base64.b64decode(request))
    assert {alias: to_array(each).shape for alias, each in sent.inputs.items()} == {
        "rows": (64, 2),
        "any": (64,),
        "fixed": (99,),
    }


def test_what_is_wrong_is_named(served: sw.ServedModel, warm: str, source: Callable[..., Path], name: str) -> None:
    for options, message in (
        ({"version": 7}, "Version 7 of 'profiled' is not loaded; loaded are: "),
        ({"version": "nix"}, "no label 'nix'"),
        ({"signature": "nix"}, "no signature 'nix'"),
        ({"batch_sizes": 8}, "batch_sizes=8"),
        ({"batch_sizes": [0]}, r"batch_sizes=\[0\]"),
        ({"batches": 1}, "batches is 1"),
        ({"data": np.ones((1, 3), np.float32)}, "512"),
        ({"live": True, "batch_size": 8}, "live=True"),
        ({"busy": 7}, "busy is 7"),
    ):
        with pytest.raises(WorkbenchError, match=message):
            sw.profile(served, **options)  # type: ignore[arg-type]
    with pytest.raises(WorkbenchError, match="does not serve a model 'nix'"):
        sw.profile("nix", instance=warm)
    examples = sw.serve(source("examples"), name, instance=warm, progress=False)
    with pytest.raises(WorkbenchError, match=r"only drawn to fit its signature.*data=X"):
        sw.profile(examples)


def test_memory_in_words_and_what_it_warns_of(result: sw.ProfileResult) -> None:
    assert result.variables.set_index("name").loc["heavy", "bytes"] == 512 * 4096 * 4
    assert result.variables["share"].sum() == pytest.approx(1.0)
    row = 4096 * 4 + 32 * 4 + 512 * 4  # outputs of both products, and the input
    assert result.memory["bytes_per_row"].tolist() == [row, row]
    found = result.memory_fit
    assert found is not None
    assert found.per_row == pytest.approx(row)
    assert found.fixed == pytest.approx(0, abs=1)
    text = result.summary()
    assert "the largest heavy with 8.4 MB" in text
    assert "18.6 KB per row" in text
    assert "Most of it is asked for by heavy_product (MatMul)" in text
    assert result.memory_data is not None
    below = dataclasses.replace(found, fixed=-0.2)  # as least squares have it
    assert any(
        sentence.startswith("A run takes 0 bytes and 18.6 KB per row")
        for sentence in memory.sentences(result.memory_data["profile"], below, available=10**12, batching=None)
    )
    tight = copy.copy(result)
    tight.memory_data = copy.deepcopy(result.memory_data)
    assert tight.memory_data is not None
    tight.memory_data["batching"] = {"max_batch_size": 1000, "num_batch_threads": 4}
    tight.memory_data["available_bytes"] = 40 * row
    first = tight.advice[0]
    assert first.startswith("WARNING: 4 batch threads with 1000 rows each take 74.2 MB at once")
    assert "Set max_batch_size to 10 at most" in first or "to 9 at most" in first
    tight.memory_data["batching"] |= {"max_execution_batch_size": 100}
    assert tight.advice[0].startswith("WARNING: 4 batch threads with 100 rows each")
    assert "Set max_execution_batch_size to " in tight.advice[0]
    tight.memory_data["available_bytes"] = 5000 * row
    assert any("are available." in sentence for sentence in tight.advice)
    assert "WARNING" not in tight.summary()


def test_a_load_in_steps(served: sw.ServedModel, result: sw.ProfileResult) -> None:
    served.predict(np.ones((1, 512), np.float32), version=1)
    served.predict(np.ones((1, 512), np.float32), version=1)
    found = sw.profile(served, 1, parts=["startup"])
    assert found.startup["step"].tolist()[:2] == ["fork", "op libraries"]
    assert found.startup["share"].sum() == pytest.approx(1.0)
    text = found.summary()
    assert "The load took" in text
    assert "The first run took" in text
    assert "no recorded warm-up" in text
    assert "Ops" not in text
    assert found.ops.empty
    assert found.types.empty
    assert len(found.memory) == len(found.variables) == 0
    for call in (found.chrome_trace, found.to_tensorboard):
        with pytest.raises(WorkbenchError):
            call("nix")
    with pytest.raises(WorkbenchError, match="has no ops"):
        found.compare(result)
    assert "restore variables" in found._repr_html_()
    with pytest.raises(WorkbenchError, match="parts='ops'"):
        sw.profile(served, parts="ops")


def test_ops_are_shown_without_the_calls_that_all_lie_in(result: sw.ProfileResult) -> None:
    ops = copy.deepcopy(result.ops_data)["ops"]  # type: ignore[index]
    inside = "StatefulPartitionedCall_1/StatefulPartitionedCall/sequential/"
    for op in ops:
        op["name"] = inside + op["name"]
    changed = dataclasses.replace(result, ops_data={**result.ops_data, "ops": ops})  # type: ignore[dict-item]
    assert changed.ops.iloc[0]["name"] == f"{inside}heavy_product"  # the frame has it whole
    for shown in (changed.summary(), changed._repr_html_(), changed.compare(result).summary()):
        assert "sequential/heavy_product" in shown
        assert "StatefulPartitionedCall" not in shown
