"""Answers of the extension's API held against its OpenAPI document: each status is listed, each body is as it says."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

import jsonschema

__all__ = ["DOCUMENT", "check_described"]

DOCUMENT: dict[str, Any] = json.loads(files("serving_jupyter.extension").joinpath("openapi.json").read_bytes())


@cache
def _operations() -> list[tuple[re.Pattern[str], dict[str, Any]]]:
    return [(re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), item) for path, item in DOCUMENT["paths"].items()]


def check_described(method: str, path: str, status: int, kind: str, body: bytes) -> None:
    """Check an answer to a request for a path below the base URL; paths that are not the API's are left alone.

    Parameters
    ----------
    kind : str
        Content type.
    """
    path = path.partition("?")[0]
    items = [item for pattern, item in _operations() if pattern.fullmatch(path)]
    found = [item[method.lower()] for item in items if method.lower() in item]
    if not found or kind.startswith("text/html"):  # a page of Jupyter's own: the extension is not there
        return
    answers = found[0]["responses"]
    assert str(status) in answers, f"{method} {path}: {status} is not in the document: {body[:200]!r}"
    answer = answers[str(status)]
    if "$ref" in answer:
        answer = DOCUMENT["components"]["responses"][answer["$ref"].rpartition("/")[2]]
    content = answer["content"]
    assert kind.partition(";")[0] in content, f"{method} {path}: {kind}"
    if kind.startswith("application/json"):
        schema = {**content["application/json"]["schema"], "components": DOCUMENT["components"]}
        jsonschema.Draft202012Validator(schema).validate(json.loads(body))
