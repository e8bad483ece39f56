"""The extension's REST API, asked in a real Jupyter server under a base URL with an escaped character."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

import serving_workbench as sw
from serving_workbench.control import ControlClient
from serving_workbench.records import is_alive
from tests import leaks
from tests.kernel_ext.described import DOCUMENT
from tests.kernel_ext.extension import WITH_TOKEN, Answer, ask, believed, connect, log_in, predict
from tests.kernel_ext.jupyter import JupyterServer
from tests.servers import wait_until

INSTANCES = "/serving/api/instances"
ONE = f"{INSTANCES}/one"
SUMMARY = "/serving/api/summary?no_track_activity=1"

#: (method, path) of every route, of an instance that does not run, and of the proxy.
ROUTES = [
    (method.upper(), path.replace("{name}", "absent").replace("{model}", "none"))
    for path, item in DOCUMENT["paths"].items()
    for method in item
    if method != "parameters"
] + [("GET", "/serving/absent/v1/models"), ("POST", "/serving/absent/v1/models/none:predict")]


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    flags = (
        "--ServerApp.base_url=/a%40b/",
        "--ServerApp.allow_unauthenticated_access=False",
        "--ServingExtension.poll_interval=0.2",
        "--ServingExtension.restart_backoff=0.1",
        "--ServingExtension.max_restarts=1",
        "--ServingExtension.max_instances=3",
    )
    with JupyterServer(tmp_path_factory.mktemp("j"), *flags) as server:
        leaks.allow(server.pid)
        yield server


@pytest.fixture(scope="module")
def one(jupyter: JupyterServer, models_dir: Path) -> Answer:
    """The answer to the start of an instance `one`, with half_plus_two deployed into it."""
    started = ask(jupyter, "POST", INSTANCES, {"name": "one", "root": "m"})
    assert started.status == 201, started.body
    leaks.allow(started.json["pid"])
    body = {"path": str(models_dir / "half_plus_two" / "1"), "name": "half"}
    deployed = ask(jupyter, "POST", f"{ONE}/models", body)
    assert deployed.status == 200, deployed.body
    assert (deployed.json["version"], deployed.json["messages"]) == (1, [])
    return started


def the_model(jupyter: JupyterServer) -> Any:
    return ask(jupyter, "GET", ONE).json["status"]["models"]["half"]


def versions(jupyter: JupyterServer) -> list[tuple[int, str, bool]]:
    """Of `half`: number, state, and whether it is held."""
    return [(each["version"], each["state"], each["held"]) for each in the_model(jupyter)["versions"]]


def end(jupyter: JupyterServer, instance: str) -> None:
    assert ask(jupyter, "DELETE", f"{INSTANCES}/{instance}").json == {"name": instance, "stopped": True}


# --- who may ask ---


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_who_may_ask(jupyter: JupyterServer, method: str, path: str) -> None:
    # Of another environment, so that whoever may ask starts nothing.
    body = None if method == "GET" else b'{"prefix": "/elsewhere"}' if path == INSTANCES else b"{}"
    for headers in ({}, {"Authorization": "token wrong"}, {"Authorization": "Bearer "}):
        refused = ask(jupyter, method, path, body, headers)
        assert refused.status == 403, headers
        assert refused.headers["content-type"] == "application/json"
    allowed = {200, 400, 404, 409}
    assert ask(jupyter, method, path, body).status in allowed
    assert ask(jupyter, method, path, body, {"Cookie": log_in(jupyter)[0]}).status in (
        allowed if method == "GET" else {403}
    )
    assert not ask(jupyter, "GET", INSTANCES).json["instances"], "nothing was started"


def test_a_session_cookie_with_its_xsrf_header_may_ask(jupyter: JupyterServer) -> None:
    cookie, xsrf = log_in(jupyter)
    headers = {"Cookie": cookie, "X-XSRFToken": xsrf}
    assert ask(jupyter, "DELETE", f"{INSTANCES}/absent", None, headers).status == 200
    headers["Origin"] = "http://elsewhere.example"
    assert ask(jupyter, "DELETE", f"{INSTANCES}/absent", None, headers).status == 404
    assert ask(jupyter, "POST", "/serving/absent/v1/models/none:predict", b"{}", headers).status == 404


def test_no_route_of_ours_lacks_authentication(jupyter: JupyterServer) -> None:
    warned = [line for line in jupyter.log(1 << 20).splitlines() if " registered for " in line]
    assert warned, "other extensions show that the check is on"
    assert not [line for line in warned if "serving" in line]


def test_an_authorizer_is_asked_for_the_resource(tmp_path: Path) -> None:
    config = (
        "from jupyter_server.auth import Authorizer\n"
        "class ReadOnly(Authorizer):\n"
        "    def is_authorized(self, handler, user, action, resource):\n"
        "        return resource == 'serving' and action == 'read' or resource == 'api'\n"
        "c.ServerApp.authorizer_class = ReadOnly\n"
    )
    with JupyterServer(tmp_path, config=config) as jupyter:
        assert ask(jupyter, "GET", INSTANCES).status == 200
        assert ask(jupyter, "POST", INSTANCES, {}).status == 403
        assert ask(jupyter, "GET", "/serving/absent/v1/models").status == 404
        assert ask(jupyter, "POST", "/serving/absent/v1/models/none:predict", b"{}").status == 403
        assert ask(jupyter, "GET", INSTANCES).status == 200


def test_the_document_names_every_route(jupyter: JupyterServer) -> None:
    from serving_jupyter.extension.handlers import API_ROUTES

    assert ask(jupyter, "GET", "/serving/api/openapi.json").json == DOCUMENT
    described = {
        (path.replace("{name}", "([^/]+)").replace("{model}", "([^/]+)"), method)
        for path, item in DOCUMENT["paths"].items()
        for method in item
        if method != "parameters"
    }
    offered = {
        (path, method)
        for path, handler in API_ROUTES
        for method in ("get", "post", "put", "patch", "delete")
        if method in vars(handler)
    }
    assert described == offered


def test_pip_enables_the_extension() -> None:
    command = [sys.executable, "-m", "jupyter", "server", "extension", "list"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "serving_jupyter" in done.stdout + done.stderr
    (line,) = [line for line in (done.stdout + done.stderr).splitlines() if "serving_jupyter" in line and "OK" in line]
    assert line


def test_every_setting_has_help() -> None:
    from serving_jupyter.extension.app import ServingExtension

    own = ServingExtension.class_own_traits(config=True)
    assert {"warm_start", "max_restarts", "proxy_timeout"} <= set(own)
    assert all(trait.help for trait in own.values())


# --- what is answered ---


def test_start_is_idempotent_and_shown(jupyter: JupyterServer, one: Answer) -> None:
    again = ask(jupyter, "POST", INSTANCES, {"name": "one"})
    assert (again.status, again.json["instance_id"]) == (200, one.json["instance_id"])
    record = believed(jupyter, "one")
    assert one.json["owner"] == "jupyter"
    assert (record.owner_pid, record.root) == (jupyter.pid, str(jupyter.folder / "m"))
    listed = ask(jupyter, "GET", INSTANCES).json
    assert [(found["name"], found["state"]) for found in listed["instances"]] == [("one", "running")]
    shown = ask(jupyter, "GET", ONE)
    assert shown.json["status"]["models"]["half"]["serving_version"] == 1
    assert record.token not in shown.body.decode()


def test_two_simultaneous_starts_make_one_process(jupyter: JupyterServer) -> None:
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: ask(jupyter, "POST", INSTANCES, {"name": "twice"}), range(2)))
    assert sorted(answer.status for answer in answers) == [200, 201]
    assert len({answer.json["pid"] for answer in answers}) == 1
    end(jupyter, "twice")
    assert not (jupyter.runtime / "serving-workbench-twice.json").exists()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("POST", INSTANCES, {"name": "../x"}, 409, "is not an instance name"),
        ("POST", INSTANCES, {"nmae": "x"}, 400, "Unknown field 'nmae'; known: name, root, keep, prefix."),
        ("POST", INSTANCES, {"keep": 1}, 400, "The field 'keep' must not be 1."),
        ("POST", INSTANCES, {"name": True}, 400, "The field 'name' must not be true."),
        ("POST", INSTANCES, [1], 400, "must be a JSON object"),
        ("POST", INSTANCES, b"{", 400, "The body is not JSON"),
        ("POST", INSTANCES, {"prefix": "/elsewhere"}, 409, "would have another TensorFlow"),
        ("GET", f"{INSTANCES}/absent", None, 404, "No server of instance 'absent' is running."),
        ("POST", f"{INSTANCES}/absent/restart", None, 404, "No server of instance 'absent' is running."),
        ("GET", f"{INSTANCES}/absent/logs", None, 404, "has left a log"),
        ("GET", f"{ONE}/logs?lines=-1", None, 400, "lines must be a number"),
        ("GET", f"{ONE}/logs?follow=yes", None, 400, "follow must be true or false"),
        ("DELETE", f"{ONE}?timeout=nan", None, 400, "timeout must be a number"),
        ("POST", f"{ONE}/models", {"name": "half"}, 400, "needs 'path'"),
        ("POST", f"{ONE}/models", {"name": "half", "path": "/nowhere"}, 400, "/nowhere"),
        ("POST", f"{ONE}/models", {"name": "a/b", "path": "/nowhere"}, 400, "contains '/'"),
        ("PATCH", f"{ONE}/models/half/batching", {"max_batch_sice": 4}, 400, "max_batch_sice"),
        ("GET", f"{ONE}/models/none/batching", None, 404, "none"),
        ("POST", f"{ONE}/models/none/rollback", {}, 404, "none"),
        ("POST", f"{ONE}/models/half/rollback", {"to": "1"}, 400, "The field 'to' must not be"),
        ("POST", f"{ONE}/models/half/rollback", {"to": 7}, 409, "has no version 7"),
        ("POST", f"{ONE}/models/half/rollback", {}, 409, "no version before 1 to roll back to"),
    ],
)
def test_refusals_say_why(
    jupyter: JupyterServer, one: Answer, method: str, path: str, body: Any, status: int, says: str
) -> None:
    refused = ask(jupyter, method, path, body)
    assert (refused.status, says in refused.message) == (status, True), refused.body


def test_no_more_instances_than_allowed(jupyter: JupyterServer, one: Answer) -> None:
    for name in ("two", "three"):
        assert ask(jupyter, "POST", INSTANCES, {"name": name}).status == 201
    refused = ask(jupyter, "POST", INSTANCES, {"name": "four"})
    assert refused.status == 503
    assert "one, three, two are there already" in refused.message
    end(jupyter, "two")
    end(jupyter, "three")


def test_batching_changes_while_it_runs(jupyter: JupyterServer, one: Answer) -> None:
    path = f"{ONE}/models/half/batching"
    changed = ask(jupyter, "PATCH", path, {"max_batch_size": 8, "allowed_batch_sizes": [4, 8]})
    assert changed.status == 200
    assert changed.json["allowed_batch_sizes"] == [4, 8]
    assert ask(jupyter, "GET", path).json == changed.json


def summary(jupyter: JupyterServer, name: str) -> Any:
    (found,) = [each for each in ask(jupyter, "GET", SUMMARY).json["instances"] if each["name"] == name]
    return found


def test_the_summary_tells_models_rates_and_memory(jupyter: JupyterServer, one: Answer) -> None:
    first = summary(jupyter, "one")
    assert (first["state"], first["owner"], first["pid"]) == ("running", "jupyter", one.json["pid"])
    (model,) = first["models"]
    assert (model["name"], model["answers"], model["rollback_to"]) == ("half", [1], None)
    (version,) = model["versions"]
    assert (version["version"], version["state"], version["answers"]) == (1, "AVAILABLE", True)
    assert first["memory"] > version["memory"] > 1e6, "all processes, and the version's own"

    def has_a_rate() -> bool:
        predict(jupyter, "one", "half")
        return (summary(jupyter, "one")["rate"] or 0) > 0

    wait_until(has_a_rate, 30, "requests per second")


def test_a_summary_of_a_server_that_hangs_says_so(jupyter: JupyterServer) -> None:
    pid = ask(jupyter, "POST", INSTANCES, {"name": "hangs"}).json["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        found = wait_until(lambda: summary(jupyter, "hangs")["error"], 30, "what is wrong")
        assert "It does not answer" in found
        assert summary(jupyter, "one")["error"] is None, "the others are told of"
    finally:
        os.kill(pid, signal.SIGCONT)
    end(jupyter, "hangs")


def test_a_rollback_and_the_way_back(jupyter: JupyterServer, one: Answer, models_dir: Path) -> None:
    body = {"path": str(models_dir / "half_plus_two" / "2"), "name": "half"}
    assert ask(jupyter, "POST", f"{ONE}/models", body).json["version"] == 2
    assert predict(jupyter, "one", "half") == [3.5, 4.0]
    assert summary(jupyter, "one")["models"][0]["rollback_to"] == 1
    back = ask(jupyter, "POST", f"{ONE}/models/half/rollback", {})
    assert (back.status, back.json) == (200, {"name": "half", "version": 1, "before": 2})
    assert predict(jupyter, "one", "half") == [2.5, 3.0]
    # The next display shows it, though a summary may be a second old.
    assert summary(jupyter, "one")["models"][0]["answers"] == [1]
    shutil.rmtree(jupyter.folder / "m" / "half" / "2")
    ControlClient.of(believed(jupyter, "one")).put_policy("half", {"latest": {"num_versions": 1}})


def test_a_failed_deploy_leaves_the_version_before(jupyter: JupyterServer, one: Answer, models_dir: Path) -> None:
    body = {"path": str(models_dir / "half_plus_two" / "1"), "name": "half", "version": 1}
    refused = ask(jupyter, "POST", f"{ONE}/models", body)
    assert (refused.status, "1" in refused.message) == (409, True), refused.body
    assert predict(jupyter, "one", "half") == [2.5, 3.0]


# --- logs ---


def test_logs(jupyter: JupyterServer, one: Answer) -> None:
    found = ask(jupyter, "GET", f"{ONE}/logs?lines=3")
    assert found.headers["content-type"] == "text/plain; charset=utf-8"
    assert 1 <= len(found.body.splitlines()) <= 3
    assert ask(jupyter, "GET", f"{ONE}/logs?lines=0").body == b""


def test_following_a_log_until_the_process_ends(jupyter: JupyterServer) -> None:
    assert ask(jupyter, "POST", INSTANCES, {"name": "told"}).status == 201
    with connect(jupyter) as connection:
        connection.request("GET", f"/a%40b{INSTANCES}/told/logs?follow=true&lines=1", headers=WITH_TOKEN)
        answer = connection.getresponse()
        first = answer.readline()
        assert first.endswith(b"\n"), "the last line so far, at once"
        end(jupyter, "told")
        rest = answer.read()  # comes to an end, as the log has
    assert b"asked to by the control channel" in rest


# --- crashes ---


def test_a_crash_brings_it_back_with_its_models(jupyter: JupyterServer, one: Answer, models_dir: Path) -> None:
    before = believed(jupyter, "one")
    # What was rejected, and what nobody has proved yet, does not come back as the newest version.
    broken = Path(shutil.copytree(models_dir / "half_plus_two" / "2", jupyter.folder / "broken"))
    (broken / "variables" / "variables.data-00000-of-00001").write_bytes(b"")
    refused = ask(jupyter, "POST", f"{ONE}/models", {"path": str(broken), "name": "half"})
    assert (refused.status, "Version 1 still answers" in refused.message) == (409, True), refused.body
    ControlClient.of(before).hold("half", 9)
    shutil.copytree(models_dir / "half_plus_two" / "2", jupyter.folder / "m" / "half" / "9")
    ControlClient.of(before).poll("half")
    wait_until(lambda: (9, "AVAILABLE", True) in versions(jupyter), what="the version that is held")
    ask(jupyter, "PATCH", f"{ONE}/models/half/batching", {"max_batch_size": 8, "allowed_batch_sizes": [8]})
    ControlClient.of(before).request("PUT", "/models/half/labels", {"stable": 1})
    ControlClient.of(before).put_traffic("half", {"1": 1, "9": 0}, seconds=30, key="x-user")
    ControlClient.of(before).put_mirror("half", 9, seconds=30, fraction=0.5)
    restarted = ask(jupyter, "POST", f"{ONE}/restart")  # by a person: it does not count as a crash
    assert restarted.status == 200
    assert restarted.json["instance_id"] != before.instance_id
    assert restarted.json["endpoints"] == before.endpoints, "clients go on with the addresses that they have"
    leaks.allow(restarted.json["pid"])
    assert not is_alive(before.pid, before.create_time)
    assert ask(jupyter, "GET", f"{ONE}/models/half/batching").json["allowed_batch_sizes"] == [8]

    wait_until(lambda: the_model(jupyter)["labels"] == {"stable": 1}, 30, "the labels")
    split = wait_until(lambda: the_model(jupyter)["traffic"], 30, "the split")
    assert (split["weights"], split["key"]) == ({"1": 1.0, "9": 0.0}, "x-user")
    mirror = wait_until(lambda: the_model(jupyter)["mirror"], 30, "the mirror")
    assert (mirror["version"], mirror["fraction"], mirror["active"]) == (9, 0.5, True)
    wait_until(lambda: (9, "AVAILABLE", True) in versions(jupyter), 30, "the version that is held")

    os.kill(restarted.json["pid"], signal.SIGKILL)
    refusals: list[Answer] = []

    def is_back() -> bool:
        found = ask(jupyter, "GET", "/serving/one/v1/models/half")
        refusals.append(found)
        return found.status == 200

    wait_until(is_back, 30, "the proxy's way to the next process")
    ours = [found for found in refusals if "message" in found.json]  # not those of the serving process
    assert {found.status for found in ours} <= {502, 503}, "to be tried again, not gone"
    assert all("retry-after" in found.headers for found in ours if found.status == 503)
    wait_until(lambda: ask(jupyter, "GET", ONE).json["restarts"] == 1, what="the restart")
    again = wait_until(lambda: ask(jupyter, "GET", ONE).json.get("pid"), 30, what="the next process")
    leaks.allow(again)
    assert predict(jupyter, "one", "half") == [2.5, 3.0]
    assert the_model(jupyter)["serving_version"] == 1
    assert (believed(jupyter, "one").root, believed(jupyter, "one").endpoints) == (before.root, before.endpoints)

    os.kill(again, signal.SIGKILL)
    wait_until(lambda: ask(jupyter, "GET", ONE).json["state"] == "failed", what="the end of patience")
    assert "It crashed 2 times" in ask(jupyter, "GET", ONE).json["error"]
    assert ask(jupyter, "POST", "/serving/one/v1/models/half:predict", b"{}").status == 404
    # A person may start it again, and finds the models as they were.
    started = ask(jupyter, "POST", INSTANCES, {"name": "one", "root": "m"})
    assert started.status == 201
    leaks.allow(started.json["pid"])
    assert list(ask(jupyter, "GET", ONE).json["status"]["models"]) == ["half"]


@pytest.mark.slow  # SIGTERM is given its five seconds
def test_a_server_that_somebody_stops_stays_stopped(jupyter: JupyterServer, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = ask(jupyter, "POST", INSTANCES, {"name": "quiet"}).json["pid"]
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(jupyter.runtime))
    server = sw.Server.connect("quiet")
    server.control._timeout = 0.2
    os.kill(pid, signal.SIGSTOP)  # it will have to be killed
    assert server.stop(timeout=0.1)
    wait_until(lambda: ask(jupyter, "GET", f"{INSTANCES}/quiet").status == 404, what="an instance that is no more")


def test_a_server_of_a_script_is_adopted_but_stays_the_scripts(jupyter: JupyterServer) -> None:
    script = "import sys, serving_workbench as sw; print(sw.Server.launch('scripts').pid, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=jupyter.env
    ) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        found = ask(jupyter, "GET", f"{INSTANCES}/scripts").json
        assert (found["pid"], found["owner"], found["owner_pid"]) == (pid, "other", owner.pid)
        assert not found["supervised"]
        assert ask(jupyter, "GET", "/serving/scripts/v1/models").status == 200
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: ask(jupyter, "GET", f"{INSTANCES}/scripts").status == 404, what="a crash that stays one")


# --- records ---


def test_a_stale_record_with_a_reused_pid_is_not_trusted_and_nothing_is_killed(jupyter: JupyterServer) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        path = jupyter.runtime / "serving-workbench-old.json"
        record = {
            "schema": 1,
            "name": "old",
            "instance_id": "0" * 32,
            "pid": bystander.pid,
            "create_time": psutil.Process(bystander.pid).create_time() - 100,
            "server_version": "0.1.0",
            "started_at": 1.0,
            "control": {"unix": str(jupyter.runtime / "serving-workbench-old-00000000.sock")},
            "token": "t",
            "endpoints": {"rest": "http://127.0.0.1:9"},
            "owner_pid": None,
            "log": None,
            "root": None,
        }
        path.write_text(json.dumps(record))
        path.chmod(0o600)
        for method in ("GET", "DELETE"):
            assert ask(jupyter, method, f"{INSTANCES}/old").json.get("stopped", False) is False
        assert not path.exists()

        # The very process now, but not a server of ours: nothing is believed, nothing deleted, nothing killed.
        path.write_text(json.dumps(record | {"create_time": psutil.Process(bystander.pid).create_time()}))
        path.chmod(0o600)
        assert ask(jupyter, "GET", f"{INSTANCES}/old").status == 409
        assert "old" in ask(jupyter, "GET", INSTANCES).json["untrusted"]
        assert ask(jupyter, "POST", INSTANCES, {"name": "old"}).status == 409
        assert ask(jupyter, "GET", "/serving/old/v1/models").status == 409
        assert path.exists()
        assert bystander.poll() is None
        path.unlink()
        wait_until(lambda: not ask(jupyter, "GET", INSTANCES).json["untrusted"], what="a record that is forgotten")
    finally:
        bystander.kill()
        bystander.wait()
