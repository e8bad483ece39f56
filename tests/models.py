"""Real SavedModels for the tests, built once and cached: `python -m tests.models <outdir>`.

TensorFlow is imported inside `build_all` only, so a test may import this module for its names and constants. The
fixtures of `tests/conftest.py` run it in a subprocess and keep the result under `.pytest_cache`.

Every model lies in `<outdir>/<name>/<version>/`, those of `tests.model_formats` too. Shapes are written as in
signatures: -1 is an unknown dimension.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests import model_formats

__all__ = ["DTYPES", "FAILING_INPUT", "VERSIONS", "build_all", "cache_key", "cached", "copy_version"]

#: TensorFlow dtype name of each signature of `echo_all_dtypes`.
DTYPES = (
    *("half", "bfloat16", "float32", "float64"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("bool", "string", "complex64", "complex128"),
)

#: The value on which `fails` fails.
FAILING_INPUT = 13.0

#: Seconds that models of another text of this file are kept after their last use.
_KEPT = 3600

#: What is built: name -> versions.
VERSIONS: dict[str, tuple[int, ...]] = {
    "half_plus_two": (1, 2),
    "half_plus_two_tf2": (1, 2),
    "echo_all_dtypes": (1,),
    "multi": (1,),
    "with_default": (1,),
    "no_batch_dim": (1,),
    "bad_output_batch": (1,),
    "fails": (1,),
    "slow": (1,),
    "mlp": (1,),
    "digits": (1,),
    "dominated": (1, 2),
    "no_signatures": (1,),
    "counter": (1,),
    "variable_length": (1,),
    "examples": (1, 2),
    "examples_tf2": (1,),
    **dict.fromkeys(model_formats.BUILDERS, (1,)),
    "arms": (1, 2, 3, 4, 5, 6),
}


# --- the models ----------------------------------------------------------------------------------------------------


def _save_graph(tf: Any, path: Path, build: Callable[[], dict[str, tuple[dict[str, Any], dict[str, Any]]]]) -> None:
    """Export a TF1-style graph; `build` makes it and returns signature name -> (inputs, outputs)."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        signatures = {
            name: v1.saved_model.signature_def_utils.predict_signature_def(inputs, outputs)
            for name, (inputs, outputs) in build().items()
        }
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session, [v1.saved_model.tag_constants.SERVING], signature_def_map=signatures, strip_default_attrs=True
        )
        builder.save()


def _half_plus_two(tf: Any, path: Path, version: int) -> None:
    """y = x * 0.5 + (version + 1), x and y float32 [-1]: version 1 adds two, version 2 adds three."""

    def build() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
        v1 = tf.compat.v1
        a = v1.get_variable("a", initializer=tf.constant(0.5), use_resource=True)
        b = v1.get_variable("b", initializer=tf.constant(version + 1.0), use_resource=True)
        x = v1.placeholder(tf.float32, [None], name="x")
        y = tf.add(tf.multiply(a, x), b, name="y")
        return {"serving_default": ({"x": x}, {"y": y})}

    _save_graph(tf, path, build)


def _half_plus_two_tf2(tf: Any, path: Path, version: int) -> None:
    """The same function as `half_plus_two`, exported from a `tf.Module`."""

    class HalfPlusTwo(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = tf.Variable(0.5)
            self.b = tf.Variable(version + 1.0)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        def __call__(self, x: Any) -> Any:
            return {"y": self.a * x + self.b}

    module = HalfPlusTwo()
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.__call__})


def _echo_all_dtypes(tf: Any, path: Path, version: int) -> None:
    """Identity: signature `<dtype>` maps x to y with unknown rank; `all` and `serving_default` map each dtype [-1]."""

    def build() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
        v1 = tf.compat.v1
        signatures: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
        inputs, outputs = {}, {}
        for name in DTYPES:
            dtype = tf.as_dtype(name)
            x = v1.placeholder(dtype, None, name=f"x_{name}")
            signatures[name] = ({"x": x}, {"y": tf.identity(x, name=f"y_{name}")})
            inputs[name] = v1.placeholder(dtype, [None], name=f"all_x_{name}")
            outputs[name] = tf.identity(inputs[name], name=f"all_y_{name}")
        signatures["all"] = signatures["serving_default"] = (inputs, outputs)
        return signatures

    _save_graph(tf, path, build)


def _multi(tf: Any, path: Path, version: int) -> None:
    """Several signatures over several inputs and outputs.

    serving_default: a, b float32 [-1] -> sum, diff [-1];  matrix: m float32 [-1,3], scale float32 [-1,1] -> scaled
    [-1,3], row_sum [-1];  join: left, right string [-1] -> joined string [-1], length int32 [-1].
    """

    def build() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
        v1 = tf.compat.v1
        a, b = (v1.placeholder(tf.float32, [None], name=name) for name in "ab")
        m = v1.placeholder(tf.float32, [None, 3], name="m")
        scale = v1.placeholder(tf.float32, [None, 1], name="scale")
        left, right = (v1.placeholder(tf.string, [None], name=name) for name in ("left", "right"))
        joined = tf.strings.join([left, right], name="joined")
        return {
            "serving_default": ({"a": a, "b": b}, {"sum": a + b, "diff": a - b}),
            "matrix": (
                {"m": m, "scale": scale},
                {"scaled": m * scale, "row_sum": tf.reduce_sum(m, axis=1)},
            ),
            "join": ({"left": left, "right": right}, {"joined": joined, "length": tf.strings.length(joined)}),
        }

    _save_graph(tf, path, build)


def _with_default(tf: Any, path: Path, version: int) -> None:
    """y = x + bias, x float32 [-1]; `bias` float32 [] has the default 5 in `SignatureDef.defaults`."""

    five = tf.constant(5.0)

    class WithDefault(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x"), tf.TensorSpec([], tf.float32, "bias")])
        def __call__(self, x: Any, bias: Any = five) -> Any:  # the export writes this default into the signature
            return {"y": x + bias}

    module = WithDefault()
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.__call__})


def _no_batch_dim(tf: Any, path: Path, version: int) -> None:
    """No batch dimension: serving_default x float32 [] -> y [] (x + 1);  total: x float32 [-1] -> total [];
    transpose: x float32 [2,3] -> y [3,2]."""

    def build() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
        v1 = tf.compat.v1
        scalar = v1.placeholder(tf.float32, [], name="scalar")
        vector = v1.placeholder(tf.float32, [None], name="vector")
        matrix = v1.placeholder(tf.float32, [2, 3], name="matrix")
        return {
            "serving_default": ({"x": scalar}, {"y": scalar + 1.0}),
            "total": ({"x": vector}, {"total": tf.reduce_sum(vector)}),
            "transpose": ({"x": matrix}, {"y": tf.transpose(matrix)}),
        }

    _save_graph(tf, path, build)


def _bad_output_batch(tf: Any, path: Path, version: int) -> None:
    """x float32 [-1,4] -> y [4]: the mean over the batch, so dimension 0 of the output is not the batch."""

    def build() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="x")
        return {"serving_default": ({"x": x}, {"y": tf.reduce_mean(x, axis=0)})}

    _save_graph(tf, path, build)


def _fails(tf: Any, path: Path, version: int) -> None:
    """Identity that fails in the graph: serving_default on an x of 13 (INVALID_ARGUMENT, "input 13 is not allowed");
    numerics: log(x), fails where the result is not finite;  divide: 10 // x (int32), fails on 0."""

    def build() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
        v1 = tf.compat.v1
        x = v1.placeholder(tf.float32, [None], name="x")
        allowed = v1.debugging.Assert(
            tf.reduce_all(tf.not_equal(x, FAILING_INPUT)), ["input 13 is not allowed:", x], name="allowed"
        )
        with tf.control_dependencies([allowed]):
            y = tf.identity(x, name="y")
        n = v1.placeholder(tf.float32, [None], name="n")
        i = v1.placeholder(tf.int32, [None], name="i")
        return {
            "serving_default": ({"x": x}, {"y": y}),
            "numerics": ({"x": n}, {"y": tf.debugging.check_numerics(tf.math.log(n), "log of the input")}),
            "divide": ({"x": i}, {"y": tf.constant(10) // i}),
        }

    _save_graph(tf, path, build)


def _slow(tf: Any, path: Path, version: int) -> None:
    """x float32 [-1], steps int32 [-1] -> y = x after max(steps) products of 256 x 256 matrices (about 0.3 ms each)."""

    class Slow(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = tf.Variable(tf.random.stateless_uniform([256, 256], seed=(1, 2)))

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x"), tf.TensorSpec([None], tf.int32, "steps")])
        def __call__(self, x: Any, steps: Any) -> Any:
            # Each product depends on the one before, and the answer on the last: nothing can be left out or reordered.
            _, product = tf.while_loop(
                lambda i, _: i < tf.reduce_max(steps),
                lambda i, m: (i + 1, tf.math.l2_normalize(tf.matmul(m, self.matrix))),
                (0, tf.identity(self.matrix)),
                parallel_iterations=1,
            )
            return {"y": x + tf.minimum(tf.reduce_min(tf.abs(product)), 0.0)}

    module = Slow()
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.__call__})


def _mlp(tf: Any, path: Path, version: int) -> None:
    """Keras 784-512-512-10 with softmax and fixed random weights."""
    import keras

    keras.utils.set_random_seed(7)
    model = keras.Sequential(
        [
            keras.Input((784,), name="image"),
            keras.layers.Dense(512, activation="relu"),
            keras.layers.Dense(512, activation="relu"),
            keras.layers.Dense(10, activation="softmax", name="probabilities"),
        ]
    )
    model.export(str(path), verbose=False)


def _digits(tf: Any, path: Path, version: int) -> None:
    """Keras 64-32-10 trained for one epoch on scikit-learn's digits (pixels scaled to 0..1)."""
    import keras
    from sklearn.datasets import load_digits

    keras.utils.set_random_seed(7)
    pixels, labels = load_digits(return_X_y=True)
    model = keras.Sequential(
        [
            keras.Input((64,), name="pixels"),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(10, activation="softmax", name="probabilities"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(pixels.astype("float32") / 16, labels, epochs=1, verbose=0)
    model.export(str(path), verbose=False)


def _dominated(tf: Any, path: Path, version: int) -> None:
    """Two products, the first of 16 times as many operations as the second; version 2 has another one after them.

    ``x`` float32 [-1, 512] -> ``y`` float32 [-1, 32]. Variables: ``heavy`` 8 MiB, ``light`` 512 KiB.
    """

    def build() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
        x = tf.compat.v1.placeholder(tf.float32, [None, 512], name="x")
        draw = tf.compat.v1.random_normal_initializer(stddev=0.02, seed=7)
        heavy = tf.compat.v1.get_variable("heavy", [512, 4096], initializer=draw, use_resource=True)
        light = tf.compat.v1.get_variable("light", [4096, 32], initializer=draw, use_resource=True)
        y = tf.matmul(tf.nn.relu(tf.matmul(x, heavy, name="heavy_product")), light, name="light_product")
        if version == 2:
            y = tf.nn.tanh(y, name="squashed")
        return {"serving_default": ({"x": x}, {"y": y})}

    _save_graph(tf, path, build)


def _no_signatures(tf: Any, path: Path, version: int) -> None:
    """A `tf.Module` saved with a variable and an untraced function, as people do by accident: nothing to serve."""

    class Plain(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = tf.Variable(0.5)

        @tf.function
        def __call__(self, x: Any) -> Any:
            return self.a * x

    tf.saved_model.save(Plain(), str(path))


def _counter(tf: Any, path: Path, version: int) -> None:
    """x float32 [-1] -> count int64 [-1]: how often the model ran, so a variable is written by each call."""

    class Counter(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = tf.Variable(0, dtype=tf.int64)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        def __call__(self, x: Any) -> Any:
            return {"count": tf.fill(tf.shape(x), self.calls.assign_add(1))}

    module = Counter()
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.__call__})


def _variable_length(tf: Any, path: Path, version: int) -> None:
    """x float32 [-1,-1] -> total [-1]: the sum of each row; rows of one batch may differ in length when padded."""

    def build() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
        x = tf.compat.v1.placeholder(tf.float32, [None, None], name="x")
        return {"serving_default": ({"x": x}, {"total": tf.reduce_sum(x, axis=1)})}

    _save_graph(tf, path, build)


def _examples(tf: Any, path: Path, version: int) -> None:
    """What an estimator exports, signatures that take serialized tf.Examples, and some that fit no method.

    Features: x float [] (needed), k int64 [] (0), s bytes [] (""). With y = x * 0.5 + (version + 1):
    serving_default, classify: classes ["a","b"] and scores [x,y];  classes_only, scores_only: one of them;  regress: y
    [-1];  regress_column: y [-1,1];  regress_other: -x, of an input tensor of its own;  features (Predict): x, k, s;
    untyped: scores, with a method_name of nobody. The names of the others say what is wrong with them.
    """
    v1 = tf.compat.v1
    classify, regress, predict = (f"tensorflow/serving/{name}" for name in ("classify", "regress", "predict"))
    with tf.Graph().as_default(), v1.Session() as session:

        def parse(name: str) -> tuple[Any, dict[str, Any]]:
            strings = v1.placeholder(tf.string, [None], name=name)
            spec = {
                "x": tf.io.FixedLenFeature([], tf.float32),
                "k": tf.io.FixedLenFeature([], tf.int64, 0),
                "s": tf.io.FixedLenFeature([], tf.string, ""),
            }
            return strings, tf.io.parse_example(strings, spec)

        strings, features = parse("tf_example")
        other, other_features = parse("other_example")
        x = features["x"]
        scale = v1.get_variable("scale", initializer=tf.constant(0.5), use_resource=True)
        y = tf.add(x * scale, version + 1.0, name="y")
        scores = tf.stack([x, y], axis=1, name="scores")
        classes = tf.tile(tf.constant([["a", "b"]]), [tf.shape(x)[0], 1], name="classes")
        numbers = v1.placeholder(tf.float32, [None], name="numbers")
        both = {"classes": classes, "scores": scores}
        wanted: dict[str, tuple[str, Any, dict[str, Any]]] = {
            "serving_default": (classify, strings, both),
            "classify": (classify, strings, both),
            "classes_only": (classify, strings, {"classes": classes}),
            "scores_only": (classify, strings, {"scores": scores}),
            "regress": (regress, strings, {"outputs": y}),
            "regress_column": (regress, strings, {"outputs": y[:, None]}),
            "regress_other": (regress, other, {"outputs": -other_features["x"]}),
            "features": (predict, strings, features),
            "untyped": ("nobody/knows", strings, {"scores": scores}),
            "numbers": (classify, numbers, {"scores": numbers[:, None]}),
            "inputs_elsewhere": (classify, {"examples": strings}, {"scores": scores, "outputs": y}),
            "regress_inputs_elsewhere": (regress, {"examples": strings}, {"outputs": y}),
            "two_inputs": (classify, {"inputs": strings, "more": other}, {"outputs": y}),
            "three_outputs": (classify, strings, {**both, "y": y}),
            "two_regressions": (regress, strings, {"outputs": y, "more": x}),
            "neither_output": (classify, strings, {"y": y}),
            "flat_scores": (classify, strings, {"scores": y}),
            "flat_classes": (classify, strings, {"classes": tf.as_string(y)}),
            "double_scores": (classify, strings, {"scores": tf.cast(scores, tf.float64)}),
            "int_classes": (classify, strings, {"classes": features["k"][:, None]}),
            "one_row": (classify, strings, {"scores": scores[:1]}),
            "one_row_of_classes": (classify, strings, {"classes": classes[:1]}),
            "more_scores": (classify, strings, {"classes": classes, "scores": tf.concat([scores, scores], 1)}),
            "regress_two_columns": (regress, strings, {"outputs": scores}),
            "regress_one_row": (regress, strings, {"outputs": y[:1]}),
            "regress_int": (regress, strings, {"outputs": features["k"]}),
        }
        signatures = {}
        for name, (method, inputs, outputs) in wanted.items():
            given = inputs if isinstance(inputs, dict) else {"inputs": inputs}
            signatures[name] = v1.saved_model.signature_def_utils.build_signature_def(
                {alias: v1.saved_model.build_tensor_info(tensor) for alias, tensor in given.items()},
                {alias: v1.saved_model.build_tensor_info(tensor) for alias, tensor in outputs.items()},
                method,
            )
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(path))
        tags = [v1.saved_model.tag_constants.SERVING]
        builder.add_meta_graph_and_variables(session, tags, signature_def_map=signatures, strip_default_attrs=True)
        builder.save()


def _examples_tf2(tf: Any, path: Path, version: int) -> None:
    """Classification and regression as a `tf.Module`, whose signatures are all for Predict: serving_default and
    regress, the functions of `examples` version 1."""

    class Examples(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = tf.Variable(0.5)

        def _x(self, inputs: Any) -> Any:
            return tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([], tf.float32)})["x"]

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
        def classify(self, inputs: Any) -> Any:
            x = self._x(inputs)
            classes = tf.tile(tf.constant([["a", "b"]]), [tf.shape(x)[0], 1])
            return {"classes": classes, "scores": tf.stack([x, x * self.scale + 2.0], axis=1)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
        def regress(self, inputs: Any) -> Any:
            return {"outputs": self._x(inputs) * self.scale + 2.0}

    module = Examples()
    signatures = {"serving_default": module.classify, "regress": module.regress}
    tf.saved_model.save(module, str(path), signatures=signatures)


def build_all(outdir: Path) -> None:
    """Build every model of `VERSIONS` under `outdir`; imports TensorFlow."""
    import tensorflow as tf

    for name, versions in VERSIONS.items():
        for version in versions:
            build = model_formats.BUILDERS.get(name) or globals()[f"_{name}"]
            build(tf, outdir / name / str(version), version)


# --- cache and copies ----------------------------------------------------------------------------------------------


def cache_key() -> str:
    """Name of the builders' text and of the libraries that write the models: any change of these builds anew."""
    text = Path(__file__).read_bytes() + Path(model_formats.__file__).read_bytes()
    versions = ",".join(importlib.metadata.version(name) for name in ("tensorflow", "keras", "scikit-learn"))
    return hashlib.sha256(text + versions.encode()).hexdigest()[:16]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def cached(folder: Path, timeout: float = 300.0) -> Path:
    """The models' folder inside `folder`, built by a subprocess when it is not there yet.

    Two test sessions at once build once: the second waits for the first. Raises RuntimeError with the end of the
    builder's output when the build fails, or takes longer than `timeout` seconds.
    """
    target = folder / cache_key()
    with _locked(folder / "build.lock"):
        if target.is_dir():
            os.utime(target)
            return target
        for old in folder.iterdir():  # of another text or library version; a session may use it still
            if old.is_dir() and time.time() - old.stat().st_mtime > _KEPT:
                shutil.rmtree(old)
        building = Path(tempfile.mkdtemp(prefix=".building-", dir=folder))
        command = [sys.executable, "-m", "tests.models", str(building)]
        try:
            subprocess.run(
                command,
                cwd=Path(__file__).parent.parent,
                env=os.environ
                | {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "", "KERAS_BACKEND": "tensorflow"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=timeout,
                check=True,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            shutil.rmtree(building)
            output = error.output.decode() if isinstance(error.output, bytes) else error.output or ""
            message = f"The test models could not be built ({error}); run `{' '.join(command)}`:\n{output[-4000:]}"
            raise RuntimeError(message) from error
        building.rename(target)
    return target


def copy_version(source: Path, target: Path) -> Path:
    """Put the version folder `source` at `target` as an atomic export does: under a hidden name, then renamed.

    Files are copies, not links: a test that writes into one must not change the model of all tests that follow.
    Returns `target`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    hidden = target.parent / f".{target.name}.incoming"
    shutil.copytree(source, hidden)
    hidden.rename(target)
    return target


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build the SavedModels that the tests serve.")
    parser.add_argument("outdir", type=Path)
    build_all(parser.parse_args().outdir)
