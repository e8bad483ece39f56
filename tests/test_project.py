"""The repository as a project: packaging, layout, and that its pages say what is true."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import serving_server

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = ("serving_server", "serving_workbench", "serving_jupyter")
FOLDERS = {"workbench", "kernel_ext", "server", "notebooks", "tests", "binder", ".ci"}
FILES = {
    *("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE"),
    *("Makefile", "pyproject.toml", ".gitignore", ".pre-commit-config.yaml"),
}
PAGES = ("README.md", "CONTRIBUTING.md")


def tracked() -> list[Path]:
    """Files that git knows; the test is skipped in an unpacked source distribution."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    # A file that was deleted and not yet committed is listed too.
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_the_version_is_written_once() -> None:
    assert "version" not in PYPROJECT["project"]
    assert PYPROJECT["project"]["dynamic"] == ["version"]
    assert PYPROJECT["tool"]["hatch"]["version"]["path"] == "server/serving_server/__init__.py"
    written = [
        path
        for package, folder in zip(PACKAGES, ("server", "workbench", "kernel_ext"), strict=True)
        for path in (ROOT / folder / package).rglob("*.py")
        if re.search(r"^__version__ = [\"']", path.read_text(), re.MULTILINE)
    ]
    assert written == [ROOT / "server/serving_server/__init__.py"]


def test_the_changelog_has_the_version() -> None:
    heading = rf"^## \[{re.escape(serving_server.__version__)}\]"
    assert re.search(heading, (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_the_top_level_is_as_the_layout_says() -> None:
    top = {path.relative_to(ROOT).parts[0] for path in tracked()}
    assert top <= FOLDERS | FILES, f"not in the layout: {sorted(top - FOLDERS - FILES)}"
    assert top >= FILES - {".gitignore"}, f"missing: {sorted(FILES - top)}"


def test_the_license_is_apache_2() -> None:
    assert PYPROJECT["project"]["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:200]


def test_packages_are_typed() -> None:
    folders = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert [Path(folder).name for folder in folders] == list(PACKAGES)
    for folder in folders:
        assert (ROOT / folder / "py.typed").exists()


def test_every_dependency_has_a_lower_bound() -> None:
    # It says what the code was written against; without it an old environment installs and then fails at run time.
    unbounded = [
        requirement
        for requirement in PYPROJECT["project"]["dependencies"]
        if not re.search(r">=\s*\d", requirement.split(";")[0])
    ]
    assert not unbounded


@pytest.mark.parametrize("page", PAGES)
def test_make_commands_of_the_pages_exist(page: str) -> None:
    named = set(re.findall(r"\bmake ([a-z]+)\b", "\n".join(code_of(ROOT / page))))
    assert named
    assert named <= make_targets(), f"{page} names targets that the Makefile lacks: {sorted(named - make_targets())}"


@pytest.mark.parametrize("page", [*PAGES, "ARCHITECTURE.md"])
def test_links_of_the_pages_lead_somewhere(page: str) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / page).read_text())
    missing = [target for target in targets if not (ROOT / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_python_of_the_pages_compiles(page: str) -> None:
    for block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
        compile("\n".join(line for line in block.splitlines() if not line.startswith("%")), page, "exec")


def code_of(page: Path) -> list[str]:
    """Code blocks and inline code of a Markdown page."""
    text = page.read_text()
    blocks = re.findall(r"```.*?```", text, re.DOTALL)
    return blocks + re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def test_modules_named_in_the_architecture_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    named = set(re.findall(r"`((?:server|workbench|kernel_ext|tests|notebooks)/[\w./]+)`", text))
    assert named
    missing = sorted(name for name in named if not (ROOT / name).exists())
    assert not missing


def test_no_file_names_a_path_of_this_machine() -> None:
    machine = {str(ROOT), sys.prefix}
    if len(Path.home().parts) > 1:
        machine.add(str(Path.home()))
    # Not as the end of a longer path or of a placeholder: "<root>/digits" is no home folder.
    pattern = re.compile("|".join(rf"(?<![\w.<>~}}\-/]){re.escape(path)}/" for path in sorted(machine)))
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in tracked()
        if (match := pattern.search(path.read_bytes().decode(errors="replace")))
    ]
    assert not found


def test_the_wheel_holds_the_three_packages(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"serving_workbench-{serving_server.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    # Data files: what enables the extension in every Jupyter server of the environment, and JupyterLab's part.
    data = f"serving_workbench-{serving_server.__version__}.data/data/"
    names = [name.removeprefix(data) for name in names]
    inside = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert inside == {*PACKAGES, "etc", "share"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    # What is not Python must be packed as well: the descriptors of the wire.
    sources = [path for path in tracked() if path.parts[len(ROOT.parts)] in {"server", "workbench", "kernel_ext"}]
    sources = [path for path in sources if ROOT / "workbench" / "docs" not in path.parents]
    packed = {"/".join(path.relative_to(ROOT).parts[1:]) for path in sources}
    assert packed <= set(names), sorted(packed - set(names))
