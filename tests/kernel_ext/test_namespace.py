"""Which variables can be served, and under which name."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from serving_jupyter.namespace import array_names, servable_names
from serving_workbench.naming import served_name


class Model:
    """Stands for `keras.Model`."""

    def __init__(self, name: str = "") -> None:
        self.name = name


class Sequential(Model):
    """Stands for `keras.Sequential`."""


class TextClassifier(Model):
    """A model class of the user's own."""


class Function:
    """Stands for what `tf.function` makes."""


class Posing:
    """Runs code when somebody asks for its class, as proxies do."""

    @property
    def __class__(self) -> type:  # type: ignore[override]
        raise AssertionError("the user's code ran")


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keras and TensorFlow as far as they are looked at, without the seconds that their import takes."""
    experimental = SimpleNamespace(PolymorphicFunction=Function, ConcreteFunction=Function)
    tensorflow = SimpleNamespace(types=SimpleNamespace(experimental=experimental), Module=type("Module", (), {}))
    monkeypatch.setitem(sys.modules, "keras", SimpleNamespace(Model=Model))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "tensorflow", tensorflow)  # type: ignore[arg-type]


def test_servable_variables_are_known_by_their_types(libraries: None) -> None:
    namespace = {
        "net": Sequential("sequential"),
        "module": sys.modules["tensorflow"].Module(),
        "function": Function(),
        "functions": {"serving_default": Function()},
        "folder": Path("models"),
        "where": "models/digits",
        "word": "digits",
        "text": "and/or\n",
        "numbers": {"a": 1},
        "nothing": {},
        "x": np.zeros(3),
        "odd": Posing(),
        "_hidden": Sequential("sequential"),
        "exit": Path("of IPython"),
    }
    found = servable_names(namespace, {"exit": None})
    assert found == ["net", "module", "function", "functions", "folder", "where"]
    assert array_names(namespace, {}) == ["x"]


def test_without_the_libraries_only_paths_are_servable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keras", SimpleNamespace())  # type: ignore[arg-type]  # halfway through its import
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    assert servable_names({"net": Sequential(), "folder": Path("models")}, {}) == ["folder"]


@pytest.mark.parametrize(
    ("model", "variable", "name", "origin"),
    [
        (Sequential("digits"), "model", "digits", "the model's name"),
        (Sequential("sequential"), "model", "model", "its variable"),
        (Sequential("sequential_12"), "model", "model", "its variable"),
        (Model("functional_3"), "net", "net", "its variable"),
        (TextClassifier("text_classifier_1"), "net", "net", "its variable"),
        (Sequential("my model/2"), "net", "my_model_2", "the model's name"),
        (object(), "net", "net", "its variable"),
        ("/data/digits", "path", "digits", "its folder"),
        (Path("/data/digits/3"), None, "digits", "its folder"),
        ("/data/.digits", None, "m.digits", "its folder"),
    ],
)
def test_the_name_that_a_model_is_served_under(model: object, variable: str | None, name: str, origin: str) -> None:
    assert served_name(model, variable) == (name, origin)


@pytest.mark.parametrize("model", [Sequential("sequential_1"), object(), {}, "/"])
def test_nothing_to_go_by(model: object) -> None:
    assert served_name(model, None) is None


def test_a_relative_path_is_named_by_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path / "digits")
    assert served_name(".", None) == ("digits", "its folder")
