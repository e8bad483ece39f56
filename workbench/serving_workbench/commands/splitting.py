"""`traffic`: split the requests of a model over its versions."""

from __future__ import annotations

import argparse

import serving_workbench as sw
from serving_workbench.commands import kinds
from serving_workbench.commands.command import Command, Place, add_instance, add_model, named_or_only, once
from serving_workbench.commands.parser import Parser
from serving_workbench.errors import CommandLineError

__all__ = ["TRAFFIC"]


def _arguments(parser: Parser) -> None:
    add_model(parser)
    weights = "such as 1=90 2=10: version 2 gets a tenth of the requests that name none; else the split is shown"
    parser.add("weights", kind=kinds.weight, role="version=weight", nargs="*", metavar="VERSION=WEIGHT", help=weights)
    key = "a header, or gRPC metadata: requests with the same value of it get the same version"
    parser.add("--key", kind=kinds.text, metavar="HEADER", help=key)
    parser.add("--off", action="store_true", help="end the split: the newest version answers")
    until = "seconds until all these versions are loaded (60)"
    parser.add("--timeout", kind=kinds.seconds, metavar="S", default=60.0, help=until)
    add_instance(parser)


def _run(arguments: argparse.Namespace, place: Place) -> sw.Table:
    spelled = place.spelled("traffic")
    given = list(arguments.weights)
    if arguments.name is not None and "=" in arguments.name:  # no model's name: the only one is meant
        try:
            given.insert(0, kinds.weight(arguments.name))
        except argparse.ArgumentTypeError as error:
            raise CommandLineError(f"{spelled}: {error}") from error
        arguments.name = None
    if arguments.off and (given or arguments.key):
        raise CommandLineError(f"{spelled}: give weights or --off, not both.")
    if arguments.key is not None and not given:
        raise CommandLineError(f"{spelled}: --key goes with weights, such as 1=90 2=10.")
    if given and not any(weight for _, weight in given):
        raise CommandLineError(f"{spelled}: the weights are all 0, so no version would answer; --off ends a split.")
    weights = {} if arguments.off else once(given, "version", spelled) or None
    name = named_or_only(arguments.name, arguments.instance, spelled)
    return sw.traffic(name, weights, key=arguments.key, instance=arguments.instance, timeout=arguments.timeout)


TRAFFIC = Command("traffic", "Split the requests of a model over its versions, while they run.", _arguments, _run)
