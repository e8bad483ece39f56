"""The pages become HTML without a warning, and nothing that is public is left out of the reference."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import serving_workbench as sw
from serving_jupyter.magics import MAGICS, magic_parsers
from serving_server.flags import FLAGS
from tests.docs.pages import ROOT


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the pages. No proxy leads anywhere: nothing may be fetched."""
    folder = tmp_path_factory.mktemp("html")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", str(folder / "trees")]
    done = subprocess.run(
        [*command, "workbench/docs", str(folder / "html")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        env={"PATH": "", "HOME": str(folder), "https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"},
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.mark.slow
def test_the_reference_has_all_that_is_public(built: Path) -> None:
    python = (built / "reference" / "python.html").read_text()
    missing = [name for name in sw.__all__ if f'id="serving_workbench.{name}"' not in python]
    assert not missing
    options = (built / "reference" / "server_options.html").read_text()
    assert not [flag.name for flag in FLAGS if f"--{flag.name}" not in options]
    shown = (built / "reference" / "magics.html").read_text()
    assert not [
        f"%{magic} {word}"
        for magic in MAGICS
        for word in magic_parsers(magic)
        if f"%{magic} {word}".strip() not in shown
    ]
    assert "/serving/api/instances" in (built / "reference" / "rest.html").read_text()


@pytest.mark.slow
def test_pictures_are_there_and_nothing_is_loaded_from_elsewhere(built: Path) -> None:
    pages = [page.read_text() for page in built.rglob("*.html")]
    assert {"panel.png", "lab-panel.png", "tuning-live.png", "ab-tab.png"} <= {
        path.name for path in built.rglob("*.png")
    }
    for page in pages:
        loaded = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(https?:[^"]+)"', page)
        assert not loaded


def test_every_page_is_in_the_table_of_contents() -> None:
    docs = ROOT / "workbench" / "docs"
    listed = set(re.findall(r"^([\w/]+)$", (docs / "index.md").read_text(), re.MULTILINE))
    pages = {path.relative_to(docs).with_suffix("").as_posix() for path in docs.rglob("*.md")} - {"index"}
    assert pages == listed
