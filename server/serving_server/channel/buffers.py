"""Shared memory without a name: nothing to leak in /dev/shm, gone with its last process.

On Linux a buffer is a `memfd_create` file; elsewhere an unlinked temporary file. Both sides map the same descriptor.
The side that writes grows the file; the reader maps anew when a message speaks of more bytes than it has mapped.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import Final

__all__ = ["ALIGNMENT", "SharedBuffer", "align"]

#: TensorFlow feeds NumPy memory without a copy when it is aligned so (EIGEN_MAX_ALIGN_BYTES with AVX-512).
ALIGNMENT: Final = 64

_PAGE: Final = mmap.PAGESIZE

#: What a buffer keeps when it is trimmed; below it, giving memory back is not worth the page faults.
_KEPT_BYTES: Final = 1 << 20


def align(position: int) -> int:
    """Return the next multiple of `ALIGNMENT`."""
    return (position + ALIGNMENT - 1) & -ALIGNMENT


class SharedBuffer:
    """One growable region of memory, shared through its file descriptor.

    Parameters
    ----------
    fd : int, optional
        An inherited descriptor, owned by this object from now on; without it a new region is made.
    """

    def __init__(self, fd: int | None = None) -> None:
        self.fd = _anonymous_file() if fd is None else fd
        self.size = 0
        self._map: mmap.mmap | None = None
        self._closed = False

    def writable(self, nbytes: int) -> mmap.mmap:
        """Return the mapping, grown to hold at least `nbytes`; earlier views stay valid.

        Raises
        ------
        OSError
            When the system has no memory left for it.
        """
        if nbytes > self.size or self._map is None:
            # Twice the need, so that batches of creeping size do not remap each time; untouched pages cost nothing.
            size = max(_PAGE, (2 * nbytes + _PAGE - 1) // _PAGE * _PAGE)
            os.ftruncate(self.fd, size)
            self._map = mmap.mmap(self.fd, size)
            self.size = size
        return self._map

    def readable(self, nbytes: int) -> mmap.mmap:
        """Return a mapping that holds at least `nbytes` written by the other side."""
        if nbytes > self.size or self._map is None:
            size = max(os.fstat(self.fd).st_size, _PAGE)
            if nbytes > size:
                msg = f"the other side announced {nbytes} bytes in a shared buffer of {size}"
                raise ValueError(msg)
            self._map = mmap.mmap(self.fd, size)
            self.size = size
        return self._map

    def trim(self) -> None:
        """Give pages beyond the first MiB back to the system; only while neither side uses the buffer.

        Availability: Linux (elsewhere memory is given back when the buffer is closed).
        """
        if self._map is not None and self.size > _KEPT_BYTES and hasattr(mmap, "MADV_REMOVE"):
            self._map.madvise(mmap.MADV_REMOVE, _KEPT_BYTES, self.size - _KEPT_BYTES)

    def close(self) -> None:
        """Close the descriptor; the memory goes when the last view of it does. Idempotent."""
        if not self._closed:
            self._closed = True
            self._map = None
            os.close(self.fd)


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("serving-lane", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile(prefix="serving-lane-") as file:
        return os.dup(file.fileno())
