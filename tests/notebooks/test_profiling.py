"""Profiling: which text model stays follows from the comparison of answers and of run times."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.notebooks.running import run_without_leaks, text_of


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_version_that_stays_follows_from_both_comparisons(model_copy: Callable[..., Path], tmp_path: Path) -> None:
    model_copy("multi", base=tmp_path / "models" / "language")  # of an earlier run: version 1
    text = text_of(run_without_leaks("05_profiling", tmp_path))
    assert "4500 snippets to train, 1200 held out" in text
    assert "language version 2: 30 runs traced, 32 rows each." in text
    assert re.search(r"^batch_wait +[\d.]+", text, re.MULTILINE), "stages of requests"
    assert re.search(r"^transport_out +[\d.,]+ us", text, re.MULTILINE), "the client's side of one request"
    assert "<RequestProfile of 'language': 300 requests in " in text, "the tab"
    strings = re.search(r"^strings: (\d+)% of a run of version 2, (\d+)% of a run of version 3$", text, re.MULTILINE)
    assert strings is not None
    assert int(strings[1]) > int(strings[2])
    decision = re.search(
        r"^not less accurate: (\w+); surely faster: (True|False); version (\d) answers$", text, re.MULTILINE
    )
    assert decision is not None
    assert re.search(rf"^{decision[1]}\b.*: Accuracy ", text, re.MULTILINE)
    assert decision[3] == ("3" if (decision[1], decision[2]) == ("SHIP", "True") else "2")
    assert "Stopped serving 'language'." in text
