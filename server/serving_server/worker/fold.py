"""Fold constants that follow a convolution or a matrix product into its weights, and keep the graph fusible.

A frozen batch normalization is `x * scale + shift` after the convolution. Grappler folds such a scale into the weights
of Conv2D, but not of DepthwiseConv2dNative, and it fuses a shift only where it finds a BiasAdd: in a MobileNetV2 it
leaves 27 additions and 17 products of its own passes over memory. Here every chain of constant products and sums after
a contraction becomes new weights and one BiasAdd, which the session's own optimizer then fuses with the activation and
with a residual sum. `python -m tests.bench.limit` measures the gain; `worker.freeze` proves the answers.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Set as AbstractSet
from typing import Any, Final

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.grappler import tf_optimizer

from serving_server.tensors import Array

__all__ = ["fold", "simplify", "unfused_products"]

#: Functions inlined, dead nodes removed, constants computed: after these a chain of constants can be seen as one.
_PASSES: Final = ("function", "pruning", "constfold", "dependency")

_NORMALIZATIONS: Final = frozenset({"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"})


def simplify(definition: Any, keep: AbstractSet[str]) -> Any:
    """Return a GraphDef with functions inlined and constants computed.

    Parameters
    ----------
    definition : tf.compat.v1.GraphDef
        Without variables.
    keep : set of str
        Names of nodes that must stay: what is fed and what is fetched.
    """
    graph = tf.Graph()
    with graph.as_default():
        tf.graph_util.import_graph_def(definition, name="")
        meta = tf.compat.v1.train.export_meta_graph(graph_def=graph.as_graph_def(add_shapes=True), graph=graph)
    # Grappler keeps the nodes of this collection.
    meta.collection_def["train_op"].node_list.value.extend(sorted(keep))
    config = config_pb2.ConfigProto()
    rewrite = config.graph_options.rewrite_options
    rewrite.min_graph_nodes = -1  # else small graphs are left alone
    rewrite.optimizers.extend(_PASSES)
    return tf_optimizer.OptimizeGraph(config, meta)


def unfused_products(graph: Any, fetches: AbstractSet[str]) -> list[str]:
    """Return the names of the MatMul nodes that these fetches need and whose weights are constants.

    As targets of a callable they are out of bounds for fusion. oneDNN's fused product packs constant weights once, for
    the batch size that it sees first, and again at every run of another size: 2.7 times slower at batch 8 after a first
    run at batch 1, and 1.4 times at 64. The plain one has no such cache, and is the faster one at batch 1 as well.
    """
    found = []
    seen: set[str] = set()
    pending = [graph.as_graph_element(name).op for name in fetches]
    while pending:
        op = pending.pop()
        if op.name in seen:
            continue
        seen.add(op.name)
        if op.type == "MatMul" and any(tensor.op.type in {"Const", "Identity"} for tensor in op.inputs):
            found.append(op.name)
        pending += [tensor.op for tensor in op.inputs]
    return sorted(found)


@dataclasses.dataclass(slots=True)
class _Chain:
    """Constants that follow a contraction: ``end = contraction * scale + shift`` per output channel, in float64."""

    end: Any
    channels: int
    scale: Array
    shift: Array
    scaled: bool = False


def fold(definition: Any, keep: AbstractSet[str]) -> Any:
    """Return a GraphDef in which constants after float32 contractions (NHWC) are part of their weights and a BiasAdd.

    Parameters
    ----------
    definition : tf.compat.v1.GraphDef
        As `simplify` returns it.
    keep : set of str
        As there.
    """
    return _Folding(definition, keep).run()


class _Folding:
    def __init__(self, definition: Any, keep: AbstractSet[str]) -> None:
        self._keep = keep
        self._result = tf.compat.v1.GraphDef()
        self._result.CopyFrom(definition)
        self._nodes = {node.name: node for node in self._result.node}
        self._users: defaultdict[str, list[Any]] = defaultdict(list)
        #: How often anything but a node's first output is asked for.
        self._others: Counter[str] = Counter()
        for node in self._result.node:
            for name in node.input:
                base, _, index = name.removeprefix("^").partition(":")
                self._users[base].append(node)
                if name.startswith("^") or index not in ("", "0"):
                    self._others[base] += 1

    def run(self) -> Any:
        replaced: dict[str, str] = {}
        for node in list(self._result.node):
            weights = self._weights(node)
            if weights is None:
                continue
            chain = self._chain(node, weights)
            # A plain product with a bias gains nothing.
            if chain is None or (node.op == "MatMul" and not chain.scaled):
                continue
            bias = self._replace(node, weights, chain)
            if bias is not None:
                replaced[chain.end.name] = bias
        for node in self._result.node:
            for index, name in enumerate(node.input):
                base, _, output = name.partition(":")
                if base in replaced and output in ("", "0"):
                    node.input[index] = replaced[base]
        return tf.compat.v1.graph_util.extract_sub_graph(self._result, sorted(self._keep))

    def _weights(self, node: Any) -> Array | None:
        if node.op not in {"Conv2D", "DepthwiseConv2dNative", "MatMul"} or len(node.input) != 2:
            return None
        if node.attr["T"].type != tf.float32.as_datatype_enum:
            return None
        if node.attr["transpose_b"].b if node.op == "MatMul" else node.attr["data_format"].s != b"NHWC":
            return None
        return self._constant(node.input[1])

    def _constant(self, name: str) -> Array | None:
        node = self._nodes.get(name.removesuffix(":0"))
        while node is not None and node.op == "Identity":
            node = self._nodes.get(node.input[0].removesuffix(":0"))
        if node is None or node.op != "Const":
            return None
        return np.asarray(tf.make_ndarray(node.attr["value"].tensor))

    def _per_channel(self, name: str, channels: int) -> Array | None:
        """Return a constant that is one number per channel, as float64 of shape ``[channels]``."""
        value = self._constant(name)
        if value is None or value.dtype != np.float32:
            return None
        if value.size != 1 and (value.size != channels or value.shape[-1] != channels):
            return None
        wide = np.broadcast_to(value.reshape(-1).astype(np.float64), (channels,))
        return wide if np.isfinite(wide).all() else None

    def _chain(self, node: Any, weights: Array) -> _Chain | None:
        channels = weights.shape[2] * weights.shape[3] if node.op == "DepthwiseConv2dNative" else weights.shape[-1]
        chain = _Chain(node, channels, np.ones(channels), np.zeros(channels))
        while self._others[chain.end.name] == 0 and chain.end.name not in self._keep:
            users = self._users[chain.end.name]
            if len(users) != 1 or not self._extend(chain, users[0], node):
                break
        return None if chain.end is node else chain

    def _extend(self, chain: _Chain, user: Any, node: Any) -> bool:
        """Take one more node into the chain, if it is a constant product or sum."""
        if any(name.startswith("^") for name in user.input):
            return False
        if user.op in _NORMALIZATIONS:
            return self._extend_normalization(chain, user)
        if user.op not in {"Mul", "Add", "AddV2", "Sub", "BiasAdd"}:
            return False
        first = user.input[0].removesuffix(":0") == chain.end.name
        if user.op in {"Sub", "BiasAdd"} and not first:
            return False
        name = user.input[1 if first else 0]
        # A constant of a higher rank than the product would change the rank of the result.
        value = self._constant(name)
        if value is None or value.ndim > (2 if node.op == "MatMul" else 4):
            return False
        number = self._per_channel(name, chain.channels)
        if number is None:
            return False
        if user.op == "Mul":
            chain.scale, chain.shift, chain.scaled = chain.scale * number, chain.shift * number, True
        else:
            chain.shift = chain.shift - number if user.op == "Sub" else chain.shift + number
        chain.end = user
        return True

    def _extend_normalization(self, chain: _Chain, user: Any) -> bool:
        if user.attr["is_training"].b or user.attr["data_format"].s != b"NHWC" or self._others[user.name]:
            return False
        if user.input[0].removesuffix(":0") != chain.end.name:
            return False
        gamma, beta, mean, variance = (self._per_channel(name, chain.channels) for name in user.input[1:5])
        if gamma is None or beta is None or mean is None or variance is None:
            return False
        scale = gamma / np.sqrt(variance + user.attr["epsilon"].f)
        chain.shift = (chain.shift - mean) * scale + beta
        chain.scale, chain.scaled, chain.end = chain.scale * scale, True, user
        return True

    def _replace(self, node: Any, weights: Array, chain: _Chain) -> str | None:
        """Give the contraction its new weights and add the BiasAdd; return its name."""
        scale = chain.scale.reshape(weights.shape[2:]) if node.op == "DepthwiseConv2dNative" else chain.scale
        scaled = (weights.astype(np.float64) * scale).astype(np.float32)
        shift = chain.shift.astype(np.float32)
        if not (np.isfinite(scaled).all() and np.isfinite(shift).all()):
            return None
        if chain.scaled:
            node.input[1] = self._add_constant(node.name + "/folded_weights", scaled)
        bias = self._result.node.add(name=node.name + "/folded", op="BiasAdd")
        bias.input.extend([node.name, self._add_constant(node.name + "/folded_bias", shift)])
        bias.attr["T"].type = tf.float32.as_datatype_enum
        return str(bias.name)

    def _add_constant(self, name: str, value: Array) -> str:
        node = self._result.node.add(name=name, op="Const")
        node.attr["dtype"].type = tf.float32.as_datatype_enum
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
        return name
