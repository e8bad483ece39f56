"""`tune`: search for the best batching parameters, or turn them by hand beside live plots."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

import serving_workbench as sw
from serving_workbench.commands import kinds
from serving_workbench.commands.command import Command, Place, add_instance, add_model, chosen_model
from serving_workbench.commands.parser import Parser
from serving_workbench.errors import CommandLineError

__all__ = ["TUNE"]

_EXAMPLES: Final = """\
    %tune digits --p99 20ms         the parameters that answer most requests within 20 ms, with the evidence
    %tune digits --p99 20ms --rate 2000
                                    those with the lowest latency at 2,000 requests/s
    %tune digits                    live: knobs that act on the running server, beside plots
    result = %tune digits --p99 20ms
    result.what_if("10ms")          another objective, without measuring; result.apply(), result.export("batching.txt")
"""


def _arguments(parser: Parser) -> None:
    add_model(parser)
    wanted = "objective: 20ms, 0.5s, or of another percentile: 'p95 20ms'"
    if parser.in_notebook:
        wanted += "; without it, the live dashboard"
    parser.add("--p99", kind=kinds.text, metavar="T", required=not parser.in_notebook, help=wanted)
    parser.add("--rate", kind=kinds.rate, metavar="R", help="requests per second that are expected")
    data = "variable or expression: what to send; else values that fit the signature"
    if not parser.in_notebook:
        data = "what to send: JSON, or @FILE with it; else values that fit the signature"
    parser.add("--data", role="array", metavar="VAR" if parser.in_notebook else "JSON", help=data)
    parser.add("--rows", kind=kinds.whole, metavar="N", help="rows per request (1)")
    parser.add("--signature", kind=kinds.text, metavar="S", help="which signature; else the default one")
    parser.add("--for", dest="seconds", kind=kinds.seconds, metavar="S", help="seconds that it may take (110)")
    method = "guided by a simulator (guided), or without it: optuna, random, grid"
    parser.add("--method", offers=["guided", "optuna", "random", "grid"], metavar="M", help=method)
    parser.add("--export", kind=kinds.text, role="file", metavar="FILE", help="write the batching_parameters_file")
    parser.add("--apply", action="store_true", help="put the winner into force on the running server")
    add_instance(parser)
    parser.add("--no-progress", action="store_true", help="show no bar")


def _run(arguments: argparse.Namespace, place: Place) -> Any:
    model = chosen_model(arguments, place, "tune")
    options: dict[str, Any] = {
        name: value
        for name in ("rate", "rows", "signature", "seconds", "method")
        if (value := getattr(arguments, name)) is not None
    }
    if arguments.data is not None:
        options["data"] = place.value(arguments.data, "--data")
    if arguments.p99 is None:
        for flag in ("method", "export", "apply", "seconds"):
            if getattr(arguments, flag):
                name = "for" if flag == "seconds" else flag
                raise CommandLineError(f"{place.spelled('tune')}: --{name} needs an objective: --p99 20ms.")
        return sw.tune(model, **options)
    result = sw.tune(model, arguments.p99, apply=arguments.apply, progress=not arguments.no_progress, **options)
    if arguments.export is not None and isinstance(result, sw.TuneResult):
        written = result.export(Path(arguments.export))
        place.say(f"Wrote {' and '.join(map(str, written))}.")
    return result


TUNE = Command(
    "tune",
    "Find the batching parameters that answer most requests within a latency objective.",
    _arguments,
    _run,
    magic="tune",
    examples=_EXAMPLES,
)
