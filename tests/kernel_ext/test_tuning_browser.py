"""The tuning dashboard in JupyterLab in a real browser: sliders are moved, the running server and the chart change.

`SERVING_SCREENSHOTS=<folder>` keeps pictures, to be looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Keys
from selenium.webdriver.remote.webelement import WebElement

import serving_workbench as sw
from tests import leaks
from tests.browser import Browser, JupyterLab, Notebook
from tests.kernel_ext.extension import believed
from tests.servers import wait_until

OUTPUT = ".jp-Notebook .jp-OutputArea-output"

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PARAMETERS = {"max_batch_size": 16, "batch_timeout_micros": 1000, "num_batch_threads": 2}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterLab]:
    with JupyterLab(tmp_path_factory.mktemp("l")) as server:
        leaks.allow(server.pid)
        yield server


@pytest.fixture(scope="module")
def page(lab: JupyterLab, browser: Browser, models_dir: Path) -> Notebook:
    found = lab.open(browser, "tune.ipynb")
    found.run("%load_ext serving_workbench")
    found.run(f"served = %serve {models_dir / 'half_plus_two' / '1'} --name tuned --no-progress")
    found.run(f"_ = served.server.set_batching('tuned', **{PARAMETERS})")
    return found


def in_force(lab: JupyterLab) -> dict[str, Any]:
    found = sw.Server(believed(lab, "default")).batching("tuned")
    assert found is not None
    return found


def slider(page: Notebook, label: str) -> WebElement:
    """The handle of a slider, which takes the keys of arrows."""

    def found() -> WebElement | None:
        for box in page.find(".jp-Notebook .widget-slider, .jp-Notebook .widget-hslider"):
            if label in box.text:
                return box.find_element("css selector", ".noUi-handle")
        return None

    handle = wait_until(found, 30, lambda: f"the slider {label!r}\n{page.text()[-2000:]}")
    page.scroll_to(handle)
    return handle


def press(page: Notebook, label: str, *keys: str) -> None:
    slider(page, label).send_keys(*keys)  # not by a click: the page may move under it, and another slider get it


def updates(page: Notebook) -> int:
    return int(
        page.driver.execute_script(
            "return [...document.querySelectorAll('[data-updates]')].pop()?.dataset.updates || 0"
        )
    )


def test_sliders_move_the_running_server_and_the_chart(lab: JupyterLab, page: Notebook) -> None:
    page.run("d = %tune tuned")
    page.run("d")
    page.wait('canvas[aria-label="why batches ran"]', "the chart")
    page.wait_text("No requests come.")
    page.click("Start load")
    page.wait_text("threads busy", 60)
    wait_until(lambda: "No requests come" not in page.text(), 60, lambda: page.text()[-1500:])
    press(page, "max_batch_size", Keys.ARROW_RIGHT)
    wait_until(lambda: in_force(lab)["max_batch_size"] == 32, 60, lambda: str(in_force(lab)))
    press(page, "timeout", Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    wait_until(lambda: in_force(lab)["batch_timeout_micros"] == 3000, 60, lambda: str(in_force(lab)))
    page.wait_text("In force: batch 32, timeout 3 ms, 2 threads.")
    before = updates(page)
    wait_until(lambda: updates(page) >= before + 12, 60, "the chart goes on")
    page.screenshot("tuning-live", OUTPUT)
    assert page.problems(OUTPUT) == []
    # Usable while a cell runs.
    page.type("import time; time.sleep(600)")
    page.start()
    page.wait_text("[*]")
    before = updates(page)
    wait_until(lambda: updates(page) >= before + 2, 30, "the chart goes on while a cell runs")
    page.interrupt()
    page.wait_text("KeyboardInterrupt")
    page.click("Revert")
    wait_until(lambda: PARAMETERS.items() <= in_force(lab).items(), 60, lambda: str(in_force(lab)))
    page.click("Stop load")
    page.wait_text("No load.")
    assert page.browser.console() == []


def test_closing_the_view_ends_the_updates(page: Notebook) -> None:
    page.run("other = %tune tuned")
    page.run("other")
    looked = "other.view.root._view_count, other.view.poller.is_running"
    wait_until(lambda: page.run(looked).endswith("(1, True)"), 30, "a view")
    page.clear_outputs()
    wait_until(lambda: page.run(looked).endswith("(0, False)"), 30, "its end")
    page.run("other.close(); d.close()")
    live = "import threading; [t.name for t in threading.enumerate() if t.name == 'serving-workbench live']"
    assert page.run(live).endswith("[]")


def test_a_search_shows_its_result(page: Notebook) -> None:
    code = "r = %tune tuned --p99 200ms --for 15 --no-progress"
    page.run(code, timeout=170)
    shown = page.run("r")
    assert "requests/s" in shown
    page.wait(".jp-OutputArea img", "the picture")
    page.screenshot("tuning-result")
    assert page.problems(OUTPUT) == []
    page.run("%serve stop tuned")
