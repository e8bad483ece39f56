"""A notebook as the place where commands are typed: words name variables, braces hold expressions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serving_jupyter.expressions import Braced, evaluate
from serving_jupyter.namespace import array_names, servable_names
from serving_workbench.commands import COMMANDS, did_you_mean
from serving_workbench.errors import CommandLineError

__all__ = ["Notebook"]


class Notebook:
    """What words mean in an IPython shell: see `serving_workbench.commands.Place`."""

    in_notebook = True

    def __init__(self, shell: Any) -> None:
        self._shell = shell

    def spelled(self, command: str) -> str:
        magic = next(each.magic for each in COMMANDS if each.name == command)
        return f"%{magic}" if magic == command else f"%{magic} {command}"

    def say(self, text: str) -> None:
        print(text)

    def evaluate(self, argument: str) -> object:
        return evaluate(argument, self._shell)

    def servable(self, argument: str) -> tuple[object, str | None]:
        if isinstance(argument, Braced):
            return self.evaluate(argument), argument.variable
        if argument in self._shell.user_ns:
            return self._shell.user_ns[argument], argument
        if "/" in argument or argument.startswith(("~", ".")) or Path(argument).is_dir():
            return Path(argument).expanduser(), None  # when it is not there, the library says so
        words = [each.name for each in COMMANDS if each.magic == "serve"]
        known = [*servable_names(self._shell.user_ns, self._shell.user_ns_hidden), *words]
        raise CommandLineError(
            f"%serve: '{argument}' is no variable, no folder and no sub-command"
            f"{did_you_mean(argument, known, '. %serve? shows what it takes.')}"
        )

    def value(self, argument: str, flag: str) -> object:
        if isinstance(argument, Braced):
            return self.evaluate(argument)
        if argument not in self._shell.user_ns:
            # What is no name at all was meant as an expression: then no other name helps.
            names = array_names(self._shell.user_ns, self._shell.user_ns_hidden)
            known = names if argument.isidentifier() else []
            other = f"; an expression goes in braces: {flag} {{x[:1]}}"
            raise CommandLineError(
                f"%serve: there is no variable '{argument}' for {flag}{did_you_mean(argument, known, other)}"
            )
        return self._shell.user_ns[argument]
