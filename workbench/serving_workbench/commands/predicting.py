"""`predict`: ask a served model."""

from __future__ import annotations

import argparse
from typing import Any

import serving_workbench as sw
from serving_workbench.commands import kinds
from serving_workbench.commands.command import Command, Place, add_instance, handle
from serving_workbench.commands.parser import Parser
from serving_workbench.errors import CommandLineError
from serving_workbench.rest import is_rest_request, predict_by_rest

__all__ = ["PREDICT"]

_EXAMPLES = """\
Ask a served model over gRPC; a cell's body may also be the JSON of a REST request.

    %predict digits X_test[:5]              any Python expression: arrays, lists, DataFrames, a dict of named inputs
    %predict digits X --version 2           a version by its number; --label stable: by a label
    answer = %predict digits {"x": X}       keep the answer

    %%predict digits                        the body as it goes to the REST API, whose answer is shown
    {"instances": [[0.0, 1.0]]}

    %%predict digits                        or Python, whose last line is the input
    rows = load_rows()
    rows[["a", "b"]]
"""


def _arguments(parser: Parser) -> None:
    parser.add("name", kind=kinds.text, role="model", help="a served model")
    if parser.in_notebook:
        parser.add("x", role="array", nargs="?", metavar="INPUT", help="a Python expression; or the body of the cell")
    else:
        given = "JSON, or @FILE with it; else standard input"
        parser.add("x", nargs="?", metavar="JSON", help=given)
    parser.add("--version", kind=kinds.whole, role="version", metavar="V", help="ask this version, not the serving one")
    parser.add("--label", kind=kinds.text, role="label", metavar="L", help="ask the version that has this label")
    parser.add("--signature", kind=kinds.text, metavar="S", help="by default serving_default, or the only one")
    parser.add("--timeout", kind=kinds.seconds, metavar="S", default=10.0, help="seconds to wait for the answer (10)")
    add_instance(parser)


def _run(arguments: argparse.Namespace, place: Place) -> Any:
    spelled = place.spelled("predict")
    if arguments.version is not None and arguments.label is not None:
        raise CommandLineError(f"{spelled}: give --version or --label, not both.")
    version: int | str | None = arguments.version if arguments.label is None else arguments.label
    x, is_json = place.request(arguments.x, arguments.body)
    if is_json and is_rest_request(x):
        served = handle(arguments.name, arguments.instance)
        body = x if arguments.signature is None else {**x, "signature_name": arguments.signature}
        return predict_by_rest(served.rest_url, served.name, body, version=version, timeout=arguments.timeout)
    return sw.predict(arguments.name, x, version, arguments.signature, arguments.timeout, instance=arguments.instance)


PREDICT = Command(
    "predict", "Ask a served model.", _arguments, _run, magic="predict", examples=_EXAMPLES, rest="x", body=True
)
