"""Turn variables into constants at load, where that is provably harmless: TensorFlow can then fold and pre-pack them.

`python -m tests.bench.limit` measures the gain. A signature is frozen when nothing between its inputs and outputs
writes state or uses any resource but variables it reads, and when its frozen answers to sample inputs equal the
original's. Everything else runs as it was loaded. TensorFlow Serving does not do this.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_from_session_graph

from serving_server.signatures import INIT_SIGNATURES, Signature
from serving_server.tensors import Array
from serving_server.worker.fold import fold, simplify, unfused_products
from serving_server.worker.statefulness import only_reads_variables, variable_bytes

__all__ = ["MAX_BYTES", "TOLERANCE", "Frozen", "draw_sample", "freeze", "frozen_callable", "sample_shapes"]

log = logging.getLogger(__name__)

#: Frozen answers may differ from the original's by so much of the largest value of an output. Folding and pre-packing
#: change the order of float32 sums: a 53-layer network differs by 7e-6, so equal to the bit is more than can be asked.
TOLERANCE: Final = 1e-5

#: 16-bit floats keep 3 (bfloat16: 2) digits; a changed order of sums shows in the last one.
_COARSE: Final = {"float16": 2e-3, "bfloat16": 2e-2}

#: A GraphDef cannot be over 2 GB, and while both graphs are there the weights are in memory three times. Bytes.
MAX_BYTES: Final = 1 << 30


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    """The frozen twin of a graph.

    Attributes
    ----------
    session : tf.compat.v1.Session
    signatures : tuple of str
        Which signatures it answers.
    reasons : mapping of str to str
        For every other signature, why not.
    folded : bool
        Whether constants after convolutions are part of their weights (`worker.fold`).
    made : mapping of (feeds, fetches) to callable
        The functions that the proof was made with. Each holds the weights, so none is made twice.
    """

    session: Any
    signatures: tuple[str, ...]
    reasons: Mapping[str, str]
    folded: bool = False
    made: Mapping[tuple[tuple[str, ...], tuple[str, ...]], Callable[..., list[Any]]] = dataclasses.field(
        default_factory=dict
    )


def freeze(
    session: Any,
    config: Any,
    signatures: Mapping[str, Signature],
    samples: Mapping[str, Sequence[dict[str, Array]]],
    max_bytes: int = MAX_BYTES,
) -> Frozen:
    """Make the frozen twin of a session's graph.

    Parameters
    ----------
    session : tf.compat.v1.Session
        Loaded and initialized.
    config : tf.compat.v1.ConfigProto
        For the new session.
    signatures : mapping of str to Signature
    samples : mapping of str to list of inputs by alias
        Real inputs by signature, such as warmup records; where there are none they are drawn.
    max_bytes : int
        Of the variables that all signatures read together; with more, nothing is frozen.
    """
    graph = session.graph
    reasons: dict[str, str] = {}
    candidates: dict[str, Signature] = {}
    for name, signature in signatures.items():
        reason = _why_not(graph, name, signature)
        if reason is None:
            candidates[name] = signature
        else:
            reasons[name] = reason
    outputs = [spec.tensor_name for signature in candidates.values() for spec in signature.outputs.values()]
    if (size := variable_bytes(graph, outputs)) > max_bytes:
        reasons |= dict.fromkeys(candidates, f"its variables take {size / 1e6:.4g} MB, over {max_bytes / 1e6:.4g}")
        candidates = {}
    if not candidates:
        return Frozen(None, (), reasons)
    different: dict[str, str] = {}
    for definition, folded in _definitions(session, candidates):
        twin = _open(definition, config)
        made: dict[tuple[tuple[str, ...], tuple[str, ...]], Callable[..., list[Any]]] = {}
        different = {}
        for name, signature in candidates.items():
            key = _key(signature)
            if key not in made:  # signatures often are aliases of each other
                made[key] = frozen_callable(twin, *key)
            reason = _differs(session, made[key], signature, samples.get(name, ()))
            if reason is not None:
                different[name] = reason
        # A folded graph that is not equal throughout makes way for the merely frozen one.
        if len(different) < len(candidates) and not (folded and different):
            same = tuple(name for name in candidates if name not in different)
            return Frozen(twin, same, reasons | different, folded, made)
        made.clear()
        twin.close()
    return Frozen(None, (), reasons | different)


def _key(signature: Signature) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what a signature feeds and fetches when all its outputs are asked for."""
    feeds = tuple(spec.tensor_name for spec in signature.inputs.values())
    return feeds, tuple(spec.tensor_name for spec in signature.outputs.values())


def frozen_callable(
    session: Any, feeds: Sequence[str], fetches: Sequence[str], run_options: Any = None
) -> Callable[..., list[Any]]:
    """Return a frozen session's function from arrays to arrays, in the order of `feeds` and `fetches`.

    `run_options`, a `tensorflow.RunOptions`, are of each of its runs.
    """
    # What `unfused_products` tells is of oneDNN.
    on_cpu = all(device.device_type == "CPU" for device in session.list_devices())
    targets = unfused_products(session.graph, set(fetches)) if on_cpu else []
    options = config_pb2.CallableOptions(feed=feeds, fetch=fetches, target=targets, run_options=run_options)
    made: Callable[..., list[Any]] = session._make_callable_from_options(options)
    return made


def _why_not(graph: Any, name: str, signature: Signature) -> str | None:
    if name in INIT_SIGNATURES or not signature.outputs:
        return "it has no outputs"
    specs = [*signature.inputs.values(), *signature.outputs.values()]
    if any(spec.dtype is None or not spec.tensor_name for spec in specs):
        return "it has sparse, composite or unsupported tensors"
    return only_reads_variables(graph, [spec.tensor_name for spec in signature.outputs.values()])


def _definitions(session: Any, signatures: Mapping[str, Signature]) -> Iterator[tuple[Any, bool]]:
    """Generate GraphDefs without variables, the best first, and whether they are folded."""
    specs = [spec for s in signatures.values() for spec in (*s.outputs.values(), *s.inputs.values())]
    # Inputs are kept although an output may not need them: clients feed them.
    wanted = {spec.tensor_name.split(":")[0] for spec in specs}
    definition = session.graph.as_graph_def(add_shapes=True)  # a copy, as the converter prunes it
    logger = tf.get_logger()
    level = logger.level
    # The converter warns, once per worker, that it uses a deprecated function of its own house.
    logger.setLevel("ERROR")
    try:
        frozen = convert_variables_to_constants_from_session_graph(session, definition, sorted(wanted))
    finally:
        logger.setLevel(level)
    inputs = {spec.tensor_name.split(":")[0] for s in signatures.values() for spec in s.inputs.values()}
    # What is fed must not be a constant to whoever computes constants.
    if all(session.graph.get_operation_by_name(name).type == "Placeholder" for name in inputs):
        try:
            yield fold(simplify(frozen, wanted), wanted), True
        except Exception:
            log.exception("folding failed; the graph is frozen only")
    yield frozen, False


def _open(definition: Any, config: Any) -> Any:
    graph = tf.Graph()
    with graph.as_default():
        tf.graph_util.import_graph_def(definition, name="")
    own = config_pb2.ConfigProto()
    own.CopyFrom(config)
    # The weights are part of the graph now, and a session keeps up to three copies of its graph for uses that this one
    # has not: extending it, and telling how it was divided among devices.
    own.experimental.optimize_for_static_graph = True
    own.experimental.disable_output_partition_graphs = True
    own.graph_options.place_pruned_graph = True
    return tf.compat.v1.Session(graph=graph, config=own)


def _differs(
    session: Any, frozen: Callable[..., list[Any]], signature: Signature, samples: Sequence[dict[str, Array]]
) -> str | None:
    """Return why the frozen answers may not be used; None when they agree on all samples."""
    feeds, fetches = _key(signature)
    for sample in samples or [draw_sample(signature, rows) for rows in (1, 3)]:
        values = dict(zip(feeds, (sample[alias] for alias in signature.inputs), strict=True))
        try:
            expected = session.run(fetches, values, options=tf.compat.v1.RunOptions())
            got = frozen(*map(np.asarray, values.values()))
        except (tf.errors.OpError, ValueError, TypeError) as error:
            return f"no sample input to prove it with: {str(error).splitlines()[0][:200]}"
        for alias, a, b in zip(signature.outputs, expected, got, strict=True):
            if not _same(np.asarray(a), np.asarray(b)):
                return f'output "{alias}" differs on a sample input'
    return None


def _same(expected: Array, got: Array) -> bool:
    if expected.shape != got.shape or expected.dtype != got.dtype:
        return False
    kind = expected.dtype.name
    if expected.dtype.kind not in "fc" and kind not in _COARSE:
        return bool((expected == got).all())
    wide: Any = np.complex128 if expected.dtype.kind == "c" else np.float64
    a, b = expected.astype(wide), got.astype(wide)
    finite = np.abs(a[np.isfinite(a)])
    atol = _COARSE.get(kind, TOLERANCE) * (finite.max() if finite.size else 0.0)
    return bool(np.allclose(b, a, rtol=0, atol=atol, equal_nan=True))


def sample_shapes(signature: Signature, rows: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of what `draw_sample` draws."""
    shapes = {alias: (-1,) if spec.shape is None else spec.shape for alias, spec in signature.inputs.items()}
    return {
        alias: tuple((rows if index == 0 else 2) if size < 0 else size for index, size in enumerate(shape))
        for alias, shape in shapes.items()
    }


def draw_sample(signature: Signature, rows: int) -> dict[str, Array]:
    """Return inputs that fit a signature: `rows` for the first unknown dimension, 2 for the others.

    Floats are normal, integers 0 or 1 (an index into any table of two rows), strings short.
    """
    rng = np.random.default_rng(rows)
    sample: dict[str, Array] = {}
    for alias, shape in sample_shapes(signature, rows).items():
        spec = signature.inputs[alias]
        assert spec.dtype is not None
        if spec.dtype.is_string:
            sample[alias] = np.full(shape, b"sample", dtype=object)
        elif spec.dtype.numpy.kind in "iub":
            sample[alias] = rng.integers(0, 2, shape).astype(spec.dtype.numpy)
        else:
            sample[alias] = rng.standard_normal(shape).astype(spec.dtype.numpy)
    return sample
