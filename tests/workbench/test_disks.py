"""Real disks that are full or read-only: small file systems in memory, mounted for the test."""

from __future__ import annotations

import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import serving_workbench as sw
from serving_workbench.export import export_model
from serving_workbench.publish import Publication


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if mounted.returncode != 0:
        pytest.skip(f"mounting a file system takes root: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], timeout=60, check=True)


def no_check_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the disk filled up between the look at its free space and the writing."""
    for module in ("export", "export_keras", "export_functions"):
        monkeypatch.setattr(f"serving_workbench.{module}.ensure_free_space", lambda *_: None, raising=True)


def test_a_copy_onto_a_full_disk(disk: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models_dir / "mlp" / "1"  # over 2 MiB of variables
    with (
        pytest.raises(sw.PublishError, match=r"No space left to write .*about \d\.\d MiB are needed"),
        Publication(disk / "m") as publication,
    ):
        export_model(model, publication.staging)
    no_check_before(monkeypatch)
    with pytest.raises(sw.PublishError, match="No space left to write"), Publication(disk / "m") as publication:
        export_model(model, publication.staging)
    assert list(disk.iterdir()) == []


def test_an_export_onto_a_full_disk(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own imports
        import keras
    model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(1024)])
    no_check_before(monkeypatch)
    with pytest.raises(sw.PublishError, match="No space left to write"), Publication(disk / "m") as publication:
        export_model(model, publication.staging)
    assert list(disk.iterdir()) == []


def test_a_read_only_disk(disk: Path, models_dir: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], timeout=60, check=True)
    with pytest.raises(sw.PublishError, match=f"'{disk}/m' is on a read-only file system.*root="):
        sw.serve(models_dir / "half_plus_two", "m", root=disk, instance="unused", progress=False)
    assert "unused" not in sw.instances()
