"""Who wants the requests of which model: request logs, and recordings while they last."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

from serving_server.errors import ServingError
from serving_server.request_log.record import Record
from serving_server.request_log.request_logger import RequestLogger

__all__ = ["RequestLogs", "Tap"]

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Defaults of rotation.
MAX_MEGABYTES: Final = 64
MAX_FILES: Final = 0


class Tap(Protocol):
    """Somebody who wants requests with their answers."""

    def wants(self, version: int) -> bool:
        """Decide about one request, when it comes."""

    def take(self, record: Record) -> None:
        """Take it, once it has been answered."""


class RequestLogs:
    """Finds those who want a model's requests. All calls on the loop.

    Parameters
    ----------
    tags : sequence of str
        Of the SavedModels, for the records.
    max_megabytes, max_files : int
        Rotation: size of a file, and how many of a model are kept (0: all).

    Attributes
    ----------
    by_model : dict of str to list of Tap
        Only models that somebody wants requests of; empty on most servers, which is what makes it cheap to ask.
    """

    def __init__(
        self, tags: Sequence[str] = ("serve",), *, max_megabytes: int = MAX_MEGABYTES, max_files: int = MAX_FILES
    ) -> None:
        self._tags = tags
        self._max_bytes = max_megabytes * 1024 * 1024
        self._max_files = max_files
        self._loggers: dict[str, RequestLogger] = {}
        self._closing: list[RequestLogger] = []  # no longer asked for; what waits is on its way to the disk
        self.by_model: dict[str, list[Tap]] = {}

    def configure(self, model: str, config: Any | None) -> None:
        """Log a model from now on as `config` (a `LoggingConfig`) says; None: not at all.

        Raises
        ------
        InvalidArgumentError
            See `request_logger.check`; the model is logged as before.
        """
        known = self._loggers.get(model)
        if known is not None and config is not None and known.config == config:
            return
        logger = None if config is None else self._logger(config)
        if known is not None:
            del self._loggers[model]
            self.remove(model, known)
            known.close_soon()
            self._closing = [logger for logger in self._closing if logger.is_writing]
            self._closing.append(known)
        if logger is not None:
            self._loggers[model] = logger
            self.add(model, logger)

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return how many records each model's log has written and dropped, by model."""
        return {model: (logger.written, logger.dropped) for model, logger in self._loggers.items()}

    def add(self, model: str, tap: Tap) -> None:
        """Show a model's requests to a tap from now on."""
        self.by_model.setdefault(model, []).append(tap)

    def remove(self, model: str, tap: Tap) -> None:
        """Show it no more requests. Idempotent."""
        taps = self.by_model.get(model, [])
        if tap in taps:
            taps.remove(tap)
        if not taps:
            self.by_model.pop(model, None)

    def tapped(
        self,
        model: str,
        version: int,
        make: Callable[[T], Record],
        on_done: Callable[[T | None, ServingError | None], None],
    ) -> Callable[[T | None, ServingError | None], None]:
        """Return what shows a request with its answer to those who want it, before it hands the answer over.

        Parameters
        ----------
        model : str
        version : int
        make : callable
            Makes the record of the answer; called for answers only.
        on_done : callable
            Takes an answer or an error.
        """
        taps = [tap for tap in self.by_model.get(model, ()) if tap.wants(version)]
        if not taps:
            return on_done

        def show_and_hand_over(answer: T | None, error: ServingError | None) -> None:
            if answer is not None:
                try:
                    record = make(answer)
                    for tap in taps:
                        tap.take(record)
                except Exception:  # the answer is good, whatever becomes of its record
                    log.exception("logging a request of %s failed", model)
            on_done(answer, error)

        return show_and_hand_over

    def close(self) -> None:
        """Write what waits, also of logs that a reload has ended; takes a few seconds at most for each. Idempotent."""
        while self._closing:
            self._closing.pop().close()
        while self._loggers:
            model, logger = self._loggers.popitem()
            self.remove(model, logger)
            logger.close()

    def _logger(self, config: Any) -> RequestLogger:
        return RequestLogger(config, self._tags, max_bytes=self._max_bytes, max_files=self._max_files)
