"""`mirror`: copy live requests to another version, whose answers nobody waits for."""

from __future__ import annotations

import argparse

import serving_workbench as sw
from serving_workbench.commands import kinds
from serving_workbench.commands.command import Command, Place, add_instance, chosen_model
from serving_workbench.commands.parser import Parser
from serving_workbench.errors import CommandLineError

__all__ = ["MIRROR"]


def _arguments(parser: Parser) -> None:
    parser.add("name", kind=kinds.text, role="model", metavar="NAME", help="a served model")
    version = "the version that answers copies; else the mirror is shown"
    parser.add("version", kind=kinds.whole, role="version", nargs="?", metavar="VERSION", help=version)
    parser.add("--fraction", kind=kinds.percent, metavar="P", default=100.0, help="of the requests (100%%)")
    parser.add("--off", action="store_true", help="copy no more")
    add_instance(parser)


def _run(arguments: argparse.Namespace, place: Place) -> sw.Table:
    model = chosen_model(arguments, place, "mirror")
    spelled = place.spelled("mirror")
    if arguments.off and arguments.version is not None:
        raise CommandLineError(f"{spelled}: give a version or --off, not both.")
    if arguments.off:
        return model.mirror(stop=True)
    if arguments.version is None:
        return model.mirror()
    if not arguments.fraction:
        raise CommandLineError(f"{spelled}: --fraction 0% copies nothing; --off ends a mirror.")
    return model.mirror(arguments.version, fraction=arguments.fraction / 100)


MIRROR = Command("mirror", "Copy live requests to another version, to compare its answers.", _arguments, _run)
