"""`profile`: where the time and the memory of a model go."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

import serving_workbench as sw
from serving_workbench.commands import kinds
from serving_workbench.commands.command import Command, Place, add_instance, handle, named_or_only
from serving_workbench.commands.parser import Parser
from serving_workbench.errors import CommandLineError

__all__ = ["PROFILE"]

_EXAMPLES: Final = """\
    %profile digits                 ops by their time, run time by batch size, and what to do about it
    %profile memory digits          its weights, what a run takes by batch size, and whether that fits
    %profile startup digits         where the time of its load went, and what the first request paid
    %profile digits --version 2 --batches 100 --data X_test
    %profile digits --live          the tab: stages of live requests, the slow ones, batches, ops on demand
    %profile digits --watch --for 5s
                                    the runs of live requests instead of runs of its own
    %profile digits --watch --trace live.json
                                    arrows from each request to its batch, and on to the ops of its run
    %profile digits --sizes 1,16,64 --trace ops.json --tensorboard logs
    one, two = sw.profile("digits", 1), sw.profile("digits", 2)
    one.compare(two)                op by op
"""


def _arguments(parser: Parser) -> None:
    parser.add(
        "words",
        nargs="*",
        role="model",
        metavar="[memory|startup] MODEL",
        help="what to look at (ops, and both of them in brief); a served model, not needed when there is only one",
    )
    parser.add("--version", kind=kinds.text, role="version", metavar="V", help="number or label (the serving one)")
    parser.add("--batches", kind=kinds.whole, metavar="N", help="runs to trace (50)")
    parser.add("--sizes", kind=_sizes, metavar="LIST", help="batch sizes whose run time is measured (1,8,32)")
    parser.add("--rows", kind=kinds.whole, metavar="N", help="rows of a traced run (the largest of --sizes)")
    data = "variable or expression: rows to run; else recorded warmup, else values that fit the signature"
    if not parser.in_notebook:
        data = "rows to run: JSON, or @FILE with it; else recorded warmup, else values that fit the signature"
    parser.add("--data", role="array", metavar="VAR" if parser.in_notebook else "JSON", help=data)
    parser.add("--signature", kind=kinds.text, metavar="S", help="which signature; else the default one")
    parser.add("--live", action="store_true", help="the tab that follows the requests")
    parser.add("--watch", action="store_true", help="ops of the runs of live requests")
    parser.add("--for", dest="seconds", kind=kinds.seconds, metavar="S", help="how long it may take (20s; --watch: 2s)")
    parser.add(
        "--trace", kind=kinds.text, role="file", metavar="FILE", help="write requests, batches and ops for Perfetto"
    )
    parser.add("--tensorboard", kind=kinds.text, role="file", metavar="DIR", help="write TensorFlow's trace there")
    parser.add("--save", kind=kinds.text, role="file", metavar="FILE", help="write all of it for ProfileResult.load")
    add_instance(parser)
    parser.add("--no-progress", action="store_true", help="show no bar")


def _run(arguments: argparse.Namespace, place: Place) -> Any:
    spelled = place.spelled("profile")
    part, name = _words(arguments.words, spelled)
    model = handle(named_or_only(name, arguments.instance, spelled), arguments.instance)
    version = arguments.version
    if version is not None and version.isdigit():
        version = int(version)
    if arguments.live and (part is not None or _given(arguments)):
        raise CommandLineError(
            f"{spelled}: --live opens the tab, which has buttons for the rest: give a model, --version."
        )
    options: dict[str, Any] = {}
    if part is not None:
        options["parts"] = (part,)
        of_ops = {
            "batches": "batches",
            "rows": "rows",
            "trace": "trace",
            "tensorboard": "tensorboard",
            "watch": "watch",
        }
        of_ops["seconds"] = "for"
        more = {} if part == "memory" else {"sizes": "sizes", "data": "data", "signature": "signature"}
        for field, flag in (of_ops | more).items():
            if getattr(arguments, field):
                raise CommandLineError(f"{spelled} {part}: --{flag} is not of this.")
    named = {"batches": "batches", "sizes": "batch_sizes", "rows": "batch_size", "signature": "signature"}
    for flag, name in named.items():
        if getattr(arguments, flag) is not None:
            if arguments.watch:
                raise CommandLineError(f"{spelled}: --{flag} is of its own runs; --watch only watches.")
            options[name] = getattr(arguments, flag)
    if arguments.data is not None:
        if arguments.watch:
            raise CommandLineError(f"{spelled}: --data is of its own runs; --watch only watches.")
        options["data"] = place.value(arguments.data, "--data")
    if arguments.seconds is not None:
        options["seconds"] = arguments.seconds
    if arguments.live:
        return sw.profile_live(model, version)
    result = sw.profile(model, version, live=arguments.watch, progress=not arguments.no_progress, **options)
    if arguments.trace is not None:
        from serving_workbench.profiling.linking import contents  # NumPy: only for those who ask

        place.say(f"Wrote {result.chrome_trace(Path(arguments.trace))}: {contents(result)}.")
    if arguments.tensorboard is not None:
        place.say(f"Wrote {result.to_tensorboard(Path(arguments.tensorboard))}.")
    if arguments.save is not None:
        place.say(f"Wrote {result.save(Path(arguments.save))}.")
    return result


def _given(arguments: argparse.Namespace) -> bool:
    """Whether anything was given that is of a profile of its own."""
    names = ("batches", "sizes", "rows", "data", "signature", "watch", "seconds", "trace", "tensorboard", "save")
    return any(getattr(arguments, name) for name in names)


def _words(words: list[str], spelled: str) -> tuple[str | None, str | None]:
    """Return the part, and the model's name."""
    part = words.pop(0) if words and words[0] in {"memory", "startup"} else None
    if len(words) > 1:
        raise CommandLineError(f"{spelled} takes one model; given {' '.join(words)}.")
    return part, words[0] if words else None


def _sizes(value: Any) -> tuple[int, ...]:
    return tuple(kinds.whole(each) for each in kinds.text(value).split(","))


PROFILE = Command(
    "profile",
    "Find out where the time and the memory of a model's runs go, op by op, and what its load took.",
    _arguments,
    _run,
    magic="profile",
    examples=_EXAMPLES,
)
