"""Answers that come soon or later: questions asked in a thread, waited for a moment, remembered for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["Soon"]

Answer = TypeVar("Answer")


class Soon(Generic[Answer]):
    """For callers that cannot wait, such as the Tab key: what is not answered in time is there for the next call.

    Parameters
    ----------
    otherwise : Answer
        What is returned while there is no answer.
    wait : float
        Seconds that one call waits.
    fresh : float
        Seconds for which an answer is good; then the question is asked again, and the old answer serves meanwhile.
    """

    def __init__(self, otherwise: Answer, wait: float = 0.03, fresh: float = 2.0) -> None:
        self._otherwise = otherwise
        self._wait = wait
        self._fresh = fresh
        self._lock = threading.Lock()
        self._answers: dict[Hashable, tuple[float, Answer]] = {}
        self._asking: dict[Hashable, threading.Thread] = {}

    def get(self, key: Hashable, question: Callable[[], Answer]) -> Answer:
        """Return the answer of `question`, known under `key`. The question must end by itself, and not raise."""
        with self._lock:
            when, answer = self._answers.get(key, (float("-inf"), self._otherwise))
            if time.monotonic() - when < self._fresh:
                return answer
            thread = self._asking.get(key)
            if thread is None:
                # A daemon: a question that is still open must not hold up the end of the kernel.
                thread = threading.Thread(target=self._ask, args=(key, question), name="serve-completion", daemon=True)
                self._asking[key] = thread
                thread.start()
        thread.join(self._wait)
        with self._lock:
            return self._answers.get(key, (0.0, self._otherwise))[1]

    def _ask(self, key: Hashable, question: Callable[[], Answer]) -> None:
        answer = self._otherwise
        try:
            answer = question()
        finally:
            with self._lock:
                self._answers[key] = (time.monotonic(), answer)
                del self._asking[key]
