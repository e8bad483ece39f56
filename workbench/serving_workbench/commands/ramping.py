"""`ramp`: give a new version more and more of the requests, and none when it is worse than allowed."""

from __future__ import annotations

import argparse
from typing import Any, Final

from serving_workbench.commands import kinds
from serving_workbench.commands.command import Command, Place, add_instance, chosen_model
from serving_workbench.commands.parser import Parser
from serving_workbench.errors import CommandLineError

__all__ = ["RAMP"]

_ACTIONS: Final = ("pause", "resume", "abort", "journal")


def _arguments(parser: Parser) -> None:
    parser.add("name", kind=kinds.text, role="model", metavar="NAME", help="a served model")
    version = "the version that shall take over; else the ramp is shown"
    parser.add("version", kind=kinds.whole, role="version", nargs="?", metavar="VERSION", help=version)
    parser.add("steps", kind=kinds.percent, nargs="*", metavar="PERCENT", help="its shares (1%% 10%% 50%%)")
    parser.add("--hold", kind=kinds.seconds, metavar="S", default=60.0, help="seconds of each step, at least (60)")
    least = "requests of the version in each step, at least (200)"
    parser.add("--requests", kind=kinds.whole, metavar="N", default=200, help=least)
    parser.add("--errors", kind=kinds.percent, metavar="P", default=1.0, help="by how much more may fail (1%%)")
    parser.add("--slower", kind=kinds.increase, metavar="P", default=100.0, help="by how much slower (100%%)")
    parser.add("--slo", kind=kinds.seconds, metavar="T", help="objective of each answer: 20ms")
    parser.add("--misses", kind=kinds.percent, metavar="P", default=2.0, help="by how much more may miss it (2%%)")
    parser.add("--key", kind=kinds.text, metavar="HEADER", help="a header whose values stay with their version")
    parser.add("--finish", choices=["promote", "hold"], default="promote", help="after the last step (promote)")
    for action in _ACTIONS:
        what = "what ramps did" if action == "journal" else f"{action} the ramp"
        parser.add(f"--{action}", action="store_true", help=what)
    add_instance(parser)


def _run(arguments: argparse.Namespace, place: Place) -> Any:
    spelled = place.spelled("ramp")
    model = chosen_model(arguments, place, "ramp")
    wanted = [action for action in _ACTIONS if getattr(arguments, action)]
    if len(wanted) > 1 or (wanted and arguments.version is not None):
        raise CommandLineError(f"{spelled}: give a version, or one of --{', --'.join(_ACTIONS)}.")
    if wanted == ["journal"]:
        return model.ramp_journal()
    if wanted:
        return model.ramp(action=wanted[0])
    if arguments.version is None:
        return model.ramp()
    guardrails: dict[str, float | None] = {"errors": arguments.errors / 100, "run_time": arguments.slower / 100}
    if arguments.slo is not None:
        guardrails["slo_misses"] = arguments.misses / 100
    return model.ramp(
        arguments.version,
        steps=tuple(arguments.steps) or (1, 10, 50),
        hold=arguments.hold,
        min_requests=arguments.requests,
        guardrails=guardrails,
        slo_ms=None if arguments.slo is None else 1e3 * arguments.slo,
        key=arguments.key,
        finish=arguments.finish,
    )


RAMP = Command(
    "ramp", "Give a version more and more of the requests, and none when it is worse than allowed.", _arguments, _run
)
