"""What a live panel costs: `python -m tests.bench.panel`.

A real Jupyter server and kernel, a server with several models, and panels that read it at their usual pace. Measured is
the processor time of the kernel and of the serving front, with none and with open panels, at rest and under traffic.
The bars: at most 3 % of a core in the kernel and 1 % in the server, for one panel.
"""

from __future__ import annotations

import argparse
import ast
import tempfile
import threading
import time
from pathlib import Path

import psutil

from serving_workbench.client import PredictClient
from serving_workbench.records import read_record
from tests import models
from tests.kernel_ext.jupyter import JupyterServer, Kernel

_SERVE = """
import os, serving_workbench as sw
for name in range({models}):
    sw.serve({path!r}, f"m{{name}}", progress=False, note="number " + str(name), metrics={{"accuracy": 0.9}})
print(repr((os.getpid(), sw.Server.connect().pid)))
"""
_OPEN = "p = sw.panel(); p"
_CLOSE = "p.close()"


def _shares(kernel: psutil.Process, front: psutil.Process, seconds: float) -> tuple[float, float]:
    """Return the part of a core that each took, in percent."""

    def spent() -> list[float]:
        return [sum(process.cpu_times()[:2]) for process in (kernel, front)]

    before, began = spent(), time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    first, second = (100 * (after - earlier) / took for after, earlier in zip(spent(), before, strict=True))
    return first, second


def _measure(kernel: Kernel, pids: tuple[int, int], what: str, seconds: float) -> None:
    processes = [psutil.Process(pid) for pid in pids]
    without = _shares(*processes, seconds)
    kernel.run(_OPEN)
    with_panel = _shares(*processes, seconds)
    kernel.run(_CLOSE)
    costs = [after - before for after, before in zip(with_panel, without, strict=True)]
    verdict = "met" if costs[0] <= 3 and costs[1] <= 1 else "missed"
    print(
        f"{what}: kernel {without[0]:.2f} -> {with_panel[0]:.2f} %, front {without[1]:.2f} -> {with_panel[1]:.2f} % "
        f"of a core; the panel takes {costs[0]:.2f} and {costs[1]:.2f}, the bars are 3 and 1: {verdict}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement")
    parser.add_argument("--rate", type=float, default=50.0, help="requests per second of the traffic")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sw-") as folder:
        (Path(folder) / "models").mkdir()
        built = models.cached(Path(folder) / "models")
        with JupyterServer(Path(folder) / "j") as jupyter:
            kernel = jupyter.start_kernel()
            path = str(built / "half_plus_two" / "1")
            shown = kernel.run(_SERVE.format(path=path, models=options.models), timeout=120)
            pids: tuple[int, int] = ast.literal_eval(shown.strip().splitlines()[-1])
            _measure(kernel, pids, f"{options.models} models at rest", options.seconds)
            record = read_record(jupyter.runtime / "serving-workbench-default.json")
            assert record is not None
            enough = threading.Event()
            asking = threading.Thread(target=_ask, args=(record.endpoints["grpc"], options.rate, enough))
            asking.start()
            _measure(kernel, pids, f"at {options.rate:g} requests a second", options.seconds)
            enough.set()
            asking.join()
            kernel.shutdown()


def _ask(endpoint: str, rate: float, enough: threading.Event) -> None:
    client = PredictClient(endpoint)
    while not enough.wait(1 / rate):
        client.predict("m0", [1.0])
    client.close()


if __name__ == "__main__":
    main()
