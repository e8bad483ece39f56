"""The models that other tests serve are all there, and copies are published as exports are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import model_formats, models


def test_every_model_is_built_in_every_version(models_dir: Path) -> None:
    built = {
        folder.name: tuple(sorted(int(version.name) for version in folder.iterdir())) for folder in models_dir.iterdir()
    }
    assert built == models.VERSIONS
    for path in models_dir.glob("*/*"):
        file = "model.tflite" if path.parent.name in model_formats.TFLITE else "saved_model.pb"
        assert (path / file).is_file(), path


def test_a_copy_is_published_under_the_number_asked_for(model_copy: Callable[..., Path], models_dir: Path) -> None:
    copy = model_copy("half_plus_two", version=2, as_version=7)
    assert copy.name == "7"
    assert [entry.name for entry in copy.parent.iterdir()] == ["7"]  # the hidden name is gone
    original = models_dir / "half_plus_two" / "2"
    names = sorted(path.relative_to(original) for path in original.rglob("*"))
    assert sorted(path.relative_to(copy) for path in copy.rglob("*")) == names


def test_a_failed_build_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "tensorflow.py").write_text("raise ImportError('no TensorFlow for this test')")
    folder = tmp_path / "cache"
    folder.mkdir()
    with pytest.raises(RuntimeError, match=r"(?s)could not be built.*no TensorFlow for this test"):
        models.cached(folder)
    assert [path.name for path in folder.iterdir()] == ["build.lock"]
