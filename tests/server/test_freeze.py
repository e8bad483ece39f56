"""Variables become constants only where that cannot be seen; status says where."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.servers import ServerProcess, SharedServer


def test_status_says_which_signatures_are_frozen(shared_server: SharedServer) -> None:
    for model, expected in (("half_plus_two", {"serving_default"}), ("mlp", {"serve", "serving_default"})):
        shared_server.serve(model)
        for version in shared_server.versions(model).values():
            assert set(version["frozen"]) == expected


def test_a_signature_that_writes_a_variable_is_left_alone(shared_server: SharedServer) -> None:
    model = shared_server.serve("counter")
    assert shared_server.versions(model)[1]["frozen"] == []
    before = shared_server.predict(model, {"x": np.float32([1])})["count"].tolist()[0]
    for step in range(1, 4):
        assert shared_server.predict(model, {"x": np.float32([1])})["count"].tolist()[0] == before + step


def test_frozen_and_unfrozen_answers_agree(server: Any, shared_server: SharedServer, models_dir: Any) -> None:
    plain: ServerProcess = server("--freeze_variables=false")
    rows = np.random.default_rng(3).random((16, 784), dtype=np.float32)
    plain.put_model("mlp", models_dir / "mlp")
    shared_server.serve("mlp")
    plain.wait_available("mlp")
    assert plain.versions("mlp")[1]["frozen"] == []
    _, metadata = plain.rest("GET", "/v1/models/mlp/metadata")
    (alias,) = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]
    (expected,) = plain.predict("mlp", {alias: rows}).values()
    (got,) = shared_server.predict("mlp", {alias: rows}).values()
    assert np.ptp(expected) > 0.01  # a model that answers the same to everything would prove nothing
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
