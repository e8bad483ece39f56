"""The profile tab: follows the requests of a model and shows the slow ones; ops, memory and load on demand."""

from __future__ import annotations

import html
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import ipywidgets as w
import pandas as pd

from serving_workbench.errors import WorkbenchError
from serving_workbench.handle import ServedModel, connect
from serving_workbench.live import Actions, LiveView
from serving_workbench.live.actions import Tone, one_line
from serving_workbench.manage.page import STYLE, message_html
from serving_workbench.profiling.entry import loaded_version, profile
from serving_workbench.profiling.requests import RequestProfile, read_requests
from serving_workbench.profiling.tab import drawings
from serving_workbench.profiling.tab.chart import Chart, panels_html
from serving_workbench.profiling.tab.controls import Controls
from serving_workbench.profiling.tab.residents import Residents, worker_of
from serving_workbench.profiling.tab.texts import Cost, numbers_html, slowest_options
from serving_workbench.profiling.tab.waterfall import bars_of, waterfall
from serving_workbench.profiling.waits import advice

if TYPE_CHECKING:
    from serving_workbench.profiling.panels import Panel
    from serving_workbench.profiling.result import ProfileResult

__all__ = ["ProfileTab"]

#: Requests of a reading, the newest.
_REQUESTS: Final = 300
#: Seconds between readings; and readings that are kept for clicks on dots that are a moment old.
_INTERVAL: Final = 2.0
_KEPT: Final = 4

#: A reading: the requests, and the version whose worker's memory is drawn.
_Reading = tuple[RequestProfile, dict[str, Any] | None]


class ProfileTab:
    """What `serving_workbench.profile_live` returns; show it as the last value of a cell.

    Parameters
    ----------
    model : ServedModel or str
    version : int or str, optional
        Number or label: only its requests, its ops and its worker's memory; by default all requests, and the version
        that answers.
    instance : str, optional
        Where a model's name is looked for.

    Attributes
    ----------
    reading : RequestProfile or None
        The last one.
    result : ProfileResult or None
        Of the last button that profiled; the traces take the ops of the last one that has any.
    controls : Controls
        Buttons, fields, and the list of requests.
    chart : Chart
        The live pictures.

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
        self._weights: dict[int, int] = {}  # by version, once they were asked for
        self._kept: deque[RequestProfile] = deque(maxlen=_KEPT)
        self._chosen: tuple[RequestProfile, str] | None = None
        self._residents = Residents()
        self._cost = Cost(_INTERVAL)
        self._actions = Actions(self._tell)
        self.chart = Chart(self.choose)
        self.controls = Controls(
            {
                "ops": self._ops,
                "watch": self._watch,
                "memory": self._memory,
                "startup": self._startup,
                "save": self._save,
                "tensorboard": self._save_tensorboard,
                "close": self._close,
            },
            self.choose,
        )
        self._message, self._numbers, self._price, self._result = (w.HTML() for _ in range(4))
        root = w.VBox(
            [
                self.controls.box,
                self._message,
                self._numbers,
                self.controls.request,
                self.chart.widget,
                self._price,
                self._result,
            ]
        )
        self.view: LiveView[_Reading] = LiveView(
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

    @property
    def shown(self) -> str | None:
        """The id of the request whose stages are shown: the chosen one, else the slowest of the reading."""
        if self._chosen is not None:
            return self._chosen[1]
        if self.reading is None or not len(self.reading):
            return None
        return str(self.reading.slowest(1)["id"].iloc[0])

    @property
    def data(self) -> dict[str, pd.DataFrame]:
        """What is drawn, by picture: ``percentiles``, ``requests``, ``request``, ``batches``, ``memory``.

        Of what was profiled also ``ops``, ``types`` and ``sizes``.
        """
        found = {"memory": self._residents.frame}
        reading, shown = self.reading, self.shown
        if reading is not None and shown is not None:
            own = self._chosen[0] if self._chosen is not None else reading
            found |= {
                "percentiles": drawings.percentiles(reading),
                "requests": reading.frame,
                "request": bars_of(own, shown),
                "batches": drawings.newest_batches(reading),
            }
        if self._with_ops is not None:
            found |= {
                "ops": self._with_ops.ops, "types": self._with_ops.types, "sizes": self._with_ops.batch_sizes
            }  # fmt: skip
        return found

    # -- readings ------------------------------------------------------------------------------------------------------

    def _read(self) -> _Reading:
        self._cost.begin()
        return self.model.requests(_REQUESTS, version=self.version), worker_of(self.model.describe(), self.version)

    def _show(self, found: _Reading) -> None:
        self.reading, worker = found
        self._kept.append(self.reading)
        self._residents.add(time.monotonic(), worker)
        self._numbers.value = numbers_html(self.reading)
        if self._chosen is None:
            self.controls.offer(slowest_options(self.reading), None)
        self._draw()
        self._price.value = self._cost.end()

    def _draw(self) -> None:
        assert self.reading is not None
        self.chart.show(self.reading.stages, self._panels(), self.shown or "")

    def _panels(self) -> list[Panel]:
        reading, panels = self.reading, []
        assert reading is not None
        if len(reading):
            if len(drawings.answered(reading)):
                panels.append(drawings.stage_bars(reading))
            panels.append(drawings.scatter(reading))
        if self.shown is not None:
            panels.append(waterfall(self._chosen[0] if self._chosen is not None else reading, self.shown))
        if len(reading.batches):
            panels.append(drawings.timeline(reading))
        memory = self._residents.panel(self._weights.get(self._residents.version or 0))
        return [*panels, *([] if memory is None else [memory])]

    # -- one request ---------------------------------------------------------------------------------------------------

    def choose(self, which: str | None) -> None:
        """Show a request, which stays; None follows the slowest of each reading again.

        A click on its dot does this. Where none of the last readings has it, the server is asked, in the background.
        """
        if which is None:
            self._choose(None)
            return
        found = next((each for each in reversed(self._kept) if (each.frame["id"] == which).any()), None)
        if found is not None:
            self._choose((found, which))
        else:
            self._actions.run(f"Reading request {which}", lambda: self._asked(which))

    def _asked(self, which: str) -> str:
        batch = which.partition("-")[0]
        found = read_requests(self.model.server, self.model.name, batch=int(batch)) if batch.isdecimal() else None
        if found is None or not (found.frame["id"] == which).any():
            raise WorkbenchError(f"The server does not remember request {which} any more.")
        self._choose((found, which))
        return f"Request {which} is shown."

    def _choose(self, chosen: tuple[RequestProfile, str] | None) -> None:
        self._chosen = chosen
        self.chart.choose(None if chosen is None else chosen[1])
        if self.reading is not None:
            self.controls.offer(slowest_options(self.reading), None if chosen is None else chosen[1])
            self._draw()

    # -- buttons: they start something and return ----------------------------------------------------------------------

    def _ops(self) -> None:
        self._profile("Profiling ops", parts=("ops",), batches=self.controls.batches.value)

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
            if self.result.memory_data is not None:
                self._weights[self.result.version] = int(self.result.variables["bytes"].sum())
            self._result.value = f'{STYLE}<div class="sw-panel">{self.result._repr_html_()}</div>'
            return self.result.title

        self._actions.run(what, run)

    def _save(self) -> None:
        path = self.controls.path.value.strip()
        self._actions.run("Saving the trace", lambda: self._written(path))

    def _written(self, path: str) -> str:
        if not path:
            raise WorkbenchError("A trace needs a file name.", hint="Such as trace.json")
        if self.reading is None or not len(self.reading):
            raise WorkbenchError("No request was answered yet: there is nothing to save.")
        ops = self._with_ops
        file = self.reading.chrome_trace(Path(path), ops)
        return f"Wrote {file}: {len(self.reading)} requests{' and the ops' if ops else ''}; open it at ui.perfetto.dev."

    def _save_tensorboard(self) -> None:
        folder = self.controls.folder.value.strip()
        self._actions.run("Saving for TensorBoard", lambda: self._written_tensorboard(folder))

    def _written_tensorboard(self, folder: str) -> str:
        if not folder:
            raise WorkbenchError("TensorBoard needs a folder.", hint="Such as logs")
        if self._with_ops is None:
            raise WorkbenchError("No ops were profiled yet.", hint="Press Profile ops first.")
        return f"Wrote {self._with_ops.to_tensorboard(folder)}; look at it with: tensorboard --logdir {folder}"

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
        shown = f"<pre>{html.escape(told)}</pre>"
        if self.reading is not None and len(self.reading):
            shown = numbers_html(self.reading) + panels_html(self.reading.stages, self._panels())
            shown += "" if self.result is None else self.result._repr_html_()
        return self.view.display({"text/plain": told, "text/html": shown})
