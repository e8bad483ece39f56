"""``serving-workbench`` in a terminal: what it prints, its exit codes, and that it needs no notebook."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import serving_workbench as sw
from serving_workbench.cli import main
from serving_workbench.commands import COMMANDS

Source = Callable[..., Path]


@pytest.fixture
def served(warm: str, name: str, source: Source, tmp_path: Path) -> Any:
    """A model on the warm server, y = x / 2 + 2; its files are this test's own."""
    handle = sw.serve(source("half_plus_two"), name, instance=warm, root=tmp_path, progress=False)
    yield handle
    handle.server.control.delete_model(name)
    handle.server.close()


@pytest.fixture
def run(warm: str, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`run("status", ...)` on the warm server; must succeed; returns what is printed."""

    def command(*arguments: str) -> str:
        capsys.readouterr()
        code = main([*arguments, "--instance", warm])
        captured = capsys.readouterr()
        assert (code, captured.err) == (0, "")
        return captured.out

    return command


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run a command that must fail; return the exit code and the one line on standard error."""
    capsys.readouterr()
    code = main(list(arguments))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    return code, captured.err.rstrip("\n")


def test_the_command_is_installed_under_its_name() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    module, _, function = project["project"]["scripts"]["serving-workbench"].partition(":")
    assert getattr(import_module(module), function) is main


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["--help"]) == 0
    page = capsys.readouterr().out
    for command in COMMANDS:
        assert f"  {command.name} " in page
        assert main([command.name, "--help"]) == 0
        assert capsys.readouterr().out.startswith(f"usage: serving-workbench {command.name} ")
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("serving-workbench 0.")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["staus"], 2, "serving-workbench: there is no command 'staus'; did you mean 'status'?"),
        (["xyzzy"], 2, "there is no command 'xyzzy'. serving-workbench --help lists the commands."),
        (["status", "--jsn"], 2, "serving-workbench status: there is no flag --jsn; did you mean '--json'?"),
        (["status", "a", "b"], 2, "serving-workbench status: unexpected argument 'b'"),
        (["serve"], 2, "the following arguments are required: PATH"),
        (["serve", "/no/such/folder", "--name", "m"], 1, "export: There is no folder '/no/such/folder'."),
        (["serve", "x", "--timeout", "soon"], 2, "'soon' is not a positive number of seconds"),
        (["serve", "x", "--keep"], 2, "there is no flag --keep"),
        (["status", "--instance", "nowhere"], 1, "No server of instance 'nowhere' is running."),
        (["status", "--instance", "a/b"], 1, "'a/b' is not an instance name."),
        (["logs", "--instance", "nowhere"], 1, "No server of instance 'nowhere' has a log"),
        (["logs", "-n", "0"], 2, "'0' is not a whole number from 1 on"),
        (["restart", "--instance", "nowhere"], 1, "No server of instance 'nowhere' is running."),
        (["label", "m", "stable"], 2, "'stable' is not NAME=VALUE, such as stable=2"),
        (["config", "m", "max_batchsize=1"], 2, "there is no setting max_batchsize; did you mean 'max_batch_size'?"),
        (["predict", "m", "{x}"], 2, "the input is no JSON: "),
        (["predict", "m", "@/no/file"], 2, "Cannot read '/no/file': No such file or directory."),
        (["predict", "m", "1", "--version", "1", "--label", "a"], 2, "give --version or --label, not both"),
        (["stop", "m", "--all"], 2, "serving-workbench stop: give a model's name or --all, not both."),
    ],
)
def test_errors(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str) -> None:
    found, line = fails(capsys, *arguments)
    assert message in line
    assert found == code


def test_all_servers_are_stopped_but_for_what_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime = tmp_path / "r"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(runtime))
    damaged = runtime / "serving-workbench-a.json"
    damaged.touch(mode=0o600)
    server = sw.Server.launch("b")
    assert sw.instances() == ["b"]
    assert main(["stop", "--all"]) == 1
    said = capsys.readouterr()
    assert said.out == "Stopped the server 'b'.\n"
    assert str(damaged) in said.err
    assert not server.is_running()
    damaged.unlink()
    assert main(["stop", "--all"]) == 0
    assert capsys.readouterr().out == "No server was running.\n"


def test_status_and_settings(run: Callable[..., str], served: sw.ServedModel) -> None:
    assert f"{served.name}" in run("status")
    described = json.loads(run("status", served.name, "--json"))
    assert (described["name"], described["serving_version"]) == (served.name, 1)
    assert json.loads(run("label", served.name, "stable=1", "--json")) == {"stable": 1}
    run("config", served.name, "--batching", "on", "max_batch_size=4", "allowed_batch_sizes=2,4")
    batching = json.loads(run("config", served.name, "--json"))["batching"]
    assert (batching["max_batch_size"], batching["allowed_batch_sizes"]) == (4, [2, 4])
    assert run("logs", "-n", "1").count("\n") == 1
    assert run("logs", "nobody") == "No line of the log names 'nobody'.\n"
    (line,) = [line for line in json.loads(run("panel", "--json"))["lines"] if line["model"] == served.name]
    assert (line["version"], line["answers"], line["labels"]) == (1, True, ["stable"])
    (version,) = json.loads(run("history", served.name, "--json"))
    assert (version["version"], version["state"], version["serving"]) == (1, "AVAILABLE", True)
    assert "AVAILABLE" in run("history", served.name)


def test_predictions(
    run: Callable[..., str], served: sw.ServedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = served.name
    assert json.loads(run("predict", name, '{"instances": [1.0, 2.0]}')) == {"predictions": [2.5, 3.0]}
    assert json.loads(run("predict", name, "[1.0, 2.0]", "--json")) == [2.5, 3.0]
    assert json.loads(run("predict", name, '{"x": [4]}', "--json", "--version", "1")) == [4.0]
    np.save(tmp_path / "x.npy", np.float32([2.0]))
    assert json.loads(run("predict", name, f"@{tmp_path / 'x.npy'}", "--json")) == [3.0]
    monkeypatch.setattr(sys, "stdin", io.StringIO("[0.0]"))
    assert run("predict", name, "-") == "array([2.], dtype=float32)\n"


def test_what_is_said_does_not_mix_with_json(
    warm: str, source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["serve", str(source("half_plus_two")), "--root", str(tmp_path), "--instance", warm, "--json"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert (answer["name"], answer["version"]) == ("half_plus_two", 1)
    assert captured.err == "Serving as 'half_plus_two', its folder. Another name: --name NAME\n"
    sw.Server.connect(warm).control.delete_model("half_plus_two")


def test_an_interrupt_and_a_reader_that_leaves(
    monkeypatch: pytest.MonkeyPatch, warm: str, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sw, "status", interrupt)
    assert main(["status", "--instance", warm]) == 130
    program = f"{sys.executable} -m serving_workbench.cli --help | head -n 1"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("usage: serving-workbench COMMAND [ARGUMENTS]\n", "")


def terminal(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, without IPython."""
    block = "import sys; sys.modules['IPython'] = None; from serving_workbench.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", block, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_a_server_outlives_the_command_that_started_it(instance: str, source: Source, tmp_path: Path) -> None:
    where = ["--instance", instance]
    folder = str(source("half_plus_two"))
    done = terminal("serve", folder, "--name", "half", "--root", str(tmp_path / "models"), *where)
    assert done.returncode == 0, done.stderr
    assert "half, version 1" in done.stdout
    record = sw.Server.connect(instance).record
    assert record.owner_pid is None
    done = terminal("predict", "half", '{"instances": [2.0]}', *where)
    assert (json.loads(done.stdout), done.stderr) == ({"predictions": [3.0]}, "")
    done = terminal("restart", *where)
    assert "AVAILABLE" in done.stdout, done.stderr
    assert sw.Server.connect(instance).record.owner_pid is None
    done = terminal("stop", *where)
    assert (done.returncode, done.stdout) == (0, f"Stopped the server '{instance}'.\n")
    done = terminal("stop", *where)
    assert (done.returncode, done.stdout) == (0, f"No server '{instance}' was running.\n")
