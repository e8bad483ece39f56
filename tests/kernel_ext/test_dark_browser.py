"""The tabs in JupyterLab's dark theme, in a real browser: everything can be read.

`SERVING_SCREENSHOTS=<folder>` keeps pictures, to be looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import leaks
from tests.browser import Browser, JupyterLab, Notebook
from tests.kernel_ext.test_ab_browser import LOAD, drawn
from tests.servers import wait_until

OUTPUT = ".jp-Notebook .jp-OutputArea-output"

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, browser: Browser, models_dir: Path) -> Iterator[Notebook]:
    with JupyterLab(tmp_path_factory.mktemp("d"), dark=True) as lab:
        leaks.allow(lab.pid)
        found = lab.open(browser, "dark.ipynb")
        found.run("%load_ext serving_workbench")
        for version in (1, 5):
            found.run(f"served = %serve {models_dir / 'arms' / str(version)} --name digits --no-progress")
        found.run("_ = served.rollback()")
        found.run(f"exec({LOAD!r})")
        yield found
        found.run("stop.set(); [client.join(10) for client in clients]")
        found.run("%serve stop --all")


def readable(page: Notebook, name: str) -> None:
    page.screenshot(name, OUTPUT)
    assert page.problems(OUTPUT) == []


def test_the_ab_tab(page: Notebook) -> None:
    page.run("tab = %ab digits")
    page.run("tab")
    page.wait('svg[aria-label^="Confidence sequence"]', "the chart")
    page.click("Start split")
    page.wait_text("REJECT", 60)
    wait_until(lambda: drawn(page, "points") >= 10, 60, "a sequence")
    readable(page, "ab-tab-dark")
    page.click("Stop split")
    page.run("tab.close()")
    page.clear_outputs()


def test_a_finished_comparison(page: Notebook) -> None:
    page.run("import numpy as np; rows = np.arange(6, dtype=np.float32)")
    page.run("r = %ab digits 1 2 --data rows --no-progress")
    page.run("r")
    readable(page, "comparison-dark")
    page.clear_outputs()
    page.run("r.tab()")
    page.wait_text("Rows that differ")
    readable(page, "ab-finished-dark")
    page.clear_outputs()


def test_the_tuning_tab(page: Notebook) -> None:
    page.run("_ = served.server.set_batching('digits', max_batch_size=16, batch_timeout_micros=1000)")
    page.run("d = %tune digits")
    page.run("d")
    page.wait('canvas[aria-label="why batches ran"]', "the chart")
    # Canvases are drawn in the colour that text has in the theme, from the beginning.
    assert brightest(page) > 200
    page.click("Start load")
    page.wait_text("threads busy", 60)
    wait_until(lambda: drawn(page, "updates") >= 12, 60, "a chart with something in it")
    assert brightest(page) > 200
    readable(page, "tuning-dark")
    page.run("d.close()")
    page.clear_outputs()


def brightest(page: Notebook) -> int:
    """Of the grey pixels in the chart's first canvas, from 0 to 255: letters and axes."""
    script = """
        const canvas = document.querySelector('canvas[aria-label="ms in the server"]');
        const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        let found = 0;
        for (let at = 0; at < data.length; at += 4)
            if (data[at + 3] > 200 && data[at] === data[at + 1] && data[at] === data[at + 2])
                found = Math.max(found, data[at]);
        return found;
    """
    return int(page.driver.execute_script(script))


def test_what_cells_show(page: Notebook) -> None:
    page.run("served")
    readable(page, "served-dark")
    for code, name in (("served.history()", "history"), ("%serve status", "status")):
        page.clear_outputs()
        page.run(code)
        readable(page, f"{name}-dark")
