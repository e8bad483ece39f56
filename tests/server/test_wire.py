"""The private descriptors: up to date, and equal to the reference's, field by field."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import pytest

from serving_server.wire import build, messages

_REFERENCE = """
import json, sys
from google.protobuf import descriptor_pool
import tensorflow

def _repeated(field):  # `is_repeated` came with protobuf 6, and `label` is deprecated since
    return bool(field.is_repeated if hasattr(field, "is_repeated") else field.label == 3)

from tensorflow_serving.apis import (
    classification_pb2, get_model_metadata_pb2, get_model_status_pb2, inference_pb2, model_management_pb2, predict_pb2,
    prediction_log_pb2, regression_pb2)
from tensorflow_serving.config import model_server_config_pb2
from tensorflow.core.protobuf import saved_model_pb2
try:
    from tensorflow.tsl.profiler.protobuf import profiler_options_pb2
except ImportError:  # older ones have it elsewhere
    from tensorflow.core.profiler import profiler_options_pb2

pool = descriptor_pool.Default()
found = {}
for name in json.load(sys.stdin):
    try:
        message = pool.FindMessageTypeByName(name)
    except KeyError:
        continue
    found[name] = {
        field.name: [field.number, field.type, _repeated(field),
                     field.message_type.full_name if field.message_type else None,
                     {v.name: v.number for v in field.enum_type.values} if field.enum_type else None]
        for field in message.fields}
json.dump(found, sys.stdout)
"""


#: Parts of TensorFlow's profiler, whose Python package has the options only (tests/server/test_profiler.py).
_PROFILER = {
    f"tensorflow.{name}{end}" for name in ("Profile", "Monitor", "Terminate") for end in ("Request", "Response")
}


def _repeated(field: Any) -> bool:
    # `is_repeated` came with protobuf 6, and `label` is deprecated since.
    return bool(field.is_repeated if hasattr(field, "is_repeated") else field.label == 3)


def _ours() -> dict[str, dict[str, list[object]]]:
    found: dict[str, dict[str, list[object]]] = {}

    def add(message: object) -> None:
        found[message.full_name] = {  # type: ignore[attr-defined]
            field.name: [
                field.number,
                field.type,
                _repeated(field),
                field.message_type.full_name if field.message_type else None,
                {value.name: value.number for value in field.enum_type.values} if field.enum_type else None,
            ]
            for field in message.fields  # type: ignore[attr-defined]
        }
        for nested in message.nested_types:  # type: ignore[attr-defined]
            add(nested)

    for name in build.PROTOS:
        for message in messages.pool.FindFileByName(name).message_types_by_name.values():
            add(message)
    return found


def test_descriptors_are_what_protoc_makes_of_the_proto_files() -> None:
    pytest.importorskip("grpc_tools")
    from google.protobuf import descriptor_pb2

    committed = (files("serving_server.wire") / "descriptors.binpb").read_bytes()

    def ours(data: bytes) -> dict[str, object]:
        # Google's own files come with the installed protoc and may differ in comments and options.
        every = descriptor_pb2.FileDescriptorSet.FromString(data).file
        return {file.name: file for file in every if not file.name.startswith("google/")}

    assert ours(committed) == ours(build.compile_descriptors())


def test_the_session_config_is_tensorflow_s() -> None:
    """An older or newer TensorFlow has other fields; whatever both know must agree."""
    from google.protobuf import descriptor_pb2

    def fields(data: bytes) -> dict[str, int]:
        return {
            f"{file.name}:{message.name}.{field.name}": field.number
            for file in descriptor_pb2.FileDescriptorSet.FromString(data).file
            for message in file.message_type
            for field in message.field
        }

    ours = fields((files("serving_server.wire") / "session_config.binpb").read_bytes())
    theirs = fields(build.session_config_descriptors())
    shared = ours.keys() & theirs.keys()
    assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared}
    assert "tensorflow/core/protobuf/config.proto:ConfigProto.gpu_options" in shared


def test_every_message_and_field_is_the_reference_s() -> None:
    ours = _ours()
    answer = subprocess.run(
        [sys.executable, "-c", _REFERENCE],
        input=json.dumps(list(ours)),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    reference = json.loads(answer.stdout)
    complete = tuple(map(int, version("tensorflow-serving-api").split(".")[:2])) >= (2, 21)
    if complete:
        # Read from text files only, and not part of the reference package; those of the workbench are our own.
        of_others = {name for name in ours if name.startswith("grpc.")} | _PROFILER
        assert ours.keys() - reference.keys() - of_others == {
            "tensorflow.serving.BatchingParameters",
            "tensorflow.serving.MonitoringConfig",
            "tensorflow.serving.PrometheusConfig",
            "tensorflow.serving.SSLConfig",
            "tensorflow.serving.WorkbenchModelOptions",
            "serving_workbench.SerializedExamples",
            "serving_workbench.SerializedInput",
            "serving_workbench.ExamplesRequest",
            "serving_workbench.MultiInferenceRequest",
        }
    del ours["tensorflow.serving.ModelConfig"]["serving_workbench"]
    for name, fields in reference.items():
        for field, facts in ours[name].items():
            if complete or field in fields:  # an older reference has fewer fields
                assert facts == fields[field], f"{name}.{field}"


def test_tensorflow_s_own_messages_work_in_the_same_process() -> None:
    """Ours first, then the real ones: no clash of names, and bytes go from one to the other."""
    code = """
from serving_server.wire.messages import PredictRequest as Ours
from tensorflow_serving.apis.predict_pb2 import PredictRequest as Theirs
import tensorflow as tf
request = Theirs()
request.model_spec.name = "m"
request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0, 2.0]))
assert Ours.FromString(request.SerializeToString()).inputs["x"].tensor_shape.dim[0].size == 2
"""
    answer = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr[-2000:]
