"""Commands that end a server."""

from __future__ import annotations

import argparse

import serving_workbench as sw
from serving_workbench.commands import kinds
from serving_workbench.commands.command import Command, Place, add_instance, add_model, handle
from serving_workbench.commands.parser import Parser
from serving_workbench.errors import CommandLineError

__all__ = ["RESTART", "STOP"]


def _stop_arguments(parser: Parser) -> None:
    add_model(parser, "only this model; the server ends with its last one")
    parser.add("--all", action="store_true", help="every server of yours that runs")
    add_instance(parser)


def _stop(arguments: argparse.Namespace, place: Place) -> None:
    if arguments.name is not None:
        if arguments.all:
            raise CommandLineError(f"{place.spelled('stop')}: give a model's name or --all, not both.")
        handle(arguments.name, arguments.instance).stop()
        place.say(f"Stopped serving '{arguments.name}'.")
        return
    for instance in sw.instances() if arguments.all else [arguments.instance]:
        if sw.stop(instance):
            place.say(f"Stopped the server '{instance}'.")
        elif not arguments.all:
            place.say(f"No server '{instance}' was running.")


STOP = Command(
    "stop",
    "Stop the server, or stop serving one model. Exported versions stay on disk.",
    _stop_arguments,
    _stop,
)


def _restart_arguments(parser: Parser) -> None:
    add_instance(parser)
    until = "seconds until all models answer again (120)"
    parser.add("--timeout", kind=kinds.seconds, metavar="S", default=120.0, help=until)


def _restart(arguments: argparse.Namespace, _: Place) -> sw.Table:
    return sw.restart(arguments.instance, arguments.timeout).status()


RESTART = Command(
    "restart",
    "Restart the server with the same models, labels, settings and ports.",
    _restart_arguments,
    _restart,
    stray="--instance",
)
