"""--model_config_file while the server runs: followed, and never trusted; and what start-up makes of it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import leaks
from tests.servers import ServerProcess, wait_until

FAILURE = 255


def entry(name: str, base_path: Path | str, more: str = "") -> str:
    return f'config {{ name: "{name}" base_path: "{base_path}" model_platform: "tensorflow" {more} }}'


def write(file: Path, *lines: str) -> None:
    """Replace the file at once, as editors and config maps do."""
    new = file.with_suffix(".new")
    new.write_text("\n".join(["model_config_list {", *lines, "}"]))
    new.replace(file)


@pytest.fixture(scope="module")
def polling(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that looks at `<its folder>/models.config` every second; it serves half, versions 1 and 2."""
    directory = tmp_path_factory.mktemp("polling")
    file = directory / "models.config"
    write(file, entry("half", models_dir / "half_plus_two", "model_version_policy { all {} }"))
    flags = (f"--model_config_file={file}", "--model_config_file_poll_wait_seconds=1", "--max_num_load_retries=0")
    with ServerProcess(*flags, directory=directory) as process:
        leaks.allow(process.pid)
        process.wait_available("half", 1, 2)
        yield process


@pytest.fixture
def half(models_dir: Path) -> str:
    return entry("half", models_dir / "half_plus_two", "model_version_policy { all {} }")


@pytest.fixture
def file(polling: ServerProcess, half: str) -> Iterator[Path]:
    """The file, put right again after each test."""
    file = polling.directory / "models.config"
    yield file
    if file.is_dir():
        file.rmdir()
    write(file, half)
    wait_until(lambda: sorted(polling.control("GET", "/status")[1]["models"]) == ["half"])
    polling.wait_available("half", 1, 2)


def test_it_follows_the_file(polling: ServerProcess, file: Path, half: str, models_dir: Path) -> None:
    write(file, half.replace("all {}", "specific { versions: 1 }"), entry("multi", models_dir / "multi"))
    wait_until(lambda: polling.control("GET", "/models/multi")[0] == 200)
    polling.wait_available("multi")
    wait_until(lambda: polling.versions("half")[2]["state"] == "END")
    write(file, half)
    wait_until(lambda: polling.control("GET", "/models/multi")[0] == 404)
    polling.wait_available("half", 1, 2)


def test_a_file_that_never_answers_does_not_hold_up_the_end(
    server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    file = tmp_path / "models.config"
    write(file)
    process = server(f"--model_config_file={file}", "--model_config_file_poll_wait_seconds=1")
    file.unlink()
    os.mkfifo(file)  # who reads it waits for what we never write, as for a network file system that is gone
    writer: list[int] = []

    def is_read() -> bool:
        with contextlib.suppress(OSError):  # ENXIO: nobody reads
            writer.append(os.open(file, os.O_WRONLY | os.O_NONBLOCK))
        return bool(writer)

    try:
        wait_until(is_read, 60, "the look at the file")
        assert process.stop() == 0
    finally:
        for descriptor in writer:
            os.close(descriptor)
    assert "a file system does not answer" in process.log_text()


def test_labels_come_with_their_versions(polling: ServerProcess, file: Path, half: str) -> None:
    write(file, half.replace("all {}", "specific { versions: 1 }"))
    wait_until(lambda: polling.versions("half")[2]["state"] == "END")
    # Refused as long as version 2 is not there; the same file is right once it is, without another change of it.
    both = 'version_labels { key: "new" value: 2 } version_labels { key: "old" value: 1 }'
    write(file, half.replace('"tensorflow"', f'"tensorflow" {both}'))
    refusal = "Request to assign label to version 2 of model half, which is not currently available for inference"
    wait_until(lambda: f"{file}:2: {refusal}" in polling.log_text())
    assert polling.model("half")["labels"] == {}
    polling.control("PUT", "/models/half/policy", {"all": {}})
    wait_until(lambda: polling.model("half")["labels"] == {"new": 2, "old": 1})
    answer = polling.rest("POST", "/v1/models/half/labels/new:predict", {"instances": [0.0]})
    assert answer == (200, {"predictions": [3.0]})


BROKEN: list[tuple[str, Callable[[Path, str], object], str]] = [
    (
        "unknown field",
        lambda file, half: write(file, half, "", "no_such_field: 1"),
        'models.config:4:1: Message type "tensorflow.serving.ModelConfigList" has no field named "no_such_field"',
    ),
    (
        "duplicate",
        lambda file, half: write(file, half, "# config {", half),
        "models.config:4: Illegal to list model half multiple times in config list",
    ),
    (
        "relative path",
        lambda file, half: write(file, half, entry("b", "c/d")),
        "models.config:3: Expected model b to have an absolute path or URI; got base_path()=c/d",
    ),
    (
        "bad label",
        lambda file, half: write(
            file, half.replace('"tensorflow"', '"tensorflow" version_labels { key: "x" value: 9 }')
        ),
        "models.config:2: Request to assign label to version 9 of model half, which is not currently available",
    ),
    (
        "label out of range",
        lambda file, half: write(file, half, 'config { version_labels { key: "x" value: 99999999999999999999 } }'),
        "models.config:3:",
    ),
    (
        "cut off",
        lambda file, half: file.write_text(f"model_config_list {{\n{half}\n config {{ name: "),
        "models.config:3:",
    ),
    (
        "not UTF-8",
        lambda file, _: file.write_bytes(b"model_config_list {\n  # caf\xe9\n}"),
        "models.config:2:8: byte 0xe9 is not UTF-8",
    ),
    (
        "garbage on one line",
        lambda file, _: file.write_bytes(b"A" * 10_000_000),
        "Error parsing text-format tensorflow.serving.ModelServerConfig: ",
    ),
    (
        "garbage",
        lambda file, _: file.write_bytes(bytes(range(1, 128)) * 80_000),
        "Error parsing text-format tensorflow.serving.ModelServerConfig: ",
    ),
    (
        "binary",
        lambda file, _: file.write_bytes(b"\n\x10\n\x0e\n\x01a\x12\x02/a\x22\x05tf"),
        "Error parsing text-format tensorflow.serving.ModelServerConfig: ",
    ),
    ("too large", lambda file, _: file.write_bytes(b"#" * (17 * 2**20)), "is larger than 16777216 bytes"),
    ("gone", lambda file, _: file.unlink(), "No such file or directory"),
    ("a folder", lambda file, _: (file.unlink(), file.mkdir()), "Is a directory"),
    ("custom", lambda file, _: file.write_text("custom_model_config {}"), "custom_model_config is not supported"),
]


@pytest.mark.parametrize(("spoil", "cause"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_broken_file_changes_nothing_and_is_told_with_its_line(
    polling: ServerProcess, file: Path, half: str, spoil: Callable[[Path, str], object], cause: str
) -> None:
    before = len(polling.log_text())
    spoil(file, half)

    def told() -> list[str]:
        return [line for line in polling.log_text()[before:].splitlines() if "the models stay as they were" in line]

    wait_until(told)
    (line,) = told()
    assert cause in line
    assert len(line) < 1000
    assert polling.rest("POST", "/v1/models/half:predict", {"instances": [0.0]}) == (200, {"predictions": [3.0]})


def test_an_empty_file_is_no_empty_list(polling: ServerProcess, file: Path, half: str) -> None:
    # As of an editor that truncates first and writes then.
    file.write_text("")
    write(file, half, entry("second", "/no/such/place"))
    wait_until(lambda: polling.control("GET", "/models/second")[0] == 200)
    assert polling.rest("POST", "/v1/models/half:predict", {"instances": [0.0]})[0] == 200
    wait_until(
        lambda: "1 model(s) did not become available: {{{name: second} due to error: NOT_FOUND" in polling.log_text()
    )


def _run(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serving_server", "--port=0", "--bind_address=127.0.0.1", *flags]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def test_a_file_that_cannot_be_parsed_ends_the_start(tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    file.write_text("model_config_list {\n  config {\n    nam: 1\n")
    answer = _run(f"--model_config_file={file}")
    assert answer.returncode == FAILURE
    text = (
        f'Error parsing text-format tensorflow.serving.ModelServerConfig: {file}:3:5: Message type "tensorflow.serving.'
    )
    assert text in answer.stderr
    assert f"Failed to start server. Error: INVALID_ARGUMENT: {text}" in answer.stdout


def test_labels_at_the_start_need_the_flag(tmp_path: Path, server: Any, models_dir: Path) -> None:
    file = tmp_path / "models.config"
    label = 'version_labels { key: "stable" value: 2 }'
    write(file, entry("m", models_dir / "half_plus_two", label))
    answer = _run(f"--model_config_file={file}", f"--grpc_socket_path={tmp_path / 's'}")
    assert answer.returncode == FAILURE
    assert answer.stdout == (
        "Failed to start server. Error: FAILED_PRECONDITION: Request to assign label to version 2 of model m, which is "
        "not currently available for inference (a new label may point at any version with "
        "--allow_version_labels_for_unavailable_models)\n"
    )
    running = server(f"--model_config_file={file}", "--allow_version_labels_for_unavailable_models")
    running.wait_available("m", 2)
    assert running.rest("POST", "/v1/models/m/labels/stable:predict", {"instances": [0.0]})[0] == 200


def test_the_start_can_wait_for_the_models(server: Any, models_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    write(file, entry("a", models_dir / "half_plus_two"), entry("b", models_dir / "multi"))
    running = server(f"--model_config_file={file}", "--wait_for_models")
    # The record is written when the ports are open.
    assert {running.model(name)["serving_version"] is not None for name in ("a", "b")} == {True}


def test_a_start_that_waits_ends_with_the_model_that_fails(tmp_path: Path, models_dir: Path) -> None:
    file = tmp_path / "models.config"
    (tmp_path / "bad" / "3").mkdir(parents=True)
    os.utime(tmp_path / "bad" / "3", (0, 0))
    write(file, entry("good", models_dir / "half_plus_two"), entry("bad", tmp_path / "bad"))
    flags = (f"--model_config_file={file}", "--wait_for_models", "--max_num_load_retries=0")
    answer = _run(*flags, f"--grpc_socket_path={tmp_path / 's'}")
    assert answer.returncode == FAILURE
    text = (
        "1 servable(s) did not become available: {{{name: bad version: 3} due to error: NOT_FOUND: Specified file path"
    )
    assert f"Failed to start server. Error: UNKNOWN: {text}" in answer.stdout
    assert not (tmp_path / "s").exists()


def test_a_start_that_waits_ends_in_time(tmp_path: Path) -> None:
    flags = ("--model_name=m", f"--model_base_path={tmp_path / 'none'}", "--wait_for_models")
    answer = _run(*flags, "--wait_for_models_timeout_seconds=1", f"--grpc_socket_path={tmp_path / 's'}")
    assert answer.returncode == FAILURE
    assert "1 servable(s) did not become available: {{{name: m} due to error: NOT_FOUND: base path" in answer.stdout


def test_the_first_deploy_is_no_news_of_missing_versions(
    shared_server: Any, model_copy: Callable[..., Path], tmp_path: Path
) -> None:
    base = tmp_path / "models" / "fresh"
    base.mkdir(parents=True)
    shared_server.put_model("fresh", base)
    wait_until(lambda: shared_server.model("fresh")["problem"] is not None)
    model_copy("half_plus_two", base=base)
    shared_server.wait_available("fresh")
    assert "No versions of servable fresh" not in shared_server.log_text()
    shared_server.control("DELETE", "/models/fresh")


def test_flags_of_tensorflow_serving_s_library(server: Any, model_copy: Callable[..., Path], tmp_path: Path) -> None:
    base = model_copy("half_plus_two").parent
    flags = ("--servable_versions_always_present=false", "--aspired_version_policy=resource_preserving")
    running = server("--model_name=m", f"--model_base_path={base}", "--num_unload_threads=1", *flags)
    running.wait_available("m", 1)
    model_copy("half_plus_two", version=2)
    running.wait_available("m", 2)
    states = [
        line for line in running.log_text().splitlines() if "loaded m version" in line or "Loaded m version" in line
    ]
    assert ["Unloaded m version 1" in states[1], "Loaded m version 2" in states[2]] == [True, True]
    (tmp_path / "away").mkdir()
    for version in ("1", "2"):
        (base / version).rename(tmp_path / "away" / version)
    wait_until(lambda: running.versions("m")[2]["state"] == "END")
