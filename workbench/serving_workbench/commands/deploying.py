"""`serve`: deploy a model as its next version."""

from __future__ import annotations

import argparse
from typing import Any

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
    next_one = "its number; else one more than the highest so far"
    parser.add("--version", kind=kinds.whole, metavar="N", help=next_one)
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
    if parser.in_notebook:
        offered = "NAME of a method of a tf.Module to offer, or NAME={function}; repeat it for several"
        parser.add("--signature", action="append", metavar="NAME", help=offered)
        kept = "a server that is started now runs on when its owner ends, until it is stopped"
        parser.add("--keep", action="store_true", help=kept)
    given = "parameters as of --batching_parameters_file; or on, off"
    parser.add("--batching", offers=["on", "off"], role="file", metavar="FILE", help=given)
    pointing = "a label that points at it when it is proved; repeat it for several"
    parser.add("--label", kind=kinds.text, role="label", action="append", metavar="L", help=pointing)
    beside = "load and prove it, but let the version that answers go on: ask it by --label or number"
    parser.add("--beside", action="store_true", help=beside)
    parser.add("--note", kind=kinds.text, metavar="TEXT", help="what is worth knowing of this version")
    measured = "how good it is: accuracy=0.97; repeat it for several"
    parser.add("--metric", kind=kinds.metric, action="append", metavar="NAME=NUMBER", help=measured)
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
        version=arguments.version,
        signatures=_signatures(arguments.signature, model, place) if place.in_notebook else None,
        sample=None if arguments.sample is None else place.value(arguments.sample, "--sample"),
        instance=arguments.instance,
        progress=not arguments.no_progress,
        timeout=arguments.timeout,
        # A command of a terminal has ended when its server is needed.
        keep=arguments.keep if place.in_notebook else True,
        warmup=_evaluated(arguments.warmup, place),
        batching=_evaluated(arguments.batching, place),
        label=arguments.label,
        beside=arguments.beside,
        note=arguments.note,
        metrics=dict(arguments.metric) if arguments.metric else None,
        **options,
    )


def _evaluated(argument: str | None, place: Place) -> object:
    return place.evaluate(argument) if isinstance(argument, Deferred) else argument


def _signatures(given: list[str] | None, model: object, place: Place) -> dict[str, Any] | None:
    """Return functions by signature name: methods of the model, or what expressions give."""
    if not given:
        return None
    found = {}
    for word in given:
        name, equals, _ = word.partition("=")
        if equals:
            found[name] = place.assigned(word)
        elif (function := getattr(model, name, None)) is None:
            raise CommandLineError(f"{place.spelled('serve')}: the model has no '{name}' to offer as a signature.")
        else:
            found[name] = function
    return found


SERVE = Command("serve", "Serve a model as its next version, or as version 1.", _arguments, _run, stray="--name")
