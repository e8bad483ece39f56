"""A command: arguments and what they do, the same as a magic of a notebook and as a command of a terminal."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import serving_workbench as sw
from serving_workbench.commands import kinds
from serving_workbench.commands.parser import Parser
from serving_workbench.errors import CommandLineError
from serving_workbench.instance_name import chosen_instance

if TYPE_CHECKING:
    from serving_workbench.handle import ServedModel

__all__ = ["Command", "Place", "add_instance", "add_model", "chosen_model", "handle", "named_or_only", "once"]


class Place(Protocol):
    """Where a command is typed, a notebook or a terminal: what its words mean there, and who reads what it says."""

    in_notebook: bool

    def spelled(self, command: str) -> str:
        """Return how a command is typed here: ``%serve stop``, ``serving-workbench stop``."""

    def say(self, text: str) -> None:
        """Show a line."""

    def confirm(self, question: str) -> bool:
        """Ask a question that is answered with yes or no.

        Raises
        ------
        CommandLineError
            Nobody can be asked.
        """

    def evaluate(self, argument: str) -> object:
        """Return the value of an argument: of the expressions in it, where there can be some; else itself."""

    def assigned(self, argument: str) -> object:
        """Return the value after the ``=`` of an argument: of an expression as it is, of anything else as text."""

    def servable(self, argument: str) -> tuple[object, str | None]:
        """Return the model that is meant, and the name of the variable that holds it if there is one.

        Raises
        ------
        CommandLineError
        """

    def value(self, argument: str, flag: str) -> object:
        """Return the data that is meant by the argument of a flag: an array, a table, a dict.

        Raises
        ------
        CommandLineError
        """

    def request(self, argument: str | None, body: str | None) -> tuple[Any, bool]:
        """Return the input of a prediction, and whether it was given as JSON.

        Parameters
        ----------
        argument : str or None
            What was typed for it.
        body : str or None
            The other lines of the cell.

        Raises
        ------
        CommandLineError
            There is none, or it is neither what `argument` may be nor JSON nor Python.
        """


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes
    ----------
    name : str
        In a terminal ``serving-workbench <name>``.
    summary : str
        A sentence.
    arguments : callable
        Adds the arguments to a `Parser`.
    run : callable
        Takes the parsed arguments and the `Place`; returns what shall be shown (None: nothing more).
    magic : str
        In a notebook: a sub-command of this magic, or the magic itself where both names are the same.
    stray : str
        See `Parser`.
    examples : str
        Lines for the top of the help page of a magic of its own.
    rest : str
        The argument that in a notebook takes all that follows, as one Python expression.
    body : bool
        Whether the magic may have a cell's body: ``arguments.body``, None without one.
    """

    name: str
    summary: str
    arguments: Callable[[Parser], None]
    run: Callable[[argparse.Namespace, Place], Any]
    magic: str = "serve"
    stray: str = ""
    examples: str = ""
    rest: str = ""
    body: bool = False

    def parser(self, prog: str, *, in_notebook: bool) -> Parser:
        """Return a new parser; `prog` is how the command is spelled."""
        parser = Parser(prog, self.summary, self.stray, in_notebook=in_notebook)
        self.arguments(parser)
        # Answered before anything is parsed: here so that the help and the completion know it.
        parser.add("-h", "--help", action="store_true", help="show this page")
        return parser


# --- what many commands have in common ---


def add_instance(parser: Parser) -> None:
    """Add ``--instance``."""
    parser.add(
        "--instance",
        kind=lambda value: chosen_instance(kinds.text(value)),
        role="instance",
        metavar="I",
        default="",  # given to `kind`, so that the environment counts at each command
        help="which server, when several run (default: $SERVING_WORKBENCH_INSTANCE, else 'default')",
    )


def add_model(parser: Parser, help_text: str = "a served model; not needed when there is only one") -> None:
    """Add the optional name of a served model, by position."""
    parser.add("name", kind=kinds.text, role="model", nargs="?", help=help_text)


def handle(name: str, instance: str) -> ServedModel:
    """Return the handle of a served model.

    Raises
    ------
    ServerNotRunningError, ModelNotServedError
    """
    found = sw.connect(name, instance)
    assert isinstance(found, sw.ServedModel)
    return found


def named_or_only(name: str | None, instance: str, spelled: str) -> str:
    """Return the name, or that of the only model.

    Raises
    ------
    CommandLineError
        None was given, and there is not exactly one.
    """
    if name is not None:
        return name
    names = sw.Server.connect(instance).models()
    if len(names) != 1:
        known = ", ".join(names) or "none"
        raise CommandLineError(f"{spelled}: say which model; the server serves: {known}.")
    return names[0]


def once(pairs: Sequence[tuple[Any, Any]], what: str, spelled: str) -> dict[Any, Any]:
    """Return pairs of the type `what` and a value as a dict.

    Raises
    ------
    CommandLineError
        One is given twice.
    """
    found: dict[Any, Any] = {}
    for name, value in pairs:
        if name in found:
            raise CommandLineError(f"{spelled}: {what} {name} is given twice.")
        found[name] = value
    return found


def chosen_model(arguments: argparse.Namespace, place: Place, command: str) -> ServedModel:
    """Return the handle of the model that is named, or of the only one (see `named_or_only`)."""
    name = named_or_only(arguments.name, arguments.instance, place.spelled(command))
    return handle(name, arguments.instance)
