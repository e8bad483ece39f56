"""The page of Prometheus' metrics, beside the REST API (``--monitoring_config_file``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from serving_server.metrics.exposition import CONTENT_TYPE
from serving_server.rest.http1_messages import Request, Response

__all__ = ["DEFAULT_PATH", "metrics_page"]

#: TensorFlow Serving's (tensorflow_serving/util/prometheus_exporter.h).
DEFAULT_PATH: Final = "/monitoring/prometheus/metrics"


def metrics_page(path: str, page: Callable[[], bytes]) -> Callable[[Request], Response]:
    """Return the handler of a path; with a query string behind it, it answers 400, as TensorFlow Serving does.

    Parameters
    ----------
    path : str
    page : callable
        Makes the text.
    """

    def answer(request: Request) -> Response:
        if request.target != path:
            text = f"Unexpected path: {request.target}. Should be {path}"
            return Response(400, text.encode("latin-1", "replace"), CONTENT_TYPE)
        return Response(200, page(), CONTENT_TYPE)

    return answer
