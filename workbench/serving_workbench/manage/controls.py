"""The panel's controls: drop-down lists that keep what was chosen, fields and buttons with labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import ipywidgets as w

__all__ = ["FIELD", "button", "offer", "row", "text"]

#: Labels take the room that they need.
FIELD: Final = {"description_width": "initial"}


def offer(dropdown: w.Dropdown, options: Sequence[tuple[str, Any]]) -> None:
    """Change what a dropdown offers; what was chosen stays chosen while it is there."""
    options = tuple(options)
    if dropdown.options == options:
        return
    chosen = dropdown.value
    values = [value for _, value in options]
    with dropdown.hold_sync():
        dropdown.options = options
        dropdown.value = chosen if chosen in values else next(iter(values), None)


def text(description: str, placeholder: str, width: str) -> w.Text:
    # Told when the field is left, so before the button that is clicked next; letter by letter the last comes too late.
    return w.Text(
        description=description, placeholder=placeholder, continuous_update=False, style=FIELD, layout={"width": width}
    )


def row(*children: w.Widget) -> w.HBox:
    return w.HBox(children, layout={"flex_flow": "row wrap"})


def button(description: str, tooltip: str, call: Callable[[], None]) -> w.Button:
    made = w.Button(description=description, tooltip=tooltip, layout={"width": "auto"})
    made.on_click(lambda _button: call())
    return made
