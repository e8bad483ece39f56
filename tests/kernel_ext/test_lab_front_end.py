"""What JupyterLab shows of the servers beside notebooks: status item, side panel, tile, palette; in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.remote.webelement import WebElement

import serving_server
from tests import leaks
from tests.browser import Browser, JupyterLab, Page
from tests.kernel_ext.extension import ask
from tests.kernel_ext.jupyter import JupyterServer
from tests.servers import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ROOT = Path(__file__).parent.parent.parent
SOURCE = ROOT / "kernel_ext/share/jupyter/labextensions/serving-workbench"
INSTANCE = "/serving/api/instances/default"
PANEL = "#serving-workbench-panel"
ITEM = ".sw-lab-item"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterLab]:
    folder = tmp_path_factory.mktemp("front")
    (folder / "01_quickstart.ipynb").write_bytes((ROOT / "notebooks/01_quickstart.ipynb").read_bytes())
    with JupyterLab(folder, "--ServerApp.base_url=/a%40b/") as server:
        leaks.allow(server.pid)
        yield server


def deploy(lab: JupyterLab, models_dir: Path, *versions: int) -> None:
    """Two versions of half_plus_two as 'half', without a notebook."""
    for version in versions:
        body = {"path": str(models_dir / "half_plus_two" / str(version)), "name": "half"}
        answer = ask(lab, "POST", f"{INSTANCE}/models", body)
        assert answer.status == 200, answer.body
    leaks.allow(ask(lab, "GET", INSTANCE).json["pid"])


def serving(lab: JupyterLab) -> int:
    version: int = ask(lab, "GET", INSTANCE).json["status"]["models"]["half"]["serving_version"]
    return version


def shown(page: Page, css: str = PANEL) -> str:
    """Text of an element that may be drawn anew at any moment."""
    script = "return (document.querySelector(arguments[0]) || {}).innerText || ''"
    return str(page.driver.execute_script(script, css))


def wait_shown(page: Page, text: str, css: str = PANEL, timeout: float = 30.0) -> None:
    wait_until(lambda: text in shown(page, css), timeout, lambda: f"{text!r} in\n{shown(page, css)}")


def press(page: Page, label: str) -> None:
    """Click a button by what a screen reader calls it, once it may be pressed."""

    def found() -> WebElement:
        return page.wait(f'{PANEL} button[aria-label="{label}"]:enabled', label)

    page.press(found, label)


def requests_since(page: Page, start: float) -> list[float]:
    """Times, in ms of the page's clock, at which it has asked for the summary since then."""
    script = "return performance.getEntriesByType('resource').map(e => [e.name, e.startTime])"
    return [at for name, at in page.driver.execute_script(script) if "/serving/api/summary" in name and at >= start]


def now(page: Page) -> float:
    return float(page.driver.execute_script("return performance.now()"))


def test_from_an_empty_page_to_a_rollback_and_the_end(lab: JupyterLab, browser: Browser, models_dir: Path) -> None:
    page = lab.open_front(browser)
    wait_shown(page, "Serving: off", ITEM)
    # By the keyboard: the tile in the launcher opens the panel.
    tile = page.wait('.jp-LauncherCard[title="Show the servers and their models"]', "the tile")
    tile.send_keys(Keys.ENTER)
    page.wait(PANEL, "the panel")
    wait_shown(page, "No server runs.")
    page.screenshot("front-empty")
    assert page.problems(PANEL) == []

    deploy(lab, models_dir, 1, 2)
    wait_shown(page, "Roll back to 1")
    wait_shown(page, "AVAILABLE · answers")
    wait_shown(page, "1 model", ITEM)
    assert serving(lab) == 2
    for _ in range(20):
        answer = ask(lab, "POST", "/serving/default/v1/models/half:predict", {"instances": [2.0]})
        assert answer.json == {"predictions": [4.0]}
    wait_until(lambda: re.search(r"[1-9]\d*\.\d req/s|0\.[1-9] req/s", shown(page)), 30, lambda: shown(page))
    page.screenshot("front-light")
    page.screenshot("front-light-panel", PANEL)
    assert page.problems(PANEL) == []
    assert page.problems(ITEM) == []

    press(page, "Roll half back to version 1")
    wait_shown(page, "Version 1 of 'half' answers now (before: 2).")
    assert serving(lab) == 1
    assert ask(lab, "POST", "/serving/default/v1/models/half:predict", {"instances": [2.0]}).json == {
        "predictions": [3.0]
    }

    press(page, "Show the log of default")
    wait_shown(page, "serving_server.lifecycle")
    assert page.problems(PANEL) == []
    press(page, "Hide the log of default")

    before = ask(lab, "GET", INSTANCE).json["instance_id"]
    press(page, "Restart default")
    wait_shown(page, "'default' was restarted.")
    restarted = ask(lab, "GET", INSTANCE).json
    assert restarted["instance_id"] != before
    leaks.allow(restarted["pid"])
    wait_shown(page, "AVAILABLE · answers")

    press(page, "Stop default")
    page.press(lambda: page.wait(".jp-Dialog .jp-mod-reject", "the way out"), "Cancel")
    assert ask(lab, "GET", INSTANCE).status == 200
    press(page, "Stop default")
    page.press(lambda: page.wait(".jp-Dialog .jp-mod-warn", "the question"), "Stop")
    wait_shown(page, "'default' was stopped.")
    assert ask(lab, "GET", INSTANCE).status == 404
    wait_shown(page, "Serving: off", ITEM)
    assert browser.console() == []


def test_a_server_is_started_by_the_keyboard_and_refusals_are_shown(lab: JupyterLab, browser: Browser) -> None:
    page = lab.open_front(browser)
    page.press(lambda: page.wait(ITEM, "the status item"), "the status item")
    name = page.wait(f"{PANEL} input", "the name")
    name.send_keys(Keys.CONTROL + "a")
    name.send_keys("no/name", Keys.ENTER)
    wait_shown(page, "Starting 'no/name': ")
    wait_shown(page, "is not an instance name")
    # The browser itself tells of an answer that is an error; nothing else may be there.
    assert [line for line in browser.console() if "409" not in line] == []
    name.send_keys(Keys.CONTROL + "a")
    name.send_keys("typed", Keys.ENTER)
    wait_shown(page, "'typed' runs.", timeout=60)
    wait_shown(page, "It serves no model yet.")
    assert ask(lab, "DELETE", "/serving/api/instances/typed").json == {"name": "typed", "stopped": True}
    wait_until(lambda: "typed" not in shown(page, f"{PANEL} section"), 30, lambda: shown(page))


def test_it_asks_only_while_it_is_seen(lab: JupyterLab, browser: Browser) -> None:
    page = lab.open_front(browser)
    page.press(lambda: page.wait(ITEM, "the status item"), "the status item")
    page.wait(PANEL, "the panel")
    start = now(page)
    times = wait_until(lambda: found if len(found := requests_since(page, start)) >= 3 else None, 30, "readings")
    assert times[2] - times[0] >= 2500, "one in two seconds, or a timer that came late before one that did not"
    # Another window in front: nothing more, until this one is seen again.
    script = (
        "Object.defineProperty(document, 'hidden', {configurable: true, get: () => arguments[0]});"
        "document.dispatchEvent(new Event('visibilitychange'));"
    ).replace("arguments[0]", "window.swHidden")
    page.driver.execute_script(f"window.swHidden = true; {script}")
    hidden = now(page)
    page.driver.execute_async_script("setTimeout(arguments[0], 6000)")
    assert requests_since(page, hidden + 100) == []
    page.driver.execute_script(f"window.swHidden = false; {script}")
    wait_until(lambda: requests_since(page, hidden + 100), 60, "readings again")
    assert browser.console() == []


def test_the_palette_has_its_commands_and_opens_the_quickstart(lab: JupyterLab, browser: Browser) -> None:
    page = lab.open_front(browser)
    ActionChains(page.driver).key_down(Keys.CONTROL).key_down(Keys.SHIFT).send_keys("c").key_up(Keys.SHIFT).key_up(
        Keys.CONTROL
    ).perform()
    page.wait(".lm-CommandPalette-input", "the palette").send_keys("serving")
    for label in ("Serving Workbench", "Start a Serving Process", "Open the Serving Quickstart"):
        wait_shown(page, label, ".lm-CommandPalette-content")
    page.driver.find_element("css selector", ".lm-CommandPalette-input").send_keys(" quickstart", Keys.ENTER)
    page.wait(".jp-NotebookPanel", "the notebook")
    wait_until(lambda: "Serving Workbench: the quickstart" in page.text(), 30, "its text")
    page.wait('.jp-Notebook-ExecutionIndicator[data-status="idle"]', "its kernel", 60)
    for session in lab.request("GET", "/api/sessions"):
        lab.request("DELETE", f"/api/sessions/{session['id']}")


def test_a_dark_theme_in_a_narrow_window(tmp_path: Path, browser: Browser, models_dir: Path) -> None:
    with JupyterLab(tmp_path / "dark", dark=True) as lab:
        deploy(lab, models_dir, 1)
        page = lab.open_front(browser)
        page.press(lambda: page.wait(ITEM, "the status item"), "the status item")
        wait_shown(page, "AVAILABLE · answers")
        page.screenshot("front-dark")
        assert page.problems(PANEL) == []
        assert page.problems(ITEM) == []
        # As narrow as JupyterLab lets a side panel become, and narrower.
        page.driver.execute_script(
            f"document.querySelector('{PANEL}').style.cssText += 'min-width: 0; max-width: 200px'"
        )
        page.screenshot("front-narrow", PANEL)
        overflow = "const e = document.querySelector(arguments[0]); return e.scrollWidth - e.clientWidth"
        assert page.driver.execute_script(overflow, PANEL) <= 0, "it fits without scrolling sideways"
        assert page.problems(PANEL) == []
        assert ask(lab, "DELETE", INSTANCE).json["stopped"]
        assert browser.console() == []


@pytest.mark.parametrize("what", ["no extension in the server", "a page without its modules"])
def test_jupyterlab_starts_whatever_fails(tmp_path: Path, browser: Browser, what: str) -> None:
    flags = ["--ServerApp.jpserver_extensions={'serving_jupyter': False}"] if what.startswith("no ext") else []
    with JupyterLab(tmp_path / "lab", *flags) as lab:
        if flags:
            page = lab.open_front(browser)
            wait_shown(page, "Serving: unknown", ITEM)
            page.press(lambda: page.wait(ITEM, "the status item"), "the status item")
            wait_shown(page, "Is serving-workbench enabled in this Jupyter server?")
            return
        # What a later JupyterLab may do: the modules are not where this file looks for them.
        code = """
            const other = {set(all, name, each) {
                all[name] = name === 'serving-workbench' ? {...each, init: () => each.init({})} : each;
                return true;
            }};
            Object.defineProperty(window, '_JUPYTERLAB', {value: new Proxy({}, other)});
        """
        added = browser.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": code})
        try:
            lab.open_front(browser)
            assert not browser.driver.find_elements("css selector", ITEM)
        finally:
            browser.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)


def test_what_is_installed_is_what_is_here(lab: JupyterServer) -> None:
    assert json.loads((SOURCE / "package.json").read_text())["version"] == serving_server.__version__
    assert len((SOURCE / "static/serving-workbench.js").read_text().splitlines()) <= 300
    (listed,) = [
        each for each in json.loads(_page_config(lab))["federated_extensions"] if each["name"] == "serving-workbench"
    ]
    served = _text(lab, f"/lab/extensions/serving-workbench/{listed['load']}")
    assert served == (SOURCE / listed["load"]).read_text()


def _page_config(lab: JupyterServer) -> str:
    found = re.search(
        r'<script id="jupyter-config-data" type="application/json">(.*?)</script>', _text(lab, "/lab"), re.DOTALL
    )
    assert found is not None
    return found[1]


def _text(lab: JupyterServer, path: str) -> str:
    return ask(lab, "GET", path).body.decode()
