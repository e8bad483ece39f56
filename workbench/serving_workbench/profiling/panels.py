"""Pictures of a profile as shapes: data that a script draws, or SVG where there is no script.

All coordinates are pixels. Texts take the color around them, kinds of time have those of Okabe and Ito, and each bar
says its name and time when it is pointed at.
"""

from __future__ import annotations

import dataclasses
from html import escape
from typing import Any, Final

from serving_workbench.profiling.waits import kind_of

__all__ = ["LEFT", "PALETTE", "ROW", "WIDTH", "Panel", "color_of", "legend", "legend_html", "time_in_words"]

_COLORS: Final = {
    "codec": "#56B4E9",
    "wait for a fuller batch": "#E69F00",
    "wait for a free thread": "#D55E00",
    "batch assembly and split": "#CC79A7",
    "between processes": "#999999",
    "wait for batch mates' answers": "#F0E442",
    "run": "#0072B2",
}
_KINDS: Final = list(_COLORS)
#: By number, as shapes name them; the last is for all that nothing is known about.
PALETTE: Final = [*_COLORS.values(), "#009E73"]
#: Those on which white is read better than black.
_DARK: Final = {"#0072B2"}

WIDTH: Final = 520
LEFT: Final = 88
_RIGHT: Final = 72
ROW: Final = 20
#: Pixels of a bar from which on its name fits into it, by letter; and from which on it is seen at all.
_LETTER: Final = 6.6
_SEEN: Final = 0.2


@dataclasses.dataclass
class Panel:
    """One picture: a title, shapes, and a line that says what they show.

    Parameters
    ----------
    name : str
        The key of its frame in `ProfileTab.data`.
    title : str
    height : int
    label : str
        What a screen reader says, before the reading.
    reading : str
        The line below the picture.
    width : int
    dots : list
        ``[x, y, color, id, words]``, one per request that can be chosen; the color of one that failed is -1, and it is
        drawn as a cross.
    bands, bars, lines, texts : list
        ``[x, y, width, height]``; ``[x, y, width, height, color, words]``; ``[color, dashes, [x, y, x, y, ...]]``;
        ``[x, y, text, anchor, color]``.
    """

    name: str
    title: str
    height: int
    label: str = ""
    reading: str = ""
    width: int = WIDTH
    bands: list[list[float]] = dataclasses.field(default_factory=list)
    bars: list[list[Any]] = dataclasses.field(default_factory=list)
    lines: list[list[Any]] = dataclasses.field(default_factory=list)
    dots: list[list[Any]] = dataclasses.field(default_factory=list)
    texts: list[list[Any]] = dataclasses.field(default_factory=list)

    def x(self, part: float) -> float:
        """Return where a part of the picture's width begins, from 0 to 1."""
        return LEFT + (self.width - LEFT - _RIGHT) * float(part)

    def bar(
        self, start: float, length: float, y: float, stage: str, words: str, name: str = "", high: int = ROW - 5
    ) -> None:
        """Draw a bar over a part of the width, with its name in it where that fits; not one too small to be seen."""
        left, right = self.x(start), self.x(start + length)
        if right - left < _SEEN:
            return
        color = color_of(stage)
        self.bars.append([round(left, 1), round(float(y), 1), round(max(0.5, right - left), 1), high, color, words])
        if name and right - left > _LETTER * len(name) + 6:
            inside = "#fff" if PALETTE[color] in _DARK else "#000"
            self.texts.append([round((left + right) / 2, 1), round(y + high - 4, 1), name, "middle", inside])

    def band(self, start: float, length: float, y: float, height: float) -> None:
        """Draw what lies behind bars."""
        left, right = self.x(start), self.x(start + length)
        self.bands.append([round(left, 1), round(float(y), 1), round(max(0.5, right - left), 1), round(height, 1)])

    def dot(self, part: float, y: float, color: int, which: str, words: str) -> None:
        """Draw a request."""
        self.dots.append([round(self.x(part)), round(float(y)), color, which, words])

    def line(self, color: int, dashes: str, points: list[tuple[float, float]]) -> None:
        """Draw a line through points: parts of the width, and pixels from above."""
        self.lines.append([color, dashes, [round(each, 1) for part, y in points for each in (self.x(part), float(y))]])

    def text(self, x: float, y: float, text: str, anchor: str = "start") -> None:
        """Write something in the color of the notebook's text."""
        self.texts.append([round(float(x), 1), round(float(y), 1), text, anchor, ""])

    def data(self) -> dict[str, Any]:
        """Return it for the script."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def svg(self) -> str:
        """Return the shapes as SVG."""
        parts = [
            f"<rect x='{x}' y='{y}' width='{width}' height='{height}' fill='currentColor' fill-opacity='0.12'/>"
            for x, y, width, height in self.bands
        ]
        parts += [
            f"<rect x='{x}' y='{y}' width='{width}' height='{height}' fill='{PALETTE[color]}' stroke='currentColor' "
            f"stroke-opacity='0.3' stroke-width='0.5'><title>{escape(words)}</title></rect>"
            for x, y, width, height, color, words in self.bars
        ]
        parts += [
            f"<polyline points='{' '.join(map(str, points))}' fill='none' stroke='{_line_color(color)}' "
            f"stroke-width='1.8' stroke-dasharray='{dashes or 'none'}'/>"
            for color, dashes, points in self.lines
        ]
        parts += [_dot(*each) for each in self.dots]
        parts += [
            f"<text x='{x}' y='{y}' font-size='12' text-anchor='{anchor}' fill='{color or 'currentColor'}'>"
            f"{escape(text)}</text>"
            for x, y, text, anchor, color in self.texts
        ]
        told = f"{self.label}: {self.reading}"
        return (
            f"<svg role='img' aria-label='{escape(told, quote=True)}' viewBox='0 0 {self.width} {self.height}' "
            f"style='width:100%;max-width:{self.width}px;display:block;margin:4px 0'>{''.join(parts)}</svg>"
        )

    def html(self) -> str:
        """Return all of it, without a script."""
        return (
            f"<div style='width:{self.width}px;max-width:100%;margin-top:8px'><b>{escape(self.title)}</b>"
            f"{self.svg()}<div>{escape(self.reading)}</div></div>"
        )


def _line_color(color: int) -> str:
    return PALETTE[color] if color >= 0 else "currentColor"


def _dot(x: float, y: float, color: int, which: str, words: str) -> str:
    title = f"<title>{escape(which)}: {escape(words)}</title>"
    if color < 0:
        return f"<path d='M{x - 3} {y - 3}l6 6m0 -6l-6 6' stroke='currentColor' stroke-width='1.8'>{title}</path>"
    return (
        f"<circle cx='{x}' cy='{y}' r='3.2' fill='{PALETTE[color]}' stroke='currentColor' stroke-opacity='0.5' "
        f"stroke-width='0.5'>{title}</circle>"
    )


def color_of(stage: str) -> int:
    """Return the number of a stage's color in `PALETTE`."""
    kind = kind_of(stage)
    return _KINDS.index(kind) if kind in _COLORS else len(_KINDS)


def legend(stages: list[str]) -> list[tuple[int, str]]:
    """Return the colors of these stages and what they mean."""
    kinds = {kind_of(name): color_of(name) for name in stages}
    return [(color, kind) for kind, color in kinds.items()]


def legend_html(stages: list[str]) -> str:
    """Return what the colors mean."""
    swatch = "display:inline-block;width:10px;height:10px;margin:0 4px 0 12px;border:1px solid currentColor;background"
    parts = (f"<span style='{swatch}:{PALETTE[color]}'></span>{escape(kind)}" for color, kind in legend(stages))
    return " ".join(f"<span style='white-space:nowrap'>{each}</span>" for each in parts)


def time_in_words(microseconds: float) -> str:
    """Return a time as it is read: ``512 µs``, ``18.2 ms``."""
    return f"{microseconds:,.0f} µs" if microseconds < 10_000 else f"{microseconds / 1000:,.1f} ms"
