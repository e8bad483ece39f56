"""Give a version TensorFlow Serving's warm-up file, so that it is warm before it answers, at restarts too.

Format: TFRecord of `tensorflow.serving.PredictionLog` (see `serving_server.wire.warmup_file`).
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from serving_server.errors import DataLossError
from serving_server.signatures import Signature
from serving_server.tensors import to_proto
from serving_server.wire import tfrecord
from serving_server.wire.messages import PredictionLog
from serving_server.wire.warmup_file import MAX_RECORDS, WARMUP_FILE
from serving_workbench.errors import DeployError
from serving_workbench.inputs import as_inputs

__all__ = ["PREVIOUS", "WARMUP_FILE", "RecordedWarmup", "add_warmup", "check_warmup", "write_warmup"]

#: In place of a path: the file of the version that is replaced.
PREVIOUS = "previous"

#: A larger sample is not written: every load of the version would pay for it, and nobody has asked for that.
MAX_BYTES = 4 << 20


@dataclass(frozen=True)
class RecordedWarmup:
    """What `ServedModel.record_warmup` has written.

    Attributes
    ----------
    version : int
    requests : int
        Answered requests that were looked at.
    records : int
        Requests in the file: of those that run the same tensors in the same shapes only a few.
    bytes : int
        Size of the file.
    too_large : int
        Requests that were left out for their size.
    path : str
    complete : bool
        All the requests came in time.
    """

    version: int
    requests: int
    records: int
    bytes: int
    too_large: int
    path: str
    complete: bool

    def __str__(self) -> str:
        left_out = f" ({self.too_large} were too large)" if self.too_large else ""
        return (
            f"{self.records} of {self.requests} requests recorded as warm-up of version {self.version}{left_out}: "
            f"{self.path}"
        )


def check_warmup(warmup: object) -> None:
    """Refuse a warm-up file that no version could load, before anything is exported.

    Raises
    ------
    DeployError
        Naming the file and what is wrong with it.
    """
    path = _path(warmup)
    if path is None:
        return
    count = 0
    try:
        for count, record in enumerate(tfrecord.read(path), 1):
            PredictionLog.FromString(record)
            if count > MAX_RECORDS:
                raise _refusal(path, f"it has more than {MAX_RECORDS} records, which fails a load")
    except OSError as error:
        raise _refusal(path, error.strerror or str(error)) from error
    except DataLossError as error:
        raise _refusal(path, error.message) from error
    except DecodeError as error:
        raise _refusal(path, f"record {count} is no PredictionLog") from error
    if not count:
        raise _refusal(path, "it is empty")


def _refusal(path: Path, problem: str) -> DeployError:
    return DeployError(
        f"Cannot warm up with '{path}': {problem}.",
        step="export",
        hint="Give a TFRecord file of PredictionLog messages, as record_warmup and request logs write them.",
    )


def _path(warmup: object) -> Path | None:
    if isinstance(warmup, str | os.PathLike) and warmup != PREVIOUS:
        return Path(os.fspath(warmup)).expanduser()
    return None


def add_warmup(savedmodel: Path, warmup: object, previous: Path | None, name: str, signature: Signature) -> bool:
    """Give a SavedModel the warm-up that was asked for, in place of one of its own.

    Parameters
    ----------
    savedmodel : Path
    warmup : str, Path, array_like, dict or DataFrame
        ``"previous"``, the path of a file that `check_warmup` has passed, or an input of the signature.
    previous : Path or None
        Folder of the version that is replaced.
    name : str
        Model name.
    signature : Signature
        The default one.

    Returns
    -------
    bool
        False when there is no previous version, or it has no warm-up file: nothing has changed.

    Raises
    ------
    PredictError
        The input does not fit the signature.
    OSError
        The file cannot be written.
    """
    if isinstance(warmup, str) and warmup == PREVIOUS:
        source = None if previous is None else previous / WARMUP_FILE
        if source is None or not source.exists():
            return False
        check_warmup(source)
    else:
        source = _path(warmup)
    path = savedmodel / WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    if source is not None:
        shutil.copyfile(source, path)
    else:
        path.write_bytes(_framed_request(name, signature.name, as_inputs(warmup, signature)))
    return True


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
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(_framed_request(name, signature, inputs))
    return True


def _framed_request(name: str, signature: str, inputs: dict[str, NDArray[Any]]) -> bytes:
    log = PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    for key, array in inputs.items():
        request.inputs[key].CopyFrom(to_proto(array, as_content=True))
    return tfrecord.frame(log.SerializeToString())
