"""The control channel: who may use it, and what it answers to nonsense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.servers import ServerProcess, SharedServer, wait_until

ROUTES = [
    ("GET", "/identity"),
    ("GET", "/status"),
    ("GET", "/statistics"),
    ("POST", "/shutdown"),
    ("GET", "/models/half_plus_two"),
    ("PUT", "/models/half_plus_two"),
    ("DELETE", "/models/half_plus_two"),
    ("PUT", "/models/half_plus_two/policy"),
    ("POST", "/models/half_plus_two/poll"),
    ("GET", "/models/half_plus_two/batching"),
    ("PATCH", "/models/half_plus_two/batching"),
    ("PUT", "/models/half_plus_two/versions/1/hold"),
    ("DELETE", "/models/half_plus_two/versions/1/hold"),
    ("GET", "/models/half_plus_two/traffic"),
    ("PUT", "/models/half_plus_two/traffic"),
    ("DELETE", "/models/half_plus_two/traffic"),
    ("GET", "/models/half_plus_two/traffic/exposures"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("token", ["", "wrong"])
def test_every_route_wants_the_token(shared_server: SharedServer, method: str, path: str, token: str) -> None:
    status, answer = shared_server.control(method, path, token=token)
    assert status == 401
    assert answer["code"] == "UNAUTHENTICATED"
    assert shared_server.predict("half_plus_two", {"x": np.float32([1])})["y"].tolist() == [3.5]


def test_identity_is_the_record_s(shared_server: SharedServer) -> None:
    _, identity = shared_server.control("GET", "/identity")
    for key in ("instance_id", "pid", "create_time", "server_version"):
        assert identity[key] == shared_server.record[key]
    assert identity["create_time"] == pytest.approx(psutil.Process(shared_server.pid).create_time(), abs=0.1)


def test_status_tells_endpoints_processes_and_models(shared_server: SharedServer) -> None:
    _, status = shared_server.control("GET", "/status")
    assert status["endpoints"] == shared_server.record["endpoints"]
    assert status["forkserver"]["state"] == "ready"
    model = status["models"]["half_plus_two"]
    assert model["serving_version"] == 2
    assert [version["version"] for version in model["versions"]] == [2, 1]
    assert all(psutil.pid_exists(version["worker_pid"]) for version in model["versions"])


def test_statistics_count_requests_and_errors(shared_server: SharedServer) -> None:
    model = shared_server.serve("fails")

    def counts() -> dict[str, int]:
        _, answer = shared_server.control("GET", "/statistics")
        found: dict[str, int] = answer["models"][model]["1"]["requests"]
        return found

    before = counts()
    shared_server.predict(model, {"x": np.float32([1, 2])})
    assert shared_server.rest("POST", f"/v1/models/{model}:predict", {"instances": [13.0]})[0] == 400
    after = counts()
    assert after["OK"] == before.get("OK", 0) + 1
    assert after["INVALID_ARGUMENT"] == before.get("INVALID_ARGUMENT", 0) + 1


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        ("GET", "/nothing", None, 404, "no route GET"),
        ("POST", "/identity", None, 404, "this path takes GET"),
        ("GET", "/models/absent", None, 404, "no model named 'absent'; this server has: "),
        ("PUT", "/models/absent/policy", {"latest": {}}, 404, "no model named 'absent'"),
        ("PUT", "/models/half_plus_two/policy", {"newest": 1}, 400, "newest"),
        ("PUT", "/models/half_plus_two", b"{", 400, "the body is not JSON"),
        ("PUT", "/models/half_plus_two", {"path": "/m"}, 400, "unknown field 'path'"),
        ("PUT", "/models/half_plus_two", {}, 400, "base_path must be a string"),
        ("PUT", "/models/new", {"base_path": "relative"}, 400, "to have an absolute path"),
        ("PUT", "/models/a%2Fb", {"base_path": "/m"}, 400, "has '/' in it"),
        ("PUT", "/models/a%00b", {"base_path": "/m"}, 400, "has '\\x00' in it"),
        ("PUT", "/models/new", {"base_path": "/m", "batching": {"max_batch_size": -1}}, 400, "max_batch_size"),
        ("DELETE", "/models/absent", None, 404, "no model named 'absent'"),
    ],
)
def test_nonsense_gets_a_clear_answer_and_changes_nothing(
    shared_server: SharedServer, method: str, path: str, body: Any, status: int, text: str
) -> None:
    _, before = shared_server.control("GET", "/status")
    got, answer = shared_server.control(method, path, body)
    assert (got, text in answer["error"]) == (status, True), answer
    _, after = shared_server.control("GET", "/status")
    assert after["models"].keys() == before["models"].keys()
    assert after["models"]["half_plus_two"]["policy"] == before["models"]["half_plus_two"]["policy"]


def test_names_with_odd_but_harmless_characters_are_served(server: Any, models_dir: Path) -> None:
    process: ServerProcess = server()
    for name, quoted in (("résumé v2", "r%C3%A9sum%C3%A9%20v2"), ("a+b,c", "a%2Bb%2Cc")):
        status, _ = process.control("PUT", f"/models/{quoted}", {"base_path": str(models_dir / "half_plus_two")})
        assert status == 200
        wait_until(
            lambda q=quoted: process.control("GET", f"/models/{q}")[1]["serving_version"] == 2, 60, "version 2 to serve"
        )
        assert process.rest("POST", f"/v1/models/{quoted}:predict", {"instances": [1.0]}) == (
            200,
            {"predictions": [3.5]},
        )
        assert process.predict(name, {"x": np.float32([1])})["y"].tolist() == [3.5]


def test_shutdown_ends_the_server(server: Any) -> None:
    process: ServerProcess = server()
    assert process.control("POST", "/shutdown") == (200, {"stopping": True})
    assert process.wait() == 0
