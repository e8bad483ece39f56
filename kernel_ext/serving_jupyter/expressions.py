"""Arguments of a magic line: split as a shell does, with Python expressions in braces.

    %serve {models["best one"]} --root "my models" --name {prefix}-small

IPython's own expansion turns `{x}` into text before a magic sees it; a model must arrive as the object that it is. So
`%serve` switches that expansion off, and this module splits the line itself. Nothing is evaluated while splitting: a
typing error in the last flag must not cost the minutes that an expression before it takes.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serving_workbench.commands import Deferred, did_you_mean
from serving_workbench.errors import CommandLineError

__all__ = ["Braced", "Expression", "evaluate", "split", "split_rest"]


@dataclass(frozen=True)
class Expression:
    """Source text of a Python expression."""

    source: str


class Braced(Deferred):
    """An argument with expressions in it: as text it is what was typed, `parts` say what it means."""

    __slots__ = ("parts",)

    parts: tuple[str | Expression, ...]

    @classmethod
    def of(cls, parts: list[str | Expression]) -> Braced:
        typed = "".join(f"{{{part.source}}}" if isinstance(part, Expression) else part for part in parts)
        braced = cls(typed)
        braced.parts = tuple(parts)
        return braced

    @property
    def variable(self) -> str | None:
        """The name in `{name}`; None when there is more to it."""
        match self.parts:
            case (Expression(source),) if source.isidentifier():
                return source
        return None


def split(line: str) -> list[str]:
    r"""Split a line into arguments.

    Quotes, backslashes and comments (`#` where an argument would begin) work as in a POSIX shell, `--flag=value` gives
    two arguments, and `{...}` outside of quotes is a Python expression up to the brace that ends it, which may contain
    spaces, quotes and braces.

    Returns
    -------
    list of str
        Arguments with expressions are `Braced`.

    Raises
    ------
    CommandLineError
        A quote or a brace is not closed, or the text in braces is no expression.
    """
    arguments: list[str] = []
    position = 0
    while position < len(line):
        if line[position].isspace():
            position += 1
            continue
        if line[position] == "#":
            break
        parts, position = _read_argument(line, position)
        first = parts[0] if parts else ""
        if isinstance(first, str) and first.startswith("--") and "=" in first:
            flag, _, rest = first.partition("=")
            arguments.append(flag)
            parts = [rest, *parts[1:]] if rest or len(parts) == 1 else parts[1:]
        arguments.append(_argument(parts))
    return arguments


def split_rest(line: str, flags: Mapping[str, bool], words: int) -> list[str]:
    """Split a line whose last argument is a Python expression, blanks and all: ``digits x[:5, 0] --version 2``.

    Parameters
    ----------
    line : str
    flags : mapping of str to bool
        The flags there are, and whether each takes a value.
    words : int
        Arguments without a flag that come before the expression.

    Returns
    -------
    list of str
        As of `split`; the expression is `Braced`. Braces around all of it may be left out.

    Raises
    ------
    CommandLineError
    """
    arguments: list[str] = []
    position, is_value = 0, False
    while position < len(line):
        if line[position].isspace():
            position += 1
            continue
        if line[position] == "#":
            break
        word = re.match(r"[^\s=]+", line[position:])
        flag = word[0] if word is not None and word[0].startswith("-") else None
        if not is_value and (flag is None or (flag not in flags and not flag.startswith("--"))):
            if words == 0:
                source, position = _read_expression(line, position, flags)
                arguments.append(Braced.of([Expression(source)]))
                continue
            words -= 1
        start = position
        _, position = _read_argument(line, position)
        arguments += split(line[start:position])
        is_value = not is_value and flag is not None and flags.get(flag, False) and "=" not in line[start:position]
    return arguments


def _read_expression(line: str, start: int, flags: Mapping[str, bool]) -> tuple[str, int]:
    """Return the expression from `start` on, and where it ends: at the first flag before which it is complete."""
    # Any `--flag`, so that one that does not exist is told by the parser, and the short ones there are.
    short = "|".join(re.escape(flag) for flag in flags if not flag.startswith("--")) or "(?!)"
    ends = [found.start() + start for found in re.finditer(rf"\s(?:--[a-z][\w-]*|{short})(?=[\s=]|$)", line[start:])]
    for end in [*ends, len(line)]:
        source = line[start:end].strip()
        if _problem(source) is None:
            inner = source[1:-1].strip()
            # The braces of other arguments: `{x}` is x. A dict stays one.
            whole = source.startswith("{") and source.endswith("}") and inner and _problem(inner) is None
            return (inner if whole else source), end
    source = line[start : [*ends, len(line)][0]].strip()
    raise CommandLineError(f"{source} is no Python expression: {_problem(source)}")


def _problem(source: str) -> str | None:
    """Return why a text is no Python expression; None when it is one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of text that is perhaps not the expression
            compile(source, "<magic>", "eval")
    except (SyntaxError, ValueError) as error:
        return str(error.args[0])
    return None


def _formatted(source: str) -> str:
    """Return the f-string of what stands in its braces: an expression with a format."""
    return f'f"""{{{source}}}"""'


def evaluate(argument: str, shell: Any) -> object:
    """Return what an argument means in the shell's namespace: itself, or the value of its expressions.

    An argument that is one expression gives that object; text around expressions makes one text of all.

    Raises
    ------
    CommandLineError
        Naming the expression and its error.
    """
    if not isinstance(argument, Braced):
        return argument
    values = [_value(part, shell) if isinstance(part, Expression) else part for part in argument.parts]
    return values[0] if len(values) == 1 else "".join(map(str, values))


def _value(expression: Expression, shell: Any) -> object:
    try:
        return shell.ev(expression.source)
    except Exception as error:
        hint = did_you_mean(error.name or "", shell.user_ns) if isinstance(error, NameError) else ""
        raise CommandLineError(f"{expression.source} fails: {type(error).__name__}: {error}{hint}") from error


def _argument(parts: list[str | Expression]) -> str:
    if any(isinstance(part, Expression) for part in parts):
        return Braced.of(parts)
    return "".join(map(str, parts))


def _read_argument(line: str, position: int) -> tuple[list[str | Expression], int]:
    """Read one argument from `position` on; return its parts (neighbouring texts joined) and where it ends."""
    parts: list[str | Expression] = []
    text, quoted = "", False
    while position < len(line) and not line[position].isspace():
        character = line[position]
        if character == "{":
            if text:
                parts.append(text)
                text = ""
            end = _end_of_expression(line, position)
            source = line[position + 1 : end].strip()
            parts.append(Expression(source if _problem(source) is None else _formatted(source)))
            position = end + 1
        elif character in "'\"":
            inside, position = _read_quoted(line, position)
            text += inside
            quoted = True
        elif character == "\\" and position + 1 < len(line):
            text += line[position + 1]
            position += 2
        else:
            text += character
            position += 1
    if text or (quoted and not parts):
        parts.append(text)
    return parts, position


def _read_quoted(line: str, start: int) -> tuple[str, int]:
    quote, text, position = line[start], "", start + 1
    while position < len(line):
        character = line[position]
        if character == quote:
            return text, position + 1
        if quote == '"' and character == "\\" and line[position + 1 : position + 2] in {'"', "\\"}:
            position += 1
            character = line[position]
        text += character
        position += 1
    raise CommandLineError(f"The quote {quote} is not closed: {line[start:]}")


def _end_of_expression(line: str, start: int) -> int:
    """Return the index of the brace that ends the expression which begins at `start`.

    Braces inside the expression (dicts, sets, f-strings, strings) make its end a question for Python's own parser: it
    is the first closing brace before which there is a complete expression; else one with a format, as `{x:.3f}`.
    """
    end, first, formatted = line.find("}", start), None, None
    while end >= 0:
        source = line[start + 1 : end].strip()
        problem = _problem(source)
        if problem is None:
            return end
        if formatted is None and re.search(r"[:!]", source) and _problem(_formatted(source)) is None:
            formatted = end
        first = first or problem
        end = line.find("}", end + 1)
    if formatted is not None:
        return formatted
    if first is None:
        raise CommandLineError(f"The brace is not closed: {line[start:]}")
    raise CommandLineError(f"{line[start : line.find('}', start) + 1]} is no Python expression: {first}")
