"""Commands that choose which version answers."""

from __future__ import annotations

import argparse

import serving_workbench as sw
from serving_workbench.commands import kinds
from serving_workbench.commands.command import Command, Place, add_instance, add_model, chosen_model
from serving_workbench.commands.parser import Parser

__all__ = ["ROLLBACK"]


def _rollback_arguments(parser: Parser) -> None:
    add_model(parser)
    parser.add(
        "--to", kind=kinds.whole, role="version", metavar="V", help="a version; else the one before the present one"
    )
    add_instance(parser)


def _rollback(arguments: argparse.Namespace, place: Place) -> sw.Table:
    served = chosen_model(arguments, place, "rollback")
    before = served.serving_version
    now = served.rollback(to=arguments.to)
    table = served.status()
    table.title = f"{served.name}: version {now} answers (before: {before})"
    return table


ROLLBACK = Command(
    "rollback", "Let an older version answer again, until the next deploy.", _rollback_arguments, _rollback
)
