"""Answers that are waited for a moment only."""

from __future__ import annotations

import threading

from serving_jupyter.soon import Soon
from tests.servers import wait_until


def test_a_quick_answer_comes_at_once_and_is_remembered() -> None:
    soon: Soon[int] = Soon(0, wait=10.0, fresh=60.0)
    asked: list[int] = []

    def question() -> int:
        asked.append(1)
        return 7

    assert [soon.get("a", question), soon.get("a", question)] == [7, 7]
    assert len(asked) == 1
    assert soon.get("b", lambda: 8) == 8


def test_a_slow_answer_is_there_for_a_later_call() -> None:
    soon: Soon[int] = Soon(0, wait=0.0, fresh=60.0)
    go = threading.Event()
    asked: list[int] = []

    def question() -> int:
        asked.append(1)
        assert go.wait(60)
        return 7

    assert [soon.get("a", question) for _ in range(3)] == [0, 0, 0]
    go.set()
    wait_until(lambda: soon.get("a", question) == 7, what="the answer")
    assert len(asked) == 1, "one question at a time"


def test_an_old_answer_is_asked_again() -> None:
    soon: Soon[int] = Soon(0, wait=10.0, fresh=0.0)
    answers = iter([1, 2])
    assert [soon.get("a", lambda: next(answers)) for _ in range(2)] == [1, 2]
