"""Export tf.functions: those of a `tf.Module`, or a dict of them by signature name."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from serving_workbench.errors import ExportError
from serving_workbench.export import Arrays, NotComparableError, Reference
from serving_workbench.files import disk_errors, ensure_free_space

__all__ = ["export_functions", "export_module", "named_outputs", "quiet"]

DEFAULT = "serving_default"
#: Which function of a module stands for it when it has several, in this order.
_PREFERRED = (DEFAULT, "serve", "__call__", "call", "predict")
HOW_TO_DECORATE = (
    "Decorate the function that clients shall call: "
    "`@tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name='x')])`; None is the batch dimension."
)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep TensorFlow's and Keras's notes about an export out of the notebook; errors still raise."""
    loggers = [logging.getLogger(name) for name in ("tensorflow", "absl")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def export_module(module: Any, destination: Path, signatures: Mapping[str, Any] | None) -> dict[str, Reference]:
    """Write a `tf.Module`, or an object that `tf.saved_model.load` returned, with its functions as signatures.

    The signatures are, in this order: `signatures`; the module's own `signatures` mapping; its tf.functions that have
    an `input_signature`. One function alone becomes ``serving_default``; of several, the one named ``serving_default``,
    ``serve``, ``__call__``, ``call`` or ``predict`` does, and every one is offered under its own name too.
    """
    found = dict(signatures or getattr(module, "signatures", None) or {}) or _functions_of(module)
    if not found:
        raise ExportError(
            f"{type(module).__name__} has no tf.function with an input_signature, so there is nothing to serve.",
            step="export",
            hint=HOW_TO_DECORATE,
        )
    return _save(module, found, destination)


def export_functions(functions: Mapping[str, Any], destination: Path) -> dict[str, Reference]:
    """Write functions by signature name; a single one is offered as ``serving_default`` too."""
    if not functions:
        raise ExportError("The dict of functions is empty.", step="export", hint=HOW_TO_DECORATE)
    for name in functions:
        if not isinstance(name, str) or not name:
            raise ExportError(f"{name!r} is not a signature name: it is no string.", step="export")
    tf = sys.modules.get("tensorflow")
    if tf is None:
        first = next(iter(functions.values()))
        raise ExportError(f"A {type(first).__name__} is no tf.function.", step="export", hint=HOW_TO_DECORATE)
    holder = tf.Module()
    concrete = {name: _concrete(tf, name, function) for name, function in functions.items()}
    # A SavedModel saves what its root object holds; functions alone do not hold the variables that they capture.
    holder.captured = [list(function.graph.variables) for function in concrete.values()]
    holder.sources = list(functions.values())
    return _save(holder, concrete, destination)


def _functions_of(module: Any) -> dict[str, Any]:
    tf = sys.modules["tensorflow"]
    found = {}
    for name in dir(type(module)) + list(vars(module)):
        if name.startswith("_") and name != "__call__":
            continue
        if isinstance(getattr(type(module), name, None), property):
            continue  # a property's code is not ours to run
        value: Any = getattr(module, name, None)
        if _is_concrete(tf, value) or (_is_function(tf, value) and value.input_signature is not None):
            found[name] = value
    if found and DEFAULT not in found:
        preferred = next((name for name in _PREFERRED if name in found), None)
        if preferred is None and len(found) == 1:
            preferred = next(iter(found))
        if preferred is not None:
            found[DEFAULT] = found[preferred]
        # A Python name that clients should never have to write.
        found.pop("__call__", None)
    return found


def _is_concrete(tf: Any, value: object) -> bool:
    return isinstance(value, tf.types.experimental.ConcreteFunction)


def _is_function(tf: Any, value: object) -> bool:
    return isinstance(value, tf.types.experimental.PolymorphicFunction)


def _concrete(tf: Any, name: str, function: Any) -> Any:
    if _is_concrete(tf, function):
        return function
    if not _is_function(tf, function):
        raise ExportError(
            f"Signature '{name}' is a {type(function).__name__}, not a tf.function.",
            step="export",
            hint=HOW_TO_DECORATE,
        )
    if function.input_signature is None:
        raise ExportError(
            f"The tf.function of signature '{name}' has no input_signature.", step="export", hint=HOW_TO_DECORATE
        )
    return function.get_concrete_function()


def _save(root: Any, functions: dict[str, Any], destination: Path) -> dict[str, Reference]:
    tf = sys.modules["tensorflow"]
    with quiet():
        concrete = {name: _concrete(tf, name, function) for name, function in functions.items()}
    if DEFAULT not in concrete and len(concrete) == 1:
        only = next(iter(concrete))
        concrete[DEFAULT], functions = concrete[only], {**functions, DEFAULT: functions[only]}
    variables = {id(v): v for function in concrete.values() for v in function.graph.variables}
    with disk_errors(destination, "export the model to"):
        ensure_free_space(destination, sum(v.shape.num_elements() * v.dtype.size for v in variables.values()))
    try:
        with quiet(), _holding(root, list(variables.values())):
            tf.saved_model.save(root, str(destination), signatures=functions)
    except AssertionError as error:
        # TensorFlow's way of saying that a captured table or variable hangs on no object that is saved.
        raise ExportError(
            f"A function captures something that is not saved with it: {' '.join(str(error).split())[:300]}",
            step="export",
            hint="Put the functions and everything they use on one tf.Module, and serve that.",
        ) from error
    return {name: _reference(tf, function) for name, function in concrete.items()}


@contextmanager
def _holding(root: Any, variables: list[Any]) -> Iterator[None]:
    """Have the object that is saved hold the variables themselves while it is saved.

    A `tf.Module` with a Keras 3 model in it holds Keras's wrappers of variables, and whoever loads the SavedModel into
    a session finds the variables inside not set.
    """
    root._serving_workbench_variables = variables
    try:
        yield
    finally:
        with suppress(AttributeError):  # the same object is being saved by another thread
            del root._serving_workbench_variables


def _reference(tf: Any, function: Any) -> Reference:
    arguments, keywords = function.structured_input_signature

    def call(inputs: Arrays) -> Arrays:
        def tensor(spec: Any) -> Any:
            if not isinstance(spec, tf.TensorSpec):
                return spec
            if spec.name not in inputs:
                raise NotComparableError(f"the exported name of argument '{spec.name}' cannot be matched")
            return tf.convert_to_tensor(inputs[spec.name], spec.dtype)

        args, kwargs = tf.nest.map_structure(tensor, (arguments, keywords))
        return named_outputs(function(*args, **kwargs), lambda t: np.asarray(t.numpy()))

    return call


def named_outputs(outputs: Any, to_numpy: Callable[[Any], Any]) -> Arrays:
    """Name a call's results as the export does: by the keys of a dict, else ``output_0``, ``output_1``..."""
    if isinstance(outputs, Mapping):
        named = dict(outputs)
    elif isinstance(outputs, list | tuple):
        named = {f"output_{i}": value for i, value in enumerate(outputs)}
    else:
        named = {"output_0": outputs}
    if any(isinstance(value, Mapping | list | tuple) for value in named.values()):
        raise NotComparableError("the names of nested outputs cannot be matched")
    return {name: to_numpy(value) for name, value in named.items()}
