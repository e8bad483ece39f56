"""The profile tab's lines: numbers of a reading, its slowest requests, and what the tab itself costs."""

from __future__ import annotations

import html
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from serving_workbench.profiling.panels import time_in_words
from serving_workbench.profiling.tab.drawings import answered, failures
from serving_workbench.profiling.waits import advice

if TYPE_CHECKING:
    from serving_workbench.profiling.requests import RequestProfile

__all__ = ["Cost", "numbers_html", "slowest_options"]

#: Of the slowest requests, how many are in the list; and readings whose cost is told.
_SLOWEST: Final = 10
_READINGS: Final = 30
_TEXT: Final = "line-height:1.35;color:var(--jp-ui-font-color1,inherit)"


class Cost:
    """What readings cost this process: CPU of the thread that makes them.

    Parameters
    ----------
    interval : float
        Seconds from one to the next.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._began = 0.0
        self._spent: deque[float] = deque(maxlen=_READINGS)

    def begin(self) -> None:
        """A reading begins, in this thread."""
        self._began = time.thread_time()

    def end(self) -> str:
        """It has ended, in the same thread; return the line that tells what the last ones cost."""
        self._spent.append(time.thread_time() - self._began)
        mean = sum(self._spent) / len(self._spent)
        return (
            f"<div style='{_TEXT};margin-top:6px'>Overhead of this tab: {1e3 * mean:.0f} ms of the kernel's CPU a "
            f"reading, one every {self._interval:g} s while it is shown: {100 * mean / self._interval:.1f} % of a core."
            "</div>"
        )


def slowest_options(reading: RequestProfile) -> list[tuple[str, str]]:
    """Return the slowest requests for a list: words and id."""
    found = reading.slowest(_SLOWEST)
    return [
        (f"{which}{f' ({name})' if name else ''}: {time_in_words(total)}", which)
        for which, name, total in zip(found["id"], found["request_id"], found["total_us"], strict=True)
    ]


def numbers_html(reading: RequestProfile) -> str:
    """Return how many requests took how long, and what usually helps."""
    sentences = "".join(f"<li>{html.escape(each)}</li>" for each in advice(reading))
    parts, total = [], answered(reading)["total_us"]
    if len(total):
        p50, p95, p99 = (f"{total.quantile(share):,.0f}" for share in (0.5, 0.95, 0.99))
        parts.append(
            f"Last {len(total)} requests in the server: p50 {p50}, p95 {p95}, p99 {p99} µs, "
            f"in {len(reading.batches)} batches"
        )
    if failed := len(failures(reading)):
        parts.append(f"{failed} failed")
    return f"<div style='{_TEXT}'><b>{'; '.join(parts)}</b><ul style='margin:4px 0'>{sentences}</ul></div>"
