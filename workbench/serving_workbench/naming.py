"""The name of a model that was given none."""

from __future__ import annotations

import re
from pathlib import Path, PurePath

__all__ = ["served_name"]


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


def _snake(name: str) -> str:
    """`MyModel` -> `my_model`: how Keras and tf.Module draw names from classes."""
    partly = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", name)
    return re.escape(re.sub(r"([a-z])([A-Z])", r"\1_\2", partly).lower())


def _clean(name: str) -> str:
    """Replace what a served name cannot hold: see `check_model_name`."""
    cleaned = re.sub(r"[^A-Za-z0-9_.-]+", "_", name)
    return cleaned if re.match(r"[A-Za-z0-9_]", cleaned) else f"m{cleaned}"
