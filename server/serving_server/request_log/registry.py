"""The request logs of all models of a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from serving_server.request_log.request_logger import RequestLogger

__all__ = ["RequestLogs"]

#: Defaults of rotation.
MAX_MEGABYTES: Final = 64
MAX_FILES: Final = 0


class RequestLogs:
    """Finds the logger of a model. All calls on the loop.

    Parameters
    ----------
    tags : sequence of str
        Of the SavedModels, for the records.
    max_megabytes, max_files : int
        Rotation: size of a file, and how many of a model are kept (0: all).

    Attributes
    ----------
    by_model : dict of str to RequestLogger
        Only models that are logged; empty on most servers, which is what makes it cheap to ask.
    """

    def __init__(
        self, tags: Sequence[str] = ("serve",), *, max_megabytes: int = MAX_MEGABYTES, max_files: int = MAX_FILES
    ) -> None:
        self._tags = tags
        self._max_bytes = max_megabytes * 1024 * 1024
        self._max_files = max_files
        self.by_model: dict[str, RequestLogger] = {}

    def configure(self, model: str, config: Any | None) -> None:
        """Log a model from now on as `config` (a `LoggingConfig`) says; None: not at all.

        Raises
        ------
        InvalidArgumentError
            See `request_logger.check`; the model is logged as before.
        """
        known = self.by_model.get(model)
        if known is not None and config is not None and known.config == config:
            return
        logger = None if config is None else self._logger(config)
        if known is not None:
            del self.by_model[model]
            known.close_soon()
        if logger is not None:
            self.by_model[model] = logger

    def close(self) -> None:
        """Write what waits; takes a few seconds at most. Idempotent."""
        while self.by_model:
            self.by_model.popitem()[1].close()

    def _logger(self, config: Any) -> RequestLogger:
        return RequestLogger(config, self._tags, max_bytes=self._max_bytes, max_files=self._max_files)
