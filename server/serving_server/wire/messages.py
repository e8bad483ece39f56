"""Message classes of TensorFlow Serving's protocols, built in a private descriptor pool.

TensorFlow's own generated modules would cost 8 s and 350 MB to import, and they register their files in protobuf's
default pool, where a second definition of the same name is an error. A pool of our own keeps both worlds apart: a
notebook may import TensorFlow and `tensorflow_serving.apis` before or after this module, in the same process.

Classes here are bound lazily by full name; the module's attributes are typed `Any` because protobuf creates them at
run time. The definitions are in `protos/`, their compiled form in `descriptors.binpb` (see `build.py`).
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = [
    "ANY_TYPE_PREFIX",
    "Any_",
    "BatchingParameters",
    "ClassificationResponse",
    "ClassificationResult",
    "DataType",
    "Example",
    "ExamplesRequest",
    "GetModelMetadataRequest",
    "GetModelMetadataResponse",
    "GetModelStatusRequest",
    "GetModelStatusResponse",
    "Int64Value",
    "LogMetadata",
    "LoggingConfig",
    "ModelServerConfig",
    "ModelSpec",
    "MonitoringConfig",
    "MultiInferenceRequest",
    "MultiInferenceResponse",
    "PredictRequest",
    "PredictResponse",
    "PredictionLog",
    "RegressionResponse",
    "RegressionResult",
    "ReloadConfigRequest",
    "ReloadConfigResponse",
    "SSLConfig",
    "SavedModel",
    "SerializedInput",
    "SignatureDef",
    "SignatureDefMap",
    "TensorProto",
    "TensorShapeProto",
    "message_class",
    "pool",
]

#: Prefix of `google.protobuf.Any.type_url`, as C++ `Any::PackFrom` writes it.
ANY_TYPE_PREFIX = "type.googleapis.com/"


def _load_pool() -> descriptor_pool.DescriptorPool:
    descriptors = descriptor_pb2.FileDescriptorSet.FromString(
        (files("serving_server.wire") / "descriptors.binpb").read_bytes()
    )
    private = descriptor_pool.DescriptorPool()
    for file in descriptors.file:
        private.Add(file)
    return private


#: The private pool; also what reflection and JSON printing of these messages need.
pool = _load_pool()


def message_class(full_name: str) -> Any:
    """Return the message class of a full protobuf name, such as ``tensorflow.serving.PredictRequest``.

    Raises
    ------
    KeyError
        When no file of ours defines that name.
    """
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(full_name))


Any_: Any = message_class("google.protobuf.Any")
Int64Value: Any = message_class("google.protobuf.Int64Value")

TensorProto: Any = message_class("tensorflow.TensorProto")
TensorShapeProto: Any = message_class("tensorflow.TensorShapeProto")
SignatureDef: Any = message_class("tensorflow.SignatureDef")
SavedModel: Any = message_class("tensorflow.SavedModel")
Example: Any = message_class("tensorflow.Example")
#: Descriptor of the DataType enum: `DataType.values_by_name["DT_FLOAT"].number`.
DataType: Any = pool.FindEnumTypeByName("tensorflow.DataType")

ModelSpec: Any = message_class("tensorflow.serving.ModelSpec")
PredictRequest: Any = message_class("tensorflow.serving.PredictRequest")
PredictResponse: Any = message_class("tensorflow.serving.PredictResponse")
GetModelStatusRequest: Any = message_class("tensorflow.serving.GetModelStatusRequest")
GetModelStatusResponse: Any = message_class("tensorflow.serving.GetModelStatusResponse")
GetModelMetadataRequest: Any = message_class("tensorflow.serving.GetModelMetadataRequest")
GetModelMetadataResponse: Any = message_class("tensorflow.serving.GetModelMetadataResponse")
SignatureDefMap: Any = message_class("tensorflow.serving.SignatureDefMap")
PredictionLog: Any = message_class("tensorflow.serving.PredictionLog")
LogMetadata: Any = message_class("tensorflow.serving.LogMetadata")
#: ClassificationRequest and RegressionRequest, with serialized examples.
ExamplesRequest: Any = message_class("serving_workbench.ExamplesRequest")
#: With serialized examples.
MultiInferenceRequest: Any = message_class("serving_workbench.MultiInferenceRequest")
SerializedInput: Any = message_class("serving_workbench.SerializedInput")
ClassificationResult: Any = message_class("tensorflow.serving.ClassificationResult")
ClassificationResponse: Any = message_class("tensorflow.serving.ClassificationResponse")
RegressionResult: Any = message_class("tensorflow.serving.RegressionResult")
RegressionResponse: Any = message_class("tensorflow.serving.RegressionResponse")
MultiInferenceResponse: Any = message_class("tensorflow.serving.MultiInferenceResponse")
LoggingConfig: Any = message_class("tensorflow.serving.LoggingConfig")
ModelServerConfig: Any = message_class("tensorflow.serving.ModelServerConfig")
ReloadConfigRequest: Any = message_class("tensorflow.serving.ReloadConfigRequest")
ReloadConfigResponse: Any = message_class("tensorflow.serving.ReloadConfigResponse")
MonitoringConfig: Any = message_class("tensorflow.serving.MonitoringConfig")
BatchingParameters: Any = message_class("tensorflow.serving.BatchingParameters")
SSLConfig: Any = message_class("tensorflow.serving.SSLConfig")
