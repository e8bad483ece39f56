"""`warmup`: record live requests."""

from __future__ import annotations

import argparse

from serving_workbench.commands import kinds
from serving_workbench.commands.command import Command, Place, add_instance, add_model, chosen_model
from serving_workbench.commands.parser import Parser

__all__ = ["WARMUP"]


def _arguments(parser: Parser) -> None:
    add_model(parser)
    requests = "how many to look at (100, at most 1000)"
    parser.add("--requests", kind=kinds.whole, metavar="N", default=100, help=requests)
    parser.add("--seconds", kind=kinds.seconds, metavar="S", default=60.0, help="how long to wait for them (60)")
    of_this = "of this version; else of the one that answers"
    parser.add("--version", kind=kinds.whole, role="version", metavar="V", help=of_this)
    parser.add("--replace", action="store_true", help="replace the warm-up file that the version has")
    add_instance(parser)


def _run(arguments: argparse.Namespace, place: Place) -> None:
    served = chosen_model(arguments, place, "warmup")
    place.say(f"Recording up to {arguments.requests} requests to '{served.name}', for {arguments.seconds:g} s at most.")
    recorded = served.record_warmup(
        arguments.requests, arguments.seconds, version=arguments.version, replace=arguments.replace
    )
    place.say(str(recorded))


WARMUP = Command("warmup", "Record live requests as the warm-up of the version that answers them.", _arguments, _run)
