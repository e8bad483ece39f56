"""A request with both answers, and a bounded memory of such."""

from __future__ import annotations

import base64
import dataclasses
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from serving_server.errors import ServingError
from serving_server.tensors import Array, to_proto

__all__ = ["MAX_PAGE", "Answer", "Pair", "Pairs", "copied", "size_of"]

#: Bytes of arrays that are remembered in all, whatever number of pairs is asked for.
MAX_BYTES: Final = 64 * 1024 * 1024

#: Pairs, and bytes of arrays, of one page: it is written on the loop that answers requests too, in a few milliseconds.
MAX_PAGE: Final = 50
_MAX_PAGE_BYTES: Final = 1024 * 1024

Arrays = Mapping[str, Array]


@dataclasses.dataclass(slots=True)
class Answer:
    """What a version answered.

    Attributes
    ----------
    version : int
    seconds : float
        From its being handed to that version to the answer, waiting for a batch included.
    outputs : mapping of str to numpy.ndarray or None
        By alias, good to keep.
    error : ServingError or None
        In place of outputs.
    """

    version: int
    seconds: float
    outputs: Arrays | None
    error: ServingError | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object; arrays as TensorProtos in base64."""
        error = None if self.error is None else {"code": self.error.code.name, "message": self.error.message}
        outputs = None if self.outputs is None else _encoded(self.outputs)
        return {"version": self.version, "seconds": self.seconds, "outputs": outputs, "error": error}


@dataclasses.dataclass(slots=True)
class Pair:
    """A request with both answers.

    Attributes
    ----------
    number : int
        From 1, in the order of the shadow's answers.
    time : float
        When the primary had answered, seconds since 1970.
    api, signature : str
    inputs : mapping of str to numpy.ndarray
    primary, shadow : Answer
    waited : float
        Seconds that the copy waited for its turn.
    """

    number: int
    time: float
    api: str
    signature: str
    inputs: Arrays
    primary: Answer
    shadow: Answer
    waited: float

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object; arrays as TensorProtos in base64."""
        return {
            "number": self.number,
            "time": self.time,
            "api": self.api,
            "signature": self.signature,
            "inputs": _encoded(self.inputs),
            "primary": self.primary.to_json(),
            "shadow": self.shadow.to_json(),
            "waited": self.waited,
        }


class Pairs:
    """The latest pairs.

    Parameters
    ----------
    capacity : int
        How many; `MAX_BYTES` bounds them too.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._pairs: deque[tuple[Pair, int]] = deque()
        self._bytes = 0
        self.last = 0  # number of the latest

    def __len__(self) -> int:
        return len(self._pairs)

    def add(self, pair: Pair, size: int) -> None:
        """Remember a pair, whose arrays have so many bytes, and forget the oldest ones beyond the bounds."""
        self._pairs.append((pair, size))
        self._bytes += size
        self.last = pair.number
        while len(self._pairs) > self._capacity or (self._bytes > MAX_BYTES and len(self._pairs) > 1):
            self._bytes -= self._pairs.popleft()[1]

    def page(self, after: int) -> list[Pair]:
        """Return the oldest pairs with numbers above `after`, as many as go into one answer; one at least if any."""
        found: list[Pair] = []
        left = _MAX_PAGE_BYTES
        for pair, size in self._pairs:
            if pair.number > after:
                left -= size
                if found and (left < 0 or len(found) == MAX_PAGE):
                    break
                found.append(pair)
        return found


def copied(outputs: Arrays) -> dict[str, Array]:
    """Return arrays that outlive the call that gave them."""
    return {alias: np.array(array) for alias, array in outputs.items()}


def size_of(arrays: Arrays) -> int:
    """Return the bytes of arrays, the texts of strings included."""
    return sum(
        array.nbytes + (sum(len(item) for item in array.flat) if array.dtype == object else 0)
        for array in arrays.values()
    )


def _encoded(arrays: Arrays) -> dict[str, str]:
    return {
        alias: base64.b64encode(to_proto(array, as_content=array.dtype != object).SerializeToString()).decode()
        for alias, array in arrays.items()
    }
