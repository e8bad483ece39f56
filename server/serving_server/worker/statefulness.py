"""What state a graph touches: whether it may keep a tensor that it was fed, and whether it only reads variables.

Feeds are views of shared memory that the next batch overwrites. Most graphs read their feeds and forget them. One that
assigns a feed to a variable or puts it into a table or queue may hold on to that very memory, because TensorFlow
shares buffers instead of copying them; such a graph is fed copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import tensorflow as tf
from tensorflow.python.framework import op_def_registry

__all__ = ["keeps_feeds", "only_reads_variables", "stateful_ops", "variable_bytes"]

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


#: What freezing replaces: handles of variables and reads of them.
_READS_VARIABLES: Final = frozenset(
    {
        "VarHandleOp",
        "ReadVariableOp",
        "VariableShape",
        "ResourceGather",
        "ResourceGatherNd",
        "Variable",
        "VariableV2",
        "Placeholder",
        "PlaceholderWithDefault",
        "PartitionedCall",
        "StatefulPartitionedCall",
        "Assert",
        "NoOp",
    }
)


_VARIABLES: Final = frozenset({"VarHandleOp", "Variable", "VariableV2"})


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
    return any(op_type not in _HARMLESS for op_type in stateful_ops(graph, fetches))


def only_reads_variables(graph: Any, fetches: Sequence[str]) -> str | None:
    """Return None when these fetches touch variables, read them only, and no other state; else what is in the way."""
    found = stateful_ops(graph, fetches)
    for op_type in sorted(found):
        if op_type not in _READS_VARIABLES:
            return f"it uses {op_type}"
    return None if found & _VARIABLES else "it has no variables"


def stateful_ops(graph: Any, fetches: Sequence[str]) -> set[str]:
    """Return the types of all stateful ops between the feeds and these fetches, functions included."""
    functions = _functions(graph)
    found: set[str] = set()
    called: set[str] = set()
    for op in _behind(graph, fetches):
        if _stateful(op.type):
            found.add(op.type)
        called |= _callees(op.node_def)
    done: set[str] = set()
    while called - done:
        name = (called - done).pop()
        done.add(name)
        for node in functions.get(name, ()):
            if _stateful(node.op):
                found.add(node.op)
            called |= _callees(node)
    return found


def variable_bytes(graph: Any, fetches: Sequence[str]) -> int:
    """Return what the variables that these fetches read take together, in bytes; of unknown shapes, nothing.

    Asks the ops themselves: collections name the variables of graphs that `tf.compat.v1` has built only.
    """
    found: dict[str, int] = {}
    for op in _behind(graph, fetches):
        if op.type in _VARIABLES:
            elements = tf.TensorShape(op.get_attr("shape")).num_elements() or 0
            dtype = tf.as_dtype(op.get_attr("dtype"))
            found[op.name] = elements * dtype.size
    return sum(found.values())


def _behind(graph: Any, fetches: Sequence[str]) -> Iterator[Any]:
    """Generate all ops that these fetches need, each once; bodies of functions are not among them."""
    seen: set[str] = set()
    pending = [graph.as_graph_element(name).op for name in fetches]
    while pending:
        op = pending.pop()
        if op.name not in seen:
            seen.add(op.name)
            yield op
            pending += [tensor.op for tensor in op.inputs]
            pending += op.control_inputs


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


def _stateful(op_type: str) -> bool:
    definition = op_def_registry.get(op_type)
    # Functions called by their own name are not registered; their bodies are walked.
    return definition is not None and bool(definition.is_stateful)
