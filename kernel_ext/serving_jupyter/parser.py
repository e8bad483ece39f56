"""What `%serve` understands: one argparse parser per sub-command, which also give the help and the completion.

A parser in a kernel must neither print to stderr nor exit: everything wrong becomes a `UsageError`, which IPython shows
as one line without a traceback.
"""

from __future__ import annotations

import argparse
import difflib
import functools
from collections.abc import Callable, Collection
from typing import Any, NoReturn

from IPython.core.error import UsageError

from serving_jupyter.expressions import Braced

__all__ = ["COMMANDS", "DEPLOY", "Parser", "did_you_mean", "help_page", "parsers"]

#: Key of the parser of `%serve <model>`, which has no word of its own.
DEPLOY = ""
COMMANDS = ("status", "logs", "rollback", "warmup", "stop")

Kind = Callable[[Any], Any]


def did_you_mean(word: str, known: Collection[str], otherwise: str = "") -> str:
    """Return "; did you mean 'x'?" for the most similar known word, or `otherwise`."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    return f"; did you mean '{close[0]}'?" if close else otherwise


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are `UsageError`, and whose values may be expressions in braces."""

    def __init__(self, prog: str, description: str, stray: str = "") -> None:
        def formatter(prog: str) -> argparse.HelpFormatter:
            # A fixed width: the help becomes a docstring, long before anybody looks at it.
            return argparse.RawDescriptionHelpFormatter(prog, max_help_position=22, width=96)

        super().__init__(prog, description=description, formatter_class=formatter, allow_abbrev=False, add_help=False)
        self._stray = stray
        self._kinds: dict[str, Kind] = {}

    def add(self, *names: str, kind: Kind | None = None, **options: Any) -> None:
        """Add an argument whose value `kind` makes of text, or of the object that an expression gave.

        Without a kind it stays as it was typed, expressions included: the caller decides what it means.
        """
        if kind is None:
            self.add_argument(*names, **options)
        else:
            action = self.add_argument(*names, type=_unless_braced(kind), **options)
            self._kinds[action.dest] = kind

    def read(self, arguments: list[str], evaluate: Callable[[str], object]) -> argparse.Namespace:
        """Parse arguments; expressions are evaluated when all else is known to be right.

        Raises
        ------
        UsageError
        """
        found, extra = self.parse_known_args(arguments)
        if extra:
            self._refuse(extra[0])
        for dest, kind in self._kinds.items():
            value = getattr(found, dest, None)
            if isinstance(value, Braced):
                try:
                    setattr(found, dest, kind(evaluate(value)))
                except argparse.ArgumentTypeError as error:
                    self.error(f"{value}: {error}")
        return found

    def flags(self) -> dict[str, str | None]:
        """Flag -> name of the value it takes, or None: for the completion."""
        return {
            flag: None if action.nargs == 0 else action.dest
            for action in self._actions
            for flag in action.option_strings
        }

    def positional(self) -> str | None:
        """Return the name of the argument without a flag, if there is one."""
        return next((action.dest for action in self._actions if not action.option_strings), None)

    def _refuse(self, word: str) -> NoReturn:
        if word.startswith("-") and not isinstance(word, Braced):
            known = ", ".join(flag for flag in self.flags() if flag.startswith("--"))
            self.error(f"there is no flag {word}{did_you_mean(word, self.flags(), f'; there are {known}')}")
        hint = f"; did you mean {self._stray} {word}?" if self._stray else ""
        self.error(f"unexpected argument '{word}'{hint}")

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {' '.join(message.split())}")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise UsageError(message or f"{self.prog} ended with {status}.")


def _unless_braced(kind: Kind) -> Kind:
    return lambda text: text if isinstance(text, Braced) else kind(text)


def _text(value: Any) -> str:
    return str(value)


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{value!r} is not a positive number of seconds")
    return number


def _whole(value: Any) -> int:
    try:
        number = int(str(value))
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{value!r} is not a whole number from 1 on")
    return number


def _tolerance(value: Any) -> Any:
    """Text as `1e-3`, `1e-3,1e-5` or `none`; anything else is judged by the library."""
    if not isinstance(value, str):
        return value
    if value.lower() == "none":
        return None
    try:
        numbers = tuple(float(part) for part in value.split(","))
    except ValueError:
        numbers = ()
    if not 1 <= len(numbers) <= 2 or not all(number >= 0 for number in numbers):
        raise argparse.ArgumentTypeError(f"{value!r} is not RTOL, RTOL,ATOL or none")
    return numbers[0] if len(numbers) == 1 else numbers


@functools.cache
def parsers() -> dict[str, Parser]:
    """Return all parsers by sub-command, in the order of the help page."""
    deploy = Parser("%serve", "Serve a model as its next version, or as version 1.", stray="--name")
    deploy.add("model", help="a variable, an expression in braces, or the path of a SavedModel")
    deploy.add(
        "--name", kind=_text, help="name in URLs and requests; else the model's own, its variable's, its folder's"
    )
    deploy.add("--root", kind=_text, metavar="DIR", help="folder of all models; ./models at first, then the server's")
    deploy.add("--sample", metavar="VAR", help="a variable or expression: a valid input, for the proof and warming up")
    tolerance = "of the proof: RTOL, or RTOL,ATOL, or none for no comparison"
    # Not given and `none` differ, so there is no default to fall back to.
    deploy.add("--tolerance", kind=_tolerance, metavar="X", default=argparse.SUPPRESS, help=tolerance)
    kept = "'previous' keeps that of the version before; else a file of recorded requests"
    deploy.add("--warmup", metavar="FILE", help=kept)
    _add_instance(deploy)
    deploy.add("--timeout", kind=_number, metavar="S", default=120.0, help="seconds until it must answer (120)")
    deploy.add_argument("--no-progress", action="store_true", help="show no bar")

    status = Parser("%serve status", "Show every version of every model, or of one.")
    status.add("name", kind=_text, nargs="?", help="a served model")
    _add_instance(status)

    logs = Parser("%serve logs", "Show the end of the server's log, also after a crash.")
    logs.add("name", kind=_text, nargs="?", help="only lines that name this model")
    logs.add("-n", "--lines", kind=_whole, metavar="N", default=50, help="how many lines (50)")
    _add_instance(logs)

    rollback = Parser("%serve rollback", "Let an older version answer again, until the next deploy.")
    rollback.add("name", kind=_text, nargs="?", help="a served model; not needed when there is only one")
    rollback.add("--to", kind=_whole, metavar="V", help="a version; else the one before the present one")
    _add_instance(rollback)

    warmup = Parser("%serve warmup", "Record live requests as the warm-up of the version that answers them.")
    warmup.add("name", kind=_text, nargs="?", help="a served model; not needed when there is only one")
    warmup.add("--requests", kind=_whole, metavar="N", default=100, help="how many to look at (100, at most 1000)")
    warmup.add("--seconds", kind=_number, metavar="S", default=60.0, help="how long to wait for them (60)")
    warmup.add("--version", kind=_whole, metavar="V", help="of this version; else of the one that answers")
    warmup.add_argument("--replace", action="store_true", help="replace the warm-up file that the version has")
    _add_instance(warmup)

    stop = Parser("%serve stop", "Stop the server, or stop serving one model. Exported versions stay on disk.")
    stop.add("name", kind=_text, nargs="?", help="only this model; the server ends with its last one")
    stop.add_argument("--all", action="store_true", help="every server of yours that runs")
    _add_instance(stop)

    found = {DEPLOY: deploy, "status": status, "logs": logs, "rollback": rollback, "warmup": warmup, "stop": stop}
    for parser in found.values():
        # Answered before anything is parsed (`help_asked`): here so that the help and the completion know it.
        parser.add_argument("-h", "--help", action="store_true", help="show this page")
    return found


def _add_instance(parser: Parser) -> None:
    parser.add(
        "--instance", kind=_text, metavar="I", default="default", help="which server, when several run (default)"
    )


_PAGE = """\
Serve a model of this notebook to real gRPC and REST clients.

    %serve model                    export, load, prove that it answers as the model here does, switch over
    %serve model --name digits      the same under another name; once more: its next version
    %serve models/digits            a SavedModel's folder
    %serve {models["best"]}         any expression, in braces; also a variable named like a sub-command: %serve {status}
    handle = %serve model           keep the handle: handle.predict(x), handle.rest_url ...

    %serve status                   what is served, and in which state
    %serve logs                     the end of the server's log
    %serve rollback                 the version before answers again
    %serve warmup digits            record live requests, to be replayed whenever that version is loaded
    %serve stop                     stop the server

Braces work in every argument: %serve rollback --to {best_version}. The server is a process of its own: an interrupt or
a restart of the kernel does not stop it, and another notebook finds it. A variable wins over a folder of the same name;
./model is the folder.
"""


@functools.cache
def help_page() -> str:
    """Return the text of `%serve?`: examples, then every sub-command with its flags."""
    return "\n".join([_PAGE, *(f"{parser.format_help()}" for parser in parsers().values())])
