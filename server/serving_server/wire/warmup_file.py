"""Where a version's warmup records lie and how many there may be.

As in TensorFlow Serving (servables/tensorflow/saved_model_warmup_util.h): a TFRecord of `PredictionLog` messages.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol, Self, TypeVar

__all__ = ["MAX_RECORDS", "WARMUP_FILE", "warmup_file"]


class _Folder(Protocol):
    def __truediv__(self, name: Path, /) -> Self: ...


Folder = TypeVar("Folder", bound=_Folder)

#: In the folder of a version.
WARMUP_FILE: Final = Path("assets.extra") / "tf_serving_warmup_requests"

#: A file with more fails the load of its version.
MAX_RECORDS: Final = 1000


def warmup_file(version_folder: Folder) -> Folder:
    """Return where a version's warmup records lie (the file may not exist)."""
    return version_folder / WARMUP_FILE
