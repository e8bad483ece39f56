"""The live A/B tab: split, ramp and mirror by hand, and the comparison while requests come."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import ipywidgets as w

from serving_workbench.comparison.checking import aa
from serving_workbench.comparison.entry import compare
from serving_workbench.comparison.live import ERRORS, MISSES, RUN_TIME
from serving_workbench.comparison.margins import Margins
from serving_workbench.comparison.mirrored import compare_mirrored
from serving_workbench.comparison.tab.chart import EMPTY, make_chart, sequence_data
from serving_workbench.comparison.tab.controls import Controls
from serving_workbench.comparison.tab.finished import ResultTab
from serving_workbench.comparison.tab.page import (
    checks_html,
    counts_html,
    mirror_html,
    plain,
    ramp_html,
    verdict_html,
)
from serving_workbench.comparison.tab.reading import Reading, TabReader
from serving_workbench.errors import WorkbenchError
from serving_workbench.handle import ServedModel, connect
from serving_workbench.live import Actions, LiveView
from serving_workbench.live.actions import Tone, one_line
from serving_workbench.live.view import close_widgets
from serving_workbench.manage.page import message_html
from serving_workbench.tuning.latest import Latest

if TYPE_CHECKING:
    from serving_workbench.comparison.result import CompareResult

__all__ = ["ABTab"]

#: Metrics of the live comparison, which margins may name.
_LIVE: Final = (RUN_TIME, ERRORS, MISSES)
#: Of pairs that were mirrored.
_PAIRS: Final = ("rows that differ", "failed rows", RUN_TIME)
#: Comparisons of the A/A check: more would take longer than anybody waits for.
_AA_RUNS: Final = 20
#: Seconds that a version may take to load.
_LOAD_SECONDS: Final = 60.0


class ABTab:
    """What `serving_workbench.ab` returns; show it as the last value of a cell.

    Parameters
    ----------
    model : ServedModel or str
    a, b : int, optional
        Versions; by default those of the split that is there, or the one that answers and the highest other one.
    instance : str, optional
        Where a model's name is looked for.
    margins : dict, str or sequence of str, optional
        Of the live comparison and of those of rows, as `serving_workbench.compare` takes them.
    slo_ms : float, optional
        Objective in milliseconds, for splits and ramps that are started here.
    key : str, optional
        Name of a header whose values stay with their version.
    data, **options
        Rows for "Compare rows" and "A/A check", with what else `serving_workbench.compare` takes.

    Attributes
    ----------
    controls : Controls
    chart : LiveChart
        Its ``data`` is what is drawn.
    reading : Reading or None
        The last one.
    finished : ResultTab or None
        The last comparison of rows or pairs.

    Notes
    -----
    One thread asks the server twice a second while the tab is shown; closing its view, or `close`, ends it. Split, ramp
    and mirror stay as they are: they belong to the server.
    """

    def __init__(
        self,
        model: ServedModel | str,
        a: int | None = None,
        b: int | None = None,
        *,
        instance: str | None = None,
        margins: Any = None,
        slo_ms: float | None = None,
        key: str | None = None,
        data: Any = None,
        **options: Any,
    ) -> None:
        found = model if isinstance(model, ServedModel) else connect(model, instance)
        assert isinstance(found, ServedModel)
        self.model = found
        self.reading: Reading | None = None
        self.finished: ResultTab | None = None
        self._margins, self._slo_ms, self._key = Margins.parse(margins), slo_ms, key
        self._data, self._options = data, options
        if data is None and options:
            raise WorkbenchError(f"{next(iter(options))}= goes with data=, the rows to compare.")
        if data is None:
            self._margins.check({*_LIVE, *_PAIRS})
        self._control = found.server.control
        self._unread = False
        self._reader = TabReader(found, Margins(self._declared(_LIVE)), objective=slo_ms is not None)
        self._actions = Actions(self._tell)
        self._applier = Latest(self._apply, self._failed)
        self.controls = Controls(
            {
                "split": self._split,
                "ramp": self._ramp,
                "pause": self._pause,
                "abort": self._abort,
                "mirror": self._mirror,
                "pairs": self._pairs,
                "rows": self._rows,
                "aa": self._aa,
                "close": self._close,
            },
            self._other_arms,
            self._applier.want,
        )
        self.chart = make_chart()
        self._message, self._verdict, self._counts, self._checks, self._more = (w.HTML() for _ in range(5))
        self._below = w.VBox()
        root = w.VBox(
            [
                self.controls.box,
                self._message,
                self._more,
                self._verdict,
                self._counts,
                self.chart.widget,
                self._checks,
                self._below,
            ]
        )
        self.view: LiveView[Reading] = LiveView(
            root, self._reader.read, self._show, on_error=self._not_read, on_close=self._ended
        )
        self._choose_arms(a, b)

    # -- what it does --------------------------------------------------------------------------------------------------

    @property
    def result(self) -> CompareResult | None:
        """The live comparison as it stands; None while there is none."""
        return None if self.reading is None else self.reading.result

    def refresh(self) -> None:
        """Read the server now.

        Raises
        ------
        WorkbenchError
            It does not answer.
        """
        self._show(self._reader.read())

    def close(self) -> None:
        """End the updates and take the tab away; split, ramp and mirror stay. Idempotent."""
        self.view.close()
        self._applier.close()
        if self.finished is not None:
            self.finished.close()

    # -- callbacks: they start something and return --------------------------------------------------------------------

    def _split(self) -> None:
        if self.reading is not None and self.reading.weights:
            self._actions.run("Ending the split", self._end_split)
        else:
            percent = self.controls.percent.value
            self._actions.run("Splitting the requests", lambda: self._begin_split(percent))

    def _ramp(self) -> None:
        hold = self.controls.hold.value
        self._actions.run("Starting the ramp", lambda: self._begin_ramp(hold))

    def _pause(self) -> None:
        action = "resume" if self.controls.pause.description == "Resume ramp" else "pause"
        self._actions.run(f"Ramp: {action}", lambda: self._change_ramp(action))

    def _abort(self) -> None:
        self._actions.run("Aborting the ramp", lambda: self._change_ramp("abort"))

    def _mirror(self) -> None:
        on = self.controls.mirror.description == "Start mirror"
        self._actions.run("Starting the mirror" if on else "Ending the mirror", lambda: self._set_mirror(on))

    def _pairs(self) -> None:
        self._actions.run("Comparing pairs", lambda: self._finish(self._compare_pairs))

    def _rows(self) -> None:
        self._actions.run("Comparing rows", lambda: self._finish(self._compare_rows))

    def _aa(self) -> None:
        self._actions.run("A/A check", self._check)

    def _close(self) -> None:
        self._actions.run("Closing", self.close)

    def _other_arms(self) -> None:
        self._reader.arms = self.controls.arms
        self.view.poller.poke()

    def _ended(self) -> None:
        self._actions.close()

    # -- in threads of their own ---------------------------------------------------------------------------------------

    def _declared(self, names: tuple[str, ...]) -> dict[str, float]:
        """Return the margins of these metrics; those of the others belong to other comparisons."""
        return {name: size for name, size in self._margins.declared.items() if name in names}

    def _arms(self) -> tuple[int, int]:
        arms = self.controls.arms
        if arms is None:
            raise WorkbenchError(f"'{self.model.name}' has one version only.", hint="Deploy another one to compare.")
        if arms[0] == arms[1]:
            raise WorkbenchError(f"A and B are both version {arms[0]}: choose two different ones.")
        return arms

    def _begin_split(self, percent: float) -> str:
        first, second = self._arms()
        options: dict[str, Any] = {} if self._slo_ms is None else {"slo_ms": self._slo_ms}
        if self._key is not None:
            options["key"] = self._key or None
        self._reader.begin()
        weights = {str(first): 100 - percent, str(second): percent}
        self._ask(lambda: self._control.put_traffic(self.model.name, weights, seconds=_LOAD_SECONDS, **options))
        return f"{percent:.3g} % of the requests that name no version go to version {second}."

    def _apply(self, percent: float) -> None:
        """Change the weights of the split of the arms; one at a time, the last one wanted."""
        first, second = self._arms()
        weights = {str(first): 100 - percent, str(second): percent}
        self._ask(lambda: self._control.put_traffic(self.model.name, weights, seconds=_LOAD_SECONDS))
        self._tell(f"{percent:.3g} % of the requests that name no version go to version {second}.", "done")

    def _end_split(self) -> str:
        self.model.traffic({})
        return f"Version {self.model.serving_version} answers all requests that name none."

    def _begin_ramp(self, hold: float) -> str:
        first, second = self._arms()
        serving = self.model.serving_version
        if serving != first:
            raise WorkbenchError(
                f"A ramp goes from the version that answers, {serving}, to another one; A is {first}.",
                hint=f"Choose {serving} as A.",
            )
        self._reader.begin()
        steps = self.controls.ramp_steps()
        return self.model.ramp(second, steps=steps, hold=hold, slo_ms=self._slo_ms, key=self._key).title

    def _change_ramp(self, action: str) -> str:
        return self.model.ramp(action=action).title

    def _set_mirror(self, on: bool) -> str:
        if not on:
            return self.model.mirror(stop=True).title
        return self.model.mirror(self._arms()[1]).title

    def _compare_pairs(self) -> CompareResult:
        return compare_mirrored(self.model, margins=self._declared(_PAIRS))

    def _compare_rows(self) -> CompareResult:
        data = self._needed("Compare rows")
        margins = {name: size for name, size in self._margins.declared.items() if name not in _LIVE}
        return compare(self.model, *self._arms(), data=data, margins=margins, progress=False, **self._options)

    def _check(self) -> str:
        data = self._needed("A/A check")
        arms = self.controls.arms
        signature = self._options.get("signature")
        found = aa(
            self.model,
            None if arms is None else arms[0],
            data=data,
            runs=_AA_RUNS,
            signature=signature,
            progress=False,
        )
        return repr(found)

    def _needed(self, what: str) -> Any:
        if self._data is None:
            name = self.model.name
            raise WorkbenchError(
                f"{what} needs rows to send, and this tab was given none.",
                hint=f'Open it with some: sw.ab("{name}", data=X_test, labels=y_test)',
            )
        return self._data

    def _finish(self, compared: Callable[[], CompareResult]) -> str:
        result = compared()
        before, self.finished = self.finished, ResultTab(result)
        self._below.children = [self.finished.root]
        if before is not None:
            close_widgets(before.root)
        return f"{result.decision}"

    def _ask(self, call: Callable[[], Any]) -> Any:
        return self.model.server.ask(call)

    def _choose_arms(self, a: int | None, b: int | None) -> None:
        """Choose the arms of the beginning and show what there is."""
        reading = self._reader.read()
        self.controls.offer(reading.lines)
        versions = [line.version for line in reading.lines if line.state != "REJECTED"]
        for given in (a, b):
            if given is not None and given not in versions:
                there = ", ".join(map(str, versions))
                raise WorkbenchError(f"'{self.model.name}' has no version {given}; it has {there}.")
        split = sorted(reading.weights, key=lambda version: version != reading.model["serving_version"])
        first = a if a is not None else split[0] if split else reading.model["serving_version"]
        if first is None and versions:
            first = versions[-1]
        others = [version for version in [*split, *versions] if version != first]
        second = b if b is not None else others[0] if others else None
        if first is not None and second is not None:
            self.controls.choose((first, second))
        self._reader.arms = self.controls.arms
        self._show(self._reader.read())

    def _show(self, reading: Reading) -> None:
        self.reading = reading
        if self._unread:
            self._unread = False
            self._message.value = ""
        controls = self.controls
        controls.offer(reading.lines)
        self._reader.arms = controls.arms  # what was chosen may be gone
        controls.follow(reading, busy=self._applier.busy)
        self._verdict.value = verdict_html(reading)
        self._counts.value = counts_html(reading)
        self._checks.value = checks_html(reading.result)
        lines = (ramp_html(reading.model.get("ramp")), mirror_html(reading.model.get("mirror")))
        self._more.value = "".join(f"<div>{line}</div>" for line in lines if line)
        self.chart.show(EMPTY if reading.result is None else sequence_data(reading.result))

    def _not_read(self, error: Exception) -> None:
        self._unread = True
        self._message.value = message_html(one_line(error), "failed")

    def _failed(self, error: Exception) -> None:
        self._tell(one_line(error), "failed")

    def _tell(self, text: str, tone: Tone) -> None:
        self._message.value = message_html(text, tone)
        self.view.poller.poke()

    # -- show ----------------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return plain(self.reading, self.model.name)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        text = repr(self)
        return self.view.display({"text/plain": text, "text/html": f"<pre>{html.escape(text)}</pre>"})
