"""tf.Examples on their way to a model: what Classify, Regress and MultiInference feed.

A model that takes examples parses them itself (`tf.io.parse_example`), so they are fed serialized, as one vector of
strings. A context that all examples of a request share is merged into each by putting its bytes in front: that is how
protocol buffers merge (https://protobuf.dev/programming-guides/encoding, last one wins).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from serving_server.errors import InvalidArgumentError
from serving_server.tensors import Array, by_numpy
from serving_server.wire.messages import DataType

__all__ = ["INPUTS", "debug_string", "dtype_name", "feed", "feed_input"]

#: Alias of the input that takes examples (saved_model/signature_constants: classify and regress agree).
INPUTS: Final = "inputs"


def feed(examples: Sequence[bytes], context: bytes = b"") -> Array:
    """Return serialized examples as a string tensor of shape [number of examples].

    Raises
    ------
    InvalidArgumentError
        When there are none.
    """
    if not examples:
        raise InvalidArgumentError("Input is empty.")
    strings = np.empty(len(examples), dtype=object)
    strings[:] = [context + example for example in examples] if context else examples
    return strings


def feed_input(message: Any) -> Array:
    """Return what a `SerializedInput` feeds; see `feed`."""
    kind = message.WhichOneof("kind")
    if kind == "example_list":  # has no context
        return feed(message.example_list.examples)
    with_context = message.example_list_with_context
    return feed(with_context.examples, with_context.context)


def debug_string(array: Array) -> str:
    """Return a tensor's shape as TensorFlow's messages show it: ``[2,3]``."""
    return f"[{','.join(map(str, array.shape))}]"


def dtype_name(array: Array) -> str:
    """Return a tensor's type as TensorFlow's messages show it: ``DT_FLOAT``."""
    name: str = DataType.values_by_number[by_numpy(array.dtype).enum].name
    return name
