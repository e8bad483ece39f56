"""Deploys on a real server: what a good one does, and that a bad one leaves everything as it was."""

from __future__ import annotations

import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import serving_workbench as sw
from serving_server.tensors import to_array
from serving_server.wire import tfrecord
from serving_server.wire.messages import PredictionLog
from serving_workbench.client import PredictClient
from serving_workbench.warmup_requests import WARMUP_FILE
from tests.servers import wait_until

Source = Callable[..., Path]


@pytest.fixture(scope="module")
def tf() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own imports
        import tensorflow
    return tensorflow


@pytest.fixture
def serve(warm: str, name: str, tmp_path: Path) -> Iterator[Callable[..., sw.ServedModel]]:
    """`serve(model, **options)` on the warm server, under the test's own name and root; stopped at the end."""
    handles: list[sw.ServedModel] = []

    def run(model: object, **options: Any) -> sw.ServedModel:
        handle = sw.serve(model, name, **{"instance": warm, "root": tmp_path, "progress": False, **options})
        handles.append(handle)
        return handle

    yield run
    for handle in handles:
        # The server itself runs on for the other tests, so not by `handle.stop`, which ends it with its last model.
        if handle.name in handle.server.models():
            handle.server.control.delete_model(handle.name)
        handle.server.close()


def hidden(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("."))


def module_of(tf: ModuleType, function: Callable[[Any], Any], dtype: str = "float32") -> Any:
    module = tf.Module()
    module.f = tf.function(function, input_signature=[tf.TensorSpec([None], dtype, name="x")])
    # The finder looks at the class and the instance's own attributes.
    return module


# --- good ones ---


def test_a_path(serve: Callable[..., sw.ServedModel], source: Source, tmp_path: Path, name: str) -> None:
    served = serve(source("half_plus_two"))
    assert (served.version, served.versions, served.serving_version) == (1, [1], 1)
    assert served.predict([2.0]).tolist() == [3.0]
    assert [proof.outcome for proof in served.proofs] == ["answers"]
    assert list(served.seconds) == ["launch", "export", "publish", "detect", "load", "prove", "available"] or (
        "warm up" in served.seconds
    )
    assert (tmp_path / name / "1" / "saved_model.pb").exists()
    assert hidden(tmp_path / name) == []


def test_the_next_version_and_back(serve: Callable[..., sw.ServedModel], source: Source) -> None:
    serve(source("half_plus_two", 1))
    served = serve(source("half_plus_two", 2))
    assert (served.version, served.predict([2.0]).tolist()) == (2, [4.0])
    assert served.rollback() == 1
    assert (served.version, served.serving_version, served.predict([2.0]).tolist()) == (1, 1, [3.0])
    assert "pinned to 1" in repr(served.status())
    # The next deploy ends the pin, without ever loading version 2 in between.
    third = serve(source("half_plus_two", 2))
    assert (third.version, third.serving_version) == (3, 3)
    assert third.describe()["policy"] == {"latest": {"num_versions": 1}}
    wait_until(lambda: [v["version"] for v in third.describe()["versions"] if v["state"] == "AVAILABLE"] == [3])
    assert third.rollback(to=2) == 2
    assert third.versions == [1, 2, 3]


def test_the_warmup_that_was_asked_for(
    serve: Callable[..., sw.ServedModel], source: Source, tmp_path: Path, name: str
) -> None:
    def written(version: int) -> bytes:
        return (tmp_path / name / str(version) / WARMUP_FILE).read_bytes()

    # Where there is no previous one, it is as without: the sample.
    serve(source("half_plus_two"), warmup="previous", sample=[1.0, 2.0])
    first = list(tfrecord.read(tmp_path / name / "1" / WARMUP_FILE))
    assert len(first) == 1
    serve(source("half_plus_two"), warmup="previous", sample=[1.0])
    assert written(2) == written(1)
    mine = tmp_path / "mine"
    mine.write_bytes(written(1) * 2)
    serve(source("half_plus_two"), warmup=mine)
    assert written(3) == mine.read_bytes()
    served = serve(source("half_plus_two"), warmup={"x": [1.0, 2.0, 3.0]})
    (log,) = [PredictionLog.FromString(record) for record in tfrecord.read(tmp_path / name / "4" / WARMUP_FILE)]
    assert to_array(log.predict_log.request.inputs["x"]).tolist() == [1, 2, 3]
    assert "replayed 1 warmup record" in served.logs(200)
    assert "replayed 2 warmup records" in served.logs(200)

    mine.write_bytes(written(1)[:-1])
    with pytest.raises(sw.DeployError, match=r"Cannot warm up with '.*mine': truncated record at 0 of"):
        serve(source("half_plus_two"), warmup=mine)
    mine.write_bytes(tfrecord.frame(b"\xff"))
    with pytest.raises(sw.DeployError, match="record 1 is no PredictionLog"):
        serve(source("half_plus_two"), warmup=mine)
    mine.write_bytes(b"")
    with pytest.raises(sw.DeployError, match="it is empty"):
        serve(source("half_plus_two"), warmup=mine)
    with pytest.raises(sw.PredictError, match="x"):
        serve(source("half_plus_two"), warmup={"y": [1.0]})
    # Records that the next version cannot run do not cost the one that answers.
    with pytest.raises(sw.DeployError, match="warmup record 1 of"):
        serve(source("multi"), warmup="previous")
    assert served.serving_version == 4


def test_rollback_to_nowhere(serve: Callable[..., sw.ServedModel], source: Source) -> None:
    served = serve(source("half_plus_two"))
    with pytest.raises(sw.DeployError, match="no version before 1 to roll back to; its versions are 1"):
        served.rollback()
    with pytest.raises(sw.DeployError, match="no version 7 to roll back to"):
        served.rollback(to=7)
    assert served.predict([2.0]).tolist() == [3.0]


def test_a_rollback_that_fails_keeps_the_present_version(
    serve: Callable[..., sw.ServedModel], source: Source, tmp_path: Path, name: str
) -> None:
    serve(source("half_plus_two", 1))
    served = serve(source("half_plus_two", 2))
    wait_until(lambda: all(v["state"] != "UNLOADING" for v in served.describe()["versions"]))
    (tmp_path / name / "1" / "saved_model.pb").write_bytes(b"broken")
    with pytest.raises(sw.DeployError, match="Version 1 of"):
        served.rollback()
    assert served.describe()["policy"] == {"latest": {"num_versions": 1}}
    assert served.predict([2.0]).tolist() == [4.0]


def test_a_keras_model_is_proved_equal(serve: Callable[..., sw.ServedModel], tf: ModuleType) -> None:
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    sample = np.random.default_rng(1).random((5, 4)).astype(np.float32)
    served = serve(model, sample=sample)
    assert [proof.outcome for proof in served.proofs] == ["equal"]
    assert "the given sample" in served.proofs[0].detail
    np.testing.assert_allclose(served.predict(sample), np.asarray(model(sample)), rtol=1e-5)
    version = Path(served.describe()["base_path"]) / "1"
    assert (version / WARMUP_FILE).exists()
    records = [bytes(r.numpy()) for r in tf.data.TFRecordDataset(str(version / WARMUP_FILE))]
    assert len(records) == 1  # TensorFlow itself reads it, so the checksums are right


@pytest.mark.parametrize("drawn", [True, False])
def test_a_module_with_text(serve: Callable[..., sw.ServedModel], tf: ModuleType, drawn: bool) -> None:
    module = module_of(tf, lambda x: {"length": tf.strings.length(x), "upper": tf.strings.upper(x)}, "string")
    served = serve(module, **({} if drawn else {"sample": ["a", "bc"]}))
    assert [proof.outcome for proof in served.proofs] == ["equal"] * len(served.proofs)
    answer = served.predict(["ab"])
    assert (answer["upper"].tolist(), answer["length"].tolist()) == (["AB"], [2])


def test_functions_with_several_signatures(serve: Callable[..., sw.ServedModel], tf: ModuleType) -> None:
    spec = [tf.TensorSpec([None], tf.float32, name="x")]
    plus = tf.function(lambda x: {"y": x + 1}, input_signature=spec)
    minus = tf.function(lambda x: {"y": x - 1}, input_signature=spec)
    served = serve({"plus": plus, "minus": minus})
    assert {proof.signature: proof.outcome for proof in served.proofs} == {"plus": "equal", "minus": "equal"}
    assert served.predict([1.0], signature="plus").tolist() == [2.0]
    with pytest.raises(sw.PredictError, match="has no signature 'serving_default'; its signatures are 'minus', 'plus'"):
        served.predict([1.0])


def test_a_drawn_sample_that_the_model_does_not_take_is_not_held_against_it(
    serve: Callable[..., sw.ServedModel], tf: ModuleType
) -> None:
    def number(x: Any) -> Any:
        return {"y": tf.strings.to_number(x)}  # "sample" is no number

    served = serve(module_of(tf, number, "string"))
    assert [proof.outcome for proof in served.proofs][:1] == ["not proved"]
    assert "Pass sample=" in served.proofs[0].detail
    assert served.predict(["1.5"]).tolist() == [1.5]
    assert serve(module_of(tf, number, "string"), sample=["2"]).proofs[0].outcome == "equal"


def test_a_random_model_passes_without_tolerance_only(serve: Callable[..., sw.ServedModel], tf: ModuleType) -> None:
    module = module_of(tf, lambda x: {"y": x + tf.random.uniform(tf.shape(x), 1, 2)})
    with pytest.raises(sw.ProofError, match="tolerance=None"):
        serve(module)
    assert serve(module, tolerance=None).proofs[0].outcome == "answers"


def test_an_explicit_version(serve: Callable[..., sw.ServedModel], source: Source) -> None:
    assert serve(source("half_plus_two"), version=20).version == 20
    assert serve(source("half_plus_two")).version == 21


def test_a_swap_under_load_loses_no_request(serve: Callable[..., sw.ServedModel], source: Source, name: str) -> None:
    served = serve(source("half_plus_two", 1))
    stop = threading.Event()
    answers: list[float] = []

    def ask() -> None:
        with PredictClient(served.grpc_endpoint) as client:
            while not stop.is_set():
                answers.append(float(client.predict(name, [2.0])[0]))

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        wait_until(lambda: len(answers) > 20)
        for _ in range(3):
            serve(source("half_plus_two", 2))
        after = len(answers)
        wait_until(lambda: len(answers) > after + 20)
        stop.set()
        asking.result()  # raises what the thread raised
    assert set(answers) == {3.0, 4.0}
    assert answers == sorted(answers)


# --- bad ones ---


def assert_untouched(served: sw.ServedModel, folder: Path) -> None:
    """Version 1 answers, nothing else is known or on its way, and the failed number is kept for a look."""
    assert served.predict([2.0]).tolist() == [3.0]
    model = served.describe()
    assert model["serving_version"] == 1
    assert [v["version"] for v in model["versions"] if v["state"] != "END"] == [1]
    assert served.versions == [1]
    assert not any(entry.startswith((".publishing", ".reserved")) for entry in hidden(folder))


def test_a_model_that_answers_differently_is_not_promoted(
    serve: Callable[..., sw.ServedModel], source: Source, tf: ModuleType, tmp_path: Path, name: str
) -> None:
    served = serve(source("half_plus_two"))
    with pytest.raises(sw.ProofError) as caught:
        serve(module_of(tf, lambda x: {"y": x + tf.random.uniform(tf.shape(x), 1, 2)}))
    error = caught.value
    assert (error.step, error.output) == ("prove", "y")
    assert error.max_abs is not None
    assert error.max_abs > 0
    assert "Version 1 still answers" in str(error)
    assert_untouched(served, tmp_path / name)
    (kept,) = hidden(tmp_path / name)
    assert kept.startswith(".rejected-2-")
    assert kept in str(error)
    assert serve(source("half_plus_two", 2)).version == 3


def test_a_model_that_does_not_load_is_not_promoted(
    serve: Callable[..., sw.ServedModel], source: Source, tmp_path: Path, name: str
) -> None:
    served = serve(source("half_plus_two"))
    broken = Path(shutil.copytree(source("half_plus_two", 2), tmp_path / "broken"))
    (broken / "variables" / "variables.data-00000-of-00001").write_bytes(b"")
    with pytest.raises(sw.DeployError, match=r"Version 2 of .* cannot be served: ") as caught:
        serve(broken)
    assert caught.value.step == "load"
    assert_untouched(served, tmp_path / name)


def test_a_first_version_that_fails_leaves_no_model(
    serve: Callable[..., sw.ServedModel], warm: str, source: Source, tmp_path: Path, name: str
) -> None:
    broken = Path(shutil.copytree(source("half_plus_two", 2), tmp_path / "broken"))
    (broken / "variables" / "variables.index").write_bytes(b"")
    with pytest.raises(sw.DeployError):
        serve(broken)
    with pytest.raises(sw.ModelNotServedError, match=name):
        sw.connect(name, warm)


def test_time_runs_out_with_what_was_last_seen(
    serve: Callable[..., sw.ServedModel], source: Source, tmp_path: Path, name: str
) -> None:
    served = serve(source("half_plus_two"))
    with pytest.raises(sw.DeployError, match=r"not available in time: .*longer timeout=") as caught:
        serve(source("half_plus_two", 2), timeout=0.0)
    assert caught.value.step in {"detect", "load"}
    assert_untouched(served, tmp_path / name)


@pytest.mark.parametrize(
    ("sample", "says"),
    [(["text"], "takes float; given text"), ([[1.0]], "has shape"), ({"z": [1.0]}, "no input 'z'")],
)
def test_a_wrong_sample_ends_the_deploy_before_anything_is_published(
    serve: Callable[..., sw.ServedModel], source: Source, tmp_path: Path, name: str, sample: object, says: str
) -> None:
    with pytest.raises(sw.PredictError, match=says):
        serve(source("half_plus_two"), sample=sample)
    assert not (tmp_path / name).exists()


def test_a_sample_that_the_model_refuses(serve: Callable[..., sw.ServedModel], tf: ModuleType) -> None:
    with pytest.raises(sw.DeployError, match="The model in the notebook fails on the given sample") as caught:
        serve(module_of(tf, lambda x: {"y": tf.strings.to_number(x)}, "string"), sample=["no number"])
    assert caught.value.step == "prove"


def test_a_bad_export_leaves_what_was(
    serve: Callable[..., sw.ServedModel], source: Source, tmp_path: Path, name: str
) -> None:
    served = serve(source("half_plus_two"))
    with pytest.raises(sw.ExportError, match="has no signature") as caught:
        serve(source("no_signatures"))
    assert caught.value.step == "export"
    assert_untouched(served, tmp_path / name)
    assert hidden(tmp_path / name) == []


def test_nothing_is_started_for_what_cannot_be_served(instance: str, tmp_path: Path) -> None:
    for model, name, kind in (
        (tmp_path, "a/b", sw.PublishError),
        (object(), "m", sw.ExportError),
        (tmp_path / "nowhere", "m", sw.ExportError),
    ):
        with pytest.raises(kind):
            sw.serve(model, name, root=tmp_path / "models", instance=instance, progress=False)
    assert sw.Server.find(instance) is None
    assert not (tmp_path / "models").exists()


# --- roots, handles, ends ---


def test_roots(instance: str, source: Source, tmp_path: Path) -> None:
    options: dict[str, Any] = {"instance": instance, "progress": False}
    first = sw.serve(source("half_plus_two"), "a", root=tmp_path / "one", **options)
    # The server's root is that of the process that started it; a model stays where it is; a caller may say otherwise.
    second = sw.serve(source("half_plus_two"), "b", **options)
    elsewhere = sw.serve(source("half_plus_two"), "c", root=tmp_path / "two", **options)
    again = sw.serve(source("half_plus_two"), "c", **options)
    assert [h.describe()["base_path"] for h in (first, second, elsewhere, again)] == [
        str(tmp_path / place) for place in ("one/a", "one/b", "two/c", "two/c")
    ]
    assert again.version == 2
    assert sw.status(instance).data["models"].keys() == {"a", "b", "c"}
    first.stop()
    assert first.server.models() == ["b", "c"]
    first.stop()  # idempotent
    with pytest.raises(sw.ModelNotServedError):
        first.describe()
    second.stop()
    elsewhere.stop()  # the last one: the server ends too
    assert not again.server.is_running()
    again.stop()


def test_a_served_model_moves_to_another_root(
    serve: Callable[..., sw.ServedModel], source: Source, tf: ModuleType, tmp_path: Path, name: str
) -> None:
    first = serve(source("half_plus_two", 1))
    elsewhere = tmp_path / "elsewhere" / name
    shutil.copytree(source("half_plus_two", 2), elsewhere / "7")  # what lies there is not served unproved
    with pytest.raises(sw.ProofError):
        serve(module_of(tf, lambda x: {"y": x + tf.random.uniform(tf.shape(x), 1, 2)}), root=elsewhere.parent)
    assert first.predict([2.0]).tolist() == [3.0]
    assert first.describe()["base_path"] == str(tmp_path / name)
    moved = serve(source("half_plus_two", 2), root=elsewhere.parent)
    assert moved.version == 9  # the rejected 8 is not used again
    assert first.predict([2.0]).tolist() == [4.0]
    assert moved.describe()["base_path"] == str(elsewhere)
    assert moved.describe()["policy"] == {"latest": {"num_versions": 1}}


def test_a_model_that_lies_in_a_bucket_is_not_exported_to(
    serve: Callable[..., sw.ServedModel], source: Source, tmp_path: Path, name: str
) -> None:
    first = serve(source("half_plus_two", 1))
    first.server.control.put_model(name, "s3://bucket/m")
    with pytest.raises(sw.PublishError, match="lies at s3://bucket/m, and versions are exported into folders only"):
        serve(source("half_plus_two", 2), root=None)
    assert first.predict([2.0]).tolist() == [3.0]
    assert serve(source("half_plus_two", 2), root=tmp_path).predict([2.0]).tolist() == [4.0]


def test_a_model_whose_files_were_removed_is_served_anew(serve: Callable[..., sw.ServedModel], source: Source) -> None:
    first = serve(source("half_plus_two", 1))
    shutil.rmtree(first.describe()["base_path"])
    with pytest.raises(sw.DeployError, match=r"Version 1 of .* is AVAILABLE already, from"):
        serve(source("half_plus_two", 2), version=1)
    assert serve(source("half_plus_two", 2)).version == 2
    assert first.predict([2.0]).tolist() == [4.0]


def test_a_handle_shows_itself(serve: Callable[..., sw.ServedModel], source: Source, warm: str, name: str) -> None:
    served = serve(source("multi"))
    bundle = served._repr_mimebundle_()
    for text in bundle.values():
        for part in (served.grpc_endpoint, f"{served.rest_url}/v1/models/{name}:predict", "row_sum", "[?, 3]", "int32"):
            assert part in text
    assert "<table>" in bundle["text/html"]
    connected = sw.connect(name, warm)
    assert isinstance(connected, sw.ServedModel)
    assert connected.version == 1
    assert "proved" not in connected._repr_mimebundle_()["text/plain"]
    assert isinstance(sw.connect(instance=warm), sw.Server)
    status = served.status()
    assert status[0]["serving"] == "yes"
    assert status.to_frame()["state"].tolist() == ["AVAILABLE"]
    assert name in served.logs(1000)
    served.server.control.delete_model(name)
    gone = served._repr_mimebundle_()
    assert "does not serve a model" in gone["text/plain"]
    connected.server.close()


def test_batching_while_it_runs(serve: Callable[..., sw.ServedModel], source: Source, name: str) -> None:
    served = serve(source("half_plus_two"))
    assert served.server.batching(name) is None
    changed = served.server.set_batching(name, max_batch_size=8, batch_timeout_micros=500)
    assert changed is not None
    assert changed["max_batch_size"] == 8
    assert served.predict([2.0]).tolist() == [3.0]
    with pytest.raises(sw.ControlError):
        served.server.set_batching(name, max_batch_size=0)
    assert served.server.statistics()["models"][name]["1"]["requests"]["OK"] >= 1
