"""Version labels: names such as "stable" that requests may use in place of a version's number.

The rules are those of `ServerCore::UpdateModelVersionLabelMap`: a label points at a version that is AVAILABLE when
it is set; ``--allow_version_labels_for_unavailable_models`` lets one that is new, or stays where it was, go anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from serving_server.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError

__all__ = ["Labels", "parse_labels"]

#: Of each model, label to version.
LabelMap = Mapping[str, Mapping[str, int]]


class Labels:
    """The labels of all models.

    Parameters
    ----------
    is_available : callable
        Whether a version of a model answers requests now.
    allow_unavailable : bool
        The flag's rule instead of the strict one.
    """

    def __init__(self, is_available: Callable[[str, int], bool], *, allow_unavailable: bool) -> None:
        self._is_available = is_available
        self._allow_unavailable = allow_unavailable
        self._map: dict[str, dict[str, int]] | None = None

    def resolve(self, model: str, label: str) -> int:
        """Return the version that a label of a model stands for.

        Raises
        ------
        UnavailableError
            No list of models has ever been applied.
        InvalidArgumentError
            There is no such label.
        """
        if self._map is None:
            raise UnavailableError(f"Model labels does not init yet.{label}")
        version = self._map.get(model, {}).get(label)
        if version is None:
            raise InvalidArgumentError(f"Unrecognized servable version label: {label}")
        return version

    def of(self, model: str) -> dict[str, int]:
        """Return the labels of a model."""
        return dict((self._map or {}).get(model, {}))

    def check(self, model: str, labels: Iterable[tuple[str, int]]) -> None:
        """Check whether a model may have exactly these labels now.

        Raises
        ------
        FailedPreconditionError
            Naming the version that is not available.
        """
        known = self.of(model)
        for label, version in labels:
            stays = self._allow_unavailable and known.get(label, version) == version
            if not stays and not self._is_available(model, version):
                msg = (
                    f"Request to assign label to version {version} of model {model}, which is not currently available "
                    f"for inference{self._hint(model, label)}"
                )
                raise FailedPreconditionError(msg)

    def _hint(self, model: str, label: str) -> str:
        if self._allow_unavailable or label in self.of(model):
            return ""
        return " (a new label may point at any version with --allow_version_labels_for_unavailable_models)"

    def replace_all(self, labels: LabelMap) -> None:
        """Put other labels in place of all there are, at once; `check` them first."""
        self._map = {model: dict(entries) for model, entries in labels.items() if entries}

    def replace(self, model: str, labels: Mapping[str, int]) -> None:
        """Check and put other labels in place of a model's.

        Raises
        ------
        FailedPreconditionError
            As `check`; nothing has changed.
        """
        self.check(model, labels.items())
        self.replace_all({**(self._map or {}), model: labels})

    def forget(self, model: str) -> None:
        """Drop the labels of a model that is removed."""
        if self._map is not None:
            self._map.pop(model, None)


def parse_labels(body: object) -> dict[str, int]:
    """Read ``{"stable": 1}``.

    Raises
    ------
    InvalidArgumentError
        Naming what is wrong.
    """
    if not isinstance(body, dict):
        raise InvalidArgumentError(f'labels must be an object such as {{"stable": 1}}; got {body!r}')
    for label, version in body.items():
        if not label:
            raise InvalidArgumentError("a label must not be empty")
        if isinstance(version, bool) or not isinstance(version, int) or not 0 <= version < 2**63:
            raise InvalidArgumentError(f"label {label!r} must point at a version number; got {version!r}")
    return dict(body)
