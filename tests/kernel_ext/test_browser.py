"""JupyterLab in a real browser, by clicking and typing: serve, ask, look at the panel, roll back.

`SERVING_SCREENSHOTS=<folder>` keeps pictures of each step, to be looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import serving_workbench as sw
from tests import leaks
from tests.browser import Browser, JupyterLab, Notebook
from tests.kernel_ext.extension import ask, believed
from tests.servers import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.slow]

README = (Path(__file__).parent.parent.parent / "README.md").read_text()
MODEL = "/serving/default/v1/models/digits"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterLab]:
    with JupyterLab(tmp_path_factory.mktemp("l"), "--ServerApp.base_url=/a%40b/") as server:
        leaks.allow(server.pid)
        yield server


@pytest.fixture(scope="module")
def served(lab: JupyterLab, browser: Browser, models_dir: Path) -> Notebook:
    """A notebook in which two versions of half_plus_two were served as 'digits'; version 2 answers."""
    page = lab.open(browser)
    page.run("%load_ext serving_workbench")
    for version in (1, 2):
        path = models_dir / "half_plus_two" / str(version)
        assert "digits" in page.run(f"%serve {path} --name digits --no-progress")
    return page


def answers(lab: JupyterLab) -> int:
    """The version that clients outside of the notebook get."""
    found = ask(lab, "GET", "/serving/api/instances/default").json
    version: int = found["models"]["digits"]["serving_version"] if "models" in found else 0
    return version


def predicted(lab: JupyterLab) -> list[float]:
    answer = ask(lab, "POST", f"{MODEL}:predict", {"instances": [2.0]})
    assert answer.status == 200, answer.body
    found: list[float] = answer.json["predictions"]
    return found


def test_the_readme_typed_into_a_notebook_serves_a_model_that_answers(lab: JupyterLab, browser: Browser) -> None:
    block = re.search(r"```python\n(%load_ext.*?)```", README, re.DOTALL)
    assert block is not None
    training, _, serve = block[1].strip().rpartition("\n")
    assert serve == "%serve model --name digits"
    load_ext, _, training = training.partition("\n")
    page = lab.open(browser, "readme.ipynb")
    page.run(load_ext)
    page.run(training.strip().replace("epochs=20", "epochs=2"), timeout=150)
    page.screenshot("readme-typed")
    shown = page.run(f"{serve.replace('digits', 'typed')}", timeout=150)
    page.screenshot("readme-served")
    for part in ("typed, version 1", "gRPC", "REST", "/v1/models/typed:predict", "serving_default"):
        assert part in shown
    assert page.run("import serving_workbench as sw; sw.connect('typed').predict(pixels[:2]).shape") == "(2, 10)"
    answer = ask(lab, "POST", "/serving/default/v1/models/typed:predict", {"instances": [[0.0] * 64]})
    assert len(answer.json["predictions"][0]) == 10
    page.run("%serve stop typed")


def test_the_panel_shows_and_rolls_back(lab: JupyterLab, served: Notebook) -> None:
    page = served
    assert predicted(lab) == [4.0]
    page.run("%serve panel")
    page.wait_text("Roll back")
    page.wait_text("AVAILABLE")
    page.screenshot("panel")
    page.click("Roll back")
    page.wait_text("Version 1 of 'digits' answers now (before: 2).")
    # In the server, as clients outside of the notebook see it.
    assert predicted(lab) == [3.0]
    page.wait_text("1 · AVAILABLE · answers")
    page.screenshot("panel-rolled-back")

    page.choose("Version", "2")
    page.click("Load")
    page.wait_text("Version 2 of 'digits' is loaded, beside version 1, which answers.")
    page.type_into("Label", "canary")
    page.click("Set label")
    page.wait_text("The label 'canary' of 'digits' points at version 2.")
    answer = ask(lab, "POST", f"{MODEL}/labels/canary:predict", {"instances": [2.0]})
    assert answer.json["predictions"] == [4.0]
    page.type_into("Share %", "25")
    page.click("Set share")
    page.wait_text("25 % of the requests for 'digits' that name no version go to version 2.")
    page.screenshot("panel-split")
    page.click("Unload")
    page.wait_text("answers to the label 'canary'")  # an error, in one line
    page.click("Log")
    page.wait_text("serving_server.lifecycle")
    page.screenshot("panel-log")
    assert page.problems(".sw-panel") == []
    assert page.browser.console() == []


def test_the_panel_is_live_while_the_kernel_is_busy(lab: JupyterLab, served: Notebook) -> None:
    page = served
    page.run("import serving_workbench as sw; sw.panel()")
    page.wait_text("Roll back")
    before = believed(lab, "default")
    control = sw.Server(before).control
    page.type("import time; time.sleep(600)")
    page.start()
    page.wait_text("[*]")
    control.put_labels("digits", {"while-busy": control.model("digits")["serving_version"]})
    page.wait_text("while-busy")
    page.interrupt()
    page.wait_text("KeyboardInterrupt")


def test_closing_the_view_stops_the_updates(served: Notebook) -> None:
    page = served
    page.run("import serving_workbench as sw; q = sw.panel(); q")
    page.wait_text("Roll back")
    wait_until(lambda: page.run("q._view.root._view_count, q._view.poller.is_running") == "(1, True)", 30, "a view")
    page.clear_outputs()
    wait_until(lambda: page.run("q._view.root._view_count, q._view.poller.is_running") == "(0, False)", 30, "its end")
    live = "import threading; [t.name for t in threading.enumerate() if t.name == 'serving-workbench live']"
    assert page.run(live) == "[]"
    page.run("q")  # and it is there again
    wait_until(lambda: page.run("q._view.root._view_count, q._view.poller.is_running") == "(1, True)", 30, "a view")
    # A page that is loaded again counts anew.
    page = page.reload()
    page.wait_text("Roll back")
    wait_until(lambda: page.run("q._view.root._view_count, q._view.poller.is_running") == "(1, True)", 30, "a view")
    page.click("Close")
    wait_until(lambda: page.run("q._view.is_closed, q._view.poller.is_running") == "(True, False)", 30, "the end")


def test_a_dark_theme(tmp_path: Path, browser: Browser, models_dir: Path) -> None:
    with JupyterLab(tmp_path / "dark", dark=True) as lab:
        page = lab.open(browser)
        page.run("%load_ext serving_workbench")
        page.run(f"%serve {models_dir / 'half_plus_two' / '1'} --name dark --no-progress")
        page.run("import serving_workbench as sw; sw.panel()")
        page.wait_text("AVAILABLE")
        page.screenshot("panel-dark")
        assert page.problems(".sw-panel") == []
        assert contrast(page, ".sw-panel td") > 7
        assert contrast(page, ".sw-panel .good") > 3
        page.run("%serve stop --all")


def contrast(page: Notebook, css: str) -> float:
    """Contrast of an element's text with the notebook's background, as WCAG 2 defines it."""
    script = """
        const own = getComputedStyle(document.querySelector(arguments[0])).color;
        let behind = document.querySelector(arguments[0]);
        while (behind && /rgba\\(0, 0, 0, 0\\)/.test(getComputedStyle(behind).backgroundColor)) {
            behind = behind.parentElement;
        }
        return [own, getComputedStyle(behind).backgroundColor];
    """
    colours: list[Any] = page.driver.execute_script(script, css)
    light, dark = sorted((luminance(colour) for colour in colours), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [float(part) / 255 for part in re.findall(r"[\d.]+", colour)[:3]]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
