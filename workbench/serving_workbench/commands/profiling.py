"""`profile`: where the time of a model's runs goes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

import serving_workbench as sw
from serving_workbench.commands import kinds
from serving_workbench.commands.command import Command, Place, add_instance, add_model, chosen_model
from serving_workbench.commands.parser import Parser
from serving_workbench.errors import CommandLineError

__all__ = ["PROFILE"]

_EXAMPLES: Final = """\
    %profile digits                 ops by their time, run time by batch size, and what to do about it
    %profile digits --version 2 --batches 100 --data X_test
    %profile digits --live --for 5s
                                    the runs of live requests instead of runs of its own
    %profile digits --sizes 1,16,64 --trace ops.json --tensorboard logs
    one, two = sw.profile("digits", 1), sw.profile("digits", 2)
    one.compare(two)                op by op
"""


def _arguments(parser: Parser) -> None:
    add_model(parser)
    parser.add("--version", kind=kinds.text, role="version", metavar="V", help="number or label (the serving one)")
    parser.add("--batches", kind=kinds.whole, metavar="N", help="runs to trace (50)")
    parser.add("--sizes", kind=_sizes, metavar="LIST", help="batch sizes whose run time is measured (1,8,32)")
    parser.add("--rows", kind=kinds.whole, metavar="N", help="rows of a traced run (the largest of --sizes)")
    data = "variable or expression: rows to run; else recorded warmup, else values that fit the signature"
    if not parser.in_notebook:
        data = "rows to run: JSON, or @FILE with it; else recorded warmup, else values that fit the signature"
    parser.add("--data", role="array", metavar="VAR" if parser.in_notebook else "JSON", help=data)
    parser.add("--signature", kind=kinds.text, metavar="S", help="which signature; else the default one")
    parser.add("--live", action="store_true", help="watch the runs of live requests")
    parser.add("--for", dest="seconds", kind=kinds.seconds, metavar="S", help="how long it may take (20s; --live: 2s)")
    parser.add("--trace", kind=kinds.text, role="file", metavar="FILE", help="write a trace for Perfetto or Chrome")
    parser.add("--tensorboard", kind=kinds.text, role="file", metavar="DIR", help="write TensorFlow's trace there")
    parser.add("--save", kind=kinds.text, role="file", metavar="FILE", help="write all of it for ProfileResult.load")
    add_instance(parser)


def _run(arguments: argparse.Namespace, place: Place) -> Any:
    model = chosen_model(arguments, place, "profile")
    spelled = place.spelled("profile")
    options: dict[str, Any] = {}
    named = {"batches": "batches", "sizes": "batch_sizes", "rows": "batch_size", "signature": "signature"}
    for flag, name in named.items():
        if getattr(arguments, flag) is not None:
            if arguments.live:
                raise CommandLineError(f"{spelled}: --{flag} is of its own runs; --live only watches.")
            options[name] = getattr(arguments, flag)
    if arguments.data is not None:
        if arguments.live:
            raise CommandLineError(f"{spelled}: --data is of its own runs; --live only watches.")
        options["data"] = place.value(arguments.data, "--data")
    if arguments.seconds is not None:
        options["seconds"] = arguments.seconds
    version = arguments.version
    if version is not None and version.isdigit():
        version = int(version)
    result = sw.profile(model, version, live=arguments.live, **options)
    if arguments.trace is not None:
        place.say(f"Wrote {result.chrome_trace(Path(arguments.trace))}.")
    if arguments.tensorboard is not None:
        place.say(f"Wrote {result.to_tensorboard(Path(arguments.tensorboard))}.")
    if arguments.save is not None:
        place.say(f"Wrote {result.save(Path(arguments.save))}.")
    return result


def _sizes(value: Any) -> tuple[int, ...]:
    return tuple(kinds.whole(each) for each in kinds.text(value).split(","))


PROFILE = Command(
    "profile",
    "Find out where the time of a model's runs goes, op by op.",
    _arguments,
    _run,
    magic="profile",
    examples=_EXAMPLES,
)
