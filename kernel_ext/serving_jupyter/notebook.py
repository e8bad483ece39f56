"""A notebook as the place where commands are typed: words name variables, braces hold expressions."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

from IPython.core.error import StdinNotImplementedError

from serving_jupyter.expressions import Braced, Expression, evaluate
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

    def confirm(self, question: str) -> bool:
        try:
            return input(f"{question} [y/N] ").strip().lower() in {"y", "yes"}
        except (EOFError, StdinNotImplementedError) as error:
            raise CommandLineError(f"{question} Nobody can be asked here: add --yes.") from error

    def evaluate(self, argument: str) -> object:
        return evaluate(argument, self._shell)

    def assigned(self, argument: str) -> object:
        match argument.parts if isinstance(argument, Braced) else ():
            case (str(name), Expression() as expression) if name.endswith("="):
                return self.evaluate(Braced.of([expression]))
        return str(self.evaluate(argument)).partition("=")[2]

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
                f"there is no variable '{argument}' for {flag}{did_you_mean(argument, known, other)}"
            )
        return self._shell.user_ns[argument]

    def request(self, argument: str | None, body: str | None) -> tuple[Any, bool]:
        if argument is not None:
            if body is not None and body.strip():
                raise CommandLineError("%%predict: give the input on the line or in the cell's body, not both.")
            return self.evaluate(argument), False
        if body is None or not body.strip():
            raise CommandLineError("%predict: give an input: %predict digits x[:5], or the body of a cell.")
        try:
            return json.loads(body), True
        except ValueError as error:
            return self._python(body, str(error)), False

    def _python(self, body: str, json_problem: str) -> object:
        """Run a cell's body; return the value of its last line."""
        try:
            parsed = ast.parse(body, "<cell>")
        except SyntaxError as error:
            text = f"the body is neither JSON ({json_problem}) nor Python (line {error.lineno}: {error.msg})"
            raise CommandLineError(f"%%predict: {text}.") from error
        last = parsed.body.pop() if parsed.body else None
        if not isinstance(last, ast.Expr):
            raise CommandLineError("%%predict: the last line of the body must be an expression: the input.")
        try:
            self._shell.ex(compile(parsed, "<cell>", "exec"))
            found: object = self._shell.ev(compile(ast.Expression(last.value), "<cell>", "eval"))
        except Exception as error:
            raise CommandLineError(f"%%predict: the body fails: {type(error).__name__}: {error}") from error
        return found
