"""A dashboard's widget and its poller as one: updates run while somebody looks, and end with the view."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, Generic, TypeVar

from ipywidgets import Box, DOMWidget, Widget

from serving_workbench.live.poller import DEFAULT_INTERVAL, Poller
from serving_workbench.ownership import in_kernel

__all__ = ["LiveView", "close_widgets"]

T = TypeVar("T")

_VIEW: Final = "application/vnd.jupyter.widget-view+json"


class LiveView(Generic[T]):
    """Keeps a widget up to date from when it is displayed until its last view is closed, or itself.

    Parameters
    ----------
    root : ipywidgets.DOMWidget
        What is displayed; everything in it is closed by `close`.
    read, show, on_error, interval
        As of `Poller`: `read` asks, `show` assigns traits of the widgets.
    on_close : callable, optional
        Called once, when the widget is closed in whatever way.

    Attributes
    ----------
    root : ipywidgets.Box
        A box around the widget that was given; this is what is displayed.
    poller : Poller

    Notes
    -----
    The browser counts the views of the widget (``_view_count``): when the last one is closed the thread ends, and when
    one comes back (the widget is displayed again) it starts again. A page that is loaded anew counts its views anew; if
    it does not show the widget, the updates go on unseen. A front end that does not count never stops them. Only traits
    are assigned, never an ``Output`` widget: what a thread prints into one is lost or misplaced.
    """

    def __init__(
        self,
        root: DOMWidget,
        read: Callable[[], T],
        show: Callable[[T], None],
        *,
        on_error: Callable[[Exception], None],
        interval: float = DEFAULT_INTERVAL,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self.root = _CountedBox([root])
        self.poller = Poller(read, show, on_error=on_error, interval=interval)
        self._on_close = on_close
        self._lock = threading.Lock()
        self._closed = False
        self.root._view_count = 0  # a number: views are counted
        self.root.observe(self._viewed, "_view_count")
        self.root.observe(self._comm_changed, "comm")

    @property
    def is_closed(self) -> bool:
        return self._closed

    def display(self, fallback: dict[str, str]) -> dict[str, Any]:
        """Return the MIME bundle of a cell's output, and begin to update it when this is a kernel.

        Parameters
        ----------
        fallback : dict of str to str
            ``text/plain`` and ``text/html`` for where widgets cannot be rendered: saved notebooks, exports, terminals.
        """
        bundle: dict[str, Any] = dict(fallback)
        if not self._closed:
            bundle[_VIEW] = {"version_major": 2, "version_minor": 0, "model_id": self.root.model_id}
            if in_kernel():
                self.start()
        return bundle

    def start(self) -> None:
        """Begin to update. Idempotent; nothing after `close`."""
        with self._lock:
            if not self._closed:
                self.poller.start()

    def close(self) -> None:
        """End the updates and remove the widget wherever it is displayed. Idempotent."""
        if self._end(wait=True):
            close_widgets(self.root)

    def _end(self, *, wait: bool) -> bool:
        with self._lock:
            first, self._closed = not self._closed, True
        self.poller.stop(wait=wait)
        if first and self._on_close is not None:
            self._on_close()
        return first

    # Callbacks: in whatever thread the kernel chooses, so they wait for nothing.

    def _viewed(self, change: dict[str, Any]) -> None:
        if change["new"] > 0:
            self.start()
        elif not self.root.counts_anew:
            self.poller.stop(wait=False)

    def _comm_changed(self, change: dict[str, Any]) -> None:
        if change["new"] is None:  # closed by other means, such as `Widget.close_all()`
            self._end(wait=False)


class _CountedBox(Box):  # type: ignore[misc]  # ipywidgets has no types
    """A box whose views are counted anew by a page that is loaded.

    Such a page asks for the whole state of all widgets and adds its views to the number that it is told. Those of the
    page before never said that they were closed.
    """

    _view_count: Any
    counts_anew = False

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:
        if key is None and self._view_count:
            self.counts_anew = True
            try:
                self._view_count = 0
            finally:
                self.counts_anew = False
        state: dict[str, Any] = super().get_state(key, drop_defaults)
        return state


def close_widgets(root: Widget) -> None:
    """Close a widget and all in it: `Widget.close` leaves its children, layouts and styles open."""
    for widget in list(_within(root, set())):
        widget.close()


def _within(widget: Widget, seen: set[int]) -> Iterator[Widget]:
    if id(widget) in seen:
        return
    seen.add(id(widget))
    for name in widget.keys:
        value = getattr(widget, name)
        for part in value if isinstance(value, list | tuple) else [value]:
            if isinstance(part, Widget):
                yield from _within(part, seen)
    yield widget
