"""The parsers behind `%serve`: values, messages, help."""

from __future__ import annotations

import re
from typing import Any

import pytest

from serving_jupyter.expressions import split
from serving_jupyter.help import help_page
from serving_jupyter.magics import MAGICS, MAIN, magic_parsers
from serving_workbench.commands import did_you_mean
from serving_workbench.errors import CommandLineError


def read(command: str, line: str, **values: Any) -> dict[str, Any]:
    """Parse a line; expressions in it are looked up in `values` by their text."""
    return vars(magic_parsers("serve")[command].read(split(line), lambda braced: values[braced[1:-1]]))


def message(command: str, line: str, **values: Any) -> str:
    with pytest.raises(CommandLineError) as caught:
        read(command, line, **values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_flags_of_a_deploy() -> None:
    found = read(MAIN, "--name digits model --timeout 7.5 --root=models --no-progress")
    assert found["model"] == "model"
    assert (found["name"], found["root"], found["timeout"], found["no_progress"]) == ("digits", "models", 7.5, True)
    assert (found["instance"], found["sample"]) == ("default", None)
    assert "tolerance" not in found


@pytest.mark.parametrize(("text", "value"), [("1e-3", 1e-3), ("1e-3,0", (1e-3, 0.0)), ("None", None)])
def test_tolerance(text: str, value: object) -> None:
    assert read(MAIN, f"model --tolerance {text}")["tolerance"] == value


def test_values_of_expressions() -> None:
    assert read("rollback", "--to {best}", best=3)["to"] == 3
    assert read(MAIN, "{m} --tolerance {t}", t=(0.1, 0.2))["tolerance"] == (0.1, 0.2)
    assert (
        message("rollback", "--to {best}", best="x") == "%serve rollback: {best}: 'x' is not a whole number from 1 on"
    )


def test_nothing_is_evaluated_when_another_argument_is_wrong() -> None:
    # An unknown expression would raise KeyError in `read`.
    assert "abc" in message("rollback", "{expensive()} --to abc")
    assert "--nam" in message("rollback", "{expensive()} --nam x")


@pytest.mark.parametrize(
    ("command", "line", "expected"),
    [
        (MAIN, "model digits", "%serve: unexpected argument 'digits'; did you mean --name digits?"),
        (MAIN, "model --nmae x", "%serve: there is no flag --nmae; did you mean '--name'?"),
        (MAIN, "model --timeout soon", "%serve: argument --timeout: 'soon' is not a positive number of seconds"),
        (MAIN, "model --timeout nan", "%serve: argument --timeout: 'nan' is not a positive number of seconds"),
        (MAIN, "model --tolerance 1,2,3", "'1,2,3' is not RTOL, RTOL,ATOL or none"),
        (MAIN, "model --tolerance -1", "'-1' is not RTOL, RTOL,ATOL or none"),
        (MAIN, "--name digits", "the following arguments are required: model"),
        (MAIN, "model --name", "%serve: argument --name: expected one argument"),
        ("status", "--xyzzy", "there is no flag --xyzzy; there are --instance, --help"),
        ("status", "a b", "%serve status: unexpected argument 'b'"),
        ("logs", "-n 0", "'0' is not a whole number from 1 on"),
        ("warmup", "--requests 0", "%serve warmup: argument --requests: '0' is not a whole number from 1 on"),
        ("warmup", "--seconds soon", "%serve warmup: argument --seconds: 'soon' is not a positive number of seconds"),
        ("rollback", "--to 1.5", "'1.5' is not a whole number from 1 on"),
    ],
)
def test_messages(command: str, line: str, expected: str) -> None:
    assert expected in message(command, line)


def test_suggestions() -> None:
    assert did_you_mean("staus", ["status", "stop"]) == "; did you mean 'status'?"
    assert did_you_mean("xyz", ["status"], "; no") == "; no"


def test_the_help_names_every_sub_command_and_each_has_a_page() -> None:
    parsers = magic_parsers("serve")
    page = help_page("serve", parsers)
    assert len(page.splitlines()) < 90
    for command, parser in parsers.items():
        spelled = f"%serve {command}".strip()
        assert spelled in page
        own = parser.format_help() if command else page
        assert f"usage: {spelled}" in own
        for flag in parser.flags():
            assert flag in own
    assert "{status}" in page, "how to serve a variable that is named like a sub-command"


@pytest.mark.parametrize("magic", MAGICS)
def test_a_help_page_begins_with_a_sentence_and_examples(magic: str) -> None:
    first, empty, example, *_ = help_page(magic, magic_parsers(magic)).splitlines()
    assert re.fullmatch(r"[A-Z].*\.", first)
    assert empty == ""
    assert example.startswith(f"    %{magic} ")


def test_parsers_are_built_once() -> None:
    assert magic_parsers("serve") is magic_parsers("serve")
