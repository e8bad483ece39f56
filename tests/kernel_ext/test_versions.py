"""One notebook's day on the oldest, the newest and two notable versions of ipykernel, IPython and Jupyter's server.

ipykernel 6.31 is the last before subshells, 7.2 runs widgets' callbacks in threads of their own; see
`tests.kernel_ext.overlays` for how they get here.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.kernel_ext.extension import ask, believed, log_in, predict
from tests.kernel_ext.jupyter import JupyterServer, Kernel
from tests.kernel_ext.overlays import oldest, overlay, python_path
from tests.servers import wait_until

#: What IPython 8 and Jupyter's server 2.10 need besides what newer ones do.
_ALSO = ("decorator", "overrides")
_SHOW = (
    "import importlib.metadata as m, json; "
    "print(json.dumps({n: m.version(n) for n in ('ipykernel', 'ipython', 'jupyter_server')}))"
)

#: What the browser knows of the panel's buttons, by what is written on them.
_BUTTONS = (
    "import json, ipywidgets as w; from ipywidgets.widgets.widget import _instances; "
    "print(json.dumps({b.description: b.model_id for b in _instances.values() if isinstance(b, w.Button)}))"
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # an index may take its time


@pytest.mark.parametrize(
    ("requirements", "versions"),
    [
        ((), {}),
        (("ipykernel==6.31.*",), {"ipykernel": "6.31."}),
        (("ipykernel==7.2.*",), {"ipykernel": "7.2."}),
        ((*oldest("jupyter-server", "ipython", "ipykernel"), *_ALSO), {"jupyter_server": "2.10.", "ipython": "8.20."}),
    ],
    ids=["as installed", "ipykernel 6.31", "ipykernel 7.2", "oldest allowed"],
)
def test_a_notebooks_day(
    tmp_path: Path,
    models_dir: Path,
    pytestconfig: pytest.Config,
    requirements: tuple[str, ...],
    versions: dict[str, str],
) -> None:
    assert pytestconfig.cache is not None
    cache = pytestconfig.cache.mkdir("serving-overlays")
    environment = python_path(overlay(cache, *requirements)) if requirements else {}
    # Older servers do not tell which port they got for 0; when this one is taken meanwhile, they try others.
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    flags = ("--ServerApp.base_url=/a%40b/", f"--ServerApp.port={port}")
    with JupyterServer(tmp_path, *flags, environment=environment) as jupyter:
        # The extension answers whom it should, and nobody else.
        assert ask(jupyter, "GET", "/serving/api/instances", None, {}).status == 403
        cookie, _ = log_in(jupyter)
        refused = ask(jupyter, "POST", "/serving/api/instances", {"prefix": "/elsewhere"}, {"Cookie": cookie})
        assert refused.status == 403
        assert ask(jupyter, "GET", "/serving/api/config").status == 200

        kernel = jupyter.start_kernel()
        found = json.loads(kernel.run(_SHOW))
        for name, version in versions.items():
            assert f"{found[name]}.".startswith(version), found
        kernel.run("%load_ext serving_workbench\nimport sys; assert 'tensorflow' not in sys.modules")
        assert "half" in kernel.run(f"%serve {models_dir}/half_plus_two/1 --name half --no-progress")
        record = believed(jupyter, "default")
        assert record.owner_pid == jupyter.pid, "the extension has started it"
        assert predict(jupyter, "default", "half") == [2.5, 3.0]
        reply = kernel.client.complete("%serve sta", reply=True, timeout=30)
        assert any("status" in match for match in reply["content"]["matches"]), reply["content"]
        wrong = kernel.client.execute("%serve nosuchmodel", reply=True, timeout=30, stop_on_error=False)
        assert wrong["content"]["ename"] == "UsageError"

        running = kernel.start("import time; time.sleep(600)")
        kernel.interrupt()
        assert kernel.reply(running)["ename"] == "KeyboardInterrupt"
        kernel.restart()
        kernel.run("%load_ext serving_workbench")
        assert "AVAILABLE" in kernel.run("%serve status half")
        shown = kernel.run("import serving_workbench as sw; print(sw.connect('half').predict([2.0]).tolist())")
        assert shown.strip() == "[3.0]"
        roll_back_by_a_click(kernel, f"{models_dir}/half_plus_two/2")
        assert predict(jupyter, "default", "half") == [2.5, 3.0]
        kernel.shutdown()
        assert believed(jupyter, "default") == record
        assert ask(jupyter, "DELETE", "/serving/api/instances/default").json["stopped"]
        assert " registered for " not in "".join(
            line for line in jupyter.log(1 << 20).splitlines() if "serving" in line
        ), "a route without authentication"


def roll_back_by_a_click(kernel: Kernel, next_version: str) -> None:
    """Deploy another version, open the panel, press a button as a browser does, see the panel change by itself."""
    kernel.run(f"%serve {next_version} --name half --no-progress")
    assert "half" in kernel.run("panel = sw.panel()\npanel")
    button = json.loads(kernel.run(_BUTTONS))["Roll back"]
    wait_until(lambda: "True" in kernel.run("print(panel.snapshot is not None)"), 30, "what the panel's thread reads")
    click = {"comm_id": button, "data": {"method": "custom", "content": {"event": "click"}}}
    kernel.client.shell_channel.send(kernel.client.session.msg("comm_msg", click))

    def told() -> bool:
        # No cell runs: what comes is from the panel's threads.
        content = kernel.client.get_iopub_msg(timeout=30)["content"]
        value = content.get("data", {}).get("state", {}).get("value")
        return isinstance(value, str) and "answers now (before: 2)" in value

    wait_until(told, 60, "the panel to tell of the rollback")
    kernel.run("panel.close()")
