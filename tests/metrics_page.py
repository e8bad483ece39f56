"""A server's metrics page, read by Prometheus' own parser."""

from __future__ import annotations

import dataclasses
import http.client
import urllib.parse
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

from tests.servers import ServerProcess

__all__ = ["PATH", "MetricsPage"]

PATH = "/monitoring/prometheus/metrics"


@dataclasses.dataclass
class MetricsPage:
    """Samples by (name, labels), and what type each family has."""

    text: str
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float]
    kinds: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> Self:
        samples = {}
        kinds = {}
        for family in text_string_to_metric_families(text):
            kinds[family.name] = family.type
            for sample in family.samples:
                # The parser puts the `_total` behind counters that TensorFlow Serving leaves out.
                name = sample.name if f"{sample.name}{{" in text else sample.name.removesuffix("_total")
                key = (name, frozenset(sample.labels.items()))
                assert key not in samples, f"{key} is there twice"
                samples[key] = sample.value
        return cls(text, samples, kinds)

    @classmethod
    def of(cls, server: ServerProcess) -> Self:
        address = urllib.parse.urlsplit(server.rest_url)
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)
        try:
            connection.request("GET", PATH)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        assert (response.status, response.headers["Content-Type"]) == (200, "text/plain"), text
        return cls.parse(text)

    def get(self, name: str, **labels: str) -> float | None:
        """The value of a sample, None when there is none; TensorFlow Serving's names without their prefix."""
        return self.samples.get((_full(name), frozenset(labels.items())))

    def having(self, name: str, **labels: str) -> list[dict[str, str]]:
        """Labels of the samples of a name that have these labels among others."""
        wanted = labels.items()
        return [dict(found) for (each, found) in self.samples if each == _full(name) and wanted <= found]

    def buckets(self, name: str, **labels: str) -> dict[str, float]:
        """Cumulated counts by ``le``."""
        return {
            found["le"]: self.samples[f"{_full(name)}_bucket", frozenset(found.items())]
            for found in self.having(f"{name}_bucket", **labels)
            if found.keys() - labels.keys() == {"le"}
        }


def _full(name: str) -> str:
    return name if name.startswith((":", "serving_workbench_", "process_")) else f":tensorflow:serving:{name}"
