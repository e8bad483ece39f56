"""`%loadtest` in an IPython shell, against a stub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import serving_workbench as sw
from tests import leaks
from tests.kernel_ext.conftest import Session
from tests.load_stub import LoadStub


@pytest.fixture(scope="module")
def stub() -> Iterator[LoadStub]:
    with LoadStub() as found:
        assert found.process is not None
        leaks.allow(found.process.pid)
        yield found


def test_a_cell_shows_what_was_found(session: Session, stub: LoadStub, tmp_path: Path) -> None:
    session.shell.push({"pixels": np.ones((8, 4), np.float32)})
    target = f"{stub.address} --model digits --no-progress"
    line = f"%loadtest {target} --rate 100 --for 500ms --data pixels --rows 2 --p99 1s --save {tmp_path}/run.npz"
    result = session.run(line)
    assert isinstance(result, sw.LoadResult)
    assert (result.setup.seconds, result.setup.rate, result.setup.rows) == (0.5, 100.0, 2.0)
    assert sw.LoadResult.load(tmp_path / "run.npz").p50 == result.p50
    ramp = session.run(f"%loadtest {target} --rate 50:150 --for 0.4")
    assert ramp.setup.arrivals == "ramp"
    closed = session.run(f"%loadtest {target} --concurrency 3 --for 0.2s")
    assert closed.setup.concurrency == 3


def test_what_is_wrong_is_one_line(session: Session, stub: LoadStub) -> None:
    assert "%loadtest" in session.says("%loadtest --help")
    assert session.error("%loadtest digits --rate fast") == (
        "%loadtest: argument --rate: 'fast' is not a positive number of requests per second."
    )
    assert "no model of it is named" in session.error(f"%loadtest {stub.address} --rate 1")
    assert "needs rate=" in session.error(f"%loadtest {stub.address} --model m")
    assert "--concurrency" in session.complete("%loadtest digits --con")
