"""The rows in which two arms differ, one at a time: inputs, both answers, label."""

from __future__ import annotations

import base64
import html
import io
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import ipywidgets as w
import numpy as np

from serving_workbench.comparison.looking import Place, classes, places, record
from serving_workbench.comparison.tab.cells import cells

if TYPE_CHECKING:
    from serving_workbench.comparison.result import CompareResult

__all__ = ["RowBrowser", "image_of", "row_html"]

_ANY: Final = "any output"
_ALL_PAIRS: Final = "all that differ"
#: Smaller arrays are read better as numbers; larger ones are made smaller by taking every so manieth pixel.
_SMALLEST, _LARGEST = 4, 512
#: Characters of a value.
_LONG: Final = 400
_LEFT: Final = "style='text-align:left;padding:2px 14px 2px 0;vertical-align:top'"


class RowBrowser:
    """A list of the rows that differ, with one of them shown.

    Parameters
    ----------
    result : CompareResult

    Attributes
    ----------
    box : ipywidgets.VBox
    output : ipywidgets.Dropdown
        Rows that differ in this output; or in any.
    pair : ipywidgets.Dropdown
        Of those, the rows in which A and B said these two values; most frequent first. Disabled where values are not
        counted.
    grid : ipywidgets.VBox
        The same as buttons, where few values are.
    row : ipywidgets.IntSlider
        Which of them, from 1.
    shown : ipywidgets.HTML
    """

    def __init__(self, result: CompareResult) -> None:
        self._result = result
        self._places: list[Place] = []
        names = [(_ANY, None), *((head.name, head.name) for head in result.heads)]
        style = {"description_width": "initial"}
        self.output = w.Dropdown(options=names, description="Rows that differ in", style=style)
        self.pair = w.Dropdown(options=[(_ALL_PAIRS, None)], description="A and B say", style=style, disabled=True)
        self.grid = w.VBox()
        self.row = w.IntSlider(min=0, max=0, description="Row", style=style, layout={"width": "28em"})
        self.shown = w.HTML()
        self.output.observe(lambda _: self._offer(), "value")
        self.pair.observe(lambda _: self._choose(), "value")
        self.row.observe(lambda _: self._show(), "value")
        choice = w.HBox([self.output, self.pair, self.row], layout={"flex_flow": "row wrap"})
        self.box = w.VBox([choice, self.grid, self.shown])
        self._offer()

    def show(self, output: str, pair: tuple[Any, Any]) -> None:
        """Show the rows in which A and B said these values of an output.

        Raises
        ------
        traitlets.TraitError
            There is no such output, or no such row.
        """
        self.output.value = output
        self.pair.value = pair

    def _offer(self) -> None:
        """Offer the pairs of values of the output that is chosen."""
        head = next((each for each in self._result.heads if each.name == self.output.value), None)
        known = None if head is None else classes(self._result, head.name)
        if head is None or known is None:
            options: list[tuple[str, Any]] = [(_ALL_PAIRS, None)]
            self.grid.children = ()
        else:
            found = Counter(zip(*known, strict=True))
            pairs = [
                (one, other, seen)
                for (one, other), seen in sorted(found.items(), key=lambda item: (-item[1], str(item[0])))
                if one != other
            ]
            options = [(_ALL_PAIRS, None)]
            options += [(f"{one!s:.24} and {other!s:.24} ({seen:,})", (one, other)) for one, other, seen in pairs]
            grid = cells(head, lambda pair: self.show(head.name, pair))
            self.grid.children = () if grid is None or not pairs else (grid,)
        self.pair.options = options
        self.pair.disabled = len(options) < 2
        self._choose()

    def _choose(self) -> None:
        self._places = places(self._result, self.output.value)
        if self.pair.value is not None:
            known = classes(self._result, self.output.value)
            assert known is not None
            wanted = self.pair.value
            self._places = [each for each in self._places if (known[0][each[1]], known[1][each[1]]) == wanted]
        count = len(self._places)
        with self.row.hold_trait_notifications():
            self.row.max = max(1, count)
            self.row.min = 1
            self.row.value = 1
        self.row.disabled = count < 2
        self._show()

    def _show(self) -> None:
        if not self._places:
            self.shown.value = "<p>The arms agree in all rows.</p>"
        elif self._result.rows is None:
            self.shown.value = f"<p>{len(self._places):,} rows differ; the rows themselves were not kept.</p>"
        else:
            place = self._places[min(self.row.value, len(self._places)) - 1]
            of = f"<p>{self.row.value:,} of {len(self._places):,}</p>"
            self.shown.value = of + row_html(self._result, place, self.output.value)


def row_html(result: CompareResult, place: Place, output: str | None = None) -> str:
    """Return one row as HTML: an input that looks like an image as one."""
    name, cells = record(result, place, output)
    assert result.rows is not None
    inputs = []
    for key, value in cells.items():
        if key.startswith("input."):
            picture = image_of(value)
            shown = _image(picture, f"{key[6:]} of row {name}") if picture is not None else _code(value)
            inputs.append(f"<tr><th scope='row' {_LEFT}>{html.escape(key)}</th><td colspan='2'>{shown}</td></tr>")
    answers = [key[2:] for key in cells if key.startswith("A.")]
    lines = [
        f"<tr><th scope='row' {_LEFT}>{html.escape(each)}</th>"
        f"<td {_LEFT}>{_code(cells[f'A.{each}'])}</td><td {_LEFT}>{_code(cells[f'B.{each}'])}</td></tr>"
        for each in answers
    ]
    if answers:
        head = f"<tr><th></th><th scope='col' {_LEFT}>{html.escape(result.a)} (A)</th>"
        lines.insert(0, f"{head}<th scope='col' {_LEFT}>{html.escape(result.b)} (B)</th></tr>")
    lines += [
        f"<tr><th scope='row' {_LEFT}>{key}</th><td colspan='2' {_LEFT}>{_code(cells[key])}</td></tr>"
        for key in ("error", "label")
        if key in cells
    ]
    title = f"<caption style='text-align:left'>row {html.escape(str(name))}</caption>"
    return f"<table>{title}{''.join(inputs)}{''.join(lines)}</table>"


def image_of(value: Any) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
    """Return an array of shape [h, w] or [h, w, 1 or 3] as pixels, uint8; None for what does not look like an image.

    Floats and wide integers are stretched from their smallest to their largest value; uint8 is taken as it is.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "fiub" or array.ndim not in (2, 3) or min(array.shape[:2]) < _SMALLEST:
        return None
    if array.ndim == 3 and array.shape[2] not in (1, 3):
        return None
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    step = -(-max(array.shape[:2]) // _LARGEST)
    array = array[::step, ::step]
    if array.dtype == np.uint8:
        return array
    numbers = np.nan_to_num(array.astype(np.float64), posinf=0.0, neginf=0.0)
    least, most = float(numbers.min()), float(numbers.max())
    if most == least:
        return np.zeros(array.shape, np.uint8)
    return np.asarray(255 * ((numbers - least) / (most - least)), np.uint8)


def _image(pixels: np.ndarray[Any, np.dtype[np.uint8]], alt: str) -> str:
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, pixels, format="png", cmap="gray", vmin=0, vmax=255)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    width = max(128, min(256, pixels.shape[1]))
    style = f"width:{width}px;image-rendering:pixelated"
    return f"<img src='data:image/png;base64,{data}' alt='{html.escape(alt, quote=True)}' style='{style}'>"


def _code(value: Any) -> str:
    text = str(value)
    return f"<code>{html.escape(text if len(text) <= _LONG else text[:_LONG] + ' ...')}</code>"
