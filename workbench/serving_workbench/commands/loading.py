"""`loadtest`: send requests to a model, and tell how it answers."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import serving_workbench as sw
from serving_workbench.commands import kinds
from serving_workbench.commands.command import Command, Place, add_instance, named_or_only
from serving_workbench.commands.parser import Parser

__all__ = ["LOADTEST"]

_EXAMPLES: Final = """\
    %loadtest digits --rate 500 --for 10s          500 requests/s at random times: what users would wait
    %loadtest digits --concurrency 64 --for 5s     64 always in flight: what the server can do
    %loadtest digits --rate 500 --p99 20ms --data pixels --rows 4
                                                   rows of a variable, and a verdict on an objective
    %loadtest 127.0.0.1:8500 --model digits --rate 500
                                                   any server with TensorFlow Serving's protocols
    result = %loadtest digits --rate 500           result.to_frame(), result.plot(), result.save("run.npz")
"""


def _arguments(parser: Parser) -> None:
    parser.add(
        "target",
        kind=kinds.text,
        role="model",
        nargs="?",
        metavar="NAME",
        help="a served model, or host:port; not needed when there is only one model",
    )
    parser.add("--rate", kind=kinds.rate_or_ramp, metavar="R", help="requests per second; FROM:TO for a ramp")
    parser.add("--concurrency", kind=kinds.whole, metavar="N", help="requests always in flight, in place of a rate")
    parser.add("--for", dest="seconds", kind=kinds.seconds, metavar="S", default=10.0, help="how long: 10s, 2min (10s)")
    when = "when requests come: poisson (default), constant, gamma (bursts), recorded"
    parser.add("--arrivals", offers=["poisson", "constant", "gamma", "ramp", "recorded"], metavar="A", help=when)
    data = "variable or expression: what to send; else values that fit the signature"
    if not parser.in_notebook:
        data = "what to send: JSON, or @FILE with it; else values that fit the signature"
    parser.add("--data", role="array", metavar="VAR" if parser.in_notebook else "JSON", help=data)
    parser.add("--log", kind=kinds.text, role="file", metavar="FILE", help="what to send: a request log, or a folder")
    parser.add("--rows", kind=kinds.whole, metavar="N", default=1, help="rows per request (1)")
    parser.add(
        "--p99", kind=kinds.text, metavar="T", help="objective: 20ms, 0.5s, or of another percentile: 'p95 20ms'"
    )
    parser.add("--protocol", kind=kinds.text, offers=["grpc", "rest"], metavar="P", default="grpc", help="grpc or rest")
    parser.add("--model", kind=kinds.text, role="model", metavar="M", help="which model of a host:port")
    parser.add("--signature", kind=kinds.text, metavar="S", help="which signature; else the default one")
    parser.add("--version", kind=kinds.whole, role="version", metavar="V", help="a version; else the one that answers")
    warmup = "seconds at the beginning that do not count; else they are found"
    parser.add("--warmup", kind=kinds.seconds, metavar="S", help=warmup)
    parser.add("--seed", kind=kinds.whole, metavar="N", help="another draw of the arrivals")
    parser.add("--connections", kind=kinds.whole, metavar="N", help="4 for gRPC; for REST one per request in flight")
    parser.add("--save", kind=kinds.text, role="file", metavar="FILE", help="write the result: .npz, .json or .csv")
    add_instance(parser)
    parser.add("--no-progress", action="store_true", help="show no bar")


def _run(arguments: argparse.Namespace, place: Place) -> sw.LoadResult:
    target = arguments.target or named_or_only(None, arguments.instance, place.spelled("loadtest"))
    options: dict[str, Any] = {
        name: value
        for name in (
            "rate",
            "concurrency",
            "arrivals",
            "model",
            "signature",
            "version",
            "warmup",
            "seed",
            "connections",
        )
        if (value := getattr(arguments, name)) is not None
    }
    if isinstance(options.get("rate"), tuple):
        options.setdefault("arrivals", "ramp")
    if arguments.data is not None:
        options["data"] = place.value(arguments.data, "--data")
    if arguments.log is not None:
        options["data"] = Path(arguments.log)
    result = sw.loadtest(
        target,
        seconds=arguments.seconds,
        rows=arguments.rows,
        slo=arguments.p99,
        protocol=arguments.protocol,
        instance=arguments.instance,
        progress=not arguments.no_progress,
        **options,
    )
    if arguments.save is not None:
        path = Path(arguments.save)
        writers: dict[str, Callable[[Path], object]] = {".json": result.to_json, ".csv": result.to_csv}
        writers.get(path.suffix, result.save)(path)
        place.say(f"Wrote {path}.")
    return result


LOADTEST = Command(
    "loadtest",
    "Send requests to a model, and tell how it answers: rates, latencies with intervals, and whether to believe them.",
    _arguments,
    _run,
    magic="loadtest",
    examples=_EXAMPLES,
)
