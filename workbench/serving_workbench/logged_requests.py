"""Requests and answers out of request logs and warmup files: TFRecords of `tensorflow.serving.PredictionLog`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from serving_server.errors import DataLossError
from serving_server.tensors import TensorParsingError, to_array
from serving_server.wire import messages, tfrecord
from serving_workbench.errors import WorkbenchError

__all__ = ["LoggedRequest", "answer_arrays", "log_files", "read_logs"]

Array = NDArray[Any]

#: Kind of a log (its field in PredictionLog) -> method, and message of its answer.
_METHODS: dict[str, tuple[str, str]] = {
    "predict_log": ("Predict", "PredictResponse"),
    "classify_log": ("Classify", "ClassificationResponse"),
    "regress_log": ("Regress", "RegressionResponse"),
    "multi_inference_log": ("MultiInference", "MultiInferenceResponse"),
}


@dataclass(frozen=True)
class LoggedRequest:
    """One record.

    Attributes
    ----------
    file : Path
    number : int
        Of the record in its file, from 1.
    method : str
        ``Predict``, ``Classify``, ``Regress`` or ``MultiInference``.
    model, signature : str
        Of several the first.
    request : bytes
        To be sent.
    response : message or None
        What was answered; None when that was not logged.
    second : int
        When it was answered, in seconds since 1970; 0 when that was not logged.
    """

    file: Path
    number: int
    method: str
    model: str
    signature: str
    request: bytes
    response: Any
    second: int

    def __str__(self) -> str:
        return f"record {self.number} of {self.file.name}"


def log_files(given: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return files, in the order given; a folder stands for its ``*.tfrecord`` files, in the order of their names.

    Raises
    ------
    WorkbenchError
        One is not there, or there is none.
    """
    paths = [given] if isinstance(given, str | os.PathLike) else list(given)
    found: list[Path] = []
    for path in (Path(os.fspath(each)).expanduser() for each in paths):
        inside = sorted(path.glob("*.tfrecord")) if path.is_dir() else [path]
        if not inside or not path.exists():
            problem = "has no *.tfrecord files" if path.is_dir() else "is not there"
            raise WorkbenchError(
                f"The request log '{path}' {problem}.", hint="Give files, or a folder of *.tfrecord files."
            )
        found += inside
    if not found:
        raise WorkbenchError("There is no request log to read.", hint="Give files, or a folder of *.tfrecord files.")
    return found


def read_logs(
    files: Sequence[Path], model: str | None, version: int | None, unreadable: list[str]
) -> Iterator[LoggedRequest]:
    """Yield the requests of files; what cannot be read is noted in `unreadable`, and skipped.

    Parameters
    ----------
    files : sequence of Path
    model : str or None
        Whom to ask instead of the logged model.
    version : int or None
        Which version to ask; None for the one that answers requests without a version.
    unreadable : list of str
    """
    for file in files:
        number = 0
        try:
            for number, data in enumerate(tfrecord.read(file), 1):
                try:
                    yield _request(file, number, messages.PredictionLog.FromString(data), model, version)
                except DecodeError as error:
                    unreadable.append(f"record {number} of {file} is no PredictionLog: {error}")
                except WorkbenchError as error:
                    unreadable.append(f"record {number} of {file}: {error}")
        except (DataLossError, OSError) as error:
            # A log that is still being written, or whose server was killed, ends like this.
            unreadable.append(f"{file} after record {number}: {error}")


def _request(file: Path, number: int, log: Any, model: str | None, version: int | None) -> LoggedRequest:
    kind = log.WhichOneof("log_type")
    if kind not in _METHODS:
        raise WorkbenchError(f"a {kind or 'record without a request'} cannot be sent again")
    body = getattr(log, kind)
    request = body.request
    specs = [request.model_spec] if kind != "multi_inference_log" else [task.model_spec for task in request.tasks]
    for spec in specs:
        if model is not None:
            spec.name = model
        if version is None:
            spec.ClearField("version_choice")
        else:
            spec.version.value = version
    first = specs[0] if specs else messages.ModelSpec()
    response = body.response if body.HasField("response") else None
    return LoggedRequest(
        file,
        number,
        _METHODS[kind][0],
        first.name,
        first.signature_name,
        request.SerializeToString(),
        response,
        log.log_metadata.timestamp_secs,
    )


def answer_arrays(method: str, answer: Any) -> dict[str, Array]:
    """Return an answer as arrays by output.

    Parameters
    ----------
    method : str
    answer : message or bytes
        The method's response, perhaps serialized.

    Returns
    -------
    dict of str to numpy.ndarray
        Predict: by alias. Classify: ``classes`` and ``scores``, [examples, classes]. Regress: ``outputs``,
        [examples]. MultiInference: these by task, as ``0.scores``.

    Raises
    ------
    WorkbenchError
        It cannot be read.
    """
    try:
        if isinstance(answer, bytes):
            name = next(response for called, response in _METHODS.values() if called == method)
            answer = messages.message_class(f"tensorflow.serving.{name}").FromString(answer)
        if method == "Predict":
            return {alias: to_array(proto) for alias, proto in answer.outputs.items()}
    except (DecodeError, TensorParsingError) as error:
        raise WorkbenchError(f"the answer cannot be read: {error}") from error
    if method == "Classify":
        return _classifications(answer.result)
    if method == "Regress":
        return _regressions(answer.result)
    found: dict[str, Array] = {}
    for place, entry in enumerate(answer.results):
        classifies = entry.WhichOneof("result") == "classification_result"
        part = _classifications(entry.classification_result) if classifies else _regressions(entry.regression_result)
        found |= {f"{place}.{alias}": array for alias, array in part.items()}
    return found


def _classifications(result: Any) -> dict[str, Array]:
    rows = [entry.classes for entry in result.classifications]
    widths = {len(row) for row in rows}
    shape = (len(rows), widths.pop()) if len(widths) == 1 else (sum(map(len, rows)),)
    labels = np.empty(sum(map(len, rows)), dtype=object)
    labels[:] = [entry.label for row in rows for entry in row]
    scores = np.array([entry.score for row in rows for entry in row], np.float32)
    return {"classes": labels.reshape(shape), "scores": scores.reshape(shape)}


def _regressions(result: Any) -> dict[str, Array]:
    return {"outputs": np.array([entry.value for entry in result.regressions], np.float32)}
