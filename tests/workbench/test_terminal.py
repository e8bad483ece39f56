"""How results are printed in a terminal, as text and as JSON; what words mean there."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import serving_workbench as sw
from serving_workbench.terminal import Terminal, shown


class Result:
    """As results of load tests are: a text, and JSON of its own."""

    def _repr_mimebundle_(self) -> dict[str, str]:
        return {"text/plain": "as text", "text/html": "<b>"}

    def to_json(self) -> str:
        return '{"rate": 5}'


FRAME = pd.DataFrame({"version": [1], "when": pd.to_datetime(["2026-01-02"]), "loss": [float("nan")]})


@pytest.mark.parametrize(
    ("result", "text", "plain"),
    [
        (None, "", None),
        (sw.Table([{"a": 1}], ["a"], "t", {"b": np.int64(2)}), "t\na\n1", {"b": 2}),
        (sw.Table([{"a": None}], ["a"], "t"), "t\na\n-", [{"a": None}]),
        ({"predictions": [1.0]}, '{"predictions": [1.0]}', {"predictions": [1.0]}),
        (np.float32([[1, 2]]), "array([[1., 2.]], dtype=float32)", [[1.0, 2.0]]),
        ({"y": np.array([b"\xff", "ü".encode()], dtype=object)}, None, {"y": ["\\xff", "ü"]}),
        (FRAME, None, [{"version": 1, "when": "2026-01-02T00:00:00.000", "loss": None}]),
        (Result(), "as text", {"rate": 5}),
        (Path("/x"), f"{Path('/x')!r}", "/x"),
    ],
)
def test_results(result: Any, text: str | None, plain: Any) -> None:
    if text is not None:
        assert shown(result, as_json=False) == text
    found = json.loads(shown(result, as_json=True))
    if result is FRAME:
        found[0]["when"] = found[0]["when"].removesuffix("Z")
    assert found == plain


def test_a_frame_shows_all_of_its_columns() -> None:
    wide = pd.DataFrame({f"column_{i}": [i] for i in range(40)})
    assert all(name in shown(wide, as_json=False) for name in wide.columns)


def test_data_are_json_or_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    (tmp_path / "x.json").write_text('{"a": [1]}')
    np.savez(tmp_path / "x.npz", a=np.ones(2), b=np.zeros(1))
    assert terminal.value("[1, 2]", "--sample") == [1, 2]
    assert terminal.value(f"@{tmp_path / 'x.json'}", "--sample") == {"a": [1]}
    loaded = terminal.value(f"@{tmp_path / 'x.npz'}", "--sample")
    assert isinstance(loaded, dict)
    assert sorted(loaded) == ["a", "b"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("[3]"))
    assert terminal.request(None, None) == ([3], True)
    (tmp_path / "bad.npy").write_bytes(b"no array")
    for argument, message in (
        ("{x}", "--sample is no JSON: .* A file is given as @FILE."),
        ("@/no/file", "Cannot read '/no/file': No such file"),
        (f"@{tmp_path / 'bad.npy'}", "cannot be read"),
    ):
        with pytest.raises(sw.CommandLineError, match=message):
            terminal.value(argument, "--sample")
