"""Comparisons of real versions whose differences are known."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import serving_workbench as sw
from serving_server.tensors import to_proto
from serving_server.wire import tfrecord
from serving_server.wire.messages import PredictionLog
from tests.servers import ServerProcess, wait_until

X = np.arange(300, dtype=np.float32)
CLASSES = np.floor(X % 3).astype(np.int64)
#: Rows in which version 2 gives another class.
CHANGED = [row for row in range(300) if row % 50 == 7]


def test_changed_labels_are_found_in_exactly_these_rows(arms: sw.ServedModel) -> None:
    result = sw.compare(
        arms, 1, 2, data=X, labels=CLASSES, margins="accuracy=0.001", output="scores", latency=False, progress=False
    )
    heads = {head.name: head for head in result.heads}
    assert list(heads["scores"].differing) == CHANGED
    assert list(heads["label"].differing) == CHANGED
    assert heads["value"].differing == ()
    assert (result.verdict, result.complete) == ("REJECT", True)
    metric = result.metric("accuracy")
    assert (metric.a, metric.b) == (1.0, 294 / 300)
    assert "6 rows right in A only and 0 in B only" in metric.test
    frame = result.disagreements("scores", n=None)
    assert frame.index.tolist() == CHANGED
    assert frame["input.x"].tolist() == [float(row) for row in CHANGED]
    assert frame["label"].tolist() == [int(CLASSES[row]) for row in CHANGED]
    assert frame["A.scores"].iloc[0].startswith(str(CLASSES[7]))
    assert arms.serving_version == 1
    loaded = {each["version"] for each in arms.describe()["versions"] if each["state"] == "AVAILABLE"}
    assert loaded == {1}  # version 2 was loaded for the comparison only


def test_noise_is_measured_and_quality_decides(arms: sw.ServedModel) -> None:
    result = sw.compare(
        arms,
        1,
        3,
        data=X,
        labels=np.sin(X),
        metric="mae",
        margins={"mae": 0.02},
        output="value",
        latency=False,
        progress=False,
    )
    heads = {head.name: head for head in result.heads}
    assert heads["value"].measures["rms difference"] == pytest.approx(0.01, rel=0.05)
    assert len(heads["value"].differing) > 280
    assert result.verdict == "SHIP"
    assert result.metric("rows that differ").role == "shown"
    strict = result.what_if({"mae": 0.001})
    assert strict.verdict == "REJECT"
    assert "changed after" in strict.checks[-1].text
    with pytest.raises(KeyError, match="rows that differ"):
        result.metric("acuracy")


def test_rows_that_fail_cost_only_themselves(arms: sw.ServedModel) -> None:
    result = sw.compare(arms, 1, 4, data=X, latency=False, progress=False)
    assert result.rows is not None
    assert list(result.rows.failed_b) == [13]
    assert "13 is not allowed" in result.rows.failed_b[13]
    assert len(result.rows.answered) == 299
    assert [check.name for check in result.checks if not check.ok] == ["pairs"]
    assert result.metric("failed rows").b == 1 / 300
    error = result.disagreements()["error"]
    assert error.index.tolist() == [13]
    assert error.iloc[0].startswith("B: ")


def test_another_shape_of_the_answer_rejects_whatever_the_margins(arms: sw.ServedModel) -> None:
    result = sw.compare(arms, 1, 6, data=X[80:100], margins={"rows that differ": 1}, latency=False, progress=False)
    assert result.verdict == "REJECT"
    assert any("Output 'count' is missing in B" in reason for reason in result.reasons)
    assert any("NaN in B only, in 10 of 20 rows" in reason for reason in result.reasons)


def test_a_slow_version_is_told_from_a_fast_one_and_a_version_not_from_itself(arms: sw.ServedModel) -> None:
    slow = sw.compare(arms, 1, 5, data=X, progress=False)
    assert slow.verdict == "REJECT"
    assert slow.metric("latency").difference.low > 0.1
    assert slow.metric("rows that differ").b == 0
    same = sw.compare(arms, 1, 1, data=X, progress=False)
    assert same.metric("rows that differ").b == 0
    assert same.verdict != "REJECT"


@pytest.mark.slow
def test_under_load_blocks_take_turns(arms: sw.ServedModel) -> None:
    result = sw.compare(arms, 1, 5, data=X, rate=150, pairs=20, progress=False)
    assert len(result.latency.blocks_a) == len(result.latency.blocks_b) == 20
    assert result.metric("latency").difference.n == 20
    assert result.metric("latency").difference.low > 0.1
    assert {"client", "saturation"} <= {check.name for check in result.checks}
    (power,) = [check.text for check in result.checks if check.name == "power"]
    assert re.fullmatch(r"20 pairs of blocks would notice a slowdown of [\d.e+]+ %\.", power)


def test_slices_find_where_it_is_worse(arms: sw.ServedModel) -> None:
    x = np.arange(600, dtype=np.float32)[::-1]
    part = np.where(x % 10 == 7, "hard", "easy")  # 60 hard rows, 12 of which change
    frame = pd.DataFrame({"x": x, "target": np.floor(x % 3).astype(int), "part": part}, index=x.astype(int))
    result = sw.compare(
        arms, 1, 2, data=frame, labels="target", slices=["part"], output="scores", latency=False, progress=False
    )
    assert [(each.value, each.rows, each.worse) for each in result.slices] == [("hard", 60, True), ("easy", 540, False)]
    assert sorted(result.disagreements("scores", n=None).index) == [row for row in range(600) if row % 50 == 7]
    assert set(result.to_frame()["slice"]) == {"", "part = hard", "part = easy"}


def test_it_comes_back_from_its_file_and_makes_a_page(arms: sw.ServedModel, tmp_path: Path) -> None:
    result = sw.compare(arms, 1, 2, data=X, labels=CLASSES, output="scores", progress=False)
    again = sw.CompareResult.load(result.save(tmp_path / "ab.npz"))
    assert again.summary() == result.summary()
    pd.testing.assert_frame_equal(again.to_frame(), result.to_frame())
    pd.testing.assert_frame_equal(again.disagreements(), result.disagreements())
    assert again.what_if({"accuracy": 0.5}).metric("accuracy").margin == 0.5
    page = again.report(tmp_path / "ab.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "REJECT" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert page.count("<tr>") > len(CHANGED)
    bundle = result._repr_mimebundle_()
    assert bundle["text/plain"] == result.summary()
    assert "image/png" in bundle
    with pytest.raises(sw.WorkbenchError, match=r"no saved comparison|cannot be read"):
        sw.CompareResult.load(tmp_path / "ab.html")


def test_labels_and_other_servers_are_arms(
    arms: sw.ServedModel, server: Callable[..., ServerProcess], models_dir: Path
) -> None:
    arms.load(3)
    arms.label("canary", 3)
    try:
        by_label = sw.compare(arms, 1, "canary", data=X[:50], latency=False, progress=False)
        assert by_label.b == "arms@3 (canary)"
        other = server("--model_name=theirs", f"--model_base_path={models_dir / 'arms'}")
        other.wait_available("theirs", 6)
        away = sw.compare(arms, 1, f"{other.grpc_endpoint}/theirs", data=X[80:100], progress=False)
        assert away.verdict == "REJECT"
        assert away.metric("latency").difference.n > 0
        with pytest.raises(sw.WorkbenchError, match="different servers"):
            sw.compare(arms, 1, f"{other.grpc_endpoint}/theirs", data=X[:9], rate=100, progress=False)
    finally:
        arms.label("canary", None)
        arms.unload(3)


def test_the_command_does_the_same(arms: sw.ServedModel, tmp_path: Path) -> None:
    rows, labels = tmp_path / "rows.json", tmp_path / "labels.json"
    rows.write_text(json.dumps(X[:60].tolist()))
    labels.write_text(json.dumps(CLASSES[:60].tolist()))
    command = [
        sys.executable,
        "-m",
        "serving_workbench.cli",
        "ab",
        "arms",
        "1",
        "2",
        "--instance",
        "arms",
        "--no-progress",
    ]
    command += ["--data", f"@{rows}", "--labels", f"@{labels}", "--output", "scores", "--no-latency"]
    command += ["--margin", "accuracy=0.5", "--save", str(tmp_path / "ab.npz")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "SHIP" in done.stdout
    assert sw.CompareResult.load(tmp_path / "ab.npz").metric("accuracy").b == 58 / 60
    bad = subprocess.run([*command[:6], "--instance", "arms"], capture_output=True, text=True, timeout=60, check=False)
    assert bad.returncode == 2
    assert "--data" in bad.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"b": 9}, "9"),
        ({"b": "canery"}, "neither a label of 'arms'"),
        ({"b": "nobody@1"}, "nobody"),
        ({"labels": CLASSES[:5]}, "5 values of labels for 300 rows"),
        ({"labels": "target"}, "names a column, but the data are no DataFrame"),
        ({"labels": CLASSES, "metric": "acuracy"}, "did you mean 'accuracy'"),
        ({"metric": "accuracy"}, "needs labels"),
        ({"labels": CLASSES, "output": "sores"}, "no output 'sores'"),
        ({"margins": {"accuracy": 0.1}}, "no such metric"),
        ({"slices": {"part": CLASSES}}, "needs labels"),
        ({"data": X[:0]}, "no rows"),
        ({"data": np.array(["a"])}, "float"),
        ({"rate": -1}, "rate=-1"),
        ({"pairs": 3, "rate": 10}, "too few"),
        ({"data": Path("/nowhere.tfrecord")}, "not there"),
    ],
)
def test_what_is_wrong_is_named(arms: sw.ServedModel, options: dict[str, object], words: str) -> None:
    given: dict[str, object] = {"b": 1, "data": X, "latency": False, **options}
    with pytest.raises(sw.WorkbenchError, match=words):
        sw.compare(arms, 1, given.pop("b"), progress=False, **given)  # type: ignore[arg-type]
    assert arms.serving_version == 1


def test_a_version_is_not_told_from_itself_again_and_again(arms: sw.ServedModel) -> None:
    found = sw.aa(arms, data=X[:50], runs=3, progress=False)
    assert found.runs == len(found.results) == 3
    assert found.arm == "arms@1"
    assert repr(found).startswith("A/A of arms@1, 3 times")
    with pytest.raises(sw.WorkbenchError, match="runs=0"):
        sw.aa(arms, data=X, runs=0)


def test_requests_of_a_log_are_rows_to_compare(arms: sw.ServedModel, tmp_path: Path) -> None:
    """What a server's request log holds, and a warmup file: PredictionLog records; other models' are left out."""

    def logged(model: str, first: int, rows: int) -> bytes:
        entry = PredictionLog()
        entry.predict_log.request.model_spec.name = model
        array = np.arange(first, first + rows, dtype=np.float32)
        entry.predict_log.request.inputs["x"].CopyFrom(to_proto(array))
        return entry.SerializeToString()

    path = tmp_path / "arms.log"
    parts = [(arms.name, 0, 1), (arms.name, 1, 4), ("another", 0, 9), (arms.name, 5, 60)]
    path.write_bytes(b"".join(tfrecord.frame(logged(*each)) for each in parts))
    result = sw.compare(arms, 1, 2, data=path, output="scores", latency=False, progress=False)
    heads = {head.name: head for head in result.heads}
    assert heads["scores"].rows == 65
    assert result.disagreements("scores", n=None)["input.x"].tolist() == [7.0, 57.0]
    path.write_bytes(tfrecord.frame(logged("name-in-production", 0, 9)))
    result = sw.compare(arms, 1, 2, data=path, latency=False, progress=False)
    assert result.heads[0].rows == 9
    path.write_bytes(b"".join(tfrecord.frame(logged(name, 0, 9)) for name in ("one", "two")))
    with pytest.raises(sw.WorkbenchError, match=r"no Predict requests of 'arms' .* There are some of one, two"):
        sw.compare(arms, 1, 2, data=path, latency=False, progress=False)


def test_mirrored_requests_are_compared(arms: sw.ServedModel) -> None:
    with pytest.raises(sw.WorkbenchError, match="answered by a shadow"):
        sw.compare_mirrored(arms)
    arms.mirror(2, fraction=1.0)
    try:
        for begin in range(0, 100, 10):
            arms.predict(X[begin : begin + 10])
        wait_until(lambda: len(arms.mirrored()) == 10, what="ten pairs")
        result = sw.compare_mirrored(arms)
    finally:
        arms.mirror(stop=True)
    assert result.a == "arms@1"
    assert result.b == "arms@2"
    heads = {head.name: head for head in result.heads}
    assert list(heads["label"].differing) == [7, 57]
    assert result.metric("rows that differ").b == 2 / 100
    assert [check.name for check in result.checks] == ["coverage"]
