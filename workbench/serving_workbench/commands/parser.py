"""What a command understands: an argparse parser that also gives the help page and what the Tab key offers.

The same parser reads a line of a notebook and the arguments of a terminal. It never prints and never exits: everything
wrong is a `CommandLineError` of one line.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from serving_workbench.errors import CommandLineError

__all__ = ["Argument", "Deferred", "Parser", "did_you_mean"]

Kind = Callable[[Any], Any]


class Deferred(str):
    """An argument whose value is known only when all else is right, such as a notebook's expression in braces."""

    __slots__ = ()


@dataclass(frozen=True)
class Argument:
    """What may be typed for one argument, for completion.

    Attributes
    ----------
    name : str
        As in the parsed namespace.
    flags : tuple of str
        Empty for an argument by position.
    takes_value : bool
    repeats : bool
        May be given more than once.
    role : str or None
        What its value names: ``servable``, ``array``, ``model``, ``version``, ``label``, ``label=version``,
        ``version=weight``, ``instance``, ``file``.
    offers : tuple of str
        Words that its value may be.
    """

    name: str
    flags: tuple[str, ...]
    takes_value: bool
    repeats: bool
    role: str | None
    offers: tuple[str, ...]


def did_you_mean(word: str, known: Collection[str], otherwise: str = "") -> str:
    """Return "; did you mean 'x'?" for the most similar known word, or `otherwise`."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    return f"; did you mean '{close[0]}'?" if close else otherwise


class Parser(argparse.ArgumentParser):
    """Reads the arguments of one command.

    Parameters
    ----------
    prog : str
        How the command is spelled where it is typed: ``%serve status``, ``serving-workbench status``.
    description : str
    stray : str
        A flag that somebody may have meant who gives one argument too many.
    in_notebook : bool
        For commands that take other arguments in a notebook than in a terminal.
    """

    def __init__(self, prog: str, description: str, stray: str = "", *, in_notebook: bool = True) -> None:
        def formatter(prog: str) -> argparse.HelpFormatter:
            # A fixed width: the help becomes a docstring, long before anybody looks at it.
            return argparse.RawDescriptionHelpFormatter(prog, max_help_position=22, width=96)

        super().__init__(prog, description=description, formatter_class=formatter, allow_abbrev=False, add_help=False)
        self.in_notebook = in_notebook
        self._stray = stray
        self._kinds: dict[str, Kind] = {}
        self._roles: dict[str, str] = {}
        self._offers: dict[str, tuple[str, ...]] = {}

    def add(
        self, *names: str, kind: Kind | None = None, role: str | None = None, offers: Sequence[str] = (), **options: Any
    ) -> None:
        """Add an argument.

        Parameters
        ----------
        *names : str
            As argparse has them: one name, or flags.
        kind : callable, optional
            Makes the value of text, or of the object that an expression gave; raises `argparse.ArgumentTypeError`.
            Without one the value stays as it was typed, expressions included: the command decides what it means.
        role, offers
            For completion: see `Argument`.
        **options
            Of `argparse.ArgumentParser.add_argument`.
        """
        if kind is None:
            action = self.add_argument(*names, **options)
        else:
            action = self.add_argument(*names, type=_unless_deferred(kind), **options)
            self._kinds[action.dest] = kind
        if role is not None:
            self._roles[action.dest] = role
        self._offers[action.dest] = tuple(offers or action.choices or ())

    def read(self, words: Sequence[str], evaluate: Callable[[str], object]) -> argparse.Namespace:
        """Parse words; `evaluate` gives the values of `Deferred` ones when all else is known to be right.

        Raises
        ------
        CommandLineError
        """
        found, extra = self.parse_known_intermixed_args(list(words))
        if extra:
            self._refuse(extra[0])
        for dest, kind in self._kinds.items():
            value = getattr(found, dest, None)
            if isinstance(value, list):
                setattr(found, dest, [self._value(each, kind, evaluate) for each in value])
            else:
                setattr(found, dest, self._value(value, kind, evaluate)) if hasattr(found, dest) else None
        return found

    def _value(self, value: object, kind: Kind, evaluate: Callable[[str], object]) -> object:
        if not isinstance(value, Deferred):
            return value
        try:
            return kind(evaluate(value))
        except argparse.ArgumentTypeError as error:
            self.error(f"{value}: {error}")

    def known_arguments(self) -> list[Argument]:
        """Return every argument, in the order of the help page."""
        return [
            Argument(
                name=action.dest,
                flags=tuple(action.option_strings),
                takes_value=action.nargs != 0,
                repeats=action.nargs in {"*", "+"} or isinstance(action, argparse._AppendAction),
                role=self._roles.get(action.dest),
                offers=self._offers.get(action.dest, ()),
            )
            for action in self._actions
        ]

    def flags(self) -> dict[str, Argument]:
        """Return every flag with what it sets."""
        return {flag: argument for argument in self.known_arguments() for flag in argument.flags}

    def positionals(self) -> list[Argument]:
        """Return the arguments without a flag, in their order."""
        return [argument for argument in self.known_arguments() if not argument.flags]

    def _refuse(self, word: str) -> NoReturn:
        if word.startswith("-") and not isinstance(word, Deferred):
            known = ", ".join(flag for flag in self.flags() if flag.startswith("--"))
            self.error(f"there is no flag {word}{did_you_mean(word, self.flags(), f'; there are {known}')}")
        hint = f"; did you mean {self._stray} {word}?" if self._stray else ""
        self.error(f"unexpected argument '{word}'{hint}")

    def error(self, message: str) -> NoReturn:
        raise CommandLineError(f"{self.prog}: {' '.join(message.split())}")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise CommandLineError(message or f"{self.prog} ended with {status}.")


def _unless_deferred(kind: Kind) -> Kind:
    return lambda text: text if isinstance(text, Deferred) else kind(text)
