"""What `serving_server.worker.fold` does to graphs: `python -m tests.server.fold_cases <directory>` prints JSON.

A process of its own, because it imports TensorFlow. Each case is a SavedModel with variables, frozen as a worker does.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from serving_server.session_options import SessionFlags, decide
from serving_server.signatures import parse_signatures
from serving_server.worker.fold import unfused_products
from serving_server.worker.freeze import freeze
from serving_server.worker.model import Model
from serving_server.worker.statefulness import variable_bytes
from tests.models import _save_graph

#: Rows of the calls, in this order on one callable: whatever is packed for one size meets another.
ROWS = (1, 8, 64, 3, 1, 64)

CHANNELS = 4

_rng = np.random.default_rng(7)


def _variable(name: str, *shape: int, low: float = -1.0) -> Any:
    value = _rng.uniform(low, 1.0, shape).astype(np.float32)
    return tf.compat.v1.get_variable(name, initializer=tf.constant(value), use_resource=True)


def _normalized(x: Any, *, training: bool = False) -> Any:
    scale, offset, mean = (_variable(name, CHANNELS) for name in ("scale", "offset", "mean"))
    variance = _variable("variance", CHANNELS, low=0.1)
    return tf.compat.v1.nn.fused_batch_norm(
        x, scale, offset, *(() if training else (mean, variance)), is_training=training
    )[0]


def _image() -> Any:
    return tf.compat.v1.placeholder(tf.float32, [None, 6, 6, CHANNELS], name="x")


def _row() -> Any:
    return tf.compat.v1.placeholder(tf.float32, [None, 5], name="x")


def _convolved(x: Any) -> Any:
    return tf.nn.conv2d(x, _variable("weights", 3, 3, CHANNELS, CHANNELS), 1, "SAME")


def conv_normalized() -> tuple[Any, Any]:
    x = _image()
    return x, tf.nn.relu6(_normalized(_convolved(x)))


def depthwise_scaled() -> tuple[Any, Any]:
    """As Keras writes it: a depthwise convolution with a multiplier, then products and sums."""
    x = _image()
    y = tf.nn.depthwise_conv2d(x, _variable("weights", 3, 3, CHANNELS, 2), [1, 1, 1, 1], "SAME")
    return x, tf.nn.relu(y * _variable("scale", 2 * CHANNELS) + _variable("shift", 2 * CHANNELS))


def product_normalized() -> tuple[Any, Any]:
    """A dense layer with a bias and a batch normalization behind it, as Keras writes it in two dimensions."""
    x = _row()
    y = tf.matmul(x, _variable("weights", 5, 3)) + _variable("bias", 3)
    return x, tf.nn.relu(y * _variable("scale", 1, 3) - _variable("mean", 3))


def product_with_bias() -> tuple[Any, Any]:
    x = _row()
    y = tf.nn.relu(tf.nn.bias_add(tf.matmul(x, _variable("first", 5, 7)), _variable("bias", 7)))
    return x, tf.matmul(y, _variable("second", 7, 3)) + _variable("other", 3)


def used_twice() -> tuple[Any, Any]:
    """The convolution's own result is asked for too."""
    x = _image()
    y = _convolved(x)
    return x, _normalized(y) + y


def not_per_channel() -> tuple[Any, Any]:
    x = _image()
    return x, _convolved(x) * _variable("per_pixel", 1, 6, 6, 1)


def training() -> tuple[Any, Any]:
    x = _image()
    return x, _normalized(_convolved(x), training=True)


def fed_scale() -> tuple[Any, Any]:
    """The scale depends on the input."""
    x = _image()
    return x, _convolved(x) * tf.reduce_mean(x, axis=[0, 1, 2])


CASES: tuple[Callable[[], tuple[Any, Any]], ...] = (
    conv_normalized,
    depthwise_scaled,
    product_normalized,
    product_with_bias,
    used_twice,
    not_per_channel,
    training,
    fed_scale,
)


def _examine(path: Path, case: Callable[[], tuple[Any, Any]]) -> dict[str, Any]:
    def build() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
        x, y = case()
        return {"serving_default": ({"x": x}, {"y": y})}

    _save_graph(tf, path, build)
    model = Model(path, ["serve"], decide(SessionFlags()).config)
    signatures = parse_signatures(model.signature_defs().signature_def)
    signature = signatures["serving_default"]
    (spec,), (wanted,) = signature.inputs.values(), signature.outputs.values()
    inputs = [_rng.standard_normal((rows, *(spec.shape or ())[1:])).astype(np.float32) for rows in ROWS]
    expected = [model.session.run(wanted.tensor_name, {spec.tensor_name: x}) for x in inputs]
    # Not `model.freeze`, which closes the original.
    frozen = freeze(model.session, model.config, signatures, {})
    run = frozen.made[((spec.tensor_name,), (wanted.tensor_name,))]
    differences = [float(np.abs(run(x)[0] - y).max() / np.abs(y).max()) for x, y in zip(inputs, expected, strict=True)]
    graph = frozen.session.graph
    result = {
        "frozen": list(frozen.signatures),
        "folded": frozen.folded,
        "ops": dict(Counter(op.type for op in graph.get_operations() if op.type not in {"Const", "Placeholder"})),
        "unfused": len(unfused_products(graph, {wanted.tensor_name})),
        "difference": max(differences),
        "varies": float(np.ptp(expected[2])),
    }
    frozen.session.close()
    model.session.close()
    return result


def _too_large(path: Path) -> dict[str, Any]:
    """Return what `freeze` says of a Keras export whose weights are one byte more than allowed, and not."""
    model = Model(path, ["serve"], decide(SessionFlags()).config)
    signatures = parse_signatures(model.signature_defs().signature_def)
    outputs = [spec.tensor_name for spec in signatures["serving_default"].outputs.values()]
    size = variable_bytes(model.session.graph, outputs)
    found = {
        "bytes": size,
        "refused": dict(freeze(model.session, model.config, signatures, {}, size - 1).reasons),
        "allowed": list(freeze(model.session, model.config, signatures, {}, size).signatures),
    }
    model.session.close()
    return found


def main() -> None:
    root, keras = Path(sys.argv[1]), Path(sys.argv[2])
    found = {case.__name__: _examine(root / case.__name__, case) for case in CASES}
    print(json.dumps({**found, "keras": _too_large(keras)}))


if __name__ == "__main__":
    main()
