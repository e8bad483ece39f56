"""Publishing a version: numbers, atomicity, and what a disk can do to it."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from serving_workbench.errors import PublishError
from serving_workbench.files import describe_access, ensure_free_space, human_bytes
from serving_workbench.publish import Publication, check_model_name, deployers, next_version, versions_on_disk
from serving_workbench.rejected import clear_rejected, quarantine, rejected_versions


class Usage(NamedTuple):
    total: int
    used: int
    free: int


NOBODY = 65534


@contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Permission bits do not bind root, so tests of them drop to another user for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shared_tmp(tmp_path: Path) -> Path:
    """A folder that `as_ordinary_user` can reach: pytest's own parents are 0700."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and not folder.stat().st_mode & stat.S_IXOTH:
            folder.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("name", ["digits", "a", "A.b-c_9", "_x", "9lives", "x" * 128])
def test_good_names(name: str) -> None:
    assert check_model_name(name) == name


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "is empty"),
        ("a/b", "contains '/'"),
        ("../up", "begins with '.'"),
        (".hidden", "begins with '.'"),
        ("-flag", "begins with '-'"),
        ("tab\there", r"contains '\t'"),
        ("nul\0", r"contains '\x00'"),
        ("new\n", r"contains '\n'"),
        ("a b", "contains ' '"),
        ("a:predict", "contains ':'"),
        ("größe", "contains 'ö'"),
        ("x" * 129, "has 129 characters"),
        (7, "is a int, not a string"),
        (None, "is a NoneType, not a string"),
    ],
)
def test_odd_names_are_refused_with_what_is_allowed(name: object, problem: str) -> None:
    with pytest.raises(PublishError) as caught:
        check_model_name(name)
    assert problem in caught.value.message.replace("'ß'", "'ö'") or "contains" in caught.value.message
    assert "letters" in str(caught.value)
    assert "128" in str(caught.value)


def publish(folder: Path, version: int | None = None) -> Path:
    with Publication(folder, version) as publication:
        (publication.staging / "saved_model.pb").write_bytes(b"x")
        (publication.staging / "variables").mkdir()
        return publication.commit()


def test_versions_count_up_and_leave_nothing_hidden(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "digits"
    assert [publish(folder).name for _ in range(3)] == ["1", "2", "3"]
    assert versions_on_disk(folder) == [1, 2, 3]
    assert sorted(p.name for p in folder.iterdir()) == ["1", "2", "3"]
    assert (folder / "2" / "variables").is_dir()


def test_an_explicit_version_may_leave_a_gap_but_not_overwrite(tmp_path: Path) -> None:
    assert publish(tmp_path, 7).name == "7"
    assert publish(tmp_path).name == "8"
    with pytest.raises(PublishError, match=r"Version 7 of .* exists already"):
        publish(tmp_path, 7)


@pytest.mark.parametrize("version", [0, -1, 2**63, 1.5, "2", True])
def test_no_version_number(tmp_path: Path, version: object) -> None:
    with pytest.raises(PublishError, match="not a version number"):
        publish(tmp_path, version)  # type: ignore[arg-type]


def test_nothing_is_visible_before_the_rename(tmp_path: Path) -> None:
    with Publication(tmp_path) as publication:
        (publication.staging / "saved_model.pb").write_bytes(b"x")
        visible = [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")]
        assert visible == []
        publication.commit()
    assert versions_on_disk(tmp_path) == [1]


def test_two_deployers_get_different_numbers(tmp_path: Path) -> None:
    with Publication(tmp_path) as first, Publication(tmp_path) as second:
        assert (first.version, second.version) == (1, 2)
        second.commit()
        first.commit()
    assert versions_on_disk(tmp_path) == [1, 2]


def test_an_explicit_version_that_is_being_published_is_refused(tmp_path: Path) -> None:
    with Publication(tmp_path, 4), pytest.raises(PublishError, match="being published by another process"):
        publish(tmp_path, 4)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    folder = tmp_path / "models" / "digits"
    with pytest.raises(error), Publication(folder) as publication:  # noqa: PT012 - the block is what fails
        (publication.staging / "big").write_bytes(b"x" * 100)
        raise error
    assert list(tmp_path.iterdir()) == []  # the folders it created are gone too


def test_a_failure_keeps_what_was_there(tmp_path: Path) -> None:
    publish(tmp_path)
    with pytest.raises(RuntimeError), Publication(tmp_path):
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["1"]


def test_a_rejected_number_is_not_used_again(tmp_path: Path) -> None:
    publish(tmp_path)
    kept = quarantine(publish(tmp_path))
    assert kept.name.startswith(".rejected-2-")
    assert versions_on_disk(tmp_path) == [1]
    assert next_version(tmp_path) == 3


def test_rejected_versions_are_kept_with_the_reason_until_they_are_cleared(tmp_path: Path) -> None:
    for reason in ("it did not load", "it answers differently"):
        quarantine(publish(tmp_path), reason, "load")
    (tmp_path / ".rejected-7-20251231T235959").mkdir()  # by hand, or before reasons were written down
    found = rejected_versions(tmp_path)
    assert [(each.version, each.step, each.reason) for each in found] == [
        (1, "load", "it did not load"),
        (2, "load", "it answers differently"),
        (7, "", "the reason was not written down"),
    ]
    assert found[2].at == "2025-12-31T23:59:59"
    assert next_version(tmp_path) == 8
    with pytest.raises(PublishError, match=r"no rejected version 3; rejected are: 1, 2, 7"):
        clear_rejected(tmp_path, 3)
    assert clear_rejected(tmp_path, 2) == [2]
    assert clear_rejected(tmp_path) == [1, 7]
    assert list(tmp_path.iterdir()) == []
    assert clear_rejected(tmp_path) == []
    assert rejected_versions(tmp_path / "nowhere") == []


def test_a_number_that_is_rejected_twice_in_a_second_is_kept_twice(tmp_path: Path) -> None:
    kept = {quarantine(publish(tmp_path, 4)) for _ in range(3)}
    assert len(kept) == 3
    assert [each.version for each in rejected_versions(tmp_path)] == [4, 4, 4]


def test_others_see_who_deploys_until_it_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JPY_SESSION_NAME", "Work/Digits.ipynb")
    with Publication(tmp_path) as first:
        assert first.others == []
        first.commit()
        with Publication(tmp_path) as second:
            (seen,) = second.others
            assert (seen.version, str(seen)) == (1, f"notebook 'Work/Digits.ipynb' (process {os.getpid()})")
            assert [each.version for each in deployers(tmp_path, besides=1)] == [2]
    assert deployers(tmp_path) == []


def test_what_is_taken_back_leaves_nothing(tmp_path: Path) -> None:
    with Publication(tmp_path) as publication:
        publication.commit()
        publication.take_back()
        publication.take_back()
        assert versions_on_disk(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_killed_deployer_leaves_a_version_of_which_nobody_has_said_that_it_is_good(tmp_path: Path) -> None:
    publish(tmp_path)
    (tmp_path / ".reserved-1").write_text(f'{{"pid": {max(psutil.pids()) + 100_000}, "create_time": 1.0}}')
    with Publication(tmp_path) as publication:
        assert (publication.abandoned, publication.version) == ([1], 2)


def test_what_a_killed_deployer_left_is_removed(tmp_path: Path) -> None:
    dead = max(psutil.pids()) + 100_000
    (tmp_path / f".publishing-1-{dead}-0a0a0a0a").mkdir()
    (tmp_path / ".reserved-1").write_text(f'{{"pid": {dead}, "create_time": 1.0}}')
    (tmp_path / ".reserved-2").write_text(f'{{"pid": {os.getpid()}, "create_time": 1.0}}')  # a reused pid
    assert publish(tmp_path).name == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["1"]


def test_a_living_deployer_keeps_its_number(tmp_path: Path) -> None:
    own = psutil.Process().create_time()
    (tmp_path / ".reserved-1").write_text(f'{{"pid": {os.getpid()}, "create_time": {own}}}')
    assert publish(tmp_path).name == "2"


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "digits").write_text("a file")
    with pytest.raises(PublishError, match="it is a file"):
        publish(tmp_path / "digits")
    with pytest.raises(PublishError, match="in the way"):
        publish(tmp_path / "digits" / "deeper")


def test_a_folder_without_write_permission_is_named_with_its_bits(shared_tmp: Path) -> None:
    folder = shared_tmp / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    with as_ordinary_user(), pytest.raises(PublishError) as caught:
        publish(folder / "digits")
    text = str(caught.value)
    assert str(folder) in text
    assert "dr-xr-xr-x (0555)" in text
    assert "root=" in text


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "No space left"),
        (errno.EDQUOT, "No space left"),
        (errno.EROFS, "read-only file system"),
        (errno.EIO, "Input/output error"),
    ],
)
@pytest.mark.parametrize("call", ["mkdir", "fsync", "rename"])
def test_disk_errors_name_the_path_and_what_to_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, says: str, call: str
) -> None:
    folder = tmp_path / "digits"
    folder.mkdir()

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr("serving_workbench.files.os.fsync" if call == "fsync" else f"pathlib.Path.{call}", fail)
        with pytest.raises(PublishError) as caught:
            publish(folder)
    assert says in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "root=" in str(caught.value)
    assert list(folder.iterdir()) == []


def test_too_little_space_is_said_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10 << 20, 8 << 20, 2 << 20))
    ensure_free_space(tmp_path, 1 << 19)
    with pytest.raises(PublishError, match=r"about 4\.0 MiB are needed"):
        ensure_free_space(tmp_path, 4 << 20)


def test_sizes_in_words() -> None:
    assert [human_bytes(n) for n in (0, 1023, 1536, 5 << 20, 3 << 40)] == [
        *("0 bytes", "1023 bytes", "1.5 KiB", "5.0 MiB", "3.0 TiB"),
    ]


def test_access_names_the_folder_that_blocks(shared_tmp: Path) -> None:
    (shared_tmp / "closed" / "inner").mkdir(parents=True)
    (shared_tmp / "closed").chmod(0o700)
    if os.geteuid() != 0:
        (shared_tmp / "closed").chmod(0o600)
    with as_ordinary_user():
        text = describe_access(shared_tmp / "closed" / "inner")
    (shared_tmp / "closed").chmod(0o700)
    assert f"'{shared_tmp / 'closed'}' is drw" in text
