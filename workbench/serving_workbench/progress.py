"""Progress of a deploy, step by step, as a tqdm bar: a widget in notebooks, text in terminals, silent in pipes."""

from __future__ import annotations

import importlib
import time
import warnings
from types import TracebackType
from typing import Any

from serving_workbench.ownership import in_kernel

__all__ = ["STEPS", "Progress", "make_bar"]

#: Names of the steps in the order in which they happen; errors name one of these.
STEPS = ("launch", "export", "publish", "detect", "load", "warm up", "prove", "available")


class Progress:
    """A context manager whose `step` moves the bar on; it also measures.

    Parameters
    ----------
    title : str
        Shown before the bar.
    enabled : bool
        False shows nothing; the times are taken all the same.

    Attributes
    ----------
    seconds : dict of str to float
        How long each step took, for those that happened.
    """

    def __init__(self, title: str, *, enabled: bool = True) -> None:
        self.seconds: dict[str, float] = {}
        self.current: str | None = None
        self._title = title
        self._began = 0.0
        self._bar = make_bar(title, len(STEPS), "{desc}: {bar:12} {postfix} {elapsed}") if enabled else None

    def step(self, name: str) -> None:
        """Begin a step of `STEPS`; the one before is done. Repeating the current one changes nothing."""
        if name == self.current:
            return
        self.finish()
        self.current = name
        self._began = time.monotonic()
        if self._bar is not None:
            self._bar.n = STEPS.index(name)
            self._bar.set_postfix_str(name)

    def finish(self) -> None:
        """End the current step; leaving the context does it too."""
        if self.current is not None:
            self.seconds[self.current] = time.monotonic() - self._began
        self.current = None

    def __enter__(self) -> Progress:  # noqa: PYI034 - not meant to be derived from
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failed = self.current
        self.finish()
        if self._bar is not None:
            if kind is None:
                self._bar.n = len(STEPS)
                self._bar.set_postfix_str("done")
            else:
                self._bar.set_postfix_str(f"failed: {failed}")
            self._bar.close()


def make_bar(title: str, total: float, bar_format: str) -> Any:
    """Return a tqdm bar as notebooks and terminals show it; where there is neither, it shows nothing."""
    with warnings.catch_warnings():
        # Where ipywidgets is missing tqdm warns at import and falls back to text, which is what we want.
        warnings.simplefilter("ignore")
        kind = importlib.import_module("tqdm.auto" if in_kernel() else "tqdm").tqdm
    # tqdm's monitor thread would outlive the deploy; it only serves bars that are not refreshed by hand.
    quiet = type("_Bar", (kind,), {"monitor_interval": 0})
    return quiet(
        total=total,
        desc=title,
        bar_format=bar_format,
        # None means: only on a terminal. A notebook is none, but can show the bar.
        disable=False if in_kernel() else None,
    )
