"""Which requests of a model are logged, and what a record says besides request and answer."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from serving_server.errors import InvalidArgumentError
from serving_server.request_log.record import Record, fill_spec
from serving_server.request_log.writer import RotatingWriter
from serving_server.wire import messages

__all__ = ["RequestLogger", "check"]

#: Values of LogCollectorConfig.type that mean the one collector there is.
_TYPES: Final = ("", "file", "tfrecord")


def check(config: Any) -> None:
    """Refuse a `LoggingConfig` that cannot be followed.

    Raises
    ------
    InvalidArgumentError
        Naming the field that is wrong.
    """
    collector = config.log_collector_config
    if config.HasField("custom_logging_config"):
        raise InvalidArgumentError("custom_logging_config is not supported; use log_collector_config")
    if collector.type not in _TYPES:
        raise InvalidArgumentError(f'log_collector_config.type "{collector.type}" is unknown; there is "file"')
    prefix = Path(collector.filename_prefix)
    if not prefix.is_absolute() or not prefix.name:
        raise InvalidArgumentError(f'filename_prefix "{prefix}" must be an absolute path with a name at its end')
    if not prefix.parent.is_dir():
        raise InvalidArgumentError(f"filename_prefix {prefix}: there is no folder {prefix.parent}")
    rate = config.sampling_config.sampling_rate
    if not 0 <= rate <= 1:
        raise InvalidArgumentError(f"sampling_rate is {rate:g}; it must be from 0 (none) to 1 (all)")


class RequestLogger:
    """Logs a sample of one model's requests, whatever protocol they came by.

    Parameters
    ----------
    config : message
        `tensorflow.serving.LoggingConfig`: `log_collector_config.filename_prefix` and
        `sampling_config.sampling_rate` (0 to 1) count.
    tags : sequence of str
        Of the SavedModel, for the records.
    max_bytes, max_files : int
        See `RotatingWriter`.

    Raises
    ------
    InvalidArgumentError
        See `check`.
    """

    def __init__(self, config: Any, tags: Sequence[str], *, max_bytes: int, max_files: int) -> None:
        check(config)
        self.config = config
        self._rate = config.sampling_config.sampling_rate
        self._tags = tuple(tags)
        self._writer = RotatingWriter(Path(config.log_collector_config.filename_prefix), max_bytes, max_files)
        self._random = random.Random()  # noqa: S311 - a sample, not a secret

    @property
    def written(self) -> int:
        """Records on their way to the disk or there."""
        return self._writer.written

    @property
    def dropped(self) -> int:
        """Records lost because the disk was too slow or refused them."""
        return self._writer.dropped

    def wants(self, version: int) -> bool:
        """Decide whether one request is logged."""
        return bool(self._rate >= 1 or self._random.random() < self._rate)

    def take(self, record: Record) -> None:
        """Log a request with its answer."""
        metadata = messages.LogMetadata()
        fill_spec(metadata.model_spec, record.model, record.version, record.signature)
        metadata.sampling_config.CopyFrom(self.config.sampling_config)
        metadata.saved_model_tags.extend(self._tags)
        metadata.timestamp_secs = int(time.time())
        self._writer.write(record.serialize(metadata.SerializeToString()))

    @property
    def is_writing(self) -> bool:
        """Whether something is still on its way to the disk, or may come."""
        return self._writer.is_writing

    def close_soon(self) -> None:
        """Take nothing more, and let what waits reach the disk without waiting for it."""
        self._writer.close(wait=False)

    def close(self) -> None:
        """Write what waits; takes a few seconds at most. Idempotent."""
        self._writer.close()
