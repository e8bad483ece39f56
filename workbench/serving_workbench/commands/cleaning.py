"""`clean`: remove leftovers."""

from __future__ import annotations

import argparse

import serving_workbench as sw
from serving_workbench.commands import kinds
from serving_workbench.commands.command import Command, Place
from serving_workbench.commands.parser import Parser

__all__ = ["CLEAN"]


def _arguments(parser: Parser) -> None:
    root = "a folder of models to look into, besides ./models and those of the servers that run; repeat it for several"
    parser.add("--root", kind=kinds.text, role="file", action="append", metavar="DIR", default=[], help=root)
    rejected = "versions too that failed their load or proof, which are kept for a look"
    parser.add("--rejected", action="store_true", help=rejected)
    parser.add("--dry-run", action="store_true", help="only say what would be removed")
    parser.add("--yes", action="store_true", help="do not ask before rejected versions are removed")


def _run(arguments: argparse.Namespace, place: Place) -> sw.Table:
    roots = ["models", *arguments.root]
    if arguments.rejected and not arguments.dry_run and not arguments.yes:
        found = [row for row in sw.clean(roots, rejected=True, dry_run=True).rows if row["what"] == "rejected version"]
        if found and not place.confirm(f"Remove {len(found)} rejected versions for good?"):
            arguments.rejected = False
    return sw.clean(roots, rejected=arguments.rejected, dry_run=arguments.dry_run)


CLEAN = Command(
    "clean",
    "Remove what servers and deploys that were killed have left behind; never a published version.",
    _arguments,
    _run,
)
