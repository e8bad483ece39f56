"""Completion of our magics' lines: sub-commands, flags, variables that can be served, models that are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher

from serving_jupyter.expressions import split
from serving_jupyter.magics import MAGICS, MAIN, magic_parsers
from serving_jupyter.namespace import array_names, servable_names
from serving_jupyter.soon import Soon
from serving_workbench.commands import Argument
from serving_workbench.errors import CommandLineError
from serving_workbench.instance_name import chosen_instance

__all__ = ["complete", "install", "uninstall"]

#: Lines that are completed here, also those that keep the handle: `h = %serve model`.
_LINE = re.compile(rf"\s*(?:[\w.,\[\]'\" ]+=\s*)?%%?({'|'.join(MAGICS)})\s")
_IDENTIFIER = "serving_workbench.serve"
#: Seconds after which a server that does not answer is given up, in the thread that asks it.
_TIMEOUT = 1.0


@dataclass(frozen=True)
class _Served:
    """What there is of a model that a server serves."""

    versions: list[int]
    labels: list[str]


_Models = dict[str, _Served]

#: The Tab key must answer at once, so servers and the folder of their records are looked at in a thread.
_served: Soon[_Models] = Soon({})
_instances: Soon[list[str]] = Soon([])


def install(ipython: Any) -> None:
    """Add ours to the matchers of an IPython shell's completer; again: nothing."""
    if not _installed(ipython):
        ipython.Completer.custom_matchers.append(_matcher(ipython))


def uninstall(ipython: Any) -> None:
    """Take it back."""
    for matcher in _installed(ipython):
        ipython.Completer.custom_matchers.remove(matcher)


def _installed(ipython: Any) -> list[Any]:
    matchers = ipython.Completer.custom_matchers
    return [matcher for matcher in matchers if getattr(matcher, "matcher_identifier", None) == _IDENTIFIER]


def _matcher(shell: Any) -> Any:
    # Not the older hook "complete_command": beside it IPython asks Jedi, which reads `%serve x` as a division and
    # offers Python's keywords first.
    @context_matcher(priority=100, identifier=_IDENTIFIER)
    def match(context: CompletionContext) -> SimpleMatcherResult:
        fragment, words = complete(shell, context.text_until_cursor)
        found = [SimpleCompletion(word, type="magic") for word in words]
        return {"completions": found, "matched_fragment": fragment, "suppress": bool(found), "ordered": True}

    return match


def complete(shell: Any, line: str) -> tuple[str, list[str]]:
    """Return the word before the cursor, as far as it is typed, and the words that it may become.

    There are none where nothing of ours fits: on other lines, for paths, and inside of quotes and of expressions in
    braces, which IPython completes itself.

    Parameters
    ----------
    shell : InteractiveShell
        For its variables.
    line : str
        The line up to the cursor.
    """
    magic = _LINE.match(line)
    if magic is None:
        return "", []
    done, fragment = _cut(line[magic.end() :])
    try:
        words = split(done)
    except CommandLineError:  # inside of quotes or braces
        return "", []
    if done.endswith("=") and not words[-1]:
        words.pop()  # the empty value after `--flag=`
    return fragment, [word for word in _candidates(shell, magic[1], words) if word.startswith(fragment)]


def _cut(text: str) -> tuple[str, str]:
    """Cut before the last word: after a blank, or after the `=` in `--flag=value` and `label=version`."""
    found = re.search(r"(?:^|\s|(?:(?<=\s)|^)[\w.-]+=)([^\s=]*)$", text)
    start = found.start(1) if found else len(text)
    return text[:start], text[start:]


def _candidates(shell: Any, magic: str, words: list[str]) -> list[str]:
    parsers = magic_parsers(magic)
    command = words[0] if words and words[0] in parsers else MAIN
    if command not in parsers:  # of a magic that has sub-commands only
        return list(parsers)
    given = words[1:] if command != MAIN else words
    flags = parsers[command].flags()
    waiting = flags.get(given[-1]) if given else None
    if waiting is not None and waiting.takes_value:
        return _values(shell, waiting, given)
    positionals = parsers[command].positionals()
    if given and given[-1].endswith("="):
        is_label = any(argument.role == "label=version" for argument in positionals)
        return [str(version) for model in _meant(given) for version in model.versions] if is_label else []
    found = []
    position = _positions(given, flags)
    if positionals and (position < len(positionals) or positionals[-1].repeats):
        found += _values(shell, positionals[min(position, len(positionals) - 1)], given)
    if not words:
        found += [word for word in parsers if word != MAIN]
    left = [flag for flag, argument in flags.items() if argument.repeats or not set(argument.flags) & set(given)]
    return found + [flag for flag in left if flag.startswith("--")]


def _positions(given: list[str], flags: dict[str, Argument]) -> int:
    """Return how many words are no flag and no value of one."""
    count, is_value = 0, False
    for word in given:
        argument = None if is_value else flags.get(word)
        count += not is_value and argument is None
        is_value = argument is not None and argument.takes_value
    return count


def _values(shell: Any, argument: Argument, given: list[str]) -> list[str]:
    """Return what may stand for an argument, after the words `given`."""
    words = list(argument.offers)
    match argument.role:
        case "servable":
            words += servable_names(shell.user_ns, shell.user_ns_hidden)
        case "array":
            words += array_names(shell.user_ns, shell.user_ns_hidden)
        case "model":
            words += sorted(_models(given))
        case "version":
            words += [str(version) for model in _meant(given) for version in model.versions]
        case "label":
            words += [label for model in _meant(given) for label in model.labels]
        case "label=version":
            words += [f"{label}=" for model in _meant(given) for label in model.labels]
        case "version=weight":
            words += [f"{version}=" for model in _meant(given) for version in model.versions]
        case "instance":
            words += _instances.get("", _list_instances)
    return words


def _meant(given: list[str]) -> list[_Served]:
    """Return the models that are named before the cursor; all of them when none is."""
    models = _models(given)
    return [models[word] for word in given if word in models] or list(models.values())


def _models(given: list[str]) -> _Models:
    place = given.index("--instance") + 1 if "--instance" in given else len(given)
    instance = chosen_instance(given[place] if place < len(given) else None)
    return _served.get(instance, lambda: _ask(instance))


def _ask(instance: str) -> _Models:
    # Imported in the thread: the first Tab does not wait for these either.
    from serving_workbench.control import ControlClient
    from serving_workbench.discovery import trusted_record
    from serving_workbench.errors import WorkbenchError

    try:
        record = trusted_record(instance, timeout=_TIMEOUT)
        if record is None:
            return {}
        models = ControlClient.of(record, timeout=_TIMEOUT).status()["models"]
    except WorkbenchError:
        return {}  # a completion has nobody to tell; `%serve status` says what is wrong
    return {
        name: _Served([entry["version"] for entry in model["versions"]], list(model["labels"]))
        for name, model in models.items()
    }


def _list_instances() -> list[str]:
    from serving_workbench.errors import WorkbenchError
    from serving_workbench.records import list_instances

    try:
        return list_instances()
    except WorkbenchError:
        return []
