"""`make demo`: it tells the truth by its exit code, and leaves nothing behind (which `tests.leaks` looks after)."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_demo_succeeds(record_property: pytest.RecordProperty) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serving_workbench.demo"], capture_output=True, text=True, timeout=170, check=False
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == "", "nothing but the story is shown"
    meanwhile = re.search(r"(\d+) answered by version 1, then (\d+) by version 2; 0 failed, 0 wrong", done.stdout)
    assert meanwhile is not None
    assert all(int(count) > 0 for count in meanwhile.groups())
    assert "Version 1 answers again." in done.stdout
    seconds = re.search(r"Everything was right, in (\d+) s", done.stdout)
    assert seconds is not None
    record_property("demo_seconds", int(seconds[1]))


_WITHOUT_SKLEARN = """
import sys
sys.modules["sklearn"] = None
from serving_workbench.demo import main
sys.exit(main([]))
"""


def test_a_missing_library_is_named_with_its_remedy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_SKLEARN], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert re.search(r"The demo failed\. .*sklearn.*in the clone: pip install '\.\[demo\]'", done.stderr)
    assert "Traceback" not in done.stderr


_WRONG_ANSWERS = """
import sys
import numpy as np
import serving_workbench.demo as demo
demo._answers = lambda model, digits: np.zeros((len(digits.test_x), 10), np.float32)
sys.exit(demo.main([]))
"""


@pytest.mark.slow
def test_a_wrong_answer_is_found_and_the_server_is_stopped() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WRONG_ANSWERS], capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 1
    assert "The demo failed. The answer over gRPC is not what the model itself says." in done.stderr
    assert "Stop the server ..." in done.stdout
