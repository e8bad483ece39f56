"""The bar of a load test: time, rate, p99, errors."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from serving_workbench.load.objective import seconds_text
from serving_workbench.load.running import LiveView
from serving_workbench.load.summary import Setup
from serving_workbench.progress import make_bar

__all__ = ["LoadBar"]


class LoadBar:
    """A context manager; `show` moves it.

    Parameters
    ----------
    setup : Setup
    enabled : bool
        False shows nothing.
    """

    def __init__(self, setup: Setup, *, enabled: bool = True) -> None:
        self._seconds = setup.seconds
        self._bar: Any = None
        if enabled:
            self._bar = make_bar(setup.model, round(setup.seconds, 1), "{desc}: {bar:16} {n:.1f}/{total:g} s{postfix}")

    def show(self, live: LiveView) -> None:
        """Move on."""
        if self._bar is None:
            return
        if not live.seconds:
            self._bar.set_postfix_str("warm-up")
            return
        text = f"{live.rate:,.0f}/s, p99 {seconds_text(live.p99)}, {live.in_flight} in flight"
        if live.errors:
            text += f", {live.errors} errors"
        self._bar.n = min(live.seconds, self._seconds)
        self._bar.set_postfix_str(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            if kind is None:
                self._bar.n = self._seconds
            self._bar.set_postfix_str("done" if kind is None else "ended early")
            self._bar.close()
