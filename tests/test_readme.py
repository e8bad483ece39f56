"""The clients of README.md work as they stand; only the ports are those of a test server."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from serving_jupyter.magics import parse_line
from serving_server.flags import FLAGS
from serving_workbench.commands import COMMANDS
from tests.servers import ServerProcess, SharedServer

README = (Path(__file__).parent.parent / "README.md").read_text()


def with_ports_of(server: SharedServer, text: str) -> str:
    return text.replace("http://127.0.0.1:8501", server.rest_url).replace("127.0.0.1:8500", server.grpc_endpoint)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_commands_are_answered(shared_server: SharedServer) -> None:
    answers = []
    for line in re.findall(r"^curl .*$", README, re.MULTILINE):
        command = [*shlex.split(with_ports_of(shared_server, line)), "--silent", "--fail-with-body"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        answers.append(json.loads(done.stdout))
    predicted, status, metadata = answers
    assert predicted == {"predictions": [3.5, 4.0, 5.5]}
    assert {entry["state"] for entry in status["model_version_status"]} == {"AVAILABLE"}
    assert metadata["model_spec"] == {"name": "half_plus_two", "signature_name": "", "version": "1"}


def test_the_flags_are_flags() -> None:
    (section,) = re.findall(r"^### Serving as TensorFlow Serving does\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"--([a-z_]+)", section))
    assert len(named) > 10
    assert named <= {flag.name for flag in FLAGS}


def blocks_of_code() -> list[str]:
    return re.findall(r"```[a-z]*\n(.*?)```", README, re.DOTALL)


def test_the_commands_of_a_terminal_are_commands() -> None:
    lines = [line for block in blocks_of_code() for line in block.splitlines() if line.startswith("serving-workbench ")]
    commands = {command.name: command for command in COMMANDS}
    for line in lines:
        _, word, *words = shlex.split(line, comments=True)
        commands[word].parser(word, in_notebook=False).read(
            [each for each in words if each != "--json"], lambda text: text
        )
    assert len(lines) > 5


def test_the_magics_are_magics() -> None:
    lines = [line for block in blocks_of_code() for line in block.splitlines() if re.match(r"%(serve|predict) ", line)]
    for line in lines:
        magic, typed = line.partition("#")[0].strip().removeprefix("%").split(" ", 1)
        parse_line(magic, typed, lambda braced: braced)
    assert len(lines) > 8


def test_the_list_of_models_is_served_as_it_stands(
    server: Callable[..., ServerProcess], models_dir: Path, tmp_path: Path
) -> None:
    (config,) = re.findall(r"```textproto\n(.*?)```", README, re.DOTALL)
    logs = tmp_path / "logs"
    logs.mkdir()
    file = tmp_path / "models.config"
    file.write_text(config.replace('"/models/', f'"{models_dir}/').replace("/var/log/models/", f"{logs}/"))
    process = server(f"--model_config_file={file}", "--allow_version_labels_for_unavailable_models")
    process.wait_available("half_plus_two", 1, 2)
    process.wait_available("digits")
    for label, answer in (("stable", 2.5), ("canary", 3.5)):
        path = f"/v1/models/half_plus_two/labels/{label}:predict"
        assert process.rest("POST", path, {"instances": [1.0]}) == (200, {"predictions": [answer]})


@pytest.mark.slow
def test_the_notebook_and_the_script_run_as_they_stand(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (training,) = [re.sub(r"^%.*$", "", block, flags=re.MULTILINE) for block in blocks if "%load_ext" in block]
    (script,) = [block for block in blocks if "sw.serve(" in block]
    done = subprocess.run(
        [sys.executable, "-c", training + script],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "models" / "digits").iterdir()) == ["1", "2"]


@pytest.mark.slow
def test_the_grpc_client_is_answered(shared_server: SharedServer) -> None:
    (client,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "import grpc" in block]
    done = subprocess.run(
        [sys.executable, "-c", with_ports_of(shared_server, client)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[3.5, 4.0, 5.5]"
