"""The A/B tab's controls: widgets with labels and tooltips, and how they follow what was read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import ipywidgets as w

from serving_workbench.errors import WorkbenchError
from serving_workbench.manage.controls import FIELD, button, offer, row, text

if TYPE_CHECKING:
    from serving_workbench.comparison.tab.reading import Reading
    from serving_workbench.manage.snapshot import Line

__all__ = ["Controls"]

_ARM: Final = {"width": "24em"}


class Controls:
    """All that can be turned, chosen and clicked.

    Parameters
    ----------
    do : mapping of str to callable
        What each button does: ``split``, ``ramp``, ``pause``, ``abort``, ``mirror``, ``pairs``, ``rows``, ``aa``,
        ``close``.
    on_arms, on_percent : callable
        Other arms were chosen; B's percent was moved by the user.

    Attributes
    ----------
    box : ipywidgets.VBox
    a, b : ipywidgets.Dropdown
    percent : ipywidgets.FloatSlider
        B's part of the requests.
    split, ramp, pause, abort, mirror, pairs, rows, aa, close : ipywidgets.Button
    steps : ipywidgets.Text
        Percents of a ramp.
    hold : ipywidgets.BoundedFloatText
        Seconds of each step.
    """

    def __init__(
        self, do: dict[str, Callable[[], None]], on_arms: Callable[[], None], on_percent: Callable[[float], None]
    ) -> None:
        self._known: float | None = None
        self._offering = False
        self._on_arms = on_arms
        self.a = w.Dropdown(description="A (now)", tooltip="The version that answers now", style=FIELD, layout=_ARM)
        self.b = w.Dropdown(description="B (candidate)", tooltip="May it replace A?", style=FIELD, layout=_ARM)
        self.percent = w.FloatSlider(
            value=50,
            min=0,
            max=100,
            step=1,
            description="B's percent",
            tooltip="B's part of the requests that name no version; while they are split, it is changed at once",
            continuous_update=False,
            readout_format=".3g",
            style=FIELD,
            layout={"width": "22em"},
        )
        self.split = button("Start split", "Give both versions their part of the live requests", do["split"])
        self.steps = text("Ramp", "percents: 1, 10, 50", "15em")
        self.steps.value = "1, 10, 50"
        self.hold = w.BoundedFloatText(
            value=60, min=0, max=86400, step=10, description="seconds each", style=FIELD, layout={"width": "11em"}
        )
        self.ramp = button("Start ramp", "More and more to B, and back to A by itself when B is worse", do["ramp"])
        self.pause = button("Pause ramp", "Stay at this step", do["pause"])
        self.abort = button("Abort ramp", "All requests go back to A", do["abort"])
        self.mirror = button("Start mirror", "Copy live requests to B, whose answers only are kept", do["mirror"])
        self.pairs = button("Compare pairs", "What A and B answered to the mirrored requests", do["pairs"])
        self.rows = button("Compare rows", "The data that the tab was given, sent to both", do["rows"])
        self.aa = button("A/A check", "A against itself: how often would a difference be claimed here, now?", do["aa"])
        self.close = button("Close", "Remove this tab; split, ramp and mirror stay", do["close"])
        self.a.observe(self._arms_chosen, "value")
        self.b.observe(self._arms_chosen, "value")
        self._on_percent = on_percent
        self.percent.observe(self._moved, "value")
        self.box = w.VBox(
            [
                row(self.a, self.b, self.percent, self.split),
                row(self.steps, self.hold, self.ramp, self.pause, self.abort),
                row(self.mirror, self.pairs, self.rows, self.aa, self.close),
            ]
        )

    @property
    def arms(self) -> tuple[int, int] | None:
        """The versions that are chosen; None while there are none."""
        return None if self.a.value is None or self.b.value is None else (self.a.value, self.b.value)

    def ramp_steps(self) -> list[float]:
        """Return the percents of a ramp.

        Raises
        ------
        WorkbenchError
            They are no numbers.
        """
        try:
            return [float(part) for part in self.steps.value.split(",") if part.strip()]
        except ValueError:
            raise WorkbenchError(
                f"The steps of a ramp are percents, not {self.steps.value!r}.", hint="Such as: 1, 10, 50"
            ) from None

    def choose(self, arms: tuple[int, int]) -> None:
        """Choose the arms; nobody is told."""
        self._offering = True
        try:
            self.a.value, self.b.value = arms
        finally:
            self._offering = False

    def offer(self, lines: Sequence[Line]) -> None:
        """Let these versions be chosen."""
        options = [(_words(line), line.version) for line in lines if line.state != "REJECTED"]
        self._offering = True
        try:
            offer(self.a, options)
            offer(self.b, options)
        finally:
            self._offering = False

    def follow(self, reading: Reading, *, busy: bool) -> None:
        """Show on the controls what is so, also when somebody else did it.

        Parameters
        ----------
        busy : bool
            Whether the slider's value is on its way to the server: then it stays where the user put it.
        """
        percent = reading.percent
        if percent is not None and not busy:
            self._known = percent
            self.percent.value = percent
        elif percent is None:
            self._known = None
        self.percent.disabled = reading.ramping
        self.split.description = "Stop split" if reading.weights else "Start split"
        self.split.disabled = reading.ramping
        self.ramp.disabled = reading.ramping or bool(reading.weights)
        paused = (reading.model.get("ramp") or {}).get("state") == "paused"
        self.pause.description = "Resume ramp" if paused else "Pause ramp"
        self.pause.disabled = self.abort.disabled = not reading.ramping
        mirroring = bool((reading.model.get("mirror") or {}).get("active"))
        self.mirror.description = "Stop mirror" if mirroring else "Start mirror"

    def _arms_chosen(self, _change: dict[str, Any]) -> None:
        if not self._offering:
            self._on_arms()

    def _moved(self, change: dict[str, Any]) -> None:
        if self._known is not None and change["new"] != self._known:
            self._on_percent(change["new"])


def _words(line: Line) -> str:
    return f"{line.version} · {line.state}{' · answers' if line.answers else ''}"
