"""A real browser for notebooks: headless Chromium, and JupyterLab in it, by clicking and typing.

Everything is Debian's: `chromium` and its `chromedriver`, driven by Selenium; nothing is downloaded. Typical use::

    with JupyterLab(tmp_path) as lab:
        page = lab.open(browser, "notebook.ipynb")
        page.run("1 + 1")            # types a cell and runs it: its output as text
        page.click("Roll back")      # a button of a widget
        page.wait_text("answers")    # anywhere in the notebook
        page.screenshot("name")      # for people to look at: `SERVING_SCREENSHOTS=<folder>` keeps it
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import nbformat
import psutil
from axe_core_python.base import AXE_SCRIPT
from selenium import webdriver
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    StaleElementReferenceException,
)
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.kernel_ext.jupyter import TOKEN, JupyterServer
from tests.servers import wait_until

__all__ = ["Browser", "JupyterLab", "Notebook", "Page", "missing"]

#: Environment variable: the folder in which `Notebook.screenshot` keeps its pictures.
SCREENSHOTS = "SERVING_SCREENSHOTS"

#: Of ipywidgets: its slider gives the handle no name (the number beside it, which is typed into, has one); the titles
#: of pages behind the one in front have a contrast of 4.42 where 4.5 is asked.
_NOT_OURS = (("aria-input-field-name", "noUi-handle"), ("color-contrast", "lm-TabBar-tabLabel"))

_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-breakpad"),
    *("--disable-crash-reporter", "--disable-extensions", "--hide-scrollbars", "--force-color-profile=srgb"),
    # A hidden or covered window throttles timers; over whatever proxy there is, this machine would not find itself.
    *("--disable-background-timer-throttling", "--disable-renderer-backgrounding", "--no-proxy-server"),
)


def missing() -> str | None:
    """What this machine lacks for a browser; None when nothing."""
    found = {"chromium": _chromium(), "chromedriver": shutil.which("chromedriver")}
    lacking = [name for name, path in found.items() if path is None]
    return f"{' and '.join(lacking)} not installed" if lacking else None


def _chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")


class Browser:
    """Chromium with a profile of its own; a context manager.

    Parameters
    ----------
    folder : Path
        For its profile and temporary files.
    size : tuple of int
        Of the window, in pixels.
    """

    def __init__(self, folder: Path, size: tuple[int, int] = (1280, 1100)) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = str(_chromium())
        for flag in (*_FLAGS, f"--user-data-dir={folder / 'profile'}", f"--window-size={size[0]},{size[1]}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        temporary = folder / "tmp"
        temporary.mkdir(parents=True)
        environment = {**os.environ, "TMPDIR": str(temporary), "HOME": str(folder)}
        service = webdriver.ChromeService(str(shutil.which("chromedriver")), env=environment)
        self.driver = webdriver.Chrome(options=options, service=service)
        self.driver.set_page_load_timeout(60)
        self.pid: int = service.process.pid

    def console(self) -> list[str]:
        """What pages have logged as errors since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def close(self) -> None:
        family = psutil.Process(self.pid).children(recursive=True)
        self.driver.quit()
        _, left = psutil.wait_procs(family, timeout=60)
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class JupyterLab(JupyterServer):
    """`jupyter server` with JupyterLab, as users have it, but for news and questions; a context manager.

    Parameters
    ----------
    folder : Path
        Its root, its runtime folder and its settings.
    dark : bool
        Theme.
    """

    def __init__(self, folder: Path, *flags: str, dark: bool = False) -> None:
        settings = folder / "settings" / "@jupyterlab"
        _write(settings / "apputils-extension" / "themes.jupyterlab-settings", theme=f"JupyterLab {_theme(dark)}")
        _write(settings / "apputils-extension" / "notification.jupyterlab-settings", fetchNews="false")
        # Cells that are out of sight are there nevertheless: what a test waits for may be below.
        _write(settings / "notebook-extension" / "tracker.jupyterlab-settings", windowingMode="none")
        os.environ["JUPYTERLAB_SETTINGS_DIR"] = str(folder / "settings")
        os.environ["JUPYTERLAB_WORKSPACES_DIR"] = str(folder / "workspaces")
        try:
            super().__init__(folder, "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", *flags)
        finally:
            del os.environ["JUPYTERLAB_SETTINGS_DIR"], os.environ["JUPYTERLAB_WORKSPACES_DIR"]

    def open(self, browser: Browser, name: str = "notebook.ipynb") -> Notebook:
        """Open a notebook in the browser, a new one unless it is there; return when its kernel is idle."""
        path = self.folder / name
        if not path.exists():
            kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
            cells = [nbformat.v4.new_code_cell()]
            nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
        # A page of another server, which may have ended, would go on to log that it cannot be reached.
        browser.driver.get("about:blank")
        browser.console()
        browser.driver.get(f"{self.url}/doc/tree/{name}?token={TOKEN}")
        # What is run before the page is connected to its kernel is lost.
        wait_until(lambda: self._is_connected(name), 90, lambda: f"a kernel\n{self.log()}\n{browser.console()[-5:]}")
        return Notebook(browser)

    def open_front(self, browser: Browser) -> Page:
        """Open JupyterLab without a notebook; return when its launcher is there."""
        browser.driver.get("about:blank")
        browser.console()
        browser.driver.get(f"{self.url}/lab?reset&token={TOKEN}")
        page = Page(browser)
        page.wait(".jp-LauncherCard", "the launcher", 90)
        return page

    def _is_connected(self, name: str) -> bool:
        kernels = [session["kernel"] for session in self.request("GET", "/api/sessions") if session["path"] == name]
        return any(kernel["execution_state"] == "idle" and kernel["connections"] for kernel in kernels)


def _theme(dark: bool) -> str:
    return "Dark" if dark else "Light"


def _write(path: Path, **settings: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings))


class Page:
    """A page in the browser."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.driver = browser.driver

    # --- look ---

    def find(self, css: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def wait(self, css: str, what: str, timeout: float = 60.0) -> WebElement:
        """Wait for an element that is shown."""

        def shown() -> WebElement | None:
            try:
                return next((element for element in self.find(css) if element.is_displayed()), None)
            except StaleElementReferenceException:
                return None

        return wait_until(shown, timeout, lambda: f"{what}\n{self.text()[-2000:]}\n{self.browser.console()[-5:]}")

    def text(self) -> str:
        """All that the page shows."""
        return str(self.driver.execute_script("return document.body.innerText"))

    def wait_text(self, text: str, timeout: float = 30.0) -> str:
        """Wait until the page, or the notebook, shows a text; return all of it."""
        return wait_until(
            lambda: found if text in (found := self.text()) else None,
            timeout,
            lambda: f"{text!r} in\n{self.text()[-3000:]}\n{self.browser.console()[-5:]}",
        )

    def screenshot(self, name: str, css: str | None = None) -> Path | None:
        """Keep a picture of the window, or of an element, for people to look at, when a folder for it is named."""
        folder = os.environ.get(SCREENSHOTS)
        if not folder:
            return None
        path = Path(folder) / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        done = self.driver.save_screenshot(str(path)) if css is None else self.find(css)[-1].screenshot(str(path))
        assert done
        return path

    def problems(self, css: str) -> list[str]:
        """What axe finds wrong in a part of the page: contrast, names of controls, roles, tables."""
        if not self.driver.execute_script("return 'axe' in window"):
            self.driver.execute_script(AXE_SCRIPT)
        script = "const done = arguments[1]; axe.run(arguments[0]).then(done, error => done({error: String(error)}));"
        found: Any = self.driver.execute_async_script(script, css)
        assert "error" not in found, found["error"]
        assert {"color-contrast", "button-name"} & {rule["id"] for rule in found["passes"]}, "it has looked"
        return [
            f"{each['id']}: {node['html']} {node['failureSummary']}"
            for each in found["violations"]
            for node in each["nodes"]
            if not any(rule == each["id"] and part in node["html"] for rule, part in _NOT_OURS)
        ]

    # --- do ---

    def press(self, find: Callable[[], WebElement], what: str) -> None:
        """Click an element as a mouse does: once it is drawn, and nothing covers it any more."""

        def pressed() -> bool:
            try:
                element = find()
                self.scroll_to(element)
                element.click()
            except (
                ElementClickInterceptedException,
                ElementNotInteractableException,
                StaleElementReferenceException,
            ):
                return False
            return True

        wait_until(pressed, 60, f"a click on {what}")

    def scroll_to(self, element: WebElement) -> None:
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)


class Notebook(Page):
    """The notebook in the front of JupyterLab."""

    def __init__(self, browser: Browser) -> None:
        super().__init__(browser)
        self.wait(".jp-Notebook", "the notebook", 90)
        self.wait('.jp-Notebook-ExecutionIndicator[data-status="idle"]', "a kernel that is idle", 90)

    def text(self) -> str:
        """All that the notebook shows."""
        found: str = self.driver.execute_script(
            "return [...document.querySelectorAll('.jp-Notebook')].map(e => e.innerText).join('\\n')"
        )
        return found.replace("\xa0", " ")  # ipywidgets keeps the spaces of options so

    def run(self, code: str, timeout: float = 90.0) -> str:
        """Type code into the last cell, run it with Shift+Enter, wait for its end; return its output as text.

        Each line is typed as people do, so there must be no indentation: the editor indents by itself.
        """
        self.type(code)
        cell, count = self._last_cell(), len(self._cells())
        self.start()

        def ended() -> bool:
            prompt = cell.find_element(By.CSS_SELECTOR, ".jp-InputPrompt").text
            return prompt.strip().strip("[]:").isdecimal()

        wait_until(ended, timeout, lambda: f"the end of the cell {code!r}\n{self.text()[-3000:]}")
        # A cell below means that the notebook has taken the command in whole.
        wait_until(lambda: len(self._cells()) > count, what="the next cell")
        return self.output(cell)

    def _cells(self) -> list[WebElement]:
        return self.find(".jp-Notebook .jp-CodeCell")

    def _last_cell(self) -> WebElement:
        return self._cells()[-1]

    def type(self, code: str) -> None:
        """Type code into the last cell."""
        self.press(lambda: self._last_cell().find_element(By.CSS_SELECTOR, ".cm-content"), "the last cell")
        ActionChains(self.driver).send_keys(code).perform()

    def start(self) -> None:
        """Run the cell that was typed into, without waiting for it."""
        ActionChains(self.driver).key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(Keys.SHIFT).perform()

    def reload(self) -> Notebook:
        """Save the notebook, load the page again, and return it; its kernel runs on."""
        self.press(lambda: self.wait('[data-command="docmanager:save"]', "the button"), "save")
        wait_until(lambda: not self.find(".jp-mod-dirty"), what="a saved notebook")
        self.driver.refresh()
        return Notebook(self.browser)

    def interrupt(self) -> None:
        """Press the button in the notebook's toolbar."""
        self.press(lambda: self.wait('[data-command="notebook:interrupt-kernel"]', "the button"), "interrupt")

    def clear_outputs(self) -> None:
        """Choose the menu entry that takes away all outputs."""
        self.press(lambda: self._menu("Edit"), "the menu")
        self.press(lambda: self._menu("Clear Outputs of All Cells"), "the entry")

    def _menu(self, text: str) -> WebElement:
        found = [element for element in self.find(".lm-MenuBar-itemLabel, .lm-Menu-itemLabel") if element.text == text]
        if not found:
            raise StaleElementReferenceException(f"no menu {text!r} yet")
        return found[0]

    def output(self, cell: WebElement | int) -> str:
        """Text of what a cell shows below its code."""
        element = self._cells()[cell] if isinstance(cell, int) else cell
        script = "return [...arguments[0].querySelectorAll('.jp-OutputArea-output')].map(e => e.innerText).join('\\n')"
        return str(self.driver.execute_script(script, element)).strip()

    def click(self, text: str) -> None:
        """Click the button of a widget that has this text."""
        self.press(lambda: self._button(text), text)

    def _button(self, text: str) -> WebElement:
        def found() -> WebElement | None:
            for button in self.find(".jp-Notebook button"):
                if button.is_displayed() and button.text.strip() == text:
                    return button
            return None

        return wait_until(found, 30, lambda: f"the button {text!r}\n{self.text()[-2000:]}")

    def choose(self, label: str, option: str) -> None:
        """Choose what begins with `option` in the drop-down list with this label."""

        def chosen() -> bool:
            try:
                for entry in self.field(label).find_elements(By.TAG_NAME, "option"):
                    if entry.text.replace("\xa0", " ").startswith(option):
                        entry.click()
                        return True
            except StaleElementReferenceException:  # renewed by the kernel meanwhile
                return False
            return False

        wait_until(chosen, 60, f"the option {option!r} of {label!r}")

    def type_into(self, label: str, text: str) -> None:
        """Replace what is in the text field with this label, and leave the field."""
        field = self.field(label)
        self.scroll_to(field)
        # Over what is there: a number field that is emptied takes its old value back.
        field.send_keys(Keys.CONTROL + "a")
        field.send_keys(text, Keys.TAB)

    def field(self, label: str) -> WebElement:
        """The control that belongs to a label, as screen readers find it."""

        def found() -> WebElement | None:
            for element in self.find(".jp-Notebook label"):
                target = element.get_attribute("for")
                if element.text.strip() == label and target:
                    return self.driver.find_element(By.ID, target)
            return None

        return wait_until(found, 30, lambda: f"the field {label!r}\n{self.text()[-2000:]}")
