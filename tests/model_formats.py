"""Models of the formats that people have beside a plain graph: what estimators left, tables and their files, Keras
archives, TensorFlow Lite. `tests.models` builds and caches them with its own; TensorFlow comes as an argument.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["BUILDERS", "NOTE", "TFLITE"]

#: The text of the file in the assets of `half_plus_three`.
NOTE = "what the model brings along"

#: The words of `estimator` and `vocabulary_tf2`, by their number.
_WORDS = ("cat", "dog", "cow")


def half_plus_three(tf: Any, path: Path, version: int) -> None:
    """The many signatures of TensorFlow Serving's own test model, with a file in its assets.

    y = x / 2 + version + 2, y2 = x / 2 + 3, y3 = x2 / 2 + 3. serving_default, tensorflow/serving/predict: x float32
    [-1,1] -> y;  asset_length: x -> length int32 [], what the init op read from the file;  tensorflow/serving/regress,
    regress_x_to_y, regress_x_to_y2, regress_x2_to_y3, classify_x_to_y: tf.Examples with x float [1], x2 float [1] (0).
    """
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        values = {"a": 0.5, "b": version + 2.0, "c": 3.0}
        a, b, c = (v1.Variable(value, name=name, use_resource=False) for name, value in values.items())
        examples = v1.placeholder(tf.string, [None], name="tf_example")
        spec = {"x": tf.io.FixedLenFeature([1], tf.float32), "x2": tf.io.FixedLenFeature([1], tf.float32, [0.0])}
        features = v1.io.parse_example(examples, spec)
        x = tf.identity(features["x"], name="x")
        y = tf.add(a * x, b, name="y")
        y2 = tf.add(a * x, c, name="y2")
        y3 = tf.add(a * features["x2"], c, name="y3")
        note = path.parent / "note.txt"
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(NOTE)
        file = tf.constant(str(note), name="filename")
        v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, file)
        length = v1.Variable(-1, name="length", use_resource=False)
        read = v1.assign(length, tf.strings.length(tf.io.read_file(file)), name="read")
        regress, classify = (f"tensorflow/serving/{name}" for name in ("regress", "classify"))
        predict = _definition(v1, "tensorflow/serving/predict", {"x": x}, {"y": y})
        signatures = {
            "serving_default": predict,
            "tensorflow/serving/predict": predict,
            "asset_length": _definition(v1, "tensorflow/serving/predict", {"x": x}, {"length": length}),
            "classify_x_to_y": _definition(v1, classify, {"inputs": examples}, {"scores": y}),
        }
        for name, output in (("x_to_y", y), ("x_to_y2", y2), ("x2_to_y3", y3)):
            signatures[f"regress_{name}"] = _definition(v1, regress, {"inputs": examples}, {"outputs": output})
        signatures[regress] = signatures["regress_x_to_y"]
        session.run(v1.global_variables_initializer())
        _write(v1, session, path, signatures, read.op)
        note.unlink()


def estimator(tf: Any, path: Path, version: int) -> None:
    """What a canned classifier exported: one parsed batch of tf.Examples, variables of the old kind, a vocabulary.

    Features: word bytes [] (needed), weight float [] (1). The score of a word's number is its weight + version, that of
    the others is version, and a word out of the vocabulary scores version thrice. serving_default and classification:
    classes and scores [-1,3];  regression: outputs [-1,1], the weight;  predict: examples -> class_ids int64 [-1,1].
    """
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        examples = v1.placeholder(tf.string, [None], name="input_example_tensor")
        spec = {"word": tf.io.FixedLenFeature([], tf.string), "weight": tf.io.FixedLenFeature([], tf.float32, 1.0)}
        features = v1.io.parse_example(examples, spec)
        vocabulary = path.parent / "words.txt"
        vocabulary.parent.mkdir(parents=True, exist_ok=True)
        vocabulary.write_text("".join(f"{word}\n" for word in _WORDS))
        table = tf.lookup.StaticHashTable(_lines(tf, str(vocabulary)), -1)
        bias = v1.get_variable("linear/bias", initializer=tf.constant(float(version)), use_resource=False)
        number = table.lookup(features["word"])
        scores = tf.one_hot(number, len(_WORDS)) * features["weight"][:, None] + bias
        classes = tf.tile(tf.constant([list(_WORDS)]), [tf.shape(number)[0], 1])
        classification = _definition(
            v1, "tensorflow/serving/classify", {"inputs": examples}, {"classes": classes, "scores": scores}
        )
        signatures = {
            "serving_default": classification,
            "classification": classification,
            "regression": _definition(
                v1, "tensorflow/serving/regress", {"inputs": examples}, {"outputs": features["weight"][:, None]}
            ),
            "predict": _definition(
                v1, "tensorflow/serving/predict", {"examples": examples}, {"class_ids": number[:, None]}
            ),
        }
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        _write(v1, session, path, signatures, v1.tables_initializer())
        vocabulary.unlink()


def _lines(tf: Any, file: Any) -> Any:
    index = tf.lookup.TextFileIndex
    return tf.lookup.TextFileInitializer(file, tf.string, index.WHOLE_LINE, tf.int64, index.LINE_NUMBER)


def _definition(v1: Any, method: str, inputs: dict[str, Any], outputs: dict[str, Any]) -> Any:
    return v1.saved_model.signature_def_utils.build_signature_def(
        {alias: v1.saved_model.build_tensor_info(tensor) for alias, tensor in inputs.items()},
        {alias: v1.saved_model.build_tensor_info(tensor) for alias, tensor in outputs.items()},
        method,
    )


def _write(v1: Any, session: Any, path: Path, signatures: dict[str, Any], when_loaded: Any) -> None:
    builder = v1.saved_model.Builder(str(path))
    builder.add_meta_graph_and_variables(
        session,
        [v1.saved_model.tag_constants.SERVING],
        signature_def_map=signatures,
        assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
        main_op=when_loaded,
        strip_default_attrs=True,
    )
    builder.save()


def vocabulary_tf2(tf: Any, path: Path, version: int) -> None:
    """A `tf.Module` with a table from a file of its assets: word string [-1] -> number int64 [-1], -1 for others."""
    file = path.parent / "words.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{word}\n" for word in _WORDS))

    class Vocabulary(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.file = tf.saved_model.Asset(str(file))
            self.table = tf.lookup.StaticHashTable(_lines(tf, self.file.asset_path), -1)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "word")])
        def __call__(self, word: Any) -> Any:
            return {"number": self.table.lookup(word)}

    module = Vocabulary()
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.__call__})
    file.unlink()


def _two_headed(keras: Any) -> Any:
    """Inputs left [-1,2] and right [-1,1]; outputs total [-1,1] = sum(left) + right, and twice [-1,1] = 2 * right."""
    left, right = keras.Input((2,), name="left"), keras.Input((1,), name="right")
    row_sum = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")(left)
    total = keras.layers.Add(name="total")([row_sum, right])
    twice = keras.layers.Rescaling(2.0, name="twice")(right)
    return keras.Model({"left": left, "right": right}, {"total": total, "twice": twice})


def keras_heads(tf: Any, path: Path, version: int) -> None:
    """`Model.export` of a Keras 3 model with two inputs and two outputs: left [-1,2], right [-1,1] -> total, twice."""
    import keras

    _two_headed(keras).export(str(path), verbose=False)


def keras_archive(tf: Any, path: Path, version: int) -> None:
    """Keras 3's ExportArchive with two endpoints, the signatures serve (all of `keras_heads`) and only_twice (right
    [-1,1] -> twice); serving_default is the former."""
    import keras

    model = _two_headed(keras)

    def only_twice(right: Any) -> Any:
        return {"twice": model({"left": tf.zeros([tf.shape(right)[0], 2]), "right": right})["twice"]}

    archive = keras.export.ExportArchive()
    archive.track(model)
    inputs = {
        "left": keras.InputSpec(shape=(None, 2), dtype="float32", name="left"),
        "right": keras.InputSpec(shape=(None, 1), dtype="float32", name="right"),
    }
    archive.add_endpoint("serve", model.call, input_signature=[inputs])
    archive.add_endpoint("only_twice", only_twice, input_signature=[tf.TensorSpec([None, 1], tf.float32, "right")])
    archive.write_out(str(path), verbose=False)


# --- TensorFlow Lite -------------------------------------------------------------------------------------------------


def tflite_converted(tf: Any, path: Path, version: int) -> None:
    """The converter's own signatures: serving_default, x float32 [-1] -> y = x / 2 + 2;  add, a and b int32 [-1,2] ->
    sum and difference."""
    _write_tflite(path, _convert(tf, path, "serving_default", "add"))


def tflite_plain(tf: Any, path: Path, version: int) -> None:
    """serving_default of `tflite_converted` without signatures: tensors have nothing but their names."""
    _write_tflite(path, _packed(_convert(tf, path, "serving_default"), lambda schema, model: None))


def tflite_stored(tf: Any, path: Path, version: int) -> None:
    """The same with TensorFlow Serving's own metadata, a SignatureDef that calls the tensors number and half."""
    from flatbuffers import flexbuffers
    from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

    def store(schema: Any, model: Any) -> None:
        graph = model.subgraphs[0]
        definition = SignatureDef(method_name="tensorflow/serving/predict")
        places = ((definition.inputs, graph.inputs[0], "number"), (definition.outputs, graph.outputs[0], "half"))
        for into, index, alias in places:
            into[alias].name = graph.tensors[index].name.decode().removesuffix(":0")
            into[alias].dtype = tf.float32.as_datatype_enum
            into[alias].tensor_shape.dim.add(size=-1)
        buffer = schema.BufferT()
        buffer.data = list(flexbuffers.Dumps({"serving_default": definition.SerializeToString()}))
        model.buffers.append(buffer)
        entry = schema.MetadataT()
        entry.name, entry.buffer = "signature_defs_metadata", len(model.buffers) - 1
        model.metadata = [*(model.metadata or []), entry]

    _write_tflite(path, _packed(_convert(tf, path, "serving_default"), store))


def _convert(tf: Any, path: Path, *signatures: str) -> bytes:
    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        def halve(self, x: Any) -> Any:
            return {"y": x * 0.5 + 2}

        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.int32, "a"), tf.TensorSpec([None, 2], tf.int32, "b")])
        def add(self, a: Any, b: Any) -> Any:
            return {"sum": a + b, "difference": a - b}

    module = Module()
    functions = {"serving_default": module.halve, "add": module.add}
    with tempfile.TemporaryDirectory(dir=path.parent.parent) as folder:
        tf.saved_model.save(module, folder, signatures={name: functions[name] for name in signatures})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(signatures))
        content: bytes = converter.convert()
    return content


def _packed(content: bytes, edit: Callable[[Any, Any], None]) -> bytes:
    """The same without the converter's signatures, and edited."""
    import flatbuffers
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    model.signatureDefs = []
    edit(schema, model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _write_tflite(path: Path, content: bytes) -> None:
    path.mkdir(parents=True)
    (path / "model.tflite").write_bytes(content)


#: The models that are one file, `model.tflite`.
TFLITE = ("tflite_converted", "tflite_plain", "tflite_stored")


def arms(tf: Any, path: Path, version: int) -> None:
    """Known differences: x float32 [-1] -> scores [-1,3], label bytes, value float, count int64, vector [-1,16].

    2 gives another class (scores and label) where x % 50 is 7;  3 adds to value what is 0.01 in root mean square;  4
    fails where x is 13;  5 takes longer, with the same answers;  6 answers NaN for value from 90 on, and no count.
    """

    class Arm(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = tf.Variable(tf.random.stateless_uniform([256, 256], seed=(1, 2)))

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        def __call__(self, x: Any) -> Any:
            number = tf.cast(tf.math.floormod(x, 3.0), tf.int64)
            if version == 2:
                number = tf.where(tf.equal(tf.math.floormod(x, 50.0), 7.0), (number + 1) % 3, number)
            if version == 4:
                allowed = tf.debugging.Assert(tf.reduce_all(tf.not_equal(x, 13.0)), ["13 is not allowed"])
                with tf.control_dependencies([allowed]):
                    number = tf.identity(number)
            value = tf.sin(x)
            if version == 3:
                value += 0.01 * 2**0.5 * tf.sin(1.7 * x)
            if version == 5:
                product = self.matrix + 1e-20 * tf.reduce_max(x)  # of the input, or it would be a constant
                for _ in range(8):
                    product = tf.math.l2_normalize(tf.matmul(product, self.matrix))
                value += tf.minimum(tf.reduce_min(tf.abs(product)), 0.0)
            if version == 6:
                value = tf.where(x >= 90.0, float("nan"), value)
            found = {
                "scores": 0.1 + 0.7 * tf.one_hot(number, 3),
                "label": tf.gather(tf.constant(_WORDS), number),
                "value": value,
                "vector": tf.stack([tf.sin(x * float(each + 1)) for each in range(16)], axis=1),
            }
            if version != 6:
                found["count"] = tf.cast(x, tf.int64)
            return found

    module = Arm()
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.__call__})


#: Name -> what builds a version of it at a path.
BUILDERS: dict[str, Callable[[Any, Path, int], None]] = {
    "half_plus_three": half_plus_three,
    "estimator": estimator,
    "vocabulary_tf2": vocabulary_tf2,
    "keras_heads": keras_heads,
    "keras_archive": keras_archive,
    "tflite_converted": tflite_converted,
    "tflite_plain": tflite_plain,
    "tflite_stored": tflite_stored,
    "arms": arms,
}
