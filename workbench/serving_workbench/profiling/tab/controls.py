"""The profile tab's controls: widgets with labels and tooltips."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import ipywidgets as w

from serving_workbench.manage.controls import FIELD, button, row, text

__all__ = ["FOLLOW", "Controls"]

FOLLOW: Final = "the slowest of the last"
#: Of a profile, as the server takes them.
_BATCHES: Final = (3, 10_000)


class Controls:
    """All that can be pressed, typed and chosen.

    Parameters
    ----------
    do : mapping of str to callable
        What each button does: ``ops``, ``watch``, ``memory``, ``startup``, ``save``, ``tensorboard``, ``close``.
    on_choose : callable
        Takes the id of the request that was chosen in the list; None for the slowest of each reading.

    Attributes
    ----------
    box : ipywidgets.VBox
    ops, watch, memory, startup, save, tensorboard, end : ipywidgets.Button
    batches : ipywidgets.BoundedIntText
        Traced runs of a profile of ops.
    path, folder : ipywidgets.Text
        Where the traces are written.
    slowest : ipywidgets.Dropdown
        Which request is shown: the slowest of each reading, or one that stays.
    request : ipywidgets.HBox
        With `slowest`.
    """

    def __init__(self, do: Mapping[str, Callable[[], None]], on_choose: Callable[[str | None], None]) -> None:
        self._on_choose = on_choose
        self._offering = False
        self.ops = button("Profile ops", "Traced runs in the version's worker, beside its requests", do["ops"])
        least, most = _BATCHES
        self.batches = w.BoundedIntText(
            value=50, min=least, max=most, description="batches", style=FIELD, layout={"width": "9em"}
        )
        self.watch = button("Watch live runs", "Trace the runs of live requests for two seconds", do["watch"])
        self.memory = button("Memory", "Weights, and what a run takes by batch size", do["memory"])
        self.startup = button("Start-up", "Where the time of the load went", do["startup"])
        self.path = text("Trace", "file: trace.json", "14em")
        self.path.value = "trace.json"
        self.save = button(
            "Save trace", "Requests linked with batches, and ops beside, for ui.perfetto.dev", do["save"]
        )
        self.folder = text("Folder", "of TensorBoard: logs", "12em")
        self.folder.value = "logs"
        self.tensorboard = button(
            "Save for TensorBoard", "TensorFlow's own trace of the last ops that were profiled", do["tensorboard"]
        )
        self.end = button("Close", "Remove this tab", do["close"])
        self.slowest = w.Dropdown(
            options=[(FOLLOW, None)],
            description="Request",
            tooltip="The slowest of each reading, or one of these, which stays; a click on a dot chooses it too",
            style=FIELD,
            layout={"width": "30em"},
        )
        self.slowest.observe(self._chosen, "value")
        self.request = row(self.slowest)
        self.box = w.VBox(
            [
                row(self.ops, self.batches, self.watch, self.memory, self.startup),
                row(self.path, self.save, self.folder, self.tensorboard, self.end),
            ]
        )

    def offer(self, slowest: Sequence[tuple[str, str]], chosen: str | None) -> None:
        """Let these requests be chosen, by words and id; one of them, or another one, is chosen already.

        Nobody is told.
        """
        options: list[tuple[str, str | None]] = [(FOLLOW, None), *slowest]
        if chosen is not None and chosen not in [which for _, which in slowest]:
            options.append((chosen, chosen))
        self._offering = True
        try:
            with self.slowest.hold_sync():  # one message: the list would show its first line in between
                self.slowest.options = options
                # By index: other options leave nothing chosen, and the list's line empty.
                self.slowest.index = [which for _, which in options].index(chosen)
        finally:
            self._offering = False

    def _chosen(self, change: dict[str, Any]) -> None:
        if not self._offering:
            self._on_choose(change["new"])
