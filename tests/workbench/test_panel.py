"""The panel without a browser: what it shows of a real server, what its buttons do, that it ends."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ipywidgets as w
import psutil
import pytest
from ipywidgets.widgets.widget import _instances

import serving_workbench as sw
from serving_workbench.manage.page import MAX_LINES, page_html, page_table
from serving_workbench.manage.panel import Panel
from serving_workbench.manage.shares import weights_with_share
from serving_workbench.manage.snapshot import Line, Reader, Snapshot
from serving_workbench.rejected import quarantine
from tests import models
from tests.servers import wait_until

Source = Callable[..., Path]


@pytest.fixture
def served(warm: str, name: str, source: Source, tmp_path: Path) -> Iterator[sw.ServedModel]:
    """Versions 1 and 2 of a model on the warm server; 2 answers."""
    options: dict[str, Any] = {"instance": warm, "root": tmp_path, "progress": False}
    sw.serve(source("half_plus_two", 1), name, **options)
    served = sw.serve(source("half_plus_two", 2), name, note="<plus three>", metrics={"accuracy": 0.97}, **options)
    wait_until(lambda: state(served, 1) == "END", what="the end of version 1")
    yield served
    if name in served.server.models():
        served.server.control.delete_model(name)
    served.close()


@pytest.fixture
def panel(warm: str, served: sw.ServedModel) -> Iterator[Panel]:
    panel = sw.panel(warm)
    panel.refresh()
    choose(panel, "Model", served.name)
    yield panel
    panel.close()


def state(served: sw.ServedModel, version: int) -> str | None:
    return next((row["state"] for row in served.status().rows if row["version"] == version), None)


def widgets(panel: Panel, kind: type) -> Iterator[Any]:
    waiting: list[Any] = [panel._root]
    while waiting:
        widget = waiting.pop()
        waiting.extend(getattr(widget, "children", ()))
        if isinstance(widget, kind):
            yield widget


def named(panel: Panel, kind: type, description: str) -> Any:
    (found,) = [widget for widget in widgets(panel, kind) if widget.description == description]
    return found


def choose(panel: Panel, description: str, value: object) -> None:
    named(panel, w.Dropdown, description).value = value


def click(panel: Panel, description: str) -> str:
    """Click a button as the browser's message does; return the line that tells the result."""
    named(panel, w.Button, description).click()
    assert panel._actions.wait(60)
    panel.refresh()
    return panel._message.value.partition("</style>")[2]


def line(panel: Panel, served: sw.ServedModel, version: int) -> Line:
    assert panel.snapshot is not None
    return next(found for found in panel.snapshot.of(served.name) if found.version == version)


# --- what it shows ---


def test_it_shows_versions_with_their_numbers(panel: Panel, served: sw.ServedModel, warm: str) -> None:
    served.label("stable", 2)
    panel.refresh()
    for _ in range(3):
        served.predict([2.0])
    panel.refresh()
    two, one = line(panel, served, 2), line(panel, served, 1)
    assert (two.state, two.answers, two.labels, two.note) == (
        "AVAILABLE",
        True,
        ("stable",),
        "<plus three>; accuracy 0.97",
    )
    assert two.requests is not None
    assert two.requests >= 3
    assert two.rate is not None
    assert two.rate > 0
    assert two.memory is not None
    assert two.memory > 10 << 20
    assert (one.state, one.answers, one.memory, one.rate) == ("END", False, None, None)
    frame = panel.table.to_frame()
    mine = frame[frame["model"] == served.name].set_index("version")
    assert mine.loc["2", "answers"] == "yes"

    bundle = panel._repr_mimebundle_()
    assert served.name in bundle["text/plain"]
    assert f"server '{warm}'" in bundle["text/plain"]
    assert "<plus three>" in bundle["text/plain"]
    assert "&lt;plus three&gt;" in bundle["text/html"]
    assert "<plus three>" not in bundle["text/html"]
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == panel._view.root.model_id
    assert not panel._view.poller.is_running, "there is no kernel here, so nobody would see it"


def test_versions_that_the_server_does_not_have_are_shown(
    panel: Panel, served: sw.ServedModel, source: Source, tmp_path: Path
) -> None:
    models.copy_version(source("half_plus_two"), tmp_path / served.name / "0")
    rejected = models.copy_version(source("half_plus_two"), tmp_path / served.name / "7")
    quarantine(rejected, "the answers differ:\nby much", "prove")
    panel.refresh()
    assert line(panel, served, 0).state == "ON DISK"
    assert (line(panel, served, 7).state, line(panel, served, 7).trouble) == ("REJECTED", "the answers differ:")
    # The one can be loaded, the other not.
    assert [version for _, version in named(panel, w.Dropdown, "Version").options] == [2, 1, 0]


def test_errors_are_counted_apart(warm: str, name: str, source: Source, tmp_path: Path) -> None:
    served = sw.serve(source("fails"), name, instance=warm, root=tmp_path, progress=False)
    panel = sw.panel(warm)
    panel.refresh()
    before = line(panel, served, 1).errors or 0
    with pytest.raises(sw.PredictError):
        served.predict([13.0])
    panel.refresh()
    # A proof that failed counts as well as a request that did.
    assert (line(panel, served, 1).errors or 0) - before == 1
    assert "(" in panel.table.to_frame().set_index("model").loc[name, "errors"]
    panel.close()
    served.server.control.delete_model(name)
    served.close()


def test_without_a_server_it_says_so_and_finds_one_later(warm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    panel = sw.panel("never-started")
    bundle = panel._repr_mimebundle_()
    assert "No server of instance 'never-started' is running. Start one" in bundle["text/plain"]
    assert "No server of instance" in bundle["text/html"]
    panel._reader.instance = warm
    panel.refresh()
    assert panel.snapshot is not None
    panel.close()


def test_a_restarted_server_is_found_again(warm: str) -> None:
    reader = Reader(warm)
    reader.read()
    assert reader._control is not None
    reader._control._address = ("unix", "/nonexistent")  # where the one before was
    with pytest.raises(sw.ControlError):
        reader.read()
    assert reader.read().instance == warm


def test_a_large_table_leaves_out_what_is_not_loaded() -> None:
    lines = [Line(f"m{i:02}", v, "AVAILABLE" if v == 2 else "END") for i in range(30) for v in (2, 1)]
    snapshot = Snapshot("default", 1, {"grpc": "127.0.0.1:1"}, 7200.0, 1 << 20, "ready", tuple(lines))
    table = page_table(snapshot)
    assert len(table) == MAX_LINES
    assert sum(row["state"] == "AVAILABLE" for row in table.rows) == 30
    assert "20 more versions are not shown" in table.title
    assert "up 2 h" in table.title
    assert len(page_html(snapshot)) < 20_000


# --- what its buttons do ---


def test_load_label_unload(panel: Panel, served: sw.ServedModel) -> None:
    choose(panel, "Version", 1)
    assert "Version 1 of" in click(panel, "Load")
    assert line(panel, served, 1).state == "AVAILABLE"
    assert line(panel, served, 2).answers
    named(panel, w.Text, "Label").value = "canary"
    assert "points at version 1" in click(panel, "Set label")
    assert line(panel, served, 1).labels == ("canary",)
    assert "answers to the label" in click(panel, "Unload")
    assert "is gone" in click(panel, "Remove label")
    assert "has no label" in click(panel, "Remove label")
    assert "is unloaded" in click(panel, "Unload")
    assert line(panel, served, 1).state == "END"
    named(panel, w.Text, "Label").value = " "
    assert "Type a label first" in click(panel, "Set label")


def test_roll_back_and_forth(panel: Panel, served: sw.ServedModel) -> None:
    told = click(panel, "Roll back")
    assert f"Version 1 of &#x27;{served.name}&#x27; answers now (before: 2)." in told
    assert served.serving_version == 1
    # Errors are one line, in the panel; nothing is raised.
    told = click(panel, "Roll back")
    assert "no version before 1 to roll back to; its versions are 1, 2." in told
    assert told.count("\n") == 0
    choose(panel, "Version", 2)
    assert "Version 2 of" in click(panel, "Let it answer")
    assert (served.serving_version, line(panel, served, 2).answers) == (2, True)


def test_split_and_end(panel: Panel, served: sw.ServedModel) -> None:
    choose(panel, "Version", 2)
    named(panel, w.BoundedFloatText, "Share %").value = 40
    assert "is the only one that answers, so it has all requests. Choose another" in click(panel, "Set share")
    choose(panel, "Version", 1)
    click(panel, "Load")  # beside: that must not be in the way
    named(panel, w.BoundedFloatText, "Share %").value = 25
    assert "25 % of the requests" in click(panel, "Set share")
    shares = {found.version: found.share for found in panel.snapshot.of(served.name)}  # type: ignore[union-attr]
    assert shares == pytest.approx({2: 0.75, 1: 0.25}, abs=1e-6)
    assert "25 %" in panel._page.value
    assert line(panel, served, 1).answers
    named(panel, w.BoundedFloatText, "Share %").value = 100
    click(panel, "Set share")
    assert line(panel, served, 1).share == pytest.approx(1.0)
    assert "Version 2 of" in click(panel, "End split")
    assert line(panel, served, 2).share is None
    assert line(panel, served, 2).answers


@pytest.mark.parametrize(
    ("shares", "version", "percent", "weights"),
    [
        ({1: None, 2: None}, 1, 10, {2: 90, 1: 10}),  # 2 answers alone
        ({1: 0.5, 2: 0.5}, 3, 20, {1: 40, 2: 40, 3: 20}),
        ({1: 0.25, 2: 0.75}, 2, 100, {1: 0, 2: 100}),
        ({1: 0.0, 2: 1.0}, 2, 60, {1: 40, 2: 60}),
        ({1: 0.6, 2: 0.3, 3: 0.1}, 1, 20, {1: 20, 2: 60, 3: 20}),
    ],
)
def test_the_others_keep_their_proportions(
    shares: dict[int, float | None], version: int, percent: float, weights: dict[int, float]
) -> None:
    lines = [Line("m", number, "AVAILABLE", answers=number == 2, share=share) for number, share in shares.items()]
    assert weights_with_share(lines, version, percent) == pytest.approx(weights)


def test_a_restart_is_asked_for_twice(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    restarted: list[str] = []

    def restart(instance: str) -> sw.Server:
        restarted.append(instance)
        return sw.Server.connect(instance)

    monkeypatch.setattr("serving_workbench.manage.panel.restart", restart)
    assert "Click again to go on" in click(panel, "Restart server")
    assert restarted == []
    assert "The server runs again, pid" in click(panel, "Restart server")
    assert restarted == [panel.instance]
    assert "Click again to go on" in click(panel, "Restart server")


def test_deploy(panel: Panel, served: sw.ServedModel, source: Source) -> None:
    named(panel, w.Text, "Deploy").value = str(source("half_plus_two"))
    named(panel, w.Text, "as").value = served.name
    named(panel, w.Text, "Note").value = "by hand"
    assert "Version 3 of" in click(panel, "Deploy")
    assert (served.serving_version, line(panel, served, 3).note) == (3, "by hand")
    named(panel, w.Text, "Deploy").value = "/nowhere"
    assert "export: There is no folder" in click(panel, "Deploy")
    named(panel, w.Text, "Deploy").value = ""
    assert "Type what to deploy" in click(panel, "Deploy")


def test_a_click_returns_at_once_though_the_server_hangs(
    panel: Panel, served: sw.ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()

    def hangs(*_: object) -> sw.ServedModel:
        assert go.wait(30)
        raise sw.ControlError("it hung", code="DEADLINE_EXCEEDED")

    monkeypatch.setattr("serving_workbench.manage.panel.connect", hangs)
    named(panel, w.Button, "Roll back").click()
    assert f"Rolling back &#x27;{served.name}&#x27; ..." in panel._message.value
    named(panel, w.Button, "Unload").click()
    assert "is still under way" in panel._message.value
    go.set()
    assert panel._actions.wait(60)
    assert "it hung" in panel._message.value


def test_every_control_has_a_label_or_a_tooltip(panel: Panel) -> None:
    for field in (*widgets(panel, w.Text), *widgets(panel, w.Dropdown)):
        assert field.description
    for button in (*widgets(panel, w.Button), *widgets(panel, w.ToggleButton)):
        assert button.description
        assert button.tooltip


# --- live ---


def test_it_follows_what_others_do(panel: Panel, served: sw.ServedModel) -> None:
    panel._view.start()
    page = wait_until(lambda: panel._page.value, what="a page")
    served.load(1)
    wait_until(lambda: line(panel, served, 1).state == "AVAILABLE", what="the version in the panel")
    assert panel._page.value != page
    version = named(panel, w.Dropdown, "Version")
    wait_until(lambda: ("1 · AVAILABLE", 1) in version.options, what="the version to choose")
    assert version.value == 2, "what was chosen stays chosen"
    named(panel, w.ToggleButton, "Log").value = True
    wait_until(lambda: "Loaded" in panel._log.value, what="the log")
    named(panel, w.ToggleButton, "Log").value = False
    wait_until(lambda: not panel._log.value, what="no log")
    click_close = named(panel, w.Button, "Close")
    click_close.click()
    assert not panel._view.poller.is_running
    assert panel._view.is_closed


def test_fifty_panels_leave_nothing(warm: str) -> None:
    def cycle() -> None:
        panel = sw.panel(warm)
        panel._view.start()
        wait_until(lambda: panel.snapshot, what="a reading")
        panel._view.root.set_state({"_view_count": 1})
        panel.close()

    def counts() -> tuple[int, int, int, int]:
        gc.collect()
        process = psutil.Process()
        return len(_instances), threading.active_count(), process.num_fds(), len(process.children(recursive=True))

    cycle()
    before = counts()
    for _ in range(50):
        cycle()
    wait_until(lambda: counts() == before, what=lambda: f"{before}, now {counts()}")
