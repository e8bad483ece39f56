"""Batching and labels that come with a deploy: changed when the version is there, set back when it is withdrawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serving_workbench.control import ControlClient
from serving_workbench.errors import DeployError
from serving_workbench.settings import batching_of

__all__ = ["DeploySettings"]


class DeploySettings:
    """What a deploy changes besides the version.

    Parameters
    ----------
    label : str, sequence of str or None
        Labels that shall point at the new version.
    batching : str, Path, mapping, bool or None
        See `serving_workbench.settings.batching_of`, but for None: it stays as it is.

    Raises
    ------
    WorkbenchError
        They mean nothing.
    """

    def __init__(self, label: str | Sequence[str] | None, batching: object) -> None:
        self._labels = [label] if isinstance(label, str) else list(label or ())
        for each in self._labels:
            if not isinstance(each, str) or not each:
                raise DeployError(f"{each!r} is not a label: it must be text.", step="publish")
        self._batching = ... if batching is None else batching_of(batching)
        self._labels_before: dict[str, int] | None = None
        self._batching_before: Any = ...

    def change_batching(self, control: ControlClient, name: str) -> None:
        """Change the batching of a model that the server knows, for all its versions.

        Raises
        ------
        ControlError
            A parameter is unknown or out of range.
        """
        if self._batching is not ...:
            model = control.model(name)
            self._batching_before = model["batching"]  # first: an interrupt may come with the answer
            control.put_model(name, model["base_path"], batching=self._batching)

    def point_labels(self, control: ControlClient, name: str, version: int) -> None:
        """Let the labels point at a version that is available; from then on requests with a label go there."""
        if self._labels:
            before = self._labels_before = control.labels(name)
            control.put_labels(name, {**before, **dict.fromkeys(self._labels, version)})

    def undo(self, control: ControlClient, name: str) -> None:
        """Set back what was changed; nothing when nothing was."""
        if self._batching_before is not ...:
            control.put_model(name, control.model(name)["base_path"], batching=self._batching_before)
        if self._labels_before is not None:
            control.put_labels(name, self._labels_before)
