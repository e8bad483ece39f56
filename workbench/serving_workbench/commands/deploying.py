"""`serve`: deploy a model as its next version."""

from __future__ import annotations

import argparse

import serving_workbench as sw
from serving_workbench.commands import kinds
from serving_workbench.commands.command import Command, Place, add_instance
from serving_workbench.commands.parser import Deferred, Parser
from serving_workbench.errors import CommandLineError
from serving_workbench.naming import served_name

__all__ = ["SERVE"]


def _arguments(parser: Parser) -> None:
    if parser.in_notebook:
        parser.add("model", role="servable", help="a variable, an expression in braces, or the path of a SavedModel")
        origin = "name in URLs and requests; else the model's own, its variable's, its folder's"
    else:
        parser.add("model", role="servable", metavar="PATH", help="folder of a SavedModel")
        origin = "name in URLs and requests; else that of the folder"
    parser.add("--name", kind=kinds.text, role="model", help=origin)
    root = "folder of all models; ./models at first, then the server's"
    parser.add("--root", kind=kinds.text, role="file", metavar="DIR", help=root)
    sample = "a variable or expression: a valid input, for the proof and warming up"
    if not parser.in_notebook:
        sample = "a valid input, for the proof and warming up: JSON, or @FILE with it"
    parser.add("--sample", role="array", metavar="VAR" if parser.in_notebook else "JSON", help=sample)
    tolerance = "of the proof: RTOL, or RTOL,ATOL, or none for no comparison"
    # Not given and `none` differ, so there is no default to fall back to.
    parser.add("--tolerance", kind=kinds.tolerance, metavar="X", default=argparse.SUPPRESS, help=tolerance)
    kept = "'previous' keeps that of the version before; else a file of recorded requests"
    parser.add("--warmup", offers=["previous"], metavar="FILE", help=kept)
    add_instance(parser)
    parser.add("--timeout", kind=kinds.seconds, metavar="S", default=120.0, help="seconds until it must answer (120)")
    parser.add("--no-progress", action="store_true", help="show no bar")


def _run(arguments: argparse.Namespace, place: Place) -> sw.ServedModel:
    model, variable = place.servable(arguments.model)
    name = arguments.name
    if name is None:
        spelled = place.spelled("serve")
        chosen = served_name(model, variable)
        if chosen is None:
            raise CommandLineError(f"{spelled}: this model has no name of its own; give it one with --name.")
        name, origin = chosen
        place.say(f"Serving as '{name}', {origin}. Another name: --name NAME")
    options = {"tolerance": arguments.tolerance} if "tolerance" in arguments else {}
    return sw.serve(
        model,
        name,
        root=arguments.root,
        sample=None if arguments.sample is None else place.value(arguments.sample, "--sample"),
        instance=arguments.instance,
        progress=not arguments.no_progress,
        timeout=arguments.timeout,
        keep=not place.in_notebook,  # a command of a terminal has ended when its server is needed
        warmup=place.evaluate(arguments.warmup) if isinstance(arguments.warmup, Deferred) else arguments.warmup,
        **options,
    )


SERVE = Command("serve", "Serve a model as its next version, or as version 1.", _arguments, _run, stray="--name")
