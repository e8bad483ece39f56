"""`config`: what a model is set to."""

from __future__ import annotations

import argparse

import serving_workbench as sw
from serving_workbench.commands import kinds
from serving_workbench.commands.command import Command, Place, add_instance, add_model, chosen_model, once
from serving_workbench.commands.parser import Deferred, Parser, did_you_mean
from serving_workbench.errors import CommandLineError
from serving_workbench.settings import BATCHING_PARAMETERS

__all__ = ["CONFIG"]


def _arguments(parser: Parser) -> None:
    add_model(parser)
    change = "a batching parameter, changed while requests run; else all settings are shown"
    offers = [f"{name}=" for name in BATCHING_PARAMETERS]
    parser.add("settings", kind=kinds.setting, offers=offers, nargs="*", metavar="NAME=VALUE", help=change)
    batching = "on, off, or a file as of --batching_parameters_file"
    parser.add("--batching", offers=["on", "off"], metavar="FILE", help=batching)
    policy = "versions to load: latest, latest:N, all, or numbers as 1,3"
    parser.add("--policy", kind=kinds.text, offers=["latest", "latest:2", "all"], metavar="P", help=policy)
    add_instance(parser)


def _run(arguments: argparse.Namespace, place: Place) -> sw.Table:
    settings = list(arguments.settings)
    spelled = place.spelled("config")
    if arguments.name is not None and "=" in arguments.name:  # no model's name: the only one is meant
        try:
            settings.insert(0, kinds.setting(arguments.name))
        except argparse.ArgumentTypeError as error:
            raise CommandLineError(f"{spelled}: {error}") from error
        arguments.name = None
    for name, _ in settings:
        if name not in BATCHING_PARAMETERS:
            known = f"; there are {', '.join(BATCHING_PARAMETERS)}"
            raise CommandLineError(
                f"{spelled}: there is no setting {name}{did_you_mean(name, BATCHING_PARAMETERS, known)}"
            )
    parameters = once(settings, "setting", spelled)
    served = chosen_model(arguments, place, "config")
    batching = ... if arguments.batching is None else arguments.batching
    if isinstance(batching, Deferred):
        batching = place.evaluate(batching)
    return served.config(policy=arguments.policy, batching=batching, **parameters)


CONFIG = Command("config", "Show what a model is set to; change its batching and its version policy.", _arguments, _run)
