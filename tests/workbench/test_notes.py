"""Notes that travel with a version, the digest of its content, and the history that is made of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import serving_workbench as sw
from serving_workbench.digest import __doc__ as recipe
from serving_workbench.digest import content_digest
from serving_workbench.notes import NOTES_FILE, Notes, check_note, metrics_text, read_notes, write_notes
from serving_workbench.rejected import quarantine
from serving_workbench.version_history import folder_history

Source = Callable[..., Path]


@pytest.fixture
def saved(source: Source, tmp_path: Path) -> Path:
    """A SavedModel of the test's own, with variables."""
    return Path(shutil.copytree(source("half_plus_two"), tmp_path / "saved"))


# --- the digest ---


def test_the_digest_is_of_the_content_wherever_it_lies(saved: Path, tmp_path: Path) -> None:
    digest = content_digest(saved)
    copied = shutil.copytree(saved, tmp_path / "elsewhere" / "7")
    os.utime(copied / "saved_model.pb", (0, 0))
    (copied / "saved_model.pb").chmod(0o600)
    (copied / "assets.extra").mkdir(exist_ok=True)
    (copied / "assets.extra" / "anything").write_text("not the model")
    (copied / "fingerprint.pb").write_bytes(b"another export of the same")
    (copied / "empty").mkdir()
    assert content_digest(copied) == digest
    linked = tmp_path / "linked"
    linked.mkdir()
    for child in saved.iterdir():
        (linked / child.name).symlink_to(child)
    assert content_digest(linked) == digest


@pytest.mark.parametrize("change", ["content", "name", "new", "gone", "moved"])
def test_the_digest_tells_every_change(saved: Path, change: str) -> None:
    before = content_digest(saved)
    (data,) = (saved / "variables").glob("variables.data-*")
    if change == "content":
        content = bytearray(data.read_bytes())
        content[-1] ^= 1
        data.write_bytes(content)
    elif change == "name":
        data.rename(data.with_name("other"))
    elif change == "new":
        (saved / "variables" / "more").touch()
    elif change == "gone":
        data.unlink()
    else:
        data.rename(saved / data.name)
    assert content_digest(saved) != before


@pytest.mark.skipif(sys.platform != "linux", reason="find -printf is GNU's")
def test_the_recipe_that_is_documented_gives_the_same(saved: Path) -> None:
    (saved / "assets").mkdir(exist_ok=True)
    for name in ("a b", "ümlaut", "back\\slash", "Z", "a"):
        (saved / "assets" / name).write_text(name)
    assert recipe is not None
    command = recipe.partition("::\n")[2].strip()
    done = subprocess.run(["bash", "-c", command], cwd=saved, capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.split()[0] == content_digest(saved)


# --- the notes ---


def test_what_is_written_is_read(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    metrics = check_note("wider", {"accuracy": np.float32(0.5), "rows": 360, "loss": 1e-3})
    written = write_notes(saved, model=object(), note="wider", metrics=metrics)
    notes = read_notes(saved)
    assert notes == written
    assert (notes.note, notes.user, notes.model) == ("wider", "ada", "builtins.object")
    assert notes.metrics == {"accuracy": 0.5, "rows": 360.0, "loss": 1e-3}
    assert notes.digest == content_digest(saved)
    assert notes.libraries["numpy"] == np.__version__
    assert notes.libraries["python"] == ".".join(map(str, sys.version_info[:3]))
    assert notes.published is not None
    assert notes.published.endswith("+00:00")
    assert metrics_text(notes.metrics) == "accuracy 0.5, rows 360, loss 0.001"


def test_notes_of_a_model_that_is_served_again_are_not_taken_over(saved: Path) -> None:
    write_notes(saved, model=saved, note="the first", metrics={"a": 1.0})
    write_notes(saved, model=saved, note=None, metrics={})
    notes = read_notes(saved)
    assert (notes.note, notes.metrics, notes.model) == (None, {}, str(saved))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, Notes()),
        ("{", Notes()),
        ("[]", Notes()),
        ("[" * 100_000, Notes()),
        ('{"schema": 2, "note": "of a later time"}', Notes()),
        (
            '{"schema": 1, "note": 3, "user": "ada", "metrics": {"a": "b", "c": 1, "d": NaN}, "libraries": []}',
            Notes(user="ada", metrics={"c": 1.0}),
        ),
    ],
)
def test_of_a_file_that_is_not_ours_is_taken_what_is_right(tmp_path: Path, content: str | None, found: Notes) -> None:
    if content is not None:
        (tmp_path / "assets.extra").mkdir()
        (tmp_path / NOTES_FILE).write_text(content)
    assert read_notes(tmp_path) == found


@pytest.mark.parametrize(
    ("note", "metrics", "message"),
    [
        (3, None, "note=3 is a int, not a text"),
        ("x" * 10_001, None, "has 10001 characters; at most 10000"),
        (None, [0.9], "metrics= is a list; it takes a mapping"),
        (None, {str(i): 0.0 for i in range(201)}, "metrics= is 201 of them"),
        (None, {"accuracy": "good"}, "The metric 'accuracy' is 'good'"),
        (None, {"loss": float("nan")}, "The metric 'loss' is nan"),
        (None, {"loss": True}, "The metric 'loss' is True"),
        (None, {"loss": np.zeros(3)}, "The metric 'loss' is array"),
        (None, {"loss": 10**400}, "The metric 'loss' is 1000"),
        (None, {1: 1.0}, "The metric 1 is 1.0"),
    ],
)
def test_what_cannot_be_noted_is_refused_before_anything_starts(
    source: Source, note: Any, metrics: Any, message: str
) -> None:
    with pytest.raises(sw.PublishError) as caught:
        sw.serve(source("half_plus_two"), "m", note=note, metrics=metrics, instance="never-started", progress=False)
    assert message in str(caught.value)
    assert "never-started" not in sw.instances()


# --- the history, from a folder ---


@pytest.fixture
def folder(source: Source, tmp_path: Path) -> Path:
    """A model's folder: version 1 without notes, 2 and 10 with, 11 rejected."""
    base = tmp_path / "models" / "digits"
    for name in ("1", "2", "10", "11"):
        shutil.copytree(source("half_plus_two"), base / name)
    write_notes(base / "2", model="keras.Model", note="two layers", metrics={"accuracy": 0.9})
    write_notes(base / "10", model="keras.Model", note=None, metrics={"accuracy": 0.95, "loss": 0.1})
    write_notes(base / "11", model="keras.Model", note="three", metrics={})
    quarantine(base / "11", "it answers nonsense", "prove")
    (base / ".publishing-12-1-ab").mkdir()
    return base


def test_the_history_of_a_folder(folder: Path) -> None:
    frame = sw.history("digits", root=folder.parent, instance="never-started")
    assert frame["version"].tolist() == [11, 10, 2, 1]
    assert frame["state"].tolist() == ["REJECTED", "ON DISK", "ON DISK", "ON DISK"]
    assert frame["rejected"].tolist()[0] == "it answers nonsense"
    assert str(frame["published"].dtype).startswith("datetime64[")
    assert frame["published"].notna().all()
    # What makes it a table to search.
    assert frame.loc[frame["metrics.accuracy"] > 0.92, "version"].tolist() == [10]
    assert frame.loc[frame["note"].str.contains("layers", na=False), "version"].tolist() == [2]
    old = frame.set_index("version").loc[1]
    assert old["libraries.tensorflow"].startswith("2.")
    assert old["size"] > 1000
    assert old[["user", "note", "digest", "intact"]].isna().all()
    assert sw.history(folder)["path"].tolist() == frame["path"].tolist()


def test_the_display_of_a_history_is_narrow_and_names_what_it_leaves_out(folder: Path) -> None:
    frame = sw.history(folder)
    for shown in (repr(frame), frame._repr_html_()):
        assert "it answers nonsense" in shown
        assert "metrics.loss" in shown
        assert "More columns: user, origin, model, digest, intact, size, path, libraries." in shown
        assert str(folder) not in shown
    assert max(len(line) for line in repr(frame).splitlines()[:-1]) < 160
    # What is made of it shows all that it has.
    assert type(frame[["version", "path"]]) is type(frame.set_index("version"))
    assert str(folder) in frame[["version", "path"]].to_string()
    assert "intact" in repr(folder_history(folder, verify=True)).split("More columns")[0]
    del frame["published"]
    assert "it answers nonsense" in repr(frame)


def test_the_history_verifies_digests_when_asked(folder: Path) -> None:
    with (folder / "2" / "saved_model.pb").open("ab") as file:
        file.write(b"\0")
    frame = folder_history(folder, verify=True).set_index("version")
    assert frame["intact"].to_dict() == {11: True, 10: True, 2: False, 1: None}
    assert folder_history(folder)["intact"].isna().all()


def test_a_model_that_is_nowhere(tmp_path: Path) -> None:
    with pytest.raises(sw.ModelNotServedError, match=r"There is no model 'digits' in '.*'"):
        sw.history("digits", root=tmp_path)


def test_an_empty_folder_has_an_empty_history(tmp_path: Path) -> None:
    (tmp_path / "digits").mkdir()
    frame = sw.history("digits", root=tmp_path)
    assert len(frame) == 0
    assert repr(frame).startswith("no versions")
    assert {"version", "note", "digest", "published"} <= set(frame.columns)


def test_the_script_is_noted(tmp_path: Path, saved: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom serving_workbench.notes import write_notes\n"
        "write_notes(Path(sys.argv[1]), model=3, note=None, metrics={})\n"
    )
    subprocess.run([sys.executable, script, saved], check=True, timeout=60)
    assert read_notes(saved).origin == str(script)


def test_the_file_is_plain_json(saved: Path) -> None:
    write_notes(saved, model=3, note="ü", metrics={})
    data = json.loads((saved / NOTES_FILE).read_text())
    assert (data["schema"], data["note"], data["model"]) == (1, "ü", "builtins.int")
