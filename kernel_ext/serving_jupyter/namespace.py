"""The user's variables: which of them can be served, and under which name.

Types are compared by class and never by looking into values: completion must not run anybody's code, and the library
decides in the end what it takes. TensorFlow is not imported here; who holds a model has imported it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

__all__ = ["array_names", "servable_names", "served_name"]

_ARRAYS = (("numpy", "ndarray"), ("pandas", "DataFrame"), ("pandas", "Series"), ("tensorflow", "Tensor"))


def servable_names(namespace: Mapping[str, Any], hidden: Mapping[str, Any]) -> list[str]:
    """Return the names of variables that hold a Keras model, a tf.Module, tf.functions or a path."""
    return [name for name, value in _variables(namespace, hidden) if _looks_servable(value)]


def array_names(namespace: Mapping[str, Any], hidden: Mapping[str, Any]) -> list[str]:
    """Return the names of variables that hold arrays or tables: samples, perhaps."""
    kinds = _loaded(*_ARRAYS)
    return [name for name, value in _variables(namespace, hidden) if issubclass(type(value), kinds)]


def served_name(model: object, variable: str | None) -> tuple[str, str] | None:
    """Choose the name of a model that was given none.

    A name that somebody gave to a Keras model comes first. Names that Keras draws (`sequential_3`) count on with each
    new model, so they would make a retrained model another one instead of the next version.

    Returns
    -------
    tuple of str, str or None
        The name, and where it comes from; None when there is nothing to go by.
    """
    if isinstance(model, str | PurePath):
        folder = Path(str(model)).expanduser().absolute()
        if folder.name.isdecimal():
            folder = folder.parent  # <model>/<version>, as TensorFlow Serving has it
        return (_clean(folder.name), "its folder") if folder.name else None
    own = getattr(model, "name", None)
    own = own if isinstance(own, str) and own else None
    drawn = own is not None and re.fullmatch(rf"(?:{_snake(type(model).__name__)}|functional|model)(?:_\d+)?", own)
    if own is not None and not drawn:
        return _clean(own), "the model's name"
    if variable is not None:
        return _clean(variable), "its variable"
    return None


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


def _snake(name: str) -> str:
    """`MyModel` -> `my_model`: how Keras and tf.Module draw names from classes."""
    partly = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", name)
    return re.escape(re.sub(r"([a-z])([A-Z])", r"\1_\2", partly).lower())


def _clean(name: str) -> str:
    """Replace what a served name cannot hold: see `serving_workbench.publish.check_model_name`."""
    cleaned = re.sub(r"[^A-Za-z0-9_.-]+", "_", name)
    return cleaned if re.match(r"[A-Za-z0-9_]", cleaned) else f"m{cleaned}"
