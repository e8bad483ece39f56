"""Models of the data-plane benchmark that the tests do not need: `python -m tests.bench.bench_models <outdir>`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import numpy as np

__all__ = ["PAYLOAD_FLOATS", "build"]

#: One row of the payload model: 1 MiB of float32.
PAYLOAD_FLOATS: Final = 262_144


def _mobilenet(path: Path) -> None:
    """MobileNetV2-0.35 at 96 x 96 with batch statistics of real inputs.

    With untouched statistics (weights=None) it answers the same to every input, and no check of answers could fail.
    """
    import keras

    keras.utils.set_random_seed(1)
    model = keras.applications.MobileNetV2(input_shape=(96, 96, 3), alpha=0.35, weights=None)
    images = np.random.default_rng(0).standard_normal((64, 96, 96, 3)).astype(np.float32)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0  # one pass sets the moving averages to the batch's own
    model(images, training=True)
    answers = model.predict(images[:8], verbose=0)
    if np.ptp(answers, axis=0).max() < 1e-4:
        raise RuntimeError("the MobileNet answers alike to different inputs: its timing would prove nothing")
    model.export(str(path), verbose=False)


def _strings(path: Path) -> None:
    """Text in, hash bucket and length out."""
    import tensorflow as tf

    class Text(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
        def __call__(self, text: Any) -> dict[str, Any]:
            return {
                "bucket": tf.strings.to_hash_bucket_fast(tf.strings.lower(text), 1000),
                "length": tf.strings.length(text),
            }

    module = Text()
    tf.saved_model.save(module, str(path), signatures=module.__call__.get_concrete_function())


def _payload(path: Path) -> None:
    """1 MiB of floats in, 1 MiB out."""
    import tensorflow as tf

    class Payload(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, PAYLOAD_FLOATS], tf.float32, name="x")])
        def __call__(self, x: Any) -> dict[str, Any]:
            return {"y": x + 1.0}

    module = Payload()
    tf.saved_model.save(module, str(path), signatures=module.__call__.get_concrete_function())


def build(outdir: Path) -> None:
    """Export all of them to `<outdir>/<name>/1`."""
    for name, make in (("mobilenet", _mobilenet), ("strings", _strings), ("payload", _payload)):
        make(outdir / name / "1")


if __name__ == "__main__":
    build(Path(sys.argv[1]))
