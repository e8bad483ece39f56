"""How a magic line becomes arguments."""

from __future__ import annotations

import pytest

from serving_jupyter.expressions import Braced, Expression, evaluate, split, split_rest
from serving_workbench.errors import CommandLineError


class Shell:
    """As much of IPython's shell as `evaluate` uses."""

    def __init__(self, **namespace: object) -> None:
        self.user_ns = namespace

    def ev(self, source: str) -> object:
        return eval(source, dict(self.user_ns))


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        ("", []),
        ("  model  --name digits ", ["model", "--name", "digits"]),
        ("model --name=digits", ["model", "--name", "digits"]),
        ("model --name=", ["model", "--name", ""]),
        ("'my model' \"a \\\" b\" it\\'s", ["my model", 'a " b', "it's"]),
        ("''", [""]),
        ("a'b'c", ["abc"]),
        ("'{x}'", ["{x}"]),
        ("über/ordner", ["über/ordner"]),
        ("load digits 2   # beside it", ["load", "digits", "2"]),
        ("--note 'item #5' a#b", ["--note", "item #5", "a#b"]),
        ("# nothing", []),
    ],
)
def test_plain_arguments(line: str, arguments: list[str]) -> None:
    found = split(line)
    assert found == arguments
    assert not any(isinstance(each, Braced) for each in found)


@pytest.mark.parametrize(
    ("argument", "sources"),
    [
        ("{model}", ["model"]),
        ("{ models['a b'] }", ["models['a b']"]),
        ("{{'serving_default': f}}", ["{'serving_default': f}"]),
        ('{pick("}")}', ['pick("}")']),
        ('{f"{a}{b}"}', ['f"{a}{b}"']),
        ("{[x for x in (1, 2)][-1]}", ["[x for x in (1, 2)][-1]"]),
    ],
)
def test_an_expression_is_one_argument(argument: str, sources: list[str]) -> None:
    found = split(f"--first {argument} --last")
    assert [found[0], found[2]] == ["--first", "--last"]
    assert isinstance(found[1], Braced)
    assert found[1].parts == tuple(map(Expression, sources))


def test_an_expression_after_an_equals_sign_stays_an_object() -> None:
    flag, value = split("--sample={x[:1]}")
    assert flag == "--sample"
    assert evaluate(value, Shell(x=[1, 2])) == [1]


def test_text_around_expressions_makes_text() -> None:
    (value,) = split("{root}/digits-{n + 1}")
    assert evaluate(value, Shell(root="models", n=1)) == "models/digits-2"
    assert isinstance(value, Braced)
    assert value.variable is None


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("accuracy={x:.3f}", "accuracy=0.967"),
        ("{x!r}", "0.96661"),
        ("{x:{width}.1f}|{names['a:b']}", "     1.0|c"),
    ],
)
def test_a_format_makes_text_as_in_an_f_string(argument: str, text: str) -> None:
    (value,) = split(argument)
    assert evaluate(value, Shell(x=0.96661, width=8, names={"a:b": "c"})) == text


def test_plain_text_means_itself() -> None:
    assert evaluate("model", Shell(model=1)) == "model"


def test_a_variable_in_braces_is_known_by_its_name() -> None:
    (value,) = split("{ status }")
    assert isinstance(value, Braced)
    assert value.variable == "status"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("model 'a b", "The quote ' is not closed: 'a b"),
        ("{model", "The brace is not closed: {model"),
        ("{1 +} x", r"\{1 \+\} is no Python expression"),
        ("{}", r"\{\} is no Python expression"),
        ("{x = 1}", r"\{x = 1\} is no Python expression"),
    ],
)
def test_what_cannot_be_split_says_why(line: str, message: str) -> None:
    with pytest.raises(CommandLineError, match=message):
        split(line)


def test_a_failing_expression_is_named_with_its_error() -> None:
    (value,) = split("{1/0}")
    with pytest.raises(CommandLineError, match=r"^1/0 fails: ZeroDivisionError: division by zero$"):
        evaluate(value, Shell())


def test_a_name_that_is_nearly_one_of_the_notebook_is_suggested() -> None:
    (value,) = split("{pixls[:3]}")
    with pytest.raises(CommandLineError, match=r"^pixls\[:3\] fails: NameError: .*; did you mean 'pixels'\?$"):
        evaluate(value, Shell(pixels=[1]))


FLAGS = {"--version": True, "--verbose": False}


@pytest.mark.parametrize(
    ("line", "words", "sources"),
    [
        ("digits x[:5]", ["digits", "{x[:5]}"], ["x[:5]"]),
        ("digits x[:5, 0] + 1", ["digits", "{x[:5, 0] + 1}"], ["x[:5, 0] + 1"]),
        ("digits {x[:5]}", ["digits", "{x[:5]}"], ["x[:5]"]),
        ('digits {"a": x, "b": 1}', ["digits", '{{"a": x, "b": 1}}'], ['{"a": x, "b": 1}']),
        ("digits {}", ["digits", "{{}}"], ["{}"]),
        ("digits x --version 2", ["digits", "{x}", "--version", "2"], ["x"]),
        ("--version=2 digits x --verbose", ["--version", "2", "digits", "{x}", "--verbose"], ["x"]),
        ("digits --version 2 x - 1", ["digits", "--version", "2", "{x - 1}"], ["x - 1"]),
        ("digits -x", ["digits", "{-x}"], ["-x"]),
        ('digits f("--version 2") --verbose', ["digits", '{f("--version 2")}', "--verbose"], ['f("--version 2")']),
        (
            "digits [a for a in b if a != '}']",
            ["digits", "{[a for a in b if a != '}']}"],
            ["[a for a in b if a != '}']"],
        ),
        ("digits --unknown x", ["digits", "--unknown", "{x}"], ["x"]),
        ("{name} x", ["{name}", "{x}"], ["name", "x"]),
        ("digits", ["digits"], []),
    ],
)
def test_the_rest_of_a_line_is_one_expression(line: str, words: list[str], sources: list[str]) -> None:
    found = split_rest(line, FLAGS, 1)
    assert found == words
    expressions = [part.source for word in found if isinstance(word, Braced) for part in word.parts if part != ""]
    assert expressions == sources


def test_a_rest_that_is_no_expression() -> None:
    with pytest.raises(CommandLineError, match=r"^x\[:5 is no Python expression: "):
        split_rest("digits x[:5 --version 2", FLAGS, 1)
