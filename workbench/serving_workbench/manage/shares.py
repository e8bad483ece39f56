"""Weights of a split that give one version a share and let the others keep their proportions."""

from __future__ import annotations

from collections.abc import Sequence

from serving_workbench.errors import DeployError
from serving_workbench.manage.snapshot import Line

__all__ = ["weights_with_share"]


def weights_with_share(lines: Sequence[Line], version: int, percent: float) -> dict[int, float]:
    """Return weights, in percent, with which a version gets a share of the requests that name none.

    Parameters
    ----------
    lines : sequence of Line
        The versions of the model; where they are not split, the one that answers has all.
    version : int
    percent : float
        From 0 to 100.

    Raises
    ------
    DeployError
        No other version could take the rest.
    """
    shares = {line.version: line.share for line in lines if line.share is not None}
    if not shares:
        shares = {line.version: 1.0 for line in lines if line.answers}
    others = {number: share for number, share in shares.items() if number != version}
    whole = sum(others.values())
    if percent < 100 and not others:
        raise DeployError(
            f"Version {version} is the only one that answers, so it has all requests.",
            hint="Choose another version to give a share to.",
        )
    # Others that have nothing so far share the rest equally.
    parts = {number: share / whole if whole else 1 / len(others) for number, share in others.items()}
    return {**{number: (100 - percent) * part for number, part in parts.items()}, version: percent}
