"""What can be made of a search's result: verdict, tables, files, pictures, other questions."""

from __future__ import annotations

import base64
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from serving_server.batching.parameters import BatchingParameters
from serving_server.batching.parameters_file import read_batching_file
from serving_workbench.errors import WorkbenchError
from serving_workbench.tuning.parameters_text import as_text, difference
from serving_workbench.tuning.result import TuneResult
from tests.workbench.tuned import made_up


def test_the_verdict_has_rate_interval_gain_and_configuration() -> None:
    result = made_up()
    best = result.best
    assert best is not None
    assert best.label == "best"
    assert result.sustained == pytest.approx(best.predicted, rel=0.05)
    gained = result.gain()
    assert gained is not None
    assert gained.low < gained.ratio < gained.high
    assert gained.ratio == pytest.approx(best.predicted / result.candidates[0].predicted, rel=0.05)
    assert f"{result.sustained:,.0f} requests/s within p99 <= 20 ms" in result.verdict
    assert f"{gained.ratio:.2f} times the current setting" in result.verdict
    assert result.verdict == made_up().verdict
    assert "A note." in str(result)


def test_repeats_that_differ_too_much_are_told() -> None:
    result = made_up(spoiled=1)
    assert result.best is not None
    assert "too much to be sure" in result.verdict
    assert result.sustained == 0


def test_rates_that_end_with_the_ladder_are_told() -> None:
    result = made_up()
    assert "may sustain more" not in str(result)
    best = result.best
    assert best is not None
    assert best.evidence is not None
    best.evidence.latencies[:] = 0.001
    ended = dataclasses.replace(result, candidates=result.candidates)
    told = f"so may sustain more: best ({best.evidence.rates[-1]:,.0f} requests/s)."
    assert told in str(ended)
    assert f"[{best.evidence.rates[-1]:,.0f}, inf]" in ended.verdict
    assert "times the current setting in what was tried" in ended.verdict
    assert told in ended._repr_mimebundle_()["text/html"]


def test_an_impossible_objective_is_answered_with_the_smallest() -> None:
    result = dataclasses.replace(made_up(), candidates=[], feasible=False, slo=0.001)
    assert result.best is None
    assert "cannot be kept" in result.verdict
    assert "1.8 ms" in result.verdict
    assert "2.25 ms" in result.verdict
    with pytest.raises(WorkbenchError, match=r"1\.8 ms"):
        result.export("unused")
    assert "text/html" in result._repr_mimebundle_()


def test_where_only_some_lone_requests_are_slow_the_smallest_objective_is_told_too() -> None:
    result = dataclasses.replace(made_up(), slo=1e-4, floor=0.0018)
    assert result.best is None
    assert "Nothing keeps" in result.verdict
    assert "Lone requests had p99 1.8 ms already, so the smallest objective worth trying is 2.25 ms." in result.verdict


def test_at_a_given_rate_the_lowest_latency_wins() -> None:
    slow = made_up().candidates[0].predicted
    result = made_up(rate=0.9 * slow)
    assert result.best is not None
    assert "keeps p99 <= 20 ms at" in result.verdict
    assert made_up(rate=100 * slow).best is None


@pytest.mark.parametrize("spoiled", [0, 1])
def test_it_shows_itself(spoiled: int) -> None:
    shown = made_up(spoiled=spoiled)._repr_mimebundle_()
    assert set(shown) == {"text/plain", "text/html", "image/png"}
    assert base64.b64decode(shown["image/png"])[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(shown["image/png"]) < 300_000
    assert "batching_parameters_file" in shown["text/html"]
    figure = made_up(spoiled=spoiled).plot()
    titles = [axes.get_title() for axes in figure.axes]
    assert sum(bool(title) for title in titles) == 5


def test_frames_hold_what_the_pictures_show() -> None:
    result = made_up()
    table = result.to_frame()
    assert list(table["label"]) == ["current", "batching off", "best"]
    assert table["chosen"].tolist() == [False, False, True]
    assert table["gain"][0] == 1.0
    assert len(result.predictions_frame()) == len(result.predictions)
    assert result.predictions_frame()["predicted"].is_monotonic_decreasing
    evidence = result.evidence_frame()
    assert len(evidence) == 3 * 5 * 5
    assert np.isinf(evidence["latency"]).sum() == 3 * 5


def test_the_file_reads_back_as_the_same_parameters(tmp_path: Path) -> None:
    result = made_up()
    written, of_version = result.export(tmp_path / "deep" / "batching.pbtxt")
    assert read_batching_file(str(written)) == result.parameters
    again = read_batching_file(str(of_version))
    assert isinstance(result.parameters, BatchingParameters)
    assert dataclasses.replace(again, num_batch_threads=result.parameters.num_batch_threads) == result.parameters
    assert of_version.name == "batching_params.pbtxt"
    assert "num_batch_threads" not in of_version.read_text()
    text = written.read_text()
    for told in ("2026-11-25", "version 3, sha256 0123456789ab", "p99 <= 20 ms", "requests/s surely", "# A note."):
        assert told in text
    assert result.export(tmp_path)[0].name == "batching_parameters.pbtxt"
    by_hand = tmp_path / "batching_params.pbtxt"
    by_hand.write_text("max_batch_size { value: 7 }\n")
    (tmp_path / "batching_parameters.pbtxt").unlink()
    with pytest.raises(WorkbenchError, match="written by somebody else"):
        result.export(tmp_path)
    assert by_hand.read_text() == "max_batch_size { value: 7 }\n"
    assert not (tmp_path / "batching_parameters.pbtxt").exists()
    result.export(tmp_path, overwrite=True)
    result.export(tmp_path)  # one of its own is replaced
    assert "by Serving Workbench" in by_hand.read_text()


GOLDEN = """\
# tuned
max_batch_size { value: 32 }
batch_timeout_micros { value: 2000 }
max_enqueued_batches { value: 100 }
num_batch_threads { value: 2 }
allowed_batch_sizes: 8
allowed_batch_sizes: 32
pad_variable_length_inputs: true
# not of TensorFlow Serving, so not in this file: skip_timeout_when_idle
"""


def test_the_text_is_what_tensorflow_serving_takes(tmp_path: Path) -> None:
    parameters = BatchingParameters(
        max_batch_size=32,
        batch_timeout_micros=2000,
        max_enqueued_batches=100,
        num_batch_threads=2,
        allowed_batch_sizes=(8, 32),
        pad_variable_length_inputs=True,
        skip_timeout_when_idle=True,
    )
    assert as_text(parameters, ["tuned"]) == GOLDEN
    file = tmp_path / "x"
    file.write_text(GOLDEN)
    assert read_batching_file(str(file)) == dataclasses.replace(parameters, skip_timeout_when_idle=False)
    split = BatchingParameters(
        max_batch_size=64, num_batch_threads=1, enable_large_batch_splitting=True, max_execution_batch_size=16
    )
    file.write_text(as_text(split))
    assert read_batching_file(str(file)) == split
    changed = difference(dataclasses.replace(parameters, max_batch_size=32, batch_timeout_micros=0), parameters)
    assert "-batch_timeout_micros { value: 0 }" in changed
    assert "+batch_timeout_micros { value: 2000 }" in changed
    assert "max_enqueued" not in changed
    assert difference(parameters, parameters) == ""


def test_a_run_is_saved_read_and_compared(tmp_path: Path) -> None:
    result = made_up()
    again = TuneResult.load(result.save(tmp_path / "run.json"))
    assert again.verdict == result.verdict
    assert again.predictions == result.predictions
    assert again.to_frame().equals(result.to_frame())
    assert again.space == result.space
    assert repr(again.what_if("10ms")) == repr(result.what_if("10ms"))
    frame = result.compare(again)
    assert (frame["this"].astype(str) == frame["other"].astype(str)).all()
    with pytest.raises(WorkbenchError, match="belongs to no running server"):
        again.apply()
    for write in (result.save, result.export):
        with pytest.raises(WorkbenchError, match="cannot be written"):
            write("/proc/nowhere/file")
    with pytest.raises(WorkbenchError, match="cannot be read"):
        TuneResult.load(tmp_path / "no such file")
    (tmp_path / "other").write_text('{"format": "x"}')
    with pytest.raises(WorkbenchError, match="another format"):
        TuneResult.load(tmp_path / "other")
    (tmp_path / "other").write_text("[1]")
    with pytest.raises(WorkbenchError, match="no saved search"):
        TuneResult.load(tmp_path / "other")


def test_what_if_needs_no_measurement() -> None:
    result = made_up()
    tight, loose = result.what_if("8ms"), result.what_if(0.050)
    assert tight.parameters is not None
    assert loose.parameters is not None
    assert tight.rate < loose.rate
    assert tight.latency <= 0.008
    slow = result.what_if(rate=200)
    assert slow.parameters is not None
    assert slow.latency < loose.latency
    assert "Predicted, not measured" in repr(slow)
    assert result.what_if(rate=1e7).parameters is None
    impossible = result.what_if("100us")
    assert impossible.parameters is None
    assert "nothing keeps" in repr(impossible)
    assert "p95" in repr(result.what_if("p95 10ms"))
