"""The live dashboard: knobs that act on the running server at once, load, plots, and a sentence on what it means."""

from __future__ import annotations

import html
import math
import threading
import time
from typing import Any, NamedTuple

import ipywidgets

from serving_server.batching.parameters import BatchingParameters
from serving_workbench.errors import WorkbenchError
from serving_workbench.handle import ServedModel, connect
from serving_workbench.live import Actions, LiveView
from serving_workbench.live.actions import Tone
from serving_workbench.load.objective import Objective
from serving_workbench.load.running import LiveView as LoadView
from serving_workbench.manage.page import message_html
from serving_workbench.tuning.arguments import check_rate
from serving_workbench.tuning.chart import make_chart
from serving_workbench.tuning.diagnosis import Diagnosis, diagnose
from serving_workbench.tuning.history import History
from serving_workbench.tuning.knobs import Knobs
from serving_workbench.tuning.latest import Latest
from serving_workbench.tuning.load_control import LoadControl
from serving_workbench.tuning.verdict import short
from serving_workbench.tuning.window import Window

__all__ = ["TuneDashboard"]


class _Reading(NamedTuple):
    now: float
    version: int
    parameters: BatchingParameters | None
    statistics: dict[str, Any]
    load: LoadView | None


class TuneDashboard:
    """What `serving_workbench.tune(model)` returns without an objective; show it as the last value of a cell.

    Parameters
    ----------
    model : ServedModel or str
    instance : str
        Where a model's name is looked for.
    slo : str, float or Objective, optional
        Drawn as a line, and as a lamp.
    rate : float
        Requests per second that the load slider starts with.
    data, rows, signature
        What the load sends, as `serving_workbench.loadtest` takes it.

    Attributes
    ----------
    knobs : Knobs
    chart : LiveChart
        Its ``data`` is what is drawn.
    diagnosis : Diagnosis or None
        The last one.

    Notes
    -----
    One thread asks the server twice a second while the dashboard is shown; closing its view, or `close`, ends it and
    the load. Parameters stay as they were turned; ``revert`` puts back those that were in force at the beginning.
    """

    def __init__(
        self,
        model: ServedModel | str,
        *,
        instance: str | None = None,
        slo: Objective | str | float | None = None,
        rate: float = 200.0,
        **load: Any,
    ) -> None:
        if isinstance(model, str):
            found = connect(model, instance)
            assert isinstance(found, ServedModel)
            model = found
        unknown = sorted(load.keys() - {"data", "rows", "signature"})
        if unknown:
            raise WorkbenchError(
                f"The live dashboard takes no {unknown[0]}=.", hint="With an objective, p99='20ms', the search does."
            )
        check_rate(rate)
        objective = Objective.parse(slo)
        self.model = model
        self.diagnosis: Diagnosis | None = None
        self._slo = None if objective is None else objective.seconds
        self._control = model.server.control
        first = self._control.live(model.name)
        self._before = _parameters(first["batching"])
        self._history = History(self._slo)
        self._load = LoadControl(model, load)
        self._applier = Latest(self._apply, self._failed)
        self._shown: BatchingParameters | None = self._before
        self._lock = threading.Lock()
        self._actions = Actions(self._tell)
        self.knobs = Knobs(self._applier.want, lambda text: self._tell(text, "failed"))
        self.knobs.set(self._before)
        self.chart = make_chart()
        self._numbers = ipywidgets.HTML()
        self._sentence = ipywidgets.HTML()
        self._line = ipywidgets.HTML()
        self.revert_button = ipywidgets.Button(description="Revert", tooltip="The parameters of the beginning")
        self.load_button = ipywidgets.Button(description="Start load", button_style="primary")
        self.close_button = ipywidgets.Button(description="Close")
        self.rate = ipywidgets.FloatLogSlider(
            value=rate,
            min=0,
            max=5,
            step=0.05,
            description="requests/s",
            readout_format=",.0f",
            continuous_update=False,
            style={"description_width": "80px"},
            layout=ipywidgets.Layout(width="380px"),
        )
        self.revert_button.on_click(lambda _: self.revert())
        self.load_button.on_click(lambda _: self._toggle_load())
        self.close_button.on_click(lambda _: self._actions.run("Closing", self._close_from_button))
        self.rate.observe(lambda _: self._change_rate(), "value")
        right = ipywidgets.VBox(
            [
                ipywidgets.HBox([self.rate, self.load_button]),
                ipywidgets.HBox([self.revert_button, self.close_button]),
                self._line,
            ]
        )
        side_by_side = ipywidgets.Layout(flex_flow="row wrap")  # one below the other where it is narrow
        controls = ipywidgets.HBox([self.knobs.box, right], layout=side_by_side)
        root = ipywidgets.VBox([self._numbers, self._sentence, controls, self.chart.widget])
        self.view: LiveView[_Reading] = LiveView(
            root, self._read, self._show, on_error=self._not_read, on_close=self._ended
        )

    # -- what it does --------------------------------------------------------------------------------------------------

    def apply(self, parameters: BatchingParameters | None) -> None:
        """Put parameters into force and show them on the knobs."""
        self.knobs.set(parameters)
        self._applier.want(parameters)

    def revert(self) -> None:
        """Put the parameters of the beginning back."""
        self.apply(self._before)

    def start_load(self, rate: float | None = None) -> None:
        """Send requests until `stop_load`, or until the dashboard is closed."""
        if rate is not None:
            self.rate.value = rate
        self._load.start(self.rate.value)
        self.load_button.description = "Stop load"

    def stop_load(self) -> None:
        """Send no more."""
        self._load.stop()
        self.load_button.description = "Start load"

    def close(self) -> None:
        """End the updates and the load, and take the dashboard away; parameters stay. Idempotent."""
        self.view.close()
        self._load.stop()
        self._applier.close()

    # -- callbacks: they start something and return -------------------------------------------------------------------

    def _toggle_load(self) -> None:
        if self._load.rate is None:
            self._actions.run("Starting load", self._start)
        else:
            self._actions.run("Stopping load", self._stop)

    def _change_rate(self) -> None:
        if self._load.rate is not None:
            self._actions.run("Changing the load", self._start)

    def _start(self) -> str:
        self.start_load()
        return f"{self.rate.value:,.0f} requests/s are sent."

    def _stop(self) -> str:
        self.stop_load()
        return "No load."

    def _close_from_button(self) -> None:
        self.close()

    def _ended(self) -> None:
        self._actions.close()
        threading.Thread(target=self._load.stop, name="serving-workbench load end", daemon=True).start()

    # -- threads of its own --------------------------------------------------------------------------------------------

    def _apply(self, parameters: BatchingParameters | None) -> None:
        wanted = None if parameters is None else parameters.to_json()
        self._control.patch_batching(self.model.name, wanted)
        self._tell(f"In force: {short(parameters)}.", "done")
        self.view.poller.poke()

    def _failed(self, error: Exception) -> None:
        self._tell(str(error), "failed")

    def _read(self) -> _Reading:
        answer = self._control.live(self.model.name)
        now = time.monotonic()
        load = self._load.look()
        return _Reading(now, answer["version"], _parameters(answer["batching"]), answer["statistics"], load)

    def _show(self, reading: _Reading) -> None:
        with self._lock:
            client = reading.load.p99 if reading.load is not None and reading.load.seconds else None
            self._history.add(reading.now, reading.statistics, reading.parameters, client)
            if reading.parameters != self._shown and not self._applier.busy:
                self.knobs.set(reading.parameters)  # somebody else has turned them
            self._shown = reading.parameters
            self.chart.show(self._history.data())
            recent = self._history.recent
            if recent is not None:
                self.diagnosis = diagnose(recent, reading.parameters)
                self._numbers.value = _numbers(recent, reading, self._slo)
                self._sentence.value = f"<b>{html.escape(self.diagnosis.sentence)}</b>"

    def _not_read(self, error: Exception) -> None:
        if self._load.rate is None:
            self.load_button.description = "Start load"
        self._tell(str(error), "failed")

    def _tell(self, text: str, tone: Tone) -> None:
        self._line.value = message_html(text, tone)

    # -- show ----------------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        recent = self._history.recent
        lines = [f"Live batching of '{self.model.name}': {short(self._shown)}"]
        if recent is None or self.diagnosis is None:
            lines.append("Nothing was read yet; it updates while it is shown in a notebook.")
        else:
            lines.append(
                f"{recent.rate:,.0f} requests/s, p50 {_text(recent.p50)}, p99 {_text(recent.p99)}, "
                f"{recent.mean_rows:.1f} rows a batch, {recent.padding:.0%} padding"
            )
            lines.append(self.diagnosis.sentence)
        return "\n".join(lines)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        plain = repr(self)
        return self.view.display({"text/plain": plain, "text/html": f"<pre>{html.escape(plain)}</pre>"})


def _parameters(value: dict[str, Any] | None) -> BatchingParameters | None:
    return None if value is None else BatchingParameters.from_json(value)


def _text(seconds: float) -> str:
    return "-" if not math.isfinite(seconds) else f"{seconds * 1e3:.3g} ms"


def _numbers(recent: Window, reading: _Reading, slo: float | None) -> str:
    """Return the line of big numbers."""
    parameters = reading.parameters
    facts = {"answered": f"{recent.rate:,.0f}/s"}
    if reading.load is not None and reading.load.seconds:
        facts["load"] = f"{reading.load.rate:,.0f}/s, p99 {_text(reading.load.p99)}"
    facts |= {"p50": _text(recent.p50), "p99": _text(recent.p99)}
    if slo is not None and math.isfinite(recent.p99):
        facts["objective"] = "&#128994; kept" if recent.p99 <= slo else "&#128308; missed"
    facts |= {"rows a batch": f"{recent.mean_rows:.1f}", "padding": f"{recent.padding:.0%}"}
    if parameters is not None:
        facts["threads busy"] = f"{recent.busy(parameters.num_batch_threads):.0%}"
    facts["waiting"] = str(recent.queued)
    if recent.errors:
        facts["errors"] = html.escape(", ".join(f"{count} {code}" for code, count in recent.errors.items()))
    cells = "".join(
        f"<td style='padding:0 14px 0 0'><div style='opacity:.65;font-size:11px'>{name}</div>"
        f"<div style='font-size:16px'>{value}</div></td>"
        for name, value in facts.items()
    )
    return f"<table><tr>{cells}</tr></table>"
