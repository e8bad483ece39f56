"""What the Jupyter Server extension's proxy adds to a REST request: `python -m tests.bench.proxy`.

half_plus_two, one keep-alive connection, one request at a time; direct and proxied requests take turns, so that both
meet the same machine. The bar is a median of at most 1 ms more than directly.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import tempfile
import time
import urllib.parse
from pathlib import Path

from tests import models
from tests.bench.rounds import quantile
from tests.kernel_ext.extension import WITH_TOKEN, ask
from tests.kernel_ext.jupyter import JupyterServer

_BODY = b'{"instances": [1.0, 2.0]}'
_ANSWER = [2.5, 3.0]


class _Way:
    """One way to the model, with its own connection."""

    def __init__(self, url: str, path: str, headers: dict[str, str]) -> None:
        address = urllib.parse.urlsplit(url)
        self._connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)
        self._path = address.path + path
        self._headers = {"Content-Type": "application/json", **headers}
        self.milliseconds: list[float] = []

    def ask(self) -> None:
        start = time.perf_counter()
        self._connection.request("POST", self._path, body=_BODY, headers=self._headers)
        answer = self._connection.getresponse()
        body = answer.read()
        self.milliseconds.append((time.perf_counter() - start) * 1e3)
        assert json.loads(body)["predictions"] == _ANSWER, body

    def close(self) -> None:
        self._connection.close()


def measure(folder: Path, requests: int) -> None:
    """Print what the proxy adds; `folder` is for the Jupyter server."""
    cache = Path(".pytest_cache/d/serving-models")
    cache.mkdir(parents=True, exist_ok=True)
    saved = models.cached(cache).absolute()
    with JupyterServer(folder) as jupyter:
        wish = {"path": str(saved / "half_plus_two" / "1"), "name": "half"}
        deployed = ask(jupyter, "POST", "/serving/api/instances/default/models", wish)
        assert deployed.status == 200, deployed.body
        rest = ask(jupyter, "GET", "/serving/api/instances/default").json["endpoints"]["rest"]
        predict = "/v1/models/half:predict"
        direct, proxied = _Way(rest, predict, {}), _Way(jupyter.url, f"/serving/default{predict}", WITH_TOKEN)
        for number in range(requests + requests // 10):
            if number == requests // 10:
                direct.milliseconds.clear()
                proxied.milliseconds.clear()
            direct.ask()
            proxied.ask()
        for name, way in (("direct", direct), ("proxied", proxied)):
            ordered = sorted(way.milliseconds)
            print(f"{name:8} p50 {quantile(ordered, 0.5):.3f} ms, p99 {quantile(ordered, 0.99):.3f} ms")
            way.close()
        added = statistics.median(proxied.milliseconds) - statistics.median(direct.milliseconds)
        print(f"the proxy adds {added:.3f} ms to the median; the bar is 1 ms: {'met' if added <= 1 else 'missed'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000, help="of each kind, after a tenth of them to warm up")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sw-") as folder:
        measure(Path(folder) / "j", options.requests)


if __name__ == "__main__":
    main()
