"""The panel: what a server serves, live, and buttons to change it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import ipywidgets as w

from serving_workbench.errors import DeployError, WorkbenchError
from serving_workbench.handle import ServedModel, connect
from serving_workbench.instance_name import chosen_instance
from serving_workbench.live import Actions, LiveView
from serving_workbench.live.actions import Tone, one_line
from serving_workbench.live.poller import DEFAULT_INTERVAL
from serving_workbench.manage.controls import FIELD, button, offer, row, text
from serving_workbench.manage.page import log_html, message_html, page_html, page_table
from serving_workbench.manage.shares import weights_with_share
from serving_workbench.manage.snapshot import Line, Reader, Snapshot
from serving_workbench.naming import served_name
from serving_workbench.tables import Table
from serving_workbench.verbs import restart

__all__ = ["Panel", "panel"]

#: A restart is asked for twice within so many seconds.
_CONFIRM_SECONDS: Final = 10.0


def panel(instance: str | None = None, interval: float = DEFAULT_INTERVAL) -> Panel:
    """Return a panel of what a server serves, to be shown by a notebook's cell: live, and with buttons to change it.

    Parameters
    ----------
    instance : str, optional
        Name of the server; it need not run yet.
    interval : float
        Seconds between two looks at the server, 0.25 at least.

    Returns
    -------
    Panel
        Where widgets cannot be rendered it shows as a table of that moment.
    """
    return Panel(chosen_instance(instance), interval)


class Panel:
    """A live view of one server. It is read by a thread of its own while a browser shows it; see `LiveView`.

    Attributes
    ----------
    snapshot : Snapshot or None
        What was last read; None while no server answers.
    problem : str or None
        Why there is none.
    """

    def __init__(self, instance: str = "default", interval: float = DEFAULT_INTERVAL) -> None:
        self.instance = instance
        self.snapshot: Snapshot | None = None
        self.problem: str | None = None
        self._reader = Reader(instance)
        self._offering = False
        self._warned = -_CONFIRM_SECONDS
        self._actions = Actions(self._tell)
        self._build()
        self._view = LiveView(
            self._root,
            self._reader.read,
            self._show,
            on_error=self._fail,
            interval=interval,
            on_close=self._actions.close,
        )

    def _build(self) -> None:
        self._page, self._message, self._log = w.HTML(), w.HTML(), w.HTML()
        self._model = w.Dropdown(description="Model", style=FIELD)
        self._version = w.Dropdown(description="Version", style=FIELD)
        self._label = text("Label", "such as stable", "12em")
        self._share = w.BoundedFloatText(
            value=10, min=0, max=100, step=1, description="Share %", style=FIELD, layout={"width": "9em"}
        )
        self._servable = text("Deploy", "variable, or folder of a SavedModel", "20em")
        self._name = text("as", "model name", "12em")
        self._note = text("Note", "what is worth knowing of it", "20em")
        self._with_log = w.ToggleButton(description="Log", tooltip="Show the end of the server's log")
        self._model.observe(self._model_chosen, "value")
        self._with_log.observe(self._toggle_log, "value")
        self._root = w.VBox(
            [
                self._page,
                row(
                    self._model,
                    self._version,
                    button("Load", "Load the version beside the one that answers", self._load),
                    button("Unload", "End the version's process; its files stay", self._unload),
                    button("Let it answer", "Requests that name no version go to this one", self._answer),
                    button("Roll back", "The version before the one that answers answers again", self._roll_back),
                ),
                row(
                    self._label,
                    button("Set label", "Let the label point at the version", self._set_label),
                    button("Remove label", "Take the label away from the model", self._remove_label),
                    self._share,
                    button("Set share", "Split the requests that name no version: so many go to this one", self._split),
                    button("End split", "One version answers all requests that name none", self._end_split),
                ),
                row(
                    self._servable,
                    self._name,
                    self._note,
                    button("Deploy", "Serve it as the next version of the model", self._deploy),
                ),
                row(
                    self._with_log,
                    button("Restart server", "A new process with the same models and ports", self._restart),
                    button("Close", "Remove this panel; the server runs on", self.close),
                ),
                self._message,
                self._log,
            ]
        )

    # --- show ---

    def refresh(self) -> None:
        """Read the server now; in `snapshot`, or `problem`, is what was found."""
        try:
            self._show(self._reader.read())
        except WorkbenchError as error:
            self._fail(error)

    @property
    def table(self) -> Table:
        """What the panel shows, as a table: ``.to_frame()`` makes a DataFrame of it."""
        return Table([], [], self.problem or "Not read yet.") if self.snapshot is None else page_table(self.snapshot)

    def close(self) -> None:
        """End the updates and remove the panel wherever it is displayed; the server runs on. Idempotent."""
        self._view.close()

    def __repr__(self) -> str:
        return repr(self.table)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        if self.snapshot is None or not self._view.poller.is_running:
            self.refresh()
        return self._view.display({"text/plain": repr(self), "text/html": self._page.value})

    def _show(self, snapshot: Snapshot) -> None:
        self.snapshot, self.problem = snapshot, None
        self._page.value = page_html(snapshot)
        self._log.value = log_html(snapshot.log)
        self._offering = True
        try:
            offer(self._model, [(name, name) for name in snapshot.models()])
        finally:
            self._offering = False
        self._offer_versions()

    def _fail(self, error: Exception) -> None:
        self.snapshot, self.problem = None, one_line(error)
        self._page.value = message_html(self.problem, "failed")

    def _model_chosen(self, _change: dict[str, Any]) -> None:
        # New options choose the first of them for a moment; then no versions of that one are to be offered.
        if not self._offering:
            self._offer_versions()

    def _offer_versions(self) -> None:
        lines = [] if self.snapshot is None else self.snapshot.of(self._model.value)
        offer(self._version, [(_choice(line), line.version) for line in lines if line.state != "REJECTED"])

    def _tell(self, text: str, tone: Tone) -> None:
        self._message.value = message_html(text, tone)
        self._view.poller.poke()

    def _toggle_log(self, change: dict[str, Any]) -> None:
        self._reader.with_log = bool(change["new"])
        self._view.poller.poke()

    # --- change: each returns at once; a thread does it ---

    def _do(self, what: str, change: Callable[[ServedModel], str]) -> None:
        """Begin a change of the chosen model."""
        name: str | None = self._model.value

        def run() -> str:
            if name is None:
                raise DeployError("There is no model to do this with.", hint="Deploy one first.")
            served = connect(name, self.instance)
            assert isinstance(served, ServedModel)
            try:
                return change(served)
            finally:
                served.close()

        self._actions.run(f"{what} '{name}'" if name else what, run)

    def _load(self) -> None:
        def load(served: ServedModel) -> str:
            version = served.load(chosen())
            answering = served.serving_version
            beside = "" if answering == version else f", beside version {answering}, which answers"
            return f"Version {version} of '{served.name}' is loaded{beside}."

        chosen = self._frozen_choice()
        self._do("Loading a version of", load)

    def _unload(self) -> None:
        def unload(served: ServedModel) -> str:
            served.unload(chosen())
            return f"Version {chosen()} of '{served.name}' is unloaded; its files stay."

        chosen = self._frozen_choice()
        self._do("Unloading a version of", unload)

    def _answer(self) -> None:
        chosen = self._frozen_choice()
        self._do("Changing the version of", lambda served: _rolled_back(served, chosen()))

    def _roll_back(self) -> None:
        self._do("Rolling back", lambda served: _rolled_back(served, None))

    def _frozen_choice(self) -> Callable[[], int]:
        """Return what gives the version that is chosen now, whatever is chosen when it is asked."""
        version = self._version.value

        def chosen() -> int:
            if version is None:
                raise DeployError("No version is chosen.")
            return int(version)

        return chosen

    def _set_label(self) -> None:
        label, chosen = self._label.value.strip(), self._frozen_choice()

        def set_label(served: ServedModel) -> str:
            if not label:
                raise DeployError("Type a label first.")
            served.label(label, chosen())
            return f"The label '{label}' of '{served.name}' points at version {chosen()}."

        self._do("Labelling a version of", set_label)

    def _remove_label(self) -> None:
        label = self._label.value.strip()

        def remove(served: ServedModel) -> str:
            if label not in served.describe()["labels"]:
                raise DeployError(f"'{served.name}' has no label '{label}'.")
            served.label(label)
            return f"The label '{label}' of '{served.name}' is gone."

        self._do("Removing a label of", remove)

    def _split(self) -> None:
        percent, chosen = self._share.value, self._frozen_choice()

        def split(served: ServedModel) -> str:
            model = served.describe()
            lines = self._reader.read_lines(model)
            weights = weights_with_share(lines, chosen(), percent)
            served.traffic(weights)
            return f"{percent:g} % of the requests for '{served.name}' that name no version go to version {chosen()}."

        self._do("Splitting the requests of", split)

    def _end_split(self) -> None:
        def end(served: ServedModel) -> str:
            served.traffic({})
            return f"Version {served.serving_version} of '{served.name}' answers all requests that name none."

        self._do("Ending the split of", end)

    def _restart(self) -> None:
        now = time.monotonic()
        if now - self._warned > _CONFIRM_SECONDS:
            self._warned = now
            self._tell("Requests fail while the server restarts. Click again to go on.", "failed")
            return
        self._warned = -_CONFIRM_SECONDS

        def run() -> str:
            server = restart(self.instance)
            return f"The server runs again, pid {server.pid}, at {', '.join(server.endpoints.values())}."

        self._actions.run("Restarting the server", run)

    def _deploy(self) -> None:
        word, name, note = (field.value.strip() for field in (self._servable, self._name, self._note))

        def deploy() -> str:
            from serving_workbench.deploy import serve  # the export, and what it needs: only for those who deploy

            model, variable = _found(word)
            chosen = (name, "") if name else served_name(model, variable)
            if chosen is None:
                raise DeployError("This model has no name of its own.", hint="Type one.")
            served = serve(model, chosen[0], instance=self.instance, note=note or None, progress=False)
            served.close()
            seconds = sum(served.seconds.values())
            return f"Version {served.version} of '{served.name}' answers, deployed in {seconds:.1f} s."

        self._actions.run(f"Deploying {word or 'a model'}", deploy)


def _rolled_back(served: ServedModel, to: int | None) -> str:
    before = served.serving_version
    now = served.rollback(to=to)
    return f"Version {now} of '{served.name}' answers now (before: {before})."


def _found(word: str) -> tuple[object, str | None]:
    """Return the model that a word means, and the name of its variable if it is one."""
    if not word:
        raise DeployError("Type what to deploy: a variable of this notebook, or the folder of a SavedModel.")
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None and word in shell.user_ns:
        return shell.user_ns[word], word
    return Path(word).expanduser(), None  # when it is not there, the export says so


def _choice(line: Line) -> str:
    return f"{line.version} · {line.state}{' · answers' if line.answers else ''}"
