"""The knobs of the dashboard: batching parameters as sliders, and back."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any, Final

import ipywidgets

from serving_server.batching.parameters import BatchingParameters
from serving_server.errors import ServingError

__all__ = ["Knobs"]

#: Microseconds of the slider.
_TIMEOUTS: Final = (0, 1000, 2000, 3000, 5000, 8000, 12_000, 20_000, 35_000, 50_000, 100_000)
#: log2 of the largest batch of the slider.
_MAX_LOG: Final = 10
_LABELS: Final = {"description_width": "110px"}


class Knobs:
    """Sliders for `max_batch_size`, `batch_timeout_micros`, `num_batch_threads`, a text for `allowed_batch_sizes`.

    Parameters
    ----------
    on_change : callable
        Called with the parameters (None: batching off) whenever a user turns something.
    on_problem : callable
        Called with a line when what is set cannot be: sizes that do not fit the largest batch.

    Attributes
    ----------
    box : ipywidgets.DOMWidget
    """

    def __init__(
        self, on_change: Callable[[BatchingParameters | None], None], on_problem: Callable[[str], None]
    ) -> None:
        self._on_change = on_change
        self._on_problem = on_problem
        self._base = BatchingParameters()
        self._quiet = False
        most = max(4, 4 * (os.cpu_count() or 1))
        wide = ipywidgets.Layout(width="420px")
        self.batching = ipywidgets.Checkbox(
            description="batching", indent=False, layout=ipywidgets.Layout(width="90px")
        )
        self.size = ipywidgets.SelectionSlider(
            options=[1 << power for power in range(_MAX_LOG + 1)],
            description="max_batch_size",
            style=_LABELS,
            layout=wide,
        )
        self.timeout = ipywidgets.SelectionSlider(
            options=[(f"{micros / 1000:g} ms", micros) for micros in _TIMEOUTS],
            description="timeout",
            style=_LABELS,
            layout=wide,
        )
        self.threads = ipywidgets.IntSlider(min=1, max=most, value=1, description="threads", style=_LABELS, layout=wide)
        self.allowed = ipywidgets.Text(
            description="allowed sizes",
            placeholder="any; or 4, 8, 32",
            continuous_update=False,
            style=_LABELS,
            layout=wide,
        )
        self.box = ipywidgets.VBox([self.batching, self.size, self.timeout, self.threads, self.allowed])
        for widget in (self.batching, self.size, self.timeout, self.threads, self.allowed):
            widget.observe(self._turned, "value")

    def set(self, parameters: BatchingParameters | None) -> None:
        """Show parameters that are in force; calls nobody back."""
        self._quiet = True
        try:
            self.batching.value = parameters is not None
            if parameters is not None:
                self._base = parameters
                self._offer(self.size, parameters.max_batch_size, str)
                self._offer(self.timeout, parameters.batch_timeout_micros, lambda micros: f"{micros / 1000:g} ms")
                self.threads.max = max(self.threads.max, parameters.num_batch_threads)
                self.threads.value = parameters.num_batch_threads
                self.allowed.value = ", ".join(map(str, parameters.allowed_batch_sizes))
        finally:
            self._quiet = False

    def parameters(self) -> BatchingParameters | None:
        """Return what the knobs say.

        Raises
        ------
        ServingError, ValueError
            They contradict each other, or the text holds something else than numbers.
        """
        if not self.batching.value:
            return None
        allowed = tuple(int(part) for part in self.allowed.value.replace(",", " ").split())
        return dataclasses.replace(
            self._base,
            max_batch_size=self.size.value,
            batch_timeout_micros=self.timeout.value,
            num_batch_threads=self.threads.value,
            allowed_batch_sizes=allowed,
            max_execution_batch_size=None,
            enable_large_batch_splitting=False,
        )

    def _turned(self, change: dict[str, Any]) -> None:
        if self._quiet:
            return
        if change["owner"] is self.size and self.allowed.value.strip():
            self._fit_allowed()
        try:
            parameters = self.parameters()
        except ServingError as error:
            self._on_problem(error.message)
        except ValueError:
            self._on_problem(f"allowed sizes: {self.allowed.value!r} is no list of numbers, such as 4, 8, 32")
        else:
            self._on_change(parameters)

    def _fit_allowed(self) -> None:
        """The last allowed size has to be the largest batch: keep those that fit, and add it."""
        try:
            sizes = [int(part) for part in self.allowed.value.replace(",", " ").split()]
        except ValueError:
            return
        most = self.size.value
        self._quiet = True
        self.allowed.value = ", ".join(str(size) for size in (*(size for size in sizes if size < most), most))
        self._quiet = False

    @staticmethod
    def _offer(slider: Any, value: int, name: Callable[[int], str]) -> None:
        """Set a slider of given values; one that it does not have is put in."""
        known = [option[1] if isinstance(option, tuple) else option for option in slider.options]
        if value not in known:
            values = sorted([*known, value])
            plain = not isinstance(slider.options[0], tuple)
            slider.options = values if plain else [(name(each), each) for each in values]
        slider.value = value
