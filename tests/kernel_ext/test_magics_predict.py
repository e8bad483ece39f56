"""`%predict` and `%%predict`, against a real server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import serving_workbench as sw
from tests.kernel_ext.conftest import Session

SetVariables = Callable[..., None]


@pytest.fixture(autouse=True)
def variables(set_variables: SetVariables, half: str) -> None:
    set_variables(instance=half, x=np.arange(12, dtype=np.float32).reshape(6, 2), np=np)


def test_the_rest_of_the_line_is_the_input(session: Session) -> None:
    run = session.run
    assert run("%predict half x[:3, 0] --instance {instance}").tolist() == [2.0, 3.0, 4.0]
    assert run("%predict --instance {instance} half x[:, 0] + 1").shape == (6,)
    assert run("%predict half {x[:1, 0]} --instance={instance} --version 1 --timeout 5").tolist() == [2.0]
    assert run('%predict half {"x": x[:2, 1]} --instance {instance}').tolist() == [2.5, 3.5]
    assert run("%predict half [2] --signature serving_default --instance {instance}").tolist() == [3.0]
    run("answer = %predict half x[0] --instance {instance}")
    assert session.shell.user_ns["answer"].tolist() == [2.0, 2.5]


def test_a_cell_with_json_is_asked_by_rest(session: Session) -> None:
    run = session.run
    assert run('%%predict half --instance {instance}\n{"instances": [1.0, 2.0]}') == {"predictions": [2.5, 3.0]}
    assert run('%%predict half --instance {instance} --version 1\n{"inputs": {"x": [1.0]}}') == {"outputs": [2.5]}
    # JSON that is no request, and Python.
    assert run("%%predict half --instance {instance}\n[1.0, 2.0]").tolist() == [2.5, 3.0]
    assert run("%%predict half --instance {instance}\nrows = x[:2, 0]\nrows + 1\n").tolist() == [2.5, 3.5]
    assert "rows" in session.shell.user_ns


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("%predict half", "%predict: give an input: %predict digits x[:5], or the body of a cell."),
        ("%predict half y[:3]", "y[:3] fails: NameError: name 'y' is not defined"),
        ("%predict half x[:", "x[: is no Python expression: "),
        ("%predict half x --versoin 2", "there is no flag --versoin; did you mean '--version'?"),
        ("%predict half x --version one", "'one' is not a whole number from 1 on"),
        ("%predict half x --version 1 --label a", "%predict: give --version or --label, not both."),
        ("%predict half ['a']", "Input 'x' takes float; given text, such as 'a'"),
        ("%predict half x[0] --version 9", "NOT_FOUND"),
        ("%predict half x[0] --label stable", "See which labels there are: sw.label('half') or %serve label half."),
        ("%predict half x[0] --signature nope", "Model 'half' has no signature 'nope'"),
        ("%predict nothere x[0]", "does not serve a model 'nothere'; its models are 'half'"),
        ("%predict half x --instance nowhere", "No server of instance 'nowhere' is running."),
        ("%%predict half x[0]\n[1]", "%%predict: give the input on the line or in the cell's body, not both."),
        ("%%predict half\n{[", "%%predict: the body is neither JSON ("),
        ("%%predict half\ny = 1", "%%predict: the last line of the body must be an expression: the input."),
        ("%%predict half\n1 / 0", "%%predict: the body fails: ZeroDivisionError: division by zero"),
        ('%%predict half\n{"instances": ["a"]}', "INVALID_ARGUMENT: "),
        ('%%predict half --label stable\n{"instances": [1]}', "stable"),
    ],
)
def test_an_error_is_one_line(session: Session, cell: str, message: str) -> None:
    if "--instance" not in cell:
        first, newline, rest = cell.partition("\n")
        name = "half" if " half" in first else "nothere"
        cell = first.replace(name, f"--instance {{instance}} {name}", 1) + newline + rest
    assert message in session.error(cell)


def test_a_server_that_is_gone(session: Session, models_dir: Path, tmp_path: Path) -> None:
    session.shell.push({"folder": models_dir / "half_plus_two/1", "root": tmp_path})
    session.run("served = %serve folder --name half --root {root} --instance t4 --no-progress")
    sw.stop("t4")
    assert "No server of instance 't4' is running. Start one with" in session.error("%predict half x[0] --instance t4")
    session.shell.user_ns["served"].server.close()


def test_help(session: Session) -> None:
    page = session.says("%predict --help")
    assert "%predict digits X_test[:5]" in page
    assert "%%predict digits" in session.shell.object_inspect_text("%predict")
    assert page == session.says("%predict")
