"""What the A/B tab reads of the server: versions, split, ramp and mirror of a model, and the live comparison."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from serving_workbench.comparison.live import LiveReader
from serving_workbench.comparison.periods import ArmCounts, counts_of, objective_of
from serving_workbench.manage.snapshot import Line
from serving_workbench.manage.snapshot import Reader as LineReader

if TYPE_CHECKING:
    from serving_workbench.comparison.margins import Margins
    from serving_workbench.comparison.result import CompareResult
    from serving_workbench.handle import ServedModel

__all__ = ["Reading", "TabReader"]


class Reading(NamedTuple):
    """A model at one moment.

    Attributes
    ----------
    model : dict
        As the control channel describes it, with ``traffic``, ``ramp`` and ``mirror``.
    lines : list of Line
        Its versions, highest first, also those only on disk.
    arms : tuple of (int, int) or None
        What is compared.
    result : CompareResult or None
        The live comparison; None while no split gave requests to both arms.
    counts : tuple of (ArmCounts, ArmCounts) or None
    """

    model: dict[str, Any]
    lines: list[Line]
    arms: tuple[int, int] | None
    result: CompareResult | None
    counts: tuple[ArmCounts, ArmCounts] | None

    @property
    def weights(self) -> dict[int, float]:
        """Weights of the split by version; empty when there is none."""
        found = (self.model.get("traffic") or {}).get("weights") or {}
        return {int(version): weight for version, weight in found.items()}

    @property
    def percent(self) -> float | None:
        """B's part of the requests in percent; None without a split of the arms."""
        weights = self.weights
        if self.arms is None or self.arms[1] not in weights:
            return None
        return 100 * weights[self.arms[1]] / sum(weights.values())

    @property
    def ramping(self) -> bool:
        """Whether a ramp changes the weights."""
        return (self.model.get("ramp") or {}).get("state") in ("running", "paused")


class TabReader:
    """Reads `Reading`s; one thread at a time.

    Parameters
    ----------
    served : ServedModel
    margins : Margins
    objective : bool
        Whether misses of an objective are counted.

    Attributes
    ----------
    arms : tuple of (int, int) or None
        Versions to compare; may be changed at any time.

    Notes
    -----
    A comparison begins with a split of both arms, and begins anew when their shares change, by hand or by a ramp
    (`LiveReader`). Other arms, and a split after one that has ended, begin another one. What was found stays when the
    split ends.
    """

    def __init__(self, served: ServedModel, margins: Margins, *, objective: bool) -> None:
        self.arms: tuple[int, int] | None = None
        self._served = served
        self._margins = margins
        self._objective = objective
        self._lines = LineReader(served.server.name)
        self._live: LiveReader | None = None
        self._compared: tuple[int, int] | None = None
        self._since = 0.0
        self._active = False
        self._wanted: float | None = None

    def begin(self) -> None:
        """Let the next reading begin another comparison, of what comes from now on."""
        self._wanted = time.time()

    def read(self) -> Reading:
        """Ask the server.

        Raises
        ------
        WorkbenchError
            It does not answer, or does not know the model.
        """
        model, arms = self._served.describe(), self.arms
        control = self._served.server.control
        traffic = model.get("traffic") or {}
        weights = traffic.get("weights") or {}
        active = arms is not None and arms[0] != arms[1] and all(str(version) in weights for version in arms)
        wanted = self._wanted
        if arms is not None and active and (wanted is not None or not self._active or arms != self._compared):
            self._since = traffic["since"] if wanted is None else wanted
            self._wanted, self._compared = None, arms
            self._live = LiveReader(
                control,
                self._served.name,
                *arms,
                since=self._since,
                margins=self._margins,
                objective=objective_of(control.traffic(self._served.name)) if self._objective else None,
                keyed=bool(traffic["key"]),
            )
        self._active = active
        result = counts = None
        if self._live is not None and arms == self._compared and arms is not None:
            result = self._live.read()
            # All since the comparison was begun, also what the result leaves out as the shares have changed.
            periods = [each for each in self._live.traffic["periods"] if each["since"] >= self._since]
            counts = (counts_of(periods, arms[0]), counts_of(periods, arms[1]))
        return Reading(model, self._lines.read_lines(model), arms, result, counts)
