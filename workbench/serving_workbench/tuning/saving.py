"""Results of searches in JSON files: everything but the running server comes back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from serving_server.batching.parameters import BatchingParameters
from serving_server.errors import ServingError
from serving_workbench.errors import WorkbenchError
from serving_workbench.tuning.decision import Evidence
from serving_workbench.tuning.result import Candidate, TuneResult
from serving_workbench.tuning.service_curve import ServiceCurve
from serving_workbench.tuning.simulator import RequestPath
from serving_workbench.tuning.space import Point, Space

__all__ = ["load", "save"]

_FORMAT: Final = "serving-workbench tuning 1"
_PLAIN: Final = ("model", "version", "digest", "slo", "percent", "rate", "date", "lanes")
_MORE: Final = ("factor", "crowded_at", "floor", "notes")


def save(result: TuneResult, path: Path) -> Path:
    """Write a result; an existing file is replaced whole."""
    value = {
        "format": _FORMAT,
        **{name: getattr(result, name) for name in (*_PLAIN, *_MORE)},
        "seconds": result.seconds,
        "complete": result.complete,
        "feasible": result.feasible,
        "current": _parameters(result.current),
        "curve": result.curve.to_json(),
        "path": dataclasses.asdict(result.path),
        "space": {**dataclasses.asdict(result.space), "base": result.space.base.to_json()},
        "predictions": [[*point, rate] for point, rate in result.predictions.items()],
        "candidates": [_candidate(each) for each in result.candidates],
    }
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_text(json.dumps(value, allow_nan=False))
        part.replace(path)
    except OSError as error:
        raise WorkbenchError(f"'{path}' cannot be written: {error.strerror}.") from error
    return path


def load(path: Path) -> TuneResult:
    """Read a file of `save`.

    Raises
    ------
    WorkbenchError
        There is none, or it is something else.
    """
    try:
        value = json.loads(path.read_text())
        if value["format"] != _FORMAT:
            raise WorkbenchError(f"'{path}' is of another format: {value['format']!r}.")
        return _result(value)
    except OSError as error:
        raise WorkbenchError(f"'{path}' cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, ServingError) as error:
        raise WorkbenchError(f"'{path}' is no saved search for batching parameters: {error!r}.") from error


def _result(value: dict[str, Any]) -> TuneResult:
    space = value["space"]
    return TuneResult(
        **{name: value[name] for name in (*_PLAIN, *_MORE)},
        seconds=value["seconds"],
        complete=value["complete"],
        feasible=value["feasible"],
        current=_read_parameters(value["current"]),
        curve=ServiceCurve.from_json(value["curve"]),
        path=RequestPath(**{**value["path"], "extra": tuple(value["path"]["extra"])}),
        space=Space(
            **{name: tuple(space[name]) for name in ("sizes", "timeouts", "threads", "paddings")},
            base=BatchingParameters.from_json(space["base"]),
            waiting=space["waiting"],
        ),
        predictions={Point(*row[:4]): float(row[4]) for row in value["predictions"]},
        candidates=[_read_candidate(each) for each in value["candidates"]],
    )


def _parameters(parameters: BatchingParameters | None) -> dict[str, Any] | None:
    return None if parameters is None else parameters.to_json()


def _read_parameters(value: dict[str, Any] | None) -> BatchingParameters | None:
    return None if value is None else BatchingParameters.from_json(value)


def _candidate(candidate: Candidate) -> dict[str, Any]:
    evidence = candidate.evidence
    return {
        "label": candidate.label,
        "parameters": _parameters(candidate.parameters),
        "predicted": candidate.predicted,
        "screened": candidate.screened,
        "evidence": None
        if evidence is None
        else {
            "rates": evidence.rates.tolist(),
            "disturbed": list(evidence.disturbed),
            # JSON has no infinity.
            "latencies": [
                [value if np.isfinite(value) else None for value in row] for row in evidence.latencies.tolist()
            ],
        },
    }


def _read_candidate(value: dict[str, Any]) -> Candidate:
    parameters = _read_parameters(value["parameters"])
    evidence = value["evidence"]
    if evidence is not None:
        lines = [[np.inf if each is None else each for each in row] for row in evidence["latencies"]]
        evidence = Evidence(parameters, np.array(evidence["rates"]), np.array(lines), tuple(evidence["disturbed"]))
    return Candidate(value["label"], parameters, value["predicted"], evidence, value["screened"])
