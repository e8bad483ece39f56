"""Requests by what they asked for and how they ended.

A request that reached a signature counts in that signature's `SignatureRequests`; one that named no loaded version, or
asked for something else than inference, in `Requests`.
"""

from __future__ import annotations

from collections import Counter
from time import perf_counter
from typing import Final

from serving_server.errors import StatusCode
from serving_server.metrics.histogram import LATENCY_BOUNDS, MAX_ASIDE, Histogram, Tally, exponential

__all__ = ["ENTRYPOINT_REST", "MAX_NAMES", "OTHER", "RequestCell", "Requests", "SignatureRequests"]

#: Model names that clients made up and that have a series of their own; the others are counted under `OTHER`.
MAX_NAMES: Final = 256
OTHER: Final = "(other)"

ENTRYPOINT_REST: Final = "REST"

#: As TensorFlow Serving's request_example_counts has.
_EXAMPLE_BOUNDS: Final = exponential(1, 2, 15)


class RequestCell(Tally):
    """Requests of one kind: how long the good ones took (s), how many failed with which code."""

    __slots__ = ("errors",)

    def __init__(self) -> None:
        super().__init__(LATENCY_BOUNDS)
        self.errors: Counter[StatusCode] = Counter()

    def succeeded(self, started: float) -> None:
        """Count a request answered with success now, by when it came (`time.perf_counter`)."""
        aside = self.aside
        aside.append(perf_counter() - started)
        if len(aside) >= MAX_ASIDE:
            self.settle()

    def failed(self, code: StatusCode) -> None:
        """Count a request answered with an error."""
        self.errors[code] += 1


class SignatureRequests:
    """Requests of one signature of one version, by (API, entrypoint) in TensorFlow Serving's spelling.

    Attributes
    ----------
    predict, rest_predict : RequestCell
        The kinds that requests come in by the ten thousands per second, without a look-up.
    cells : dict of (str, str) to RequestCell
        All kinds, these two among them.
    ended : Counter of StatusCode
        Requests that ended before they had an answer: cancelled, or their time ran out in the transport.
    """

    __slots__ = ("cells", "ended", "predict", "rest_predict")

    def __init__(self) -> None:
        self.predict = RequestCell()
        self.rest_predict = RequestCell()
        self.cells = {("Predict", "GRPC"): self.predict, ("predict", "REST"): self.rest_predict}
        self.ended: Counter[StatusCode] = Counter()

    def cell(self, api: str, entrypoint: str) -> RequestCell:
        """Return where requests of a kind count."""
        found = self.cells.get((api, entrypoint))
        if found is None:
            found = self.cells[api, entrypoint] = RequestCell()
        return found

    def merge(self, other: SignatureRequests) -> None:
        """Add what another one has counted."""
        for (api, entrypoint), cell in other.cells.items():
            mine = self.cell(api, entrypoint)
            mine.merge(cell)
            mine.errors.update(cell.errors)
        self.ended.update(other.ended)


class Requests:
    """Requests that no signature counts.

    Attributes
    ----------
    cells : dict of (str, str, str) to RequestCell
        By model, API and entrypoint.
    examples : dict of str to Histogram
        Examples per MultiInference request, by model.
    """

    def __init__(self) -> None:
        self.cells: dict[tuple[str, str, str], RequestCell] = {}
        self.examples: dict[str, Histogram] = {}
        self._names: set[str] = set()

    def count_examples(self, model: str, number: int) -> None:
        """Count the examples of a request for a model that this server has."""
        found = self.examples.get(model)
        if found is None:
            found = self.examples[model] = Histogram(_EXAMPLE_BOUNDS)
        found.add(number)

    def cell(self, model: str, api: str, entrypoint: str) -> RequestCell:
        """Return where requests of a kind count; `model` is what the client wrote."""
        key = (model, api, entrypoint)
        found = self.cells.get(key)
        if found is None:
            if model not in self._names:
                if len(self._names) >= MAX_NAMES:
                    key = (OTHER, api, entrypoint)
                else:
                    self._names.add(model)
            found = self.cells.setdefault(key, RequestCell())
        return found
