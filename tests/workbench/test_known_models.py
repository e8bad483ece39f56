"""What the extension remembers of a server's models, and tells the process that replaces it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serving_workbench.control import ControlClient
from serving_workbench.known_models import models_of, put_models
from tests.workbench.stub import ControlStub

_LATEST = {"latest": {"num_versions": 1}}


def status(folder: Path, held: list[int]) -> dict[str, Any]:
    """As the control channel tells it, of a model with versions 1 to 3, of which 1 serves."""
    versions = [{"version": number, "held": number in held} for number in (3, 2, 1)]
    model = {"base_path": str(folder), "policy": _LATEST, "labels": {}, "serving_version": 1, "versions": versions}
    return {"models": {"m": {**model, "batching": None}}}


def told(remembered: dict[str, Any]) -> list[tuple[str, str, Any]]:
    """The requests that change something."""
    paths = ("/models/m", "/models/m/policy", *(f"/models/m/versions/{number}/hold" for number in (2, 3)))
    answers: dict[str, tuple[int, Any]] = {f"/control/v1{path}": (200, {}) for path in paths}
    answers["/control/v1/status"] = (200, {"models": {}})
    with ControlStub(token="t", answers=answers) as stub:
        assert put_models(ControlClient(("tcp", "127.0.0.1", stub.port), "t"), remembered) == []
    return [(method, path.removeprefix("/control/v1/models/m"), body) for method, path, body in stub.requests[1:]]


def test_without_holds_a_model_is_put_as_it_was(tmp_path: Path) -> None:
    put = {"base_path": str(tmp_path), "policy": _LATEST, "batching": None}
    assert told(models_of(status(tmp_path, []))) == [("PUT", "", put)]


def test_a_held_version_is_held_again_before_it_could_be_taken_for_the_newest(tmp_path: Path) -> None:
    (tmp_path / ".reserved-3").touch()  # a deploy that is under way, or was killed
    first = {"base_path": str(tmp_path), "policy": {"specific": {"versions": [1]}}, "batching": None}
    assert told(models_of(status(tmp_path, [2, 3]))) == [
        ("PUT", "", first),
        ("PUT", "/versions/3/hold", None),
        ("PUT", "/versions/2/hold", None),
        ("PUT", "/policy", _LATEST),
    ]


def test_a_deploy_that_was_over_before_the_crash_holds_nothing(tmp_path: Path) -> None:
    reservation = tmp_path / ".reserved-3"
    reservation.touch()
    remembered = models_of(status(tmp_path, [3]))
    reservation.unlink()  # proved and put into service since we looked
    assert told(remembered) == [("PUT", "", {"base_path": str(tmp_path), "policy": _LATEST, "batching": None})]
