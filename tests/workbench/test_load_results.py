"""Results of load tests: tables, files, pictures."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import serving_workbench as sw
from serving_workbench.load.result import LoadResult
from tests.workbench.test_load_analysis import records, setup


@pytest.fixture
def result() -> LoadResult:
    """Twelve seconds at 100/s: slow for one second, 20 ms in the middle, one error."""
    rng = np.random.default_rng(0)
    scheduled = np.arange(1200) / 100
    latency = rng.lognormal(-6, 0.3, 1200) * np.where(np.arange(1200) < 100, 30, 1)
    latency[600:612] += 0.02
    status = np.zeros(1200, np.uint16)
    status[700] = 14
    given = records(scheduled, scheduled + latency, status=status, texts={14: "gone"})
    return LoadResult(setup(12.0, "p99 30ms", warmup=None), given)


def test_a_frame_has_a_row_for_each_request(result: LoadResult) -> None:
    frame = result.to_frame()
    assert list(frame) == [
        "scheduled",
        "sent",
        "answered",
        "latency",
        "send_latency",
        "status",
        "waited",
        "counted",
    ]
    assert len(frame) == 1200
    assert frame.status.value_counts().to_dict() == {"OK": 1199, "UNAVAILABLE": 1}
    assert (frame.latency == frame.answered - frame.scheduled).all()
    assert frame.counted.sum() == result.summary.requests
    assert 950 <= result.summary.requests <= 1150


def test_text_tells_all_that_matters(result: LoadResult) -> None:
    text = repr(result)
    assert text.startswith("m at t: poisson arrivals, 100/s for 12 s over grpc\npercentile  latency")
    assert "of the warm-up" in text
    assert "p99 <= 30 ms: " in text
    assert "goodput" in text
    assert "1 of " in text
    assert "UNAVAILABLE: gone" in text
    assert not result.ok
    low, value, high = (getattr(result.summary.latency[99.0], name) for name in ("low", "value", "high"))
    assert low <= value == result.p99 == result.percentile(99) <= high


def test_a_saved_run_reads_the_same(result: LoadResult, tmp_path: Path) -> None:
    path = result.save(tmp_path / "run.npz")
    again = LoadResult.load(path)
    assert again.setup == result.setup
    assert repr(again) == repr(result)
    for name in ("scheduled", "sent", "answered", "status", "waited", "ticks"):
        assert np.array_equal(getattr(again.records, name), getattr(result.records, name))
    assert path.stat().st_size < 1200 * 30
    assert list(tmp_path.iterdir()) == [path]
    for wrong in (b"", b"PK\x03\x04", b"{}"):
        path.write_bytes(wrong)
        with pytest.raises(sw.WorkbenchError, match="is no saved load test"):
            LoadResult.load(path)
    with pytest.raises(sw.WorkbenchError, match="cannot be written"):
        result.save(tmp_path / "nowhere" / "run.npz")


def test_exports(result: LoadResult, tmp_path: Path) -> None:
    frame = pd.read_csv(result.to_csv(tmp_path / "run.csv"))
    assert frame.latency.to_numpy() == pytest.approx(result.to_frame().latency.to_numpy(), abs=1e-7)
    told = json.loads(result.to_json(tmp_path / "run.json"))
    assert told == json.loads((tmp_path / "run.json").read_text())
    assert told["summary"]["latency"]["99.0"]["value"] == result.p99
    assert told["setup"]["slo"] == {"seconds": 0.03, "percent": 99.0}
    pytest.importorskip("hdrh", reason="the extra 'tune' is not installed")
    lines = result.to_hgrm(tmp_path / "run.hgrm").read_text().splitlines()
    assert lines[0].split() == ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]
    values = [float(line.split()[0]) for line in lines[2:] if line and line[0] != "#"]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(1e3 * result.percentile(100), rel=0.01)


def test_the_picture_has_the_panels_of_the_load_tab(result: LoadResult) -> None:
    before = set(sys.modules)
    figure = result.plot()
    assert "matplotlib.pyplot" not in set(sys.modules) - before
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == [
        "rate",
        "latency by percentile",
        "latency over time",
        "load generator",
        "requests in flight",
        "answers",
    ]
    curves = figure.axes[1].get_lines()
    assert [line.get_label() for line in curves[:2]] == ["from the schedule", "from sending"]
    assert [line.get_linestyle() for line in curves[:2]] == ["-", "--"]
    bundle = result._repr_mimebundle_()
    assert bundle["text/plain"] == repr(result)
    assert "<img src='data:image/png;base64," in bundle["text/html"]
    assert len(bundle["text/html"]) < 300_000


def test_a_run_without_an_answer_can_be_shown(result: LoadResult) -> None:
    nothing = records(np.zeros(1), np.full(1, np.nan), status=np.full(1, 65535, np.uint16), reason="gone")
    empty = LoadResult(setup(1.0), nothing)
    assert np.isnan(empty.p99)
    assert "1 unanswered" in repr(empty)
    assert empty._repr_mimebundle_()["text/html"]
