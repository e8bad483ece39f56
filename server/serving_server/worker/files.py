"""Files of a version for the processes that have TensorFlow: in a folder, or where a URI says."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, cast

import tensorflow as tf

from serving_server.place import Place

__all__ = ["exists", "names", "open_binary"]


def exists(place: Place) -> bool:
    """Whether there is a file or a folder of that name."""
    return place.exists() if isinstance(place, Path) else bool(tf.io.gfile.exists(str(place)))


def names(folder: Place) -> list[str]:
    """Return the names of what lies in a folder, sorted; none when there is no such folder.

    Object stores end the names of folders with a slash; it is taken away.
    """
    if isinstance(folder, Path):
        return sorted(child.name for child in folder.iterdir()) if folder.is_dir() else []
    if not tf.io.gfile.isdir(str(folder)):
        return []
    return sorted(name.rstrip("/") for name in tf.io.gfile.listdir(str(folder)))


def open_binary(place: Place) -> BinaryIO:
    """Open a file for reading."""
    return place.open("rb") if isinstance(place, Path) else cast("BinaryIO", tf.io.gfile.GFile(str(place), "rb"))
