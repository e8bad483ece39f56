"""`history`: the versions of a model with the notes of their makers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import serving_workbench as sw
from serving_workbench.commands import kinds
from serving_workbench.commands.command import Command, Place, add_instance, named_or_only
from serving_workbench.commands.parser import Parser

__all__ = ["HISTORY"]


def _arguments(parser: Parser) -> None:
    parser.add("name", kind=kinds.text, role="model", nargs="?", help="a model; not needed when one is served only")
    root = "folder of all models, of one that is not served"
    parser.add("--root", kind=kinds.text, role="file", metavar="DIR", help=root)
    parser.add("--verify", action="store_true", help="compute the digests again, from all files")
    add_instance(parser)


def _run(arguments: argparse.Namespace, place: Place) -> Any:
    name = named_or_only(arguments.name, arguments.instance, place.spelled("history"))
    root = None if arguments.root is None else Path(arguments.root).expanduser()
    return sw.history(name, root=root, instance=arguments.instance, verify=arguments.verify)


HISTORY = Command(
    "history", "Show all versions of a model, with notes and metrics, as a DataFrame to search.", _arguments, _run
)
