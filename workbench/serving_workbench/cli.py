"""``serving-workbench``: the commands of `serving_workbench.commands`, typed in a terminal.

Exit codes: 0 it is done; 1 it could not be done, and a line on standard error says why; 2 it was not typed right;
130 it was interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from serving_workbench.errors import CommandLineError, WorkbenchError

__all__ = ["main"]

PROGRAM = "serving-workbench"
_FAILED, _WRONG_USAGE, _INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return _run(given)
    except CommandLineError as error:
        print(error, file=sys.stderr)
        return _WRONG_USAGE
    except WorkbenchError as error:
        _print_error(error)
        return _FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # A reader that has left, such as `head`, has read enough; what is still in the buffer would raise once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(given: list[str]) -> int:
    from serving_workbench.commands import COMMANDS, did_you_mean
    from serving_workbench.terminal import Terminal, shown

    commands = {command.name: command for command in COMMANDS}
    word, *rest = given or ["--help"]
    if word in {"-h", "--help"}:
        print(_help_page())
        return 0
    if word == "--version":
        from importlib.metadata import version

        print(f"{PROGRAM} {version('serving-workbench')}")
        return 0
    if word not in commands:
        hint = did_you_mean(word, commands, f". {PROGRAM} --help lists the commands.")
        raise CommandLineError(f"{PROGRAM}: there is no command '{word}'{hint}")
    command = commands[word]
    parser = command.parser(f"{PROGRAM} {word}", in_notebook=False)
    parser.add("--json", action="store_true", help="print the result as JSON")
    if {"-h", "--help"} & set(rest):
        print(parser.format_help().rstrip())
        return 0
    parsed = parser.read(rest, lambda text: text)
    terminal = Terminal(quiet=parsed.json)
    if command.body:
        parsed.body = None
    result: Any = command.run(parsed, terminal)
    text = shown(result, as_json=parsed.json)
    if text:
        print(text, flush=True)
    return 0


def _help_page() -> str:
    from serving_workbench.commands import COMMANDS

    width = max(len(command.name) for command in COMMANDS)
    lines = [f"  {command.name:{width}}  {command.summary}" for command in COMMANDS]
    return "\n".join(
        [
            f"usage: {PROGRAM} COMMAND [ARGUMENTS]",
            "",
            "Serve TensorFlow models from a terminal, and look after the servers of notebooks.",
            "",
            *lines,
            "",
            f"{PROGRAM} COMMAND --help says more. A server that is started here runs until `{PROGRAM} stop`.",
            "The server alone, with TensorFlow Serving's flags, is serving-server.",
        ]
    )


def _print_error(error: WorkbenchError) -> None:
    parts = [error.message, error.hint, *getattr(error, "__notes__", [])]
    text = " ".join(part for part in parts if part)
    print(f"{error.step}: {text}" if error.step else text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
