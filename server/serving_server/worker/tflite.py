"""TensorFlow Lite models: `model.tflite` in a version's folder, run by interpreters in place of a Session.

What its signatures are is looked for in three places, in this order: the metadata that TensorFlow Serving's own tool
writes (a flexbuffers map of serialized SignatureDefs, tensorflow/lite/tools/signature), the signatures that
TensorFlow's converter writes, and else all inputs and outputs by their tensors' names, as ``serving_default``.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from flatbuffers import flexbuffers  # type: ignore[import-untyped]
from tensorflow.core.protobuf import config_pb2
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.python.interpreter import Interpreter

from serving_server.errors import InvalidArgumentError
from serving_server.place import Place
from serving_server.signatures import DEFAULT_SIGNATURE
from serving_server.tensors import Array, by_numpy
from serving_server.wire.messages import SignatureDef, SignatureDefMap
from serving_server.worker.files import open_binary
from serving_server.worker.runner import Runnable

__all__ = ["FILE", "TfliteModel"]

#: In the folder of a version (servables/tensorflow/saved_model_bundle_factory.cc).
FILE: Final = "model.tflite"

_METADATA: Final = b"signature_defs_metadata"
_PREDICT: Final = "tensorflow/serving/predict"


class TfliteModel:
    """A loaded TensorFlow Lite model (a `worker.runner.Runner`).

    An interpreter serves one call at a time, so each thread that runs the model gets its own: as many as there are
    lanes. They share the model's bytes.

    Parameters
    ----------
    path : Path or RemotePath
        The version folder.
    session_config : bytes
        A serialized `tensorflow.ConfigProto`, of which `intra_op_parallelism_threads` counts; 0 means 1 here.

    Raises
    ------
    InvalidArgumentError
        When the file is no TensorFlow Lite model.
    """

    def __init__(self, path: Place, session_config: bytes) -> None:
        with open_binary(path / FILE) as file:
            self._content = file.read()
        self._threads = config_pb2.ConfigProto.FromString(session_config).intra_op_parallelism_threads or 1
        self._local = threading.local()
        try:
            first = self._interpreter()
        except (ValueError, RuntimeError) as error:
            raise InvalidArgumentError(f"{path / FILE} is not a TensorFlow Lite model: {error}") from error
        # Names in the graph to (signature, alias), for the signatures that live in sub-graphs of their own.
        self._places: dict[str, tuple[str, str]] = {}
        self._inputs = {detail["name"]: detail for detail in first.get_input_details()}
        self._outputs = {detail["name"]: detail for detail in first.get_output_details()}
        self._signatures = SignatureDefMap()
        stored = _metadata(self._content)
        if stored:
            for name, data in stored.items():
                self._signatures.signature_def[name].CopyFrom(SignatureDef.FromString(bytes(data)))
        elif first.get_signature_list():
            self._add_runners(first)
        else:
            self._add_default()

    def signature_defs(self) -> Any:
        """Return the `SignatureDefMap` of all signatures."""
        return self._signatures

    def runnable(self, feeds: Sequence[str], fetches: Sequence[str]) -> tuple[Runnable, bool]:
        """Return a function from arrays (in the order of `feeds`) to arrays, and False: feeds are copied.

        Raises
        ------
        InvalidArgumentError
            When the model has no such tensor, or not all in one signature.
        """
        names = {self._places[name][0] for name in (*feeds, *fetches) if name in self._places}
        if len(names) == 1 and all(name in self._places for name in (*feeds, *fetches)):
            return self._by_signature(names.pop(), feeds, fetches), False
        inputs = [_index(self._inputs, name) for name in feeds]
        outputs = [_index(self._outputs, name) for name in fetches]
        return self._by_index(inputs, outputs), False

    def _by_signature(self, name: str, feeds: Sequence[str], fetches: Sequence[str]) -> Runnable:
        inputs = [self._places[feed][1] for feed in feeds]
        outputs = [self._places[fetch][1] for fetch in fetches]

        def run(*arrays: Array) -> list[Any]:
            found = self._mine().get_signature_runner(name)(**dict(zip(inputs, arrays, strict=True)))
            return [found[alias] for alias in outputs]

        return run

    def _by_index(self, inputs: Sequence[int], outputs: Sequence[int]) -> Runnable:
        def run(*arrays: Array) -> list[Any]:
            interpreter = self._mine()
            shapes = tuple(array.shape for array in arrays)
            if self._local.shapes != shapes:
                self._local.shapes = None  # what fails half way must not be taken for the shapes of before
                for index, shape in zip(inputs, shapes, strict=True):
                    interpreter.resize_tensor_input(index, shape)
                interpreter.allocate_tensors()
                self._local.shapes = shapes
            for index, array in zip(inputs, arrays, strict=True):
                interpreter.set_tensor(index, array)
            interpreter.invoke()
            return [interpreter.get_tensor(index) for index in outputs]

        return run

    def _mine(self) -> Any:
        """Return the interpreter of this thread."""
        found = getattr(self._local, "interpreter", None)
        if found is None:
            found = self._local.interpreter = self._interpreter()
            self._local.shapes = None
        return found

    def _interpreter(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that it will move to another package; none of the user's doing
            return Interpreter(model_content=self._content, num_threads=self._threads)

    def _add_runners(self, interpreter: Any) -> None:
        for name in interpreter.get_signature_list():
            runner = interpreter.get_signature_runner(name)
            definition = self._signatures.signature_def[name]
            definition.method_name = _PREDICT
            for details, into in (
                (runner.get_input_details(), definition.inputs),
                (runner.get_output_details(), definition.outputs),
            ):
                for alias, detail in details.items():
                    tensor = detail["name"]
                    if tensor in self._places:  # of another signature: every sub-graph has names of its own
                        tensor = f"{name}/{tensor}"
                    self._places[tensor] = (name, alias)
                    _describe(into[alias], tensor, detail)

    def _add_default(self) -> None:
        definition = self._signatures.signature_def[DEFAULT_SIGNATURE]
        definition.method_name = _PREDICT
        for details, into in ((self._inputs, definition.inputs), (self._outputs, definition.outputs)):
            for name, detail in details.items():
                _describe(into[name.removesuffix(":0")], name, detail)


def _describe(info: Any, name: str, detail: Mapping[str, Any]) -> None:
    info.name = name
    info.dtype = by_numpy(np.dtype(object) if detail["dtype"] is np.bytes_ else np.dtype(detail["dtype"])).enum
    signature = detail["shape_signature"]
    for size in signature if len(signature) else detail["shape"]:
        info.tensor_shape.dim.add(size=int(size))


def _index(known: Mapping[str, Any], name: str) -> int:
    # Stored signatures may name a tensor with or without the number of the output that it is.
    detail = known.get(name) or known.get(f"{name}:0") or known.get(name.removesuffix(":0"))
    if detail is None:
        raise InvalidArgumentError(f"the model has no tensor {name}; it has {', '.join(sorted(known))}")
    return int(detail["index"])


def _metadata(content: bytes) -> dict[str, Any]:
    """Return the serialized SignatureDefs of a model's metadata by name; empty without that entry."""
    model = schema.Model.GetRootAsModel(content, 0)
    for index in range(model.MetadataLength()):
        entry = model.Metadata(index)
        if entry.Name() == _METADATA:
            data = model.Buffers(entry.Buffer()).DataAsNumpy()
            found = flexbuffers.Loads(bytes(data))
            if not isinstance(found, dict):
                raise InvalidArgumentError(f"metadata {_METADATA.decode()} of {FILE} is not a map")
            return found
    return {}
