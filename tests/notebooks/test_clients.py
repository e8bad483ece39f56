"""External clients: all of them get the answer of the model in the notebook, also through Jupyter."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.notebooks.running import run_without_leaks, text_of


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_all_clients_agree_with_the_model(tmp_path: Path) -> None:
    text = text_of(run_without_leaks("06_clients", tmp_path))
    truth = re.search(r"^the model says (\[[\d ]+\])$", text, re.MULTILINE)
    assert truth is not None
    said = dict(re.findall(r"^(\w.*) says (\[[\d ]+\])$", text, re.MULTILINE))
    said.pop("the model")
    wanted = {"Python, REST", "Python, gRPC", "through Jupyter"}
    wanted |= {client for client, program in (("curl", "curl"), ("JavaScript", "node")) if shutil.which(program)}
    assert said == dict.fromkeys(wanted, truth[1])
    assert f"all {len(wanted)} clients agree: True; the fastest is " in text
    assert 'input "pixels" has shape [1, 2], the signature wants [-1, 64]' in text
    assert "Stopped serving 'digits'." in text
    assert not (tmp_path / "client.js").exists()
