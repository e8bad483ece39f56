"""Exports of real Keras models, modules and functions; TensorFlow is imported in this process."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from serving_workbench import sampling, savedmodel
from serving_workbench.errors import ExportError, PublishError
from serving_workbench.export import Exported, export_model, kind_of

Export = Callable[..., tuple[Exported, dict[str, Any]]]


@pytest.fixture(scope="module")
def tf() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own imports
        import tensorflow
    return tensorflow


@pytest.fixture(scope="module")
def keras(tf: ModuleType) -> ModuleType:
    import keras

    return keras


@pytest.fixture
def export(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Export:
    """Export, check that nothing was printed or warned, and return what came with the signatures."""

    def run(model: object, signatures: Any = None) -> tuple[Exported, dict[str, Any]]:
        target = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        target.mkdir()
        capfd.readouterr()
        exported = export_model(model, target, signatures)
        printed = capfd.readouterr()
        assert (printed.out, printed.err) == ("", "")
        return exported, savedmodel.validate(target)

    return run


def answers(exported: Exported, signatures: dict[str, Any], name: str = "serving_default") -> dict[str, Any]:
    """The original's answer to a drawn sample; its names and dtypes must be the signature's."""
    outputs = exported.references[name](sampling.draw(signatures[name]))
    assert {key: array.dtype for key, array in outputs.items()} == {
        key: spec.dtype.numpy for key, spec in signatures[name].outputs.items()
    }
    return outputs


def test_a_sequential_model_gets_stable_names_and_a_batch_dimension(keras: ModuleType, export: Export) -> None:
    for _ in range(2):  # Keras's own name would be another one the second time
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        exported, signatures = export(model)
        (spec,) = signatures["serving_default"].inputs.values()
        assert (exported.kind, spec.alias, spec.shape) == ("keras", "inputs", (-1, 4))
        assert answers(exported, signatures)["output_0"].shape == (2, 3)


def test_a_name_given_by_the_user_is_kept(keras: ModuleType, export: Export) -> None:
    model = keras.Sequential([keras.Input((4,), name="pixels"), keras.layers.Dense(3)])
    assert set(export(model)[1]["serving_default"].inputs) == {"pixels"}


def test_a_model_built_by_a_call_is_not_bound_to_that_batch_size(keras: ModuleType, export: Export) -> None:
    model = keras.Sequential([keras.layers.Dense(3)])
    model(np.zeros((32, 4), np.float32))
    exported, signatures = export(model)
    assert signatures["serving_default"].inputs["inputs"].shape == (-1, 4)
    answers(exported, signatures)


@pytest.mark.parametrize("shape", ["list", "dict", "one in a list"])
def test_functional_models(keras: ModuleType, export: Export, shape: str) -> None:
    a, b = keras.Input((4,), name="left"), keras.Input((2,), name="right", dtype="int32")
    y, z = keras.layers.Dense(3)(a), keras.layers.Embedding(10, 3)(b)
    if shape == "list":
        model, outputs = keras.Model([a, b], [y, z]), {"output_0", "output_1"}
    elif shape == "dict":
        model, outputs = keras.Model({"left": a, "right": b}, {"score": y, "vector": z}), {"score", "vector"}
    else:
        model, outputs = keras.Model([a], y), {"output_0"}
    exported, signatures = export(model)
    found = signatures["serving_default"]
    assert set(found.inputs) == ({"left"} if shape == "one in a list" else {"left", "right"})
    assert set(found.outputs) == outputs
    assert set(answers(exported, signatures)) == outputs


def test_unnamed_inputs_are_numbered(keras: ModuleType, export: Export) -> None:
    a, b = keras.Input((4,)), keras.Input((4,))
    exported, signatures = export(keras.Model([a, b], keras.layers.Add()([a, b])))
    assert set(signatures["serving_default"].inputs) == {"input_0", "input_1"}
    answers(exported, signatures)


def test_a_subclassed_model(keras: ModuleType, export: Export) -> None:
    class Twice(keras.Model):  # type: ignore[name-defined, misc]
        def call(self, x: Any) -> Any:
            return {"twice": 2 * x}

    model = Twice()
    with pytest.raises(ExportError, match=r"never built.*Call it once on a batch"):
        export(model)
    model(np.zeros((32, 4), np.float32))
    exported, signatures = export(model)
    assert answers(exported, signatures)["twice"].shape == (2, 4)


def test_a_subclassed_model_of_two_arguments_says_what_to_do(keras: ModuleType, export: Export) -> None:
    class Two(keras.Model):  # type: ignore[name-defined, misc]
        def call(self, x: Any, y: Any) -> Any:
            return x + y

    model = Two()
    model(np.zeros((2, 4), np.float32), np.zeros((2, 4), np.float32))
    with pytest.raises(ExportError, match=r"wrap it in a tf\.Module"):
        export(model)


def test_a_module(tf: ModuleType, export: Export) -> None:
    class Scale(tf.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable(2.0)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def __call__(self, x: Any) -> Any:
            return {"y": self.w * x}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32), tf.TensorSpec([None], tf.int32)])
        def both(self, x: Any, n: Any) -> Any:
            return self.w * x, n

        @tf.function
        def unsigned(self, x: Any) -> Any:
            return x

        @property
        def dangerous(self) -> Any:
            raise RuntimeError("a property must not be run")

    exported, signatures = export(Scale())
    assert set(signatures) == {"serving_default", "both"}
    inputs = sampling.draw(signatures["serving_default"])
    np.testing.assert_allclose(answers(exported, signatures)["y"], 2 * inputs["x"])
    assert set(answers(exported, signatures, "both")) == {"output_0", "output_1"}


def test_a_module_around_a_keras_model_brings_its_variables(
    tf: ModuleType, keras: ModuleType, export: Export, tmp_path: Path
) -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])

    class Doubled(tf.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
        def __call__(self, x: Any) -> dict[str, Any]:
            return {"y": 2 * self.model(x)}

    module = Doubled()
    before = set(vars(module))
    _, signatures = export(module)
    assert set(vars(module)) == before
    one = signatures["serving_default"]
    x = np.ones((1, 3), np.float32)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:  # as the worker does
        tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path / "out0"))
        (y,) = session.run([one.outputs["y"].tensor_name], {one.inputs["x"].tensor_name: x})
    np.testing.assert_allclose(y, 2 * np.asarray(model(x)), rtol=1e-6)


def test_a_module_without_a_signature_says_how_to_decorate(tf: ModuleType, export: Export) -> None:
    class Plain(tf.Module):  # type: ignore[name-defined, misc]
        @tf.function
        def f(self, x: Any) -> Any:
            return x

    with pytest.raises(
        ExportError, match=r"Plain has no tf\.function with an input_signature.*@tf\.function\(input_sig"
    ):
        export(Plain())


def test_signatures_chosen_by_the_user(tf: ModuleType, export: Export) -> None:
    class Module(tf.Module):  # type: ignore[name-defined, misc]
        @tf.function
        def f(self, x: Any) -> Any:
            return {"y": x + 1}

    module = Module()
    concrete = module.f.get_concrete_function(tf.TensorSpec([None], tf.float32, name="x"))
    exported, signatures = export(module, {"plus": concrete})
    assert set(signatures) == {"plus", "serving_default"}
    answers(exported, signatures, "plus")
    with pytest.raises(ExportError, match=r"signature 'plus' has no input_signature"):
        export(module, {"plus": module.f})


def test_functions_by_name_bring_their_variables(tf: ModuleType, export: Export) -> None:
    w = tf.Variable([3.0])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def triple(x: Any) -> Any:
        return w * x

    exported, signatures = export({"triple": triple, "again": triple.get_concrete_function()})
    assert set(signatures) == {"triple", "again"}
    np.testing.assert_allclose(exported.references["again"]({"x": np.float32([1, 2])})["output_0"], np.float32([3, 6]))
    assert set(export(triple)[1]) == {"serving_default"}


@pytest.mark.parametrize(
    ("functions", "says"),
    [({}, "is empty"), ({"f": lambda x: x}, "not a tf.function"), ({3: None}, "not a signature name")],
)
def test_dicts_that_cannot_be_served(tf: ModuleType, export: Export, functions: Any, says: str) -> None:
    with pytest.raises(ExportError, match=says.replace(".", r"\.")):
        export(functions)


def test_an_untracked_table_says_what_to_do(tf: ModuleType, export: Export) -> None:
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a"], [1]), -1)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="x")])
    def look(x: Any) -> Any:
        return table.lookup(x)

    with pytest.raises(ExportError, match=r"captures something that is not saved"):
        export({"look": look})


def test_a_loaded_model_is_exported_with_its_signatures(tf: ModuleType, export: Export, models_dir: Path) -> None:
    loaded = tf.saved_model.load(str(models_dir / "half_plus_two_tf2" / "1"))
    assert kind_of(loaded) == "module"
    exported, signatures = export(loaded)
    np.testing.assert_allclose(exported.references["serving_default"]({"x": np.float32([2])})["y"], [3.0])
    assert set(signatures) == {"serving_default"}


def test_a_model_that_cannot_be_traced_is_an_export_error(tf: ModuleType, export: Export) -> None:
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
    def broken(x: Any) -> Any:
        raise RuntimeError("inside the model")

    with pytest.raises(ExportError, match="inside the model"):
        export({"f": broken})


def test_a_full_disk_is_said_before_writing(keras: ModuleType, export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.workbench.test_publish import Usage

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    monkeypatch.setattr("serving_workbench.files.shutil.disk_usage", lambda path: Usage(100, 100, 0))
    with pytest.raises(PublishError, match="No space left"):
        export(model)


def test_loggers_are_as_before(keras: ModuleType, export: Export) -> None:
    before = [logging.getLogger(name).level for name in ("tensorflow", "absl")]
    export(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]))
    assert [logging.getLogger(name).level for name in ("tensorflow", "absl")] == before


def test_a_path_is_exported_without_tensorflow(models_dir: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from serving_workbench.export import export_model\n"
        "from serving_workbench.savedmodel import validate\n"
        "export_model(sys.argv[1], Path(sys.argv[2])); validate(Path(sys.argv[2]))\n"
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules\n"
    )
    command = [sys.executable, "-c", program, str(models_dir / "digits"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
