"""How a text is compared with TensorFlow Serving's: to the letter, with at most a remark in parentheses behind it."""

from __future__ import annotations

__all__ = ["begins_as", "differs"]


def begins_as(got: str, wanted: str) -> bool:
    """Whether a text is TensorFlow Serving's, with at most a remark in parentheses behind it."""
    rest = got.removeprefix(wanted) if got.startswith(wanted) else None
    return rest is not None and (not rest or (rest.lstrip(" \n").startswith("(") and rest.endswith(")")))


def differs(got: tuple[object, str], wanted: tuple[object, str]) -> str:
    """Say in which way a code and a text are not those that are wanted; empty when they are."""
    if got[0] != wanted[0]:
        return f"code {got[0]}, not {wanted[0]}, with the text {got[1]!r}"
    return "" if begins_as(got[1], wanted[1]) else f"text {got[1]!r}\n not {wanted[1]!r}"
