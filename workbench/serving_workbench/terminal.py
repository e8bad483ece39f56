"""A terminal as the place where commands are typed: words name files, data are JSON; and how results are printed."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving_workbench.errors import CommandLineError

__all__ = ["Terminal", "shown"]


class Terminal:
    """See `serving_workbench.commands.Place`.

    Parameters
    ----------
    quiet : bool
        What is said goes to standard error: standard output is for the result alone.
    """

    in_notebook = False

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet

    def spelled(self, command: str) -> str:
        return f"serving-workbench {command}"

    def say(self, text: str) -> None:
        print(text, file=sys.stderr if self._quiet else sys.stdout, flush=True)

    def confirm(self, question: str) -> bool:
        if not sys.stdin.isatty():
            raise CommandLineError(f"{question} Nobody can be asked here: add --yes.")
        return input(f"{question} [y/N] ").strip().lower() in {"y", "yes"}

    def evaluate(self, argument: str) -> object:
        return argument

    def assigned(self, argument: str) -> object:
        return argument.partition("=")[2]

    def servable(self, argument: str) -> tuple[object, str | None]:
        return Path(argument).expanduser(), None  # when it is not there, the library says so

    def value(self, argument: str, flag: str) -> object:
        return _json(argument, flag)

    def request(self, argument: str | None, _: str | None) -> tuple[Any, bool]:
        if argument is not None and argument != "-":
            return _json(argument, "the input"), True
        if sys.stdin.isatty():
            raise CommandLineError("Give the input: JSON, @FILE, or - and JSON on standard input.")
        return _parsed(sys.stdin.read(), "standard input"), True


def _json(text: str, what: str) -> Any:
    """Return what JSON means, or the JSON or NumPy file that `@FILE` names."""
    if not text.startswith("@"):
        return _parsed(text, what)
    path = Path(text[1:]).expanduser()
    try:
        if path.suffix in {".npy", ".npz"}:
            import numpy as np  # only for those who have such a file

            loaded = np.load(path, allow_pickle=False)
            return {name: loaded[name] for name in loaded.files} if path.suffix == ".npz" else loaded
        return _parsed(path.read_text(encoding="utf-8"), f"'{path}'")
    except OSError as error:
        raise CommandLineError(f"Cannot read '{path}': {error.strerror or error}.") from error
    except ValueError as error:
        raise CommandLineError(f"'{path}' cannot be read: {error}.") from error


def _parsed(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        hint = "" if what.startswith(("'", "standard")) else " A file is given as @FILE."
        raise CommandLineError(f"{what} is no JSON: {error}.{hint}") from error


def shown(result: Any, *, as_json: bool) -> str:
    """Return how a command's result is printed; empty for none."""
    if as_json:
        return json.dumps(_plain(result))
    if result is None:
        return ""
    if isinstance(result, Mapping):
        return json.dumps(_plain(result))
    from serving_workbench.handle import ServedModel  # not for errors and help

    if isinstance(result, ServedModel):
        from serving_workbench.display import summary

        return summary(result)
    if hasattr(result, "to_string") and not hasattr(result, "left_out"):
        # A DataFrame, whose repr leaves columns out; empty ones say nothing.
        return str(result.dropna(axis="columns", how="all").to_string(index=False))
    if hasattr(result, "_repr_mimebundle_"):
        return str(result._repr_mimebundle_()["text/plain"])
    return repr(result)


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case bytes():
            return value.decode("utf-8", "backslashreplace")
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            return _plain(_contents(value))


def _contents(value: Any) -> Any:
    from serving_workbench.handle import ServedModel
    from serving_workbench.tables import Table

    if isinstance(value, Table):
        return value.rows if value.data is None else value.data
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, ServedModel):
        return {
            "name": value.name,
            "version": value.version,
            "instance": value.server.name,
            "endpoints": value.server.endpoints,
            "seconds": value.seconds,
        }
    if hasattr(value, "to_string"):  # a DataFrame, which knows what of its is no JSON
        return json.loads(value.to_json(orient="records", date_format="iso"))
    if hasattr(value, "to_json"):
        return json.loads(value.to_json())
    if hasattr(value, "to_frame"):
        return _contents(value.to_frame())
    return value.tolist() if hasattr(value, "tolist") else str(value)
