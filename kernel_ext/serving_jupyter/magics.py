"""`%serve`: the workbench's verbs as a line magic.

What a user causes is one line without a traceback (`UsageError`); anything else is a bug and keeps its traceback. The
work is done by `serving_workbench`: what is here only reads the line and says what happened.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_magic, magics_class, no_var_expand

import serving_workbench as sw
from serving_jupyter.expressions import Braced, evaluate, split
from serving_jupyter.namespace import array_names, servable_names, served_name
from serving_jupyter.parser import COMMANDS, DEPLOY, did_you_mean, help_page, parsers

__all__ = ["LogText", "ServeMagics"]

#: Lines of the log that are searched when only those of one model are wanted.
_SEARCHED_LINES = 10_000


class LogText(str):
    """Text that a cell shows as it is, not as a quoted string."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


@magics_class
class ServeMagics(Magics):
    """Registers `%serve`."""

    @no_var_expand  # IPython would turn {model} into text; see serving_jupyter.expressions
    @line_magic
    def serve(self, line: str) -> Any:
        words = split(line)
        if not words or {"-h", "--help"} & set(words):
            print(help_page())
            return None
        command = words[0] if words[0] in COMMANDS else DEPLOY
        arguments = parsers()[command].read(words[1:] if command else words, self._evaluate)
        verb: Callable[[argparse.Namespace], Any] = {
            DEPLOY: self._deploy,
            "status": self._status,
            "logs": self._logs,
            "rollback": self._rollback,
            "warmup": self._warmup,
            "stop": self._stop,
        }[command]
        try:
            return verb(arguments)
        except sw.WorkbenchError as error:
            raise _usage_error(error) from error

    serve.__doc__ = help_page()

    def _evaluate(self, argument: str) -> object:
        return evaluate(argument, self.shell)

    # --- verbs ---

    def _deploy(self, arguments: argparse.Namespace) -> sw.ServedModel:
        model, variable = self._find(arguments.model)
        name = arguments.name
        if name is None:
            chosen = served_name(model, variable)
            if chosen is None:
                raise UsageError("%serve: this model has no name of its own; give it one with --name.")
            name, origin = chosen
            print(f"Serving as '{name}', {origin}. Another name: --name NAME")
        options = {"tolerance": arguments.tolerance} if "tolerance" in arguments else {}
        return sw.serve(
            model,
            name,
            root=arguments.root,
            sample=self._sample(arguments.sample),
            instance=arguments.instance,
            progress=not arguments.no_progress,
            timeout=arguments.timeout,
            warmup=self._evaluate(arguments.warmup) if isinstance(arguments.warmup, Braced) else arguments.warmup,
            **options,
        )

    def _status(self, arguments: argparse.Namespace) -> sw.Table:
        if arguments.name is None:
            return sw.status(arguments.instance)
        return _handle(arguments.name, arguments.instance).status()

    def _logs(self, arguments: argparse.Namespace) -> LogText:
        if arguments.name is None:
            return LogText(sw.logs(arguments.lines, arguments.instance))
        word = re.compile(rf"(?<![\w.-]){re.escape(arguments.name)}(?![\w-])")
        lines = sw.logs(_SEARCHED_LINES, arguments.instance).splitlines()
        return LogText("\n".join([line for line in lines if word.search(line)][-arguments.lines :]))

    def _rollback(self, arguments: argparse.Namespace) -> sw.Table:
        served = _handle(arguments.name or _only_model("rollback", arguments.instance), arguments.instance)
        before = served.serving_version
        now = served.rollback(to=arguments.to)
        table = served.status()
        table.title = f"{served.name}: version {now} answers (before: {before})"
        return table

    def _warmup(self, arguments: argparse.Namespace) -> None:
        served = _handle(arguments.name or _only_model("warmup", arguments.instance), arguments.instance)
        print(f"Recording up to {arguments.requests} requests to '{served.name}', for {arguments.seconds:g} s at most.")
        recorded = served.record_warmup(
            arguments.requests, arguments.seconds, version=arguments.version, replace=arguments.replace
        )
        print(recorded)

    def _stop(self, arguments: argparse.Namespace) -> None:
        if arguments.name is not None:
            if arguments.all:
                raise UsageError("%serve stop: give a model's name or --all, not both.")
            _handle(arguments.name, arguments.instance).stop()
            print(f"Stopped serving '{arguments.name}'.")
            return
        for instance in sw.instances() if arguments.all else [arguments.instance]:
            if sw.stop(instance):
                print(f"Stopped the server '{instance}'.")
            elif not arguments.all:
                print(f"No server '{instance}' was running.")

    # --- what the words mean ---

    def _find(self, argument: str) -> tuple[object, str | None]:
        """Return the model that is meant, and the name of the variable that holds it if it is one."""
        if isinstance(argument, Braced):
            return self._evaluate(argument), argument.variable
        if argument in self.shell.user_ns:
            return self.shell.user_ns[argument], argument
        if "/" in argument or argument.startswith(("~", ".")) or Path(argument).is_dir():
            return Path(argument).expanduser(), None  # when it is not there, the library says so
        known = [*servable_names(self.shell.user_ns, self.shell.user_ns_hidden), *COMMANDS]
        raise UsageError(
            f"%serve: '{argument}' is no variable, no folder and no sub-command"
            f"{did_you_mean(argument, known, '. %serve? shows what it takes.')}"
        )

    def _sample(self, argument: str | None) -> object:
        if argument is None or isinstance(argument, Braced):
            return None if argument is None else self._evaluate(argument)
        if argument not in self.shell.user_ns:
            # What is no name at all was meant as an expression: then no other name helps.
            names = array_names(self.shell.user_ns, self.shell.user_ns_hidden)
            known = names if argument.isidentifier() else []
            other = "; an expression goes in braces: --sample {x[:1]}"
            raise UsageError(
                f"%serve: there is no variable '{argument}' for --sample{did_you_mean(argument, known, other)}"
            )
        return self.shell.user_ns[argument]


def _handle(name: str, instance: str) -> sw.ServedModel:
    found = sw.connect(name, instance)
    assert isinstance(found, sw.ServedModel)
    return found


def _only_model(command: str, instance: str) -> str:
    names = sw.Server.connect(instance).models()
    if len(names) != 1:
        known = ", ".join(names) or "none"
        raise UsageError(f"%serve {command}: say which model; the server serves: {known}.")
    return names[0]


def _usage_error(error: sw.WorkbenchError) -> UsageError:
    """Return the error as one line; what is longer, such as the end of a log, is printed before it."""
    first, _, rest = error.message.partition("\n")
    if rest:
        print(rest, file=sys.stderr)
    parts = [first, error.hint, *getattr(error, "__notes__", [])]
    sentences = [" ".join(part.split()) for part in parts if part]
    line = " ".join(text if text[-1:] in ".:!?" else f"{text}." for text in sentences)
    return UsageError(f"{error.step}: {line}" if error.step else line)
