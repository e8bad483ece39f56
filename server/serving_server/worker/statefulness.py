"""Decide whether a graph may keep a tensor that it was fed after the call returns.

Feeds are views of shared memory that the next batch overwrites. Most graphs read their feeds and forget them. One that
assigns a feed to a variable or puts it into a table or queue may hold on to that very memory, because TensorFlow
shares buffers instead of copying them; such a graph is fed copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tensorflow.python.framework import op_def_registry

__all__ = ["keeps_feeds"]

#: Stateful ops that read state, make handles, call functions or draw numbers, and never store an input tensor.
_HARMLESS: Final = frozenset(
    {
        "Placeholder",
        "PlaceholderWithDefault",
        "PlaceholderV2",
        "VarHandleOp",
        "ReadVariableOp",
        "VarIsInitializedOp",
        "VariableShape",
        "ResourceGather",
        "ResourceGatherNd",
        "Variable",
        "VariableV2",
        "IsVariableInitialized",
        "PartitionedCall",
        "StatefulPartitionedCall",
        "SymbolicGradient",
        "RemoteCall",
        "If",
        "While",
        "Case",
        "For",
        "HashTable",
        "HashTableV2",
        "LookupTableFind",
        "LookupTableFindV2",
        "LookupTableSize",
        "LookupTableSizeV2",
        "AnonymousHashTable",
        "Assert",
        "Print",
        "PrintV2",
        "NoOp",
        "RandomUniform",
        "RandomUniformInt",
        "RandomStandardNormal",
        "TruncatedNormal",
        "RandomShuffle",
        "RandomGamma",
        "RandomPoissonV2",
        "Multinomial",
        "ParameterizedTruncatedNormal",
        "StatefulUniform",
        "Timestamp",
        "TPUPartitionedCall",
        "InitializeTableFromTextFileV2",
        "BatchFunction",
    }
)


def keeps_feeds(graph: Any, fetches: Sequence[str]) -> bool:
    """Whether anything between the feeds and these fetches may store a tensor beyond the call.

    Parameters
    ----------
    graph : tf.Graph
    fetches : sequence of str
        Tensor names, such as ``y:0``.

    Notes
    -----
    Walks the graph backwards from the fetches, then every function reachable from there. An unknown stateful op counts
    as one that keeps: the cost of being wrong that way is one copy.
    """
    functions = _functions(graph)
    seen_ops: set[str] = set()
    called: set[str] = set()
    pending = [graph.as_graph_element(name).op for name in fetches]
    while pending:
        op = pending.pop()
        if op.name in seen_ops:
            continue
        seen_ops.add(op.name)
        if _keeps(op.type):
            return True
        called |= _callees(op.node_def)
        pending += [tensor.op for tensor in op.inputs]
        pending += op.control_inputs
    done: set[str] = set()
    while called - done:
        name = (called - done).pop()
        done.add(name)
        for node in functions.get(name, ()):
            if _keeps(node.op) and node.op not in functions:
                return True
            called |= _callees(node)
    return False


def _functions(graph: Any) -> dict[str, Any]:
    library = graph.as_graph_def(add_shapes=False).library
    return {function.signature.name: function.node_def for function in library.function}


def _callees(node: Any) -> set[str]:
    names = {node.op}
    for value in node.attr.values():
        if value.HasField("func"):
            names.add(value.func.name)
        names.update(function.name for function in value.list.func)
    return names


def _keeps(op_type: str) -> bool:
    if op_type in _HARMLESS:
        return False
    definition = op_def_registry.get(op_type)
    # Functions called by their own name are not registered; their bodies are walked.
    return definition is not None and bool(definition.is_stateful)
