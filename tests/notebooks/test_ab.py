"""A/B: the choice follows from the verdicts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.notebooks.running import run_without_leaks, text_of


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_choice_follows_from_the_verdicts(tmp_path: Path) -> None:
    text = text_of(run_without_leaks("04_ab", tmp_path))
    names = "small|pruned|rounded|quantised"
    verdicts = dict(re.findall(rf"^({names}): (SHIP|REJECT|INCONCLUSIVE|UNHEALTHY)\.", text, re.MULTILINE))
    assert len(verdicts) == 4
    assert verdicts["pruned"] == "REJECT", "every fifteenth digit is lost"
    assert verdicts["small"] != "SHIP"
    found = re.search(r"^not worse than allowed: (.*); of these worth it: (.*)$", text, re.MULTILINE)
    assert found is not None
    shipped, worth_it = ([] if group == "none" else group.split(", ") for group in found.groups())
    assert shipped == [name for name, verdict in verdicts.items() if verdict == "SHIP"]
    choice = re.search(r"^in service from now on: (\w+), version (\d)$", text, re.MULTILINE)
    assert choice is not None
    assert choice[1] in (worth_it or ["original"])
    assert f"version {choice[2]} answers; ab.html" in text
    assert (tmp_path / "ab.html").stat().st_size > 10_000
    assert "Stopped serving 'digits'." in text
