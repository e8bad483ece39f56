"""The profile tab: follows the requests of a model and shows the slow ones; ops, memory and load on demand."""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import ipywidgets as w

from serving_workbench.errors import WorkbenchError
from serving_workbench.handle import ServedModel, connect
from serving_workbench.live import Actions, LiveView
from serving_workbench.live.actions import Tone, one_line
from serving_workbench.manage.controls import button, row, text
from serving_workbench.manage.page import message_html
from serving_workbench.profiling.entry import loaded_version, profile
from serving_workbench.profiling.requests import RequestProfile
from serving_workbench.profiling.tab import drawings
from serving_workbench.profiling.waits import advice

if TYPE_CHECKING:
    from serving_workbench.profiling.result import ProfileResult

__all__ = ["ProfileTab"]

#: Requests of a reading, the newest; and how many of the slowest can be chosen.
_REQUESTS: Final = 300
_SLOWEST: Final = 10
#: Seconds between readings: the pictures are drawn by the kernel.
_INTERVAL: Final = 2.0
_FOLLOW: Final = "the slowest of the last"


class ProfileTab:
    """What `serving_workbench.profile_live` returns; show it as the last value of a cell.

    Parameters
    ----------
    model : ServedModel or str
    version : int or str, optional
        Number or label: only its requests, and its ops; by default all requests, and the version that answers.
    instance : str, optional
        Where a model's name is looked for.

    Attributes
    ----------
    reading : RequestProfile or None
        The last one; its ``frame`` is what is drawn.
    result : ProfileResult or None
        Of the last button that profiled; "Save trace" takes the ops of the last one that has any.
    slowest : ipywidgets.Dropdown
        Which request is shown: the slowest of each reading, or one that stays.

    Notes
    -----
    One thread asks the server every two seconds while the tab is shown; closing its view, or `close`, ends it.
    """

    def __init__(
        self, model: ServedModel | str, version: int | str | None = None, *, instance: str | None = None
    ) -> None:
        found = model if isinstance(model, ServedModel) else connect(model, instance)
        assert isinstance(found, ServedModel)
        self.model = found
        self.version = None if version is None else loaded_version(found, version)
        self.reading: RequestProfile | None = None
        self.result: ProfileResult | None = None
        self._with_ops: ProfileResult | None = None
        self._kept: RequestProfile | None = None  # of the request that was chosen
        self._offering = False
        self._actions = Actions(self._tell)
        self.slowest = w.Dropdown(
            options=[(_FOLLOW, None)],
            description="Request",
            tooltip="The slowest of each reading, or one of these, which stays",
            style={"description_width": "initial"},
            layout={"width": "30em"},
        )
        self.slowest.observe(self._chosen, "value")
        self.ops = button("Profile ops", "50 traced runs in the version's worker, beside its requests", self._ops)
        self.watch = button("Watch live runs", "Trace the runs of live requests for two seconds", self._watch)
        self.memory = button("Memory", "Weights, and what a run takes by batch size", self._memory)
        self.startup = button("Start-up", "Where the time of the load went", self._startup)
        self.path = text("Trace", "file: trace.json", "16em")
        self.path.value = "trace.json"
        self.save = button(
            "Save trace", "Requests linked with batches, and ops beside, for ui.perfetto.dev", self._save
        )
        self.end = button("Close", "Remove this tab", self._close)
        self._message, self._numbers, self._story, self._pictures, self._result = (w.HTML() for _ in range(5))
        root = w.VBox(
            [
                row(self.ops, self.watch, self.memory, self.startup),
                row(self.path, self.save, self.end),
                self._message,
                self._numbers,
                self._pictures,
                row(self.slowest),
                self._story,
                self._result,
            ]
        )
        self.view: LiveView[RequestProfile] = LiveView(
            root,
            self._read,
            self._show,
            on_error=lambda error: self._say(one_line(error), "failed"),
            interval=_INTERVAL,
            on_close=self._actions.close,
        )
        self.refresh()

    def refresh(self) -> None:
        """Read the server now.

        Raises
        ------
        WorkbenchError
            It does not answer.
        """
        self._show(self._read())

    def close(self) -> None:
        """End the updates and take the tab away. Idempotent."""
        self.view.close()

    # -- readings ------------------------------------------------------------------------------------------------------

    def _read(self) -> RequestProfile:
        return self.model.requests(_REQUESTS, version=self.version)

    def _show(self, reading: RequestProfile) -> None:
        self.reading = reading
        self._numbers.value = _numbers(reading)
        self._pictures.value = _pictures(reading) if len(reading) else ""
        if self.slowest.value is None:  # else it stays as it was chosen
            self._offer(reading)
            self._story.value = drawings.waterfall(reading) if len(reading) else ""

    def _offer(self, reading: RequestProfile) -> None:
        chosen = reading.slowest(_SLOWEST)
        names = [
            f"{each} ({given})" if given else each
            for each, given in zip(chosen["id"], chosen["request_id"], strict=True)
        ]
        options = [
            (f"{name}: {total:,.0f} µs", which)
            for name, total, which in zip(names, chosen["total_us"], chosen["id"], strict=True)
        ]
        self._offering = True
        try:
            self.slowest.options = [(_FOLLOW, None), *options]
            self.slowest.index = 0  # other options leave nothing chosen, and its line empty
        finally:
            self._offering = False
        self._kept = reading

    def _chosen(self, change: dict[str, Any]) -> None:
        if self._offering:
            return
        if change["new"] is None:
            self.view.poller.poke()
        elif self._kept is not None:
            self._story.value = drawings.waterfall(self._kept, change["new"])

    # -- buttons: they start something and return ----------------------------------------------------------------------

    def _ops(self) -> None:
        self._profile("Profiling ops", parts=("ops",))

    def _watch(self) -> None:
        self._profile("Watching live runs", parts=("ops",), live=True)

    def _memory(self) -> None:
        self._profile("Measuring memory", parts=("memory",))

    def _startup(self) -> None:
        self._profile("Reading the load's times", parts=("startup",))

    def _profile(self, what: str, **options: Any) -> None:
        def run() -> str:
            self.result = profile(self.model, self.version, progress=False, **options)
            if self.result.ops_data is not None:
                self._with_ops = self.result
            self._result.value = self.result._repr_html_()
            return self.result.title

        self._actions.run(what, run)

    def _save(self) -> None:
        path = self.path.value.strip()
        self._actions.run("Saving the trace", lambda: self._written(path))

    def _written(self, path: str) -> str:
        if not path:
            raise WorkbenchError("A trace needs a file name.", hint="Such as trace.json")
        if self.reading is None or not len(self.reading):
            raise WorkbenchError("No request was answered yet: there is nothing to save.")
        ops = self._with_ops
        file = self.reading.chrome_trace(Path(path), ops)
        return f"Wrote {file}: {len(self.reading)} requests{' and the ops' if ops else ''}; open it at ui.perfetto.dev."

    def _close(self) -> None:
        self._actions.run("Closing", self.close)

    def _tell(self, text: str, tone: Tone) -> None:
        self._say(text, tone)
        self.view.poller.poke()

    def _say(self, text: str, tone: Tone) -> None:
        self._message.value = message_html(text, tone)

    # -- show ----------------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        if self.reading is None or not len(self.reading):
            return f"Profile of '{self.model.name}': no request was answered yet."
        parts = [repr(self.reading), *advice(self.reading), self.reading.explain()]
        return "\n".join([*parts, *([repr(self.result)] if self.result is not None else [])])

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        told = repr(self)
        return self.view.display({"text/plain": told, "text/html": f"<pre>{html.escape(told)}</pre>"})


def _numbers(reading: RequestProfile) -> str:
    sentences = "".join(f"<li>{html.escape(each)}</li>" for each in advice(reading))
    told = ""
    if len(reading):
        total = reading.frame["total_us"]
        p50, p95, p99 = (f"{total.quantile(share):,.0f}" for share in (0.5, 0.95, 0.99))
        told = f"Last {len(reading)} requests in the server: p50 {p50}, p95 {p95}, p99 {p99} µs, "
        told += f"in {len(reading.batches)} batches"
    return f"<div style='line-height:1.35'><b>{told}</b><ul style='margin:4px 0'>{sentences}</ul></div>"


def _pictures(reading: RequestProfile) -> str:
    parts = [drawings.legend(reading)]
    for title, drawn in (
        ("Stages of requests near the percentiles", drawings.stage_bars(reading)),
        ("Requests as they came, by the stage that took most", drawings.scatter(reading)),
        ("The newest batches", drawings.timeline(reading)),
    ):
        parts.append(f"<div style='margin-top:6px'>{title}</div>{drawn}")
    return f"<div style='line-height:1.35'>{''.join(parts)}</div>"
