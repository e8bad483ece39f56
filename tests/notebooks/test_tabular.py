"""A tabular model: named columns in, several outputs, and a decision that follows from the verdict."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.notebooks.running import run_without_leaks, text_of


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_decision_follows_from_the_verdict(model_copy: Callable[..., Path], tmp_path: Path) -> None:
    model_copy("multi", base=tmp_path / "models" / "risk")  # of an earlier run: version 1
    text = text_of(run_without_leaks("07_tabular", tmp_path))
    assert "30 inputs; outputs: finding, probability, score" in text
    assert "'finding': 'benign'" in text or "'finding': 'malignant'" in text
    assert "Input is missing for signature 'serving_default': 'mean_radius' (float [?])." in text
    found = re.search(r"^(SHIP|REJECT|INCONCLUSIVE): (.*)\nversion (\d) answers$", text, re.MULTILINE)
    assert found is not None
    verdict, words, version = found.groups()
    assert f"{verdict}: risk@2 (A) against risk@3 (lean) (B); 285 rows sent to both." in text
    assert version == ("3" if verdict == "SHIP" else "2")
    expected = {"SHIP": "replaces", "REJECT": "stays", "INCONCLUSIVE": "more patients are known"}
    assert expected[verdict] in words
    assert re.search(r"^(SHIP|REJECT|INCONCLUSIVE).*: Cost ", text, re.MULTILINE)
    assert "Stopped serving 'risk'." in text
