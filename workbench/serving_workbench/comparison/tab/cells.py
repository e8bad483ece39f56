"""What A said against what B said, as buttons: a click shows the rows of that cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import ipywidgets as w

if TYPE_CHECKING:
    from serving_workbench.comparison.evidence import Head

__all__ = ["cells"]

#: Values of A or B beyond which the grid would not fit; the list of pairs has them all.
_WIDEST: Final = 12
_CELL: Final = {"width": "3.6em", "padding": "0", "margin": "1px"}


def cells(head: Head, on_click: Callable[[tuple[Any, Any]], None]) -> w.GridBox | None:
    """Return the grid of an output: a row per value of A, a column per value of B; None where it would not fit.

    Parameters
    ----------
    head : Head
        With a confusion of two to twelve values.
    on_click : callable
        Takes the pair of values of a cell in which the arms disagree.
    """
    values = {value for one, other, _ in head.confusion for value in (one, other)}
    names = sorted(values, key=lambda each: (str(type(each)), each))
    if not 2 <= len(names) <= _WIDEST:
        return None
    counts = {(one, other): count for one, other, count in head.confusion}
    children: list[w.Widget] = [w.Label("A \\ B", layout=_CELL), *(_name(each) for each in names)]
    for one in names:
        children.append(_name(one))
        children += [_cell(one, other, counts.get((one, other), 0), on_click) for other in names]
    columns = f"max-content repeat({len(names)}, max-content)"
    return w.GridBox(children, layout={"grid_template_columns": columns, "align_items": "center"})


def _cell(one: Any, other: Any, count: int, on_click: Callable[[tuple[Any, Any]], None]) -> w.Widget:
    if one == other or not count:
        return w.Label(f"{count:,}" if count else "", layout={**_CELL, "justify_content": "center"})
    # The tooltip is also what a screen reader says: the number alone says nothing.
    button = w.Button(
        description=f"{count:,}", tooltip=f"Show the rows where A says {one} and B says {other}", layout=_CELL
    )
    button.on_click(lambda _: on_click((one, other)))
    return button


def _name(value: Any) -> w.Label:
    return w.Label(str(value)[:12], layout={"margin": "1px 6px 1px 0"})
