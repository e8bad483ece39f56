"""`status` and `logs`: what a server serves, and what it says."""

from __future__ import annotations

import argparse
import re

import serving_workbench as sw
from serving_workbench.commands import kinds
from serving_workbench.commands.command import Command, Place, add_instance, add_model, handle
from serving_workbench.commands.parser import Parser

__all__ = ["LOGS", "STATUS", "LogText"]

#: Lines of the log that are searched when only those of one model are wanted.
_SEARCHED_LINES = 10_000


class LogText(str):
    """Text that a cell shows as it is, not as a quoted string."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _status_arguments(parser: Parser) -> None:
    add_model(parser, "a served model")
    add_instance(parser)


def _status(arguments: argparse.Namespace, _: Place) -> sw.Table:
    if arguments.name is None:
        return sw.status(arguments.instance)
    return handle(arguments.name, arguments.instance).status()


def _logs_arguments(parser: Parser) -> None:
    add_model(parser, "only lines that name this model")
    parser.add("-n", "--lines", kind=kinds.whole, metavar="N", default=50, help="how many lines (50)")
    parser.add("-f", "--follow", action="store_true", help="go on with what is logged, until you interrupt it")
    add_instance(parser)


def _logs(arguments: argparse.Namespace, place: Place) -> LogText | None:
    if arguments.follow:
        _follow(arguments, place)
        return None
    if arguments.name is None:
        return LogText(sw.logs(arguments.lines, arguments.instance))
    word = _word(arguments.name)
    lines = sw.logs(_SEARCHED_LINES, arguments.instance).splitlines()
    found = [line for line in lines if word.search(line)][-arguments.lines :]
    if not found:
        place.say(f"No line of the log names '{arguments.name}'.")
    return LogText("\n".join(found))


def _follow(arguments: argparse.Namespace, place: Place) -> None:
    word = None if arguments.name is None else _word(arguments.name)
    try:
        for line in sw.follow_logs(arguments.lines, arguments.instance):
            if word is None or word.search(line):
                place.say(line)
    except KeyboardInterrupt:
        return  # the way to end it
    place.say(f"(The server '{arguments.instance}' has ended.)")


def _word(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w-])")


STATUS = Command("status", "Show every version of every model, or of one.", _status_arguments, _status)
LOGS = Command("logs", "Show the end of the server's log, also after a crash.", _logs_arguments, _logs)
