"""The A/B and profile tabs in JupyterLab in a real browser: what is clicked reaches the server, what it does is drawn.

`SERVING_SCREENSHOTS=<folder>` keeps pictures, to be looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import ActionChains, Keys

import serving_workbench as sw
from tests import leaks
from tests.browser import Browser, JupyterLab, Notebook
from tests.kernel_ext.extension import believed
from tests.kernel_ext.test_browser import contrast
from tests.kernel_ext.test_tuning_browser import slider
from tests.servers import wait_until

OUTPUT = ".jp-Notebook .jp-OutputArea-output"
DOTS = ".sw-pictures [data-request]"

pytestmark = [pytest.mark.browser, pytest.mark.slow]

LOAD = """
import threading
import numpy as np
stop = threading.Event()
def ask(x=np.arange(4, dtype=np.float32)):
    while not stop.wait(0.003):
        served.predict(x)
clients = [threading.Thread(target=ask) for _ in range(3)]
for client in clients: client.start()
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterLab]:
    with JupyterLab(tmp_path_factory.mktemp("l")) as server:
        leaks.allow(server.pid)
        yield server


@pytest.fixture(scope="module")
def page(lab: JupyterLab, browser: Browser, models_dir: Path) -> Notebook:
    found = lab.open(browser, "ab.ipynb")
    found.run("%load_ext serving_workbench")
    for version in (1, 5):
        found.run(f"served = %serve {models_dir / 'arms' / str(version)} --name digits --no-progress")
    found.run("_ = served.rollback()")
    found.run(f"exec({LOAD!r})")  # in one line: the editor would indent more of them
    return found


def weights(lab: JupyterLab) -> Any:
    model = sw.Server(believed(lab, "default")).control.model("digits")
    return (model["traffic"] or {}).get("weights")


def drawn(page: Notebook, what: str) -> float:
    script = f"return [...document.querySelectorAll('[data-{what}]')].pop()?.dataset.{what} || 0"
    return float(page.driver.execute_script(script))


def test_a_split_is_started_and_moved_and_the_chart_goes_on(lab: JupyterLab, page: Notebook) -> None:
    page.run("tab = %ab digits")
    page.run("tab")
    page.wait('svg[aria-label^="Confidence sequence"]', "the chart")
    page.wait_text("No requests are split")
    page.click("Start split")
    wait_until(lambda: weights(lab) == {"1": 50, "2": 50}, 60, lambda: f"{weights(lab)} {page.text()[-1500:]}")
    wait_until(lambda: drawn(page, "points") >= 3, 60, lambda: page.text()[-1500:])
    ActionChains(page.driver).click(slider(page, "B's percent")).send_keys(Keys.ARROW_LEFT * 3).perform()
    wait_until(lambda: (weights(lab) or {}).get("2") == 47, 60, lambda: f"{weights(lab)} {page.text()[-1500:]}")
    before = drawn(page, "requests")
    wait_until(lambda: drawn(page, "requests") > before, 30, "the chart goes on")
    page.wait_text("REJECT", 60)
    page.wait_text("Run time is worse than allowed")
    wait_until(lambda: "worse, after" in page.text(), 30, lambda: page.text()[-2000:])
    wait_until(lambda: drawn(page, "points") >= 20, 60, "a longer sequence")
    page.screenshot("ab-tab", ".jp-Notebook .jp-OutputArea-output")
    assert page.problems(OUTPUT) == []
    page.click("Stop split")
    wait_until(lambda: weights(lab) is None, 60, lambda: str(weights(lab)))
    page.click("A/A check")
    page.wait_text("A/A check needs rows to send")
    assert page.browser.console() == []


def test_the_profile_tab_follows_the_requests(page: Notebook) -> None:
    page.run("tab.close()")
    page.clear_outputs()
    page.run("profiled = %profile digits --live")
    page.run("profiled")
    page.wait('svg[aria-label^="Stages of requests at percentiles"]', "the bars")
    page.wait('svg[aria-label*=": Request "]', "a request's stages")
    page.wait('svg[aria-label^="Memory of the worker"]', "the worker's memory")
    # As a mouse does: dots may cover one another, so that what is chosen is the nearest.
    ActionChains(page.driver).click(page.wait(f"{DOTS}[aria-pressed=false]", "a dot")).perform()
    clicked = wait_until(lambda: listed(page), 30, lambda: page.text()[-1500:])
    wait_until(lambda: f"Request {clicked} " in page.text(), 30, lambda: page.text()[-1500:])
    # From the keyboard: one dot is reached with Tab, the others with arrows; they stay where they are meanwhile.
    page.driver.execute_script("document.querySelector(arguments[0]).focus()", f"{DOTS}[tabindex='0']")
    ActionChains(page.driver).send_keys(Keys.HOME, Keys.ARROW_RIGHT).perform()
    second = page.driver.execute_script("return document.activeElement.dataset.request")
    assert second == page.find(DOTS)[1].get_attribute("data-request")
    ActionChains(page.driver).send_keys(Keys.ENTER).perform()
    wait_until(lambda: listed(page) == second, 30, lambda: f"{second}: {page.text()[-1500:]}")
    assert page.run("profiled.shown") == repr(second)
    page.click("Profile ops")
    page.wait_text("runs traced", 90)
    page.wait_text("share of the run")
    page.wait_text("By type of op")
    page.screenshot("profile-tab", f"{OUTPUT}:has(.sw-pictures)")
    assert page.problems(OUTPUT) == []
    assert page.browser.console() == []
    page.run("profiled.close()")


def listed(page: Notebook) -> str | None:
    """The request that is chosen in the list; None for the slowest of each reading."""
    script = "return arguments[0].selectedOptions[0].text"
    text = str(page.driver.execute_script(script, page.field("Request")))
    return None if text.startswith("the slowest") else text.partition(":")[0].partition(" ")[0]


def test_a_finished_comparison_is_looked_through(page: Notebook) -> None:
    page.clear_outputs()
    page.run("stop.set(); [client.join(10) for client in clients]")
    page.run("pictures = np.arange(6, dtype=np.float32)")
    page.run("r = %ab digits 1 2 --data pictures --no-progress")
    page.run("r.tab()")
    page.wait_text("Rows that differ")
    page.press(
        lambda: next(each for each in page.find(".lm-TabBar-tab") if each.text == "Rows that differ"), "the page"
    )
    page.wait_text("The arms agree in all rows.")
    page.screenshot("ab-finished", ".jp-Notebook .jp-OutputArea-output")
    assert page.problems(OUTPUT) == []
    page.run("%serve stop digits")


def test_the_profile_tab_in_a_dark_theme(tmp_path: Path, browser: Browser, models_dir: Path) -> None:
    # The last one here: it leaves the browser on the page of another server.
    with JupyterLab(tmp_path / "dark", dark=True) as lab:
        dark = lab.open(browser)
        dark.run("%load_ext serving_workbench")
        dark.run(f"served = %serve {models_dir / 'arms' / '1'} --name digits --instance dark --no-progress")
        dark.run("import numpy as np; [served.predict(np.float32([n])) for n in range(40)]; None")
        dark.run("import serving_workbench as sw; profiled = sw.profile_live(served)")
        dark.run("profiled")
        dark.wait('svg[aria-label*=": Request "]', "a request's stages")
        dark.click("Profile ops")
        dark.wait_text("By type of op", 90)
        dark.screenshot("profile-tab-dark", OUTPUT)
        assert dark.problems(OUTPUT) == []
        for part in (".sw-pictures .panel", ".sw-pictures svg text:not([fill^='#'])", ".sw-panel td", ".sw-panel li"):
            assert contrast(dark, part) > 7, part
        dark.run("profiled.close(); sw.stop('dark')")
