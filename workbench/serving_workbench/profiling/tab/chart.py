"""What draws the profile tab's panels: `chart.js`, which tells what was clicked; SVG where anywidget is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import ipywidgets
import traitlets

from serving_workbench.profiling.panels import PALETTE, Panel, legend, legend_html

__all__ = ["Chart", "panels_html"]

_SCRIPT: Final = Path(__file__).parent / "chart.js"


def panels_html(stages: list[str], panels: Sequence[Panel]) -> str:
    """Return the panels without a script."""
    grid = "display:flex;flex-wrap:wrap;gap:0 28px"
    pictures = "".join(panel.html() for panel in panels)
    return f"<div style='line-height:1.35'>{legend_html(stages)}<div style='{grid}'>{pictures}</div></div>"


def _anywidget() -> Any:
    import anywidget

    class Pictures(anywidget.AnyWidget):  # type: ignore[misc]  # published without types
        """Draws `data`; `chosen` is the id of the request that was clicked, empty for none."""

        _esm = _SCRIPT
        data = traitlets.Dict().tag(sync=True)
        chosen = traitlets.Unicode().tag(sync=True)

    return Pictures(data={"palette": PALETTE, "panels": [], "legend": [], "shown": ""})


class Chart:
    """Shows panels.

    Parameters
    ----------
    on_choose : callable
        Takes the id of the request whose dot was clicked.

    Attributes
    ----------
    widget : ipywidgets.DOMWidget
    """

    def __init__(self, on_choose: Callable[[str], None]) -> None:
        self._on_choose = on_choose
        self._told = False  # what `choose` assigns is not told back
        try:
            self.widget = _anywidget()
            self.widget.observe(self._clicked, "chosen")
        except ImportError:
            self.widget = ipywidgets.HTML()

    @property
    def is_clickable(self) -> bool:
        return not isinstance(self.widget, ipywidgets.HTML)

    def show(self, stages: list[str], panels: Sequence[Panel], shown: str) -> None:
        """Show these panels, with one request marked."""
        if self.is_clickable:
            drawn = [panel.data() for panel in panels]
            self.widget.data = {
                "palette": PALETTE,
                "legend": legend(stages) if panels else [],
                "panels": drawn,
                "shown": shown,
            }
        else:
            self.widget.value = panels_html(stages, panels) if panels else ""

    def choose(self, which: str | None) -> None:
        """Let the front end know what is chosen; nobody is told."""
        if self.is_clickable:
            self._told = True
            try:
                self.widget.chosen = which or ""
            finally:
                self._told = False

    def _clicked(self, change: dict[str, Any]) -> None:
        if change["new"] and not self._told:
            self._on_choose(change["new"])
