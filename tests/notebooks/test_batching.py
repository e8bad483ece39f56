"""Tuning batching: what is in force at the end follows from the search."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.notebooks.running import run_without_leaks, text_of


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_what_is_in_force_follows_from_the_search(tmp_path: Path) -> None:
    text = text_of(run_without_leaks("03_batching", tmp_path))
    quality = re.search(r"^noisy: ([\d.]+) dB; denoised: ([\d.]+) dB$", text, re.MULTILINE)
    assert quality is not None
    assert float(quality[2]) > float(quality[1]) + 3
    decision = re.search(r"^decision: (.*)$", text, re.MULTILINE)
    batching = re.search(r"^batching in force: (.*)$", text, re.MULTILINE)
    assert decision is not None
    assert batching is not None
    # It began without batching: a busy machine may find nothing better, or nothing that keeps the objective.
    if "goes into force" in decision[1]:
        assert "times the rate" in decision[1]
    else:
        assert decision[1] in {
            "the present parameters stay",
            "no configuration keeps the objective: relax it, or make the model cheaper",
        }
        assert batching[1] == "None"
    assert "Predicted, not measured" in text
    assert "Stopped serving 'denoiser'." in text
