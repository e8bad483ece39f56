"""Commands that end a server."""

from __future__ import annotations

import argparse

import serving_workbench as sw
from serving_workbench.commands import kinds
from serving_workbench.commands.command import Command, Place, add_instance, add_model, handle
from serving_workbench.commands.parser import Parser
from serving_workbench.errors import CommandLineError, WorkbenchError
from serving_workbench.records import list_instances

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
    if arguments.all:
        _stop_all(place)
    elif sw.stop(arguments.instance):
        place.say(f"Stopped the server '{arguments.instance}'.")
    else:
        place.say(f"No server '{arguments.instance}' was running.")


def _stop_all(place: Place) -> None:
    """Stop all that can be stopped, those that do not answer too; then raise what went wrong first."""
    stopped, problems = 0, []
    for instance in list_instances():
        try:
            if sw.stop(instance):
                stopped += 1
                place.say(f"Stopped the server '{instance}'.")
        except WorkbenchError as error:
            problems.append(error)
    if problems:
        for other in problems[1:]:
            problems[0].add_note(str(other))
        raise problems[0]
    if not stopped:
        place.say("No server was running.")


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
