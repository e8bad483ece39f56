"""The floors hold: nothing imports upward, and TensorFlow stays in the rooms that need it.

    serving_jupyter  ->  serving_workbench  ->  serving_server.{wire, errors, tensors, signatures, http2_client}

The rules are read from the source (`ast`), so an import inside a function or under TYPE_CHECKING counts as well; a
second group of tests imports the modules for real and looks at `sys.modules`.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = {
    "serving_server": ROOT / "server",
    "serving_workbench": ROOT / "workbench",
    "serving_jupyter": ROOT / "kernel_ext",
}
#: What the upper floors may use of the server: what travels on the wire, no more.
SHARED = (
    "serving_server.wire",
    "serving_server.errors",
    "serving_server.tensors",
    "serving_server.signatures",
    "serving_server.http2_client",
    # Names, defaults and checks of the batching parameters, and their file: the tuner chooses and writes them.
    "serving_server.batching.parameters",
    "serving_server.batching.parameters_file",
    # Confidence sequences: pure functions of sums, the same for ramps in the server and for live comparisons.
    "serving_server.sequential",
)
#: Package -> our packages (or parts of them) that it may import, besides itself.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "serving_server": (),
    "serving_workbench": SHARED,
    "serving_jupyter": ("serving_workbench", *SHARED),
}
HEAVY = ("tensorflow", "keras", "tensorflow_serving")
#: The only rooms that may import TensorFlow: the processes that run models, the export of a model that the user already
#: holds, and the demo, which trains one (these two inside functions only, which the tests on `sys.modules` see).
MAY_IMPORT_HEAVY = (
    "serving_server.worker",
    "serving_server.forkserver",
    "serving_workbench.export",
    "serving_workbench.demo",
)


@dataclass(frozen=True)
class Import:
    """One import statement: module `importer`, line `line`, imports `target`."""

    importer: str
    line: int
    target: str


def modules() -> dict[str, Path]:
    """Dotted name -> file, of every module of the three packages."""
    found = {}
    for package, root in SOURCES.items():
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(importer: str, source: str, *, is_package: bool = False) -> Iterator[Import]:
    """Every import in the source, at any depth, and `import_module("...")` and `__import__("...")` of literals."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(importer, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = importer.split(".")
            if node.level:
                drop = node.level - 1 if is_package else node.level
                prefix = ".".join(base[: len(base) - drop])
                module = f"{prefix}.{node.module}" if node.module else prefix
            else:
                module = node.module or ""
            # `from package import name` may import the module package.name, so both count.
            yield from (Import(importer, node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
                yield Import(importer, node.lineno, node.args[0].value)


def within(name: str, rooms: tuple[str, ...]) -> bool:
    """Whether the dotted name is one of the rooms or lies inside one."""
    return any(name == room or name.startswith(room + ".") for room in rooms)


def may_import_heavy(module: str) -> bool:
    """The rooms of `MAY_IMPORT_HEAVY`, and the modules that one of them was split into (`export_keras`)."""
    return within(module, MAY_IMPORT_HEAVY) or module.startswith("serving_workbench.export_")


def violation(found: Import) -> str | None:
    """Why this import is not allowed, or None."""
    floor = found.importer.split(".")[0]
    where = f"{found.importer}, line {found.line}, imports {found.target}"
    if within(found.target, HEAVY) and not may_import_heavy(found.importer):
        return f"{where}: only {', '.join(MAY_IMPORT_HEAVY)} may import TensorFlow or Keras"
    if within(found.target, tuple(SOURCES)) and not within(found.target, (floor, *MAY_IMPORT[floor])):
        allowed = ", ".join(MAY_IMPORT[floor]) or "no other package of ours"
        return f"{where}: {floor} may import {allowed}"
    return None


def test_no_module_imports_upward_or_tensorflow() -> None:
    violations = [
        reason
        for name, path in modules().items()
        for found in imports_of(name, path.read_text(), is_package=path.name == "__init__.py")
        if (reason := violation(found))
    ]
    assert not violations, "\n".join(violations)


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("serving_server.cli", "import serving_workbench"),
        ("serving_server.cli", "def f():\n    from serving_jupyter import magics"),
        ("serving_server.front", "import tensorflow as tf"),
        ("serving_server.front", "from tensorflow_serving.apis import predict_pb2"),
        ("serving_server.front", "import importlib\nimportlib.import_module('tensorflow')"),
        ("serving_workbench.launch", "from serving_server import cli"),
        ("serving_workbench.launch", "from serving_server.front import run"),
        ("serving_workbench.launch", "import serving_server"),
        ("serving_workbench.load", "from serving_server.http2.server import Http2Server"),
        ("serving_workbench.client", "if TYPE_CHECKING:\n    import keras"),
        ("serving_workbench.client", "import serving_jupyter.magics"),
        ("serving_jupyter.magics", "from serving_server.cli import main"),
        ("serving_jupyter.magics", "import tensorflow"),
    ],
)
def test_a_forbidden_import_is_found(importer: str, source: str) -> None:
    assert [reason for found in imports_of(importer, source) if (reason := violation(found))]


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("serving_server.cli", "from . import options\nfrom .wire import messages"),
        ("serving_server.worker.load", "import tensorflow as tf"),
        ("serving_server.forkserver", "from tensorflow.python.client import session"),
        ("serving_workbench.export", "def export():\n    import keras"),
        ("serving_workbench.client", "from serving_server.wire.messages import PredictRequest"),
        ("serving_workbench.client", "from serving_server import errors, tensors"),
        ("serving_workbench.load", "from serving_server.http2_client.connecting import connect"),
        ("serving_jupyter.magics", "import serving_workbench as sw"),
        ("serving_jupyter.magics", "import tensorflow_datasets"),
    ],
)
def test_an_allowed_import_passes(importer: str, source: str) -> None:
    found = list(imports_of(importer, source))
    assert found
    assert [violation(each) for each in found] == [None] * len(found)


def test_relative_imports_are_resolved() -> None:
    source = "from . import a\nfrom ..errors import B"
    targets = [found.target for found in imports_of("serving_server.rest.routes", source)]
    assert targets == ["serving_server.rest.a", "serving_server.errors.B"]
    (inside,) = imports_of("serving_server.rest", "from .routes import C", is_package=True)
    assert inside.target == "serving_server.rest.routes.C"


# --- for real ------------------------------------------------------------------------------------------------------

_IMPORT_ALL = """
import importlib, json, sys, time
start = time.perf_counter()
for name in sys.argv[1:]:
    importlib.import_module(name)
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "modules": sorted(sys.modules)}))
"""


def import_all(*names: str) -> tuple[float, set[str]]:
    """Import the modules in a fresh interpreter: (seconds, top-level names that were then loaded)."""
    seconds, loaded = import_modules(*names)
    return seconds, {name.split(".")[0] for name in loaded}


def import_modules(*names: str) -> tuple[float, set[str]]:
    """The same, with the whole names."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL, *names], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["seconds"], set(answer["modules"])


def test_the_front_process_never_loads_tensorflow(record_property: pytest.RecordProperty) -> None:
    front = [
        name
        for name in modules()
        if within(name, ("serving_server",)) and not may_import_heavy(name) and not name.endswith("__main__")
    ]
    seconds, loaded = import_all(*front)
    record_property("import_seconds", seconds)
    print(f"{len(front)} modules of serving_server imported in {seconds:.2f} s")
    assert not loaded & {*HEAVY, "pandas", "IPython", "jupyter_server", "serving_workbench", "serving_jupyter"}


@pytest.mark.parametrize("package", ["serving_workbench", "serving_jupyter"])
def test_importing_a_package_loads_nothing_heavy(package: str, record_property: pytest.RecordProperty) -> None:
    seconds, loaded = import_all(package)
    record_property("import_seconds", seconds)
    print(f"{package} imported in {seconds:.2f} s")
    assert not loaded & {*HEAVY, "pandas", "matplotlib", "sklearn"}


def test_every_module_of_the_upper_floors_imports_without_tensorflow() -> None:
    upper = [
        name
        for name in modules()
        if within(name, ("serving_workbench", "serving_jupyter")) and not name.endswith("__main__")
    ]
    _, loaded = import_all(*upper)
    assert not loaded & set(HEAVY)


def test_the_http2_client_brings_none_of_the_server_along(record_property: pytest.RecordProperty) -> None:
    client = [name for name in modules() if within(name, ("serving_server.http2_client",))]
    seconds, loaded = import_modules(*client)
    record_property("import_seconds", seconds)
    print(f"{len(client)} modules of the client imported in {1000 * seconds:.0f} ms")
    ours = {name for name in loaded if within(name, ("serving_server",))} - {"serving_server", "serving_server.errors"}
    assert {name.split(".")[1] for name in ours} == {"http2_client", "http2"}
    server_side = ("server", "server_connection", "call", "call_runner", "request_streams", "routing")
    assert not ours & {f"serving_server.http2.{name}" for name in server_side}
    assert not {name.split(".")[0] for name in loaded} & {*HEAVY, "grpc", "google", "numpy", "uvloop"}
