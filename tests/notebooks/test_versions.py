"""Versions, labels, rollback and canaries: which version stays follows from what the ramps found."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.notebooks.running import run_without_leaks, text_of


@pytest.mark.slow
def test_the_better_version_goes_through_and_the_one_that_fails_comes_back(
    model_copy: Callable[..., Path], tmp_path: Path
) -> None:
    # Another notebook has served digits here, and ramped them: its version is 1, those of this one are 2 to 4.
    model_copy("digits")
    (tmp_path / "runtime").mkdir(mode=0o700)
    before = {"time": 0, "model": "digits", "ramp": 1, "event": "finished", "reason": "version 1 answers all requests"}
    (tmp_path / "runtime" / "serving-workbench-default.ramps.jsonl").write_text(json.dumps(before) + "\n")
    text = text_of(run_without_leaks("02_versions", tmp_path))
    stable, canary = (float(found) for found in re.findall(r"^(?:stable|canary): ([\d.]+)% right", text, re.MULTILINE))
    assert stable < canary
    promoted = re.search(r"^version 3 answers now; the client saw (.*)$", text, re.MULTILINE)
    assert promoted is not None, text
    assert "failed" not in promoted[1]
    copies = re.search(r"version 4 failed for ([\d.]+)% of \d+ copies; the client saw (.*)$", text, re.MULTILINE)
    assert copies is not None
    assert float(copies[1]) > 5
    assert "failed" not in copies[2], "a mirror hurts nobody"
    price = re.search(r"price of the ramp: (\d+) of (\d+) requests failed", text)
    assert price is not None
    assert 0 < int(price[1]) < int(price[2]) / 5
    back = re.search(r"^version 3 answers again; the client saw (.*)$", text, re.MULTILINE)
    assert back is not None
    assert "failed" not in back[1]
    assert re.search(r"^2 +3 +finished .* stays$", text, re.MULTILINE)
    assert re.search(r"^3 +4 +rolled back .* goes$", text, re.MULTILINE)
    assert "version 1 answers all requests" not in text
    assert "version 3 stays in service" in text
    assert "Stopped serving 'digits'." in text
