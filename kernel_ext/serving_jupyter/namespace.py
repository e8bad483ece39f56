"""The user's variables: which of them can be served, which are data.

Types are compared by class and never by looking into values: completion must not run anybody's code, and the library
decides in the end what it takes. TensorFlow is not imported here; who holds a model has imported it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

__all__ = ["array_names", "servable_names"]

_ARRAYS = (("numpy", "ndarray"), ("pandas", "DataFrame"), ("pandas", "Series"), ("tensorflow", "Tensor"))


def servable_names(namespace: Mapping[str, Any], hidden: Mapping[str, Any]) -> list[str]:
    """Return the names of variables that hold a Keras model, a tf.Module, tf.functions or a path."""
    return [name for name, value in _variables(namespace, hidden) if _looks_servable(value)]


def array_names(namespace: Mapping[str, Any], hidden: Mapping[str, Any]) -> list[str]:
    """Return the names of variables that hold arrays or tables: samples, perhaps."""
    kinds = _loaded(*_ARRAYS)
    return [name for name, value in _variables(namespace, hidden) if issubclass(type(value), kinds)]


def _variables(namespace: Mapping[str, Any], hidden: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    # A copy: other threads of the kernel may add variables meanwhile.
    for name, value in list(namespace.items()):
        if not name.startswith("_") and name not in hidden:
            yield name, value


def _looks_servable(value: object) -> bool:
    kind = type(value)
    if issubclass(kind, PurePath):
        return True
    if issubclass(kind, str):
        return "/" in str(value) and "\n" not in str(value)
    if kind is dict and isinstance(value, dict):
        functions = _functions()
        return bool(value) and all(issubclass(type(each), functions) for each in value.values())
    return issubclass(kind, (*_loaded(("keras", "Model"), ("tensorflow", "Module")), *_functions()))


def _functions() -> tuple[type, ...]:
    experimental = getattr(getattr(sys.modules.get("tensorflow"), "types", None), "experimental", None)
    found = (getattr(experimental, name, None) for name in ("PolymorphicFunction", "ConcreteFunction"))
    return tuple(kind for kind in found if isinstance(kind, type))


def _loaded(*names: tuple[str, str]) -> tuple[type, ...]:
    """Return those classes whose modules are imported (and finished: a module may be halfway through its import)."""
    found = (getattr(sys.modules.get(module), name, None) for module, name in names)
    return tuple(kind for kind in found if isinstance(kind, type))
