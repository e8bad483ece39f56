"""Warmup files of all kinds of records, in real servers: what is replayed, how often, and what fails a load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from serving_server.tensors import to_proto
from serving_server.wire.messages import PredictionLog
from serving_server.wire.tfrecord import frame
from tests.examples import CLASSIFY, REGRESS, example, multi_request, request
from tests.servers import ServerProcess, wait_until

TWO = (example(x=1.0), example(x=3.0))
LIMIT = 1000


def _publish(version: Path, records: bytes) -> Path:
    """Give a version a warmup file and return its model's base path."""
    (version / "assets.extra").mkdir()
    (version / "assets.extra" / "tf_serving_warmup_requests").write_bytes(records)
    return version.parent


def _file(*logs: Any) -> bytes:
    return b"".join(frame(log if isinstance(log, bytes) else log.SerializeToString()) for log in logs)


def _predict(**inputs: Any) -> Any:
    log = PredictionLog()
    for alias, value in inputs.items():
        log.predict_log.request.inputs[alias].CopyFrom(to_proto(value))
    return log


def _classify(signature: str, examples: Any = TWO) -> Any:
    log = PredictionLog()
    log.classify_log.request.CopyFrom(request(CLASSIFY, "whatever", examples, signature, version=77))
    return log


def _regress(signature: str) -> Any:
    log = PredictionLog()
    log.regress_log.request.CopyFrom(request(REGRESS, "", TWO, signature, context=example(k=1)))
    return log


def _multi(*tasks: tuple[str, str], model: str = "whatever") -> Any:
    log = PredictionLog()
    log.multi_inference_log.request.CopyFrom(multi_request(model, tasks, TWO))
    return log


def _streamed() -> Any:
    log = PredictionLog()
    log.predict_streamed_log.SetInParent()
    return log


#: Records that fail a load: code and text.
BAD = {
    "missing": (_file(_classify("missing")), "INVALID_ARGUMENT", "No signature was found with the name: missing"),
    "result": (
        _file(_classify("double_scores")),
        "INVALID_ARGUMENT",
        "Expected scores Tensor of DT_FLOAT. Got: DT_DOUBLE",
    ),
    "one-row": (_file(_regress("regress_one_row")), "INVALID_ARGUMENT", "Input batch size did not match output batch"),
    "empty": (_file(_classify("classify", [])), "INVALID_ARGUMENT", "Input is empty."),
    "lacking": (_file(_classify("classify", [example(k=1)])), "INVALID_ARGUMENT", "Feature: x (data type: float) is"),
    "method": (_file(_classify("untyped")), "INVALID_ARGUMENT", "Expected classification signature method_name to be"),
    "twice": (
        _file(_multi(("regress", "regress"), ("regress", "regress"))),
        "INVALID_ARGUMENT",
        "Duplicate evaluation of signature: regress",
    ),
    "nameless": (
        _file(_multi(("regress", "regress"), model="")),
        "INVALID_ARGUMENT",
        "Found ModelSpec with an empty model name.",
    ),
    "inputs": (
        _file(_predict(wrong=np.float32([1]))),
        "INVALID_ARGUMENT",
        "Signature input alias: inputs(feed name: tf_example:0) not found",
    ),
    # A session_run_log, which the definition no longer has.
    "session": (_file(b"\x2a\x00"), "UNIMPLEMENTED", "Unsupported log_type for warmup: 5"),
    "streamed": (_file(_streamed()), "UNIMPLEMENTED", "Unsupported log_type for warmup: 7"),
    "many": (
        _file(PredictionLog()) * (LIMIT + 1),
        "INVALID_ARGUMENT",
        f"Number of warmup records exceeds the maximum ({LIMIT}) at ",
    ),
    "no-record": (_file(b"\xff\xff"), "INVALID_ARGUMENT", "Failed to parse warmup record: "),
    "no-file": (b"no TFRecord file", "DATA_LOSS", ". Please verify your warmup data is in TFRecord format."),
    "cut-off": (_file(_classify("classify"))[:-1], "DATA_LOSS", "truncated record at 0 of "),
}


def test_records_of_all_kinds(
    server: Callable[..., ServerProcess], model_copy: Callable[..., Path], tmp_path: Path
) -> None:
    process = server(
        "--max_num_load_retries=0",
        "--num_request_iterations_for_warmup=3",
        "--enable_signature_method_name_check",
        "--num_load_threads=2",
    )
    count = _file(PredictionLog(), *[_predict(x=np.float32([1]))] * 2)
    process.put_model("counter", _publish(model_copy("counter"), count))
    good = _file(
        _classify("classify"),
        _regress("regress"),
        _multi(("scores_only", "classify"), ("regress_other", "regress")),
        _classify("scores_only", TWO * 10),
    )
    process.put_model("good", _publish(model_copy("examples"), good))
    empty = _file(PredictionLog()) * LIMIT
    process.put_model("most", _publish(model_copy("examples", base=tmp_path / "most"), empty))
    for name, (records, _, _) in BAD.items():
        process.put_model(name, _publish(model_copy("examples", base=tmp_path / "bad" / name), records))

    process.wait_available("counter")
    # Two records, three times each: the next run is the seventh.
    assert process.predict("counter", {"x": np.float32([1])})["count"].tolist() == [7]
    process.wait_available("good")
    assert "replayed 4 warmup records" in process.log_text()
    process.wait_available("most")
    for name, (_, code, text) in BAD.items():
        entry = wait_until(lambda name=name: _ended(process, name), 60, f"the end of {name}")
        assert entry["error_code"] == code, entry
        assert text in entry["error_message"], entry
    assert process.rest("POST", "/v1/models/good:classify", {"examples": [{"x": 1.0}]})[0] == 200


def _ended(process: ServerProcess, name: str) -> Any:
    entry = process.versions(name).get(1, {})
    return entry if entry.get("state") in {"END", "AVAILABLE"} else None


def test_without_warmup_nothing_is_read(server: Callable[..., ServerProcess], model_copy: Callable[..., Path]) -> None:
    base = _publish(model_copy("examples"), b"no TFRecord")
    process = server("--model_name=m", f"--model_base_path={base}", "--enable_model_warmup=false")
    process.wait_available("m")
