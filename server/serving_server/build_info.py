"""Versions of what this server is made of; nothing of it is imported for that."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["tensorflow_version"]


def tensorflow_version() -> str:
    """Return the version of the installed TensorFlow package."""
    for package in ("tensorflow", "tensorflow-cpu", "tf-nightly"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "not installed"
