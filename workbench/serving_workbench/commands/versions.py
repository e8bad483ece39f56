"""Commands that choose which versions are loaded, and which answers."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import serving_workbench as sw
from serving_workbench.commands import kinds
from serving_workbench.commands.command import Command, Place, add_instance, add_model, chosen_model, handle, once
from serving_workbench.commands.parser import Parser
from serving_workbench.errors import CommandLineError
from serving_workbench.labelling import lost_labels, lost_labels_text

if TYPE_CHECKING:
    from serving_workbench.handle import ServedModel

__all__ = ["LABEL", "LOAD", "ROLLBACK", "UNLOAD"]


def _rollback_arguments(parser: Parser) -> None:
    add_model(parser)
    to = "a version; else the one before the present one"
    parser.add("--to", kind=kinds.whole, role="version", metavar="V", help=to)
    _add_timeout(parser, "until it answers")
    add_instance(parser)


def _rollback(arguments: argparse.Namespace, place: Place) -> sw.Table:
    served = chosen_model(arguments, place, "rollback")
    before = served.serving_version
    try:
        now = served.rollback(to=arguments.to, timeout=arguments.timeout)
    finally:
        served.server.close()
    lost = lost_labels_text(served.name, lost_labels(served.describe()))
    if lost:
        place.say(lost)
    return _titled(served, f"version {now} answers (before: {before})")


def _label_arguments(parser: Parser) -> None:
    add_model(parser)
    change = "LABEL=VERSION points it there, LABEL= removes it; else all are shown"
    parser.add("labels", kind=kinds.label, role="label=version", nargs="*", metavar="LABEL=VERSION", help=change)
    add_instance(parser)


def _label(arguments: argparse.Namespace, place: Place) -> sw.Table:
    changes = list(arguments.labels)
    if arguments.name is not None and "=" in arguments.name:  # no model's name: the only one is meant
        try:
            changes.insert(0, kinds.label(arguments.name))
        except argparse.ArgumentTypeError as error:
            raise CommandLineError(f"{place.spelled('label')}: {error}") from error
        arguments.name = None
    wanted = once(changes, "label", place.spelled("label"))
    served = chosen_model(arguments, place, "label")
    labels = sw.label(served.name, wanted, instance=arguments.instance)
    states = {each["version"]: each["state"] for each in served.describe()["versions"]}
    rows = [
        {"label": label, "version": version, "state": states.get(version)} for label, version in sorted(labels.items())
    ]
    count = f"{len(rows) or 'no'} label{'' if len(rows) == 1 else 's'}"
    return sw.Table(rows, ("label", "version", "state"), f"{served.name}: {count}", labels)


def _version_arguments(parser: Parser) -> None:
    parser.add("name", kind=kinds.text, role="model", help="a served model")
    parser.add("version", kind=kinds.whole, role="version", help="its version")
    _add_timeout(parser, "until it is done")
    add_instance(parser)


def _load(arguments: argparse.Namespace, _: Place) -> sw.Table:
    served = handle(arguments.name, arguments.instance)
    served.load(arguments.version, timeout=arguments.timeout)
    return _titled(served, f"version {arguments.version} is loaded")


def _unload(arguments: argparse.Namespace, _: Place) -> sw.Table:
    served = handle(arguments.name, arguments.instance)
    served.unload(arguments.version, timeout=arguments.timeout)
    return _titled(served, f"version {arguments.version} is unloaded")


def _titled(served: ServedModel, title: str) -> sw.Table:
    table = served.status()
    table.title = f"{served.name}: {title}"
    return table


def _add_timeout(parser: Parser, until: str) -> None:
    parser.add("--timeout", kind=kinds.seconds, metavar="S", default=60.0, help=f"seconds {until} (60)")


ROLLBACK = Command(
    "rollback", "Let an older version answer again, until the next deploy.", _rollback_arguments, _rollback
)
LABEL = Command(
    "label", "Name versions, so that clients can ask for 'stable' instead of a number.", _label_arguments, _label
)
LOAD = Command(
    "load",
    "Load a version beside the one that answers: it is reached by its number and by labels.",
    _version_arguments,
    _load,
)
UNLOAD = Command("unload", "Unload a version that does not answer; its files stay.", _version_arguments, _unload)
