"""Kernels come and go, are interrupted and deploy beside each other, while clients outside ask all the time."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.kernel_ext.extension import ask, believed
from tests.kernel_ext.jupyter import JupyterServer
from tests.load import HalfPlusTwoLoad
from tests.servers import wait_until

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Asking:
    """Asks one question again and again in a thread of its own; `failures` are what it raised."""

    def __init__(self, question: Callable[[], None]) -> None:
        self.count = 0
        self.failures: list[BaseException] = []
        self._question = question
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="asking")

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            try:
                self._question()
            except Exception as error:
                self.failures.append(error)
            self.count += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)


def check(answer: bytes) -> None:
    """Of half_plus_two, version 1 or 2, to 1."""
    assert json.loads(answer)["predictions"] in ([2.5], [3.5]), answer


@pytest.fixture(
    params=[
        pytest.param((), id="extension"),
        pytest.param(
            ("--ServerApp.jpserver_extensions={'serving_jupyter': False}",), id="kernel", marks=pytest.mark.slow
        ),
    ]
)
def jupyter(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JupyterServer]:
    """By who owns the serving process."""
    with JupyterServer(tmp_path, *request.param) as server:
        yield server


@pytest.mark.slow
def test_clients_outside_notice_nothing_of_what_happens_to_kernels(
    jupyter: JupyterServer, models_dir: Path, request: pytest.FixtureRequest
) -> None:
    first = jupyter.start_kernel()
    first.run(f"%load_ext serving_workbench\nserved = %serve {models_dir}/half_plus_two/1 --name half --no-progress")
    record = believed(jupyter, "default")
    body = b'{"instances": [1.0]}'
    rest = f"{record.endpoints['rest']}/v1/models/half:predict"

    def directly() -> None:
        with _DIRECT.open(rest, data=body, timeout=30) as answer:
            check(answer.read())

    def proxied() -> None:
        answer = ask(jupyter, "POST", "/serving/default/v1/models/half:predict", body)
        assert answer.status == 200, answer.body
        check(answer.body)

    has_proxy = "extension" in request.node.callspec.id
    with (
        HalfPlusTwoLoad(record.endpoints["grpc"], "half", rate=50) as load,
        Asking(directly) as by_rest,
        Asking(proxied if has_proxy else directly) as by_proxy,
    ):
        wait_until(lambda: len(load.answers) > 20 and by_rest.count > 5 and by_proxy.count > 5, what="load")

        running = first.start("import time; time.sleep(600)")
        first.interrupt()
        assert first.reply(running)["ename"] == "KeyboardInterrupt"

        # An interrupt that hits a deploy, here while it is proved.
        running = first.start(
            "from serving_workbench import deployment\n"
            "deployment.prove = lambda *_: time.sleep(600)\n"
            f"import serving_workbench as sw; sw.serve('{models_dir}/half_plus_two/2', 'half')"
        )
        wait_until(lambda: len(states(rest)) == 2, 30, "a version that is about to be proved")
        first.interrupt()
        assert first.reply(running)["ename"] == "KeyboardInterrupt"
        assert [state for state in states(rest) if state != "END"] == ["AVAILABLE"]

        first.restart()
        found = first.run(
            "import serving_workbench as sw; served = sw.connect('half')\n"
            "print(served.server.instance_id, served.predict([2.0]).tolist())"
        )
        assert found.split() == [record.instance_id, "[3.0]"]

        second = jupyter.start_kernel()
        first.shutdown()
        second.run(
            "import serving_workbench as sw\n"
            f"sw.serve('{models_dir}/half_plus_two/2', 'half', version=4, progress=False)"
        )
        second.shutdown()
        wait_until(lambda: any(answer.version == 4 for answer in load.answers), what="answers of the next version")

        def counts() -> tuple[int, int, int]:
            return len(load.answers), by_rest.count, by_proxy.count

        before = counts()
        wait_until(
            lambda: all(now > then + 20 for now, then in zip(counts(), before, strict=True)),
            what="load without any kernel",
        )
    assert load.failed == []
    assert load.wrong == []
    assert by_rest.failures == []
    assert by_proxy.failures == []
    assert believed(jupyter, "default") == record

    third = jupyter.start_kernel()
    assert third.run("import serving_workbench as sw; print(sw.connect('half').server.instance_id)").strip() == (
        record.instance_id
    )
    third.shutdown()


def states(rest: str) -> list[str]:
    """Of all versions that the server tells of."""
    with _DIRECT.open(rest.removesuffix(":predict"), timeout=30) as answer:
        return [version["state"] for version in json.loads(answer.read())["model_version_status"]]


# --- two at once ---

#: A deploy that waits, before it proves its version, until another has come as far.
_TOGETHER = """
import pathlib, time
import serving_workbench as sw
from serving_workbench import deployment

prove, folder = deployment.prove, pathlib.Path({folder!r})

def together(*arguments):
    (folder / "{me}").touch()
    deadline = time.monotonic() + 60
    while len(list(folder.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    return prove(*arguments)

deployment.prove = together
served = sw.serve({model!r}, "both", progress=False)
"""


def test_two_kernels_that_deploy_one_model_at_once_share_a_process_and_are_told(
    jupyter: JupyterServer, models_dir: Path, tmp_path: Path
) -> None:
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    kernels = [jupyter.start_kernel(), jupyter.start_kernel()]
    codes = [
        _TOGETHER.format(folder=str(meeting), me=number, model=f"{models_dir}/half_plus_two/1") for number in range(2)
    ]
    requests = [kernel.start(code) for kernel, code in zip(kernels, codes, strict=True)]  # none runs a server yet
    replies = [kernel.reply(request, 90) for kernel, request in zip(kernels, requests, strict=True)]
    assert [reply["status"] for reply in replies] == ["ok", "ok"], replies
    told = [
        json.loads(
            kernel.run("import json; print(json.dumps([served.server.instance_id, served.version, served.messages]))")
        )
        for kernel in kernels
    ]
    assert {instance for instance, _, _ in told} == {believed(jupyter, "default").instance_id}
    assert sorted(version for _, version, _ in told) == [1, 2]
    for _, version, messages in told:
        assert [f"Version {3 - version} of 'both'" in message for message in messages] == [True]
    serving = kernels[0].run("print(sw.connect('both').serving_version)")
    assert serving.strip() == "2"
    for kernel in kernels:
        kernel.shutdown()
