"""`panel`: what a server serves, live, with buttons that change it."""

from __future__ import annotations

import argparse
from typing import Any

import serving_workbench as sw
from serving_workbench.commands.command import Command, Place, add_instance
from serving_workbench.commands.parser import Parser

__all__ = ["PANEL"]


def _arguments(parser: Parser) -> None:
    add_instance(parser)


def _run(arguments: argparse.Namespace, place: Place) -> Any:
    panel = sw.panel(arguments.instance)
    if place.in_notebook:
        return panel
    panel.refresh()  # a terminal has no widgets: the table of this moment
    return panel.table


PANEL = Command("panel", "Show what a server serves, live, with buttons to change it.", _arguments, _run)
