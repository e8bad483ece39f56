"""A live chart: an anywidget, drawn by a script; where that package is missing, a picture now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import ipywidgets
import traitlets

__all__ = ["LiveChart"]

#: Seconds between two pictures: one costs as much as a hundred updates of the widget.
_PICTURE_SECONDS: Final = 4.0


def _anywidget(script: Path, first: dict[str, Any]) -> Any:
    import anywidget

    class Chart(anywidget.AnyWidget):  # type: ignore[misc]  # published without types
        """Draws the trait `data`."""

        _esm = script
        data = traitlets.Dict().tag(sync=True)

    return Chart(data=first)


class LiveChart:
    """What a dashboard draws with.

    Parameters
    ----------
    script : Path
        Of the JavaScript module that draws the trait ``data``.
    picture : callable
        Makes a PNG of the same data.
    first : dict, optional
        What is drawn before there is anything.

    Attributes
    ----------
    widget : ipywidgets.DOMWidget
    data : dict
        What is shown.
    """

    def __init__(
        self, script: Path, picture: Callable[[Mapping[str, Any]], bytes], first: dict[str, Any] | None = None
    ) -> None:
        self.data: dict[str, Any] = first or {}
        self._picture = picture
        self._drawn = -_PICTURE_SECONDS
        try:
            self.widget = _anywidget(script, self.data)
            self._draws = False
        except ImportError:
            self.widget = ipywidgets.Image(format="png")
            self._draws = True

    def show(self, data: dict[str, Any]) -> None:
        """Show other data."""
        if data == self.data:
            return
        self.data = data
        if not self._draws:
            self.widget.data = data
        elif time.monotonic() - self._drawn >= _PICTURE_SECONDS:
            self._drawn = time.monotonic()
            self.widget.value = self._picture(data)
