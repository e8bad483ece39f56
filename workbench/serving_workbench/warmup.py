"""Write a sample as TensorFlow Serving's warm-up file, so that a version is warm before it answers, at restarts too.

Format: TFRecord (tensorflow/core/lib/io/record_writer.cc) of `tensorflow.serving.PredictionLog`, in
``assets.extra/tf_serving_warmup_requests`` (tensorflow_serving/servables/tensorflow/saved_model_warmup.cc).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from serving_server.tensors import to_proto
from serving_server.wire.messages import PredictionLog

__all__ = ["WARMUP_FILE", "write_warmup"]

WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
#: A larger sample is not written: its checksum in Python would take longer than a second.
MAX_BYTES = 4 << 20
_MASK_DELTA = 0xA282EAD8


def write_warmup(savedmodel: Path, name: str, signature: str, inputs: dict[str, NDArray[Any]]) -> bool:
    """Write one warm-up request into a SavedModel that has none of its own.

    Returns
    -------
    bool
        False when the model brings its own warm-up file, or the sample is over `MAX_BYTES`.
    """
    path = savedmodel / WARMUP_FILE
    if path.exists() or sum(array.nbytes for array in inputs.values()) > MAX_BYTES:
        return False
    log = PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    for key, array in inputs.items():
        request.inputs[key].CopyFrom(to_proto(array, as_content=True))
    data = log.SerializeToString()
    length = struct.pack("<Q", len(data))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(length + _masked_crc(length) + data + _masked_crc(data))
    return True


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)  # Castagnoli's polynomial, reflected
        table.append(value)
    return table


_TABLE = _table()


def _masked_crc(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    # Masked because the CRC of data that contains its own CRC is weak (tensorflow/core/lib/hash/crc32c.h).
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF)
