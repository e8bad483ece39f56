"""By how much B may be worse and still do: declared before anything is measured."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from serving_workbench.comparison.evidence import Metric, Role
from serving_workbench.errors import WorkbenchError

__all__ = ["DEFAULTS", "Margins"]

#: In force where nothing else is declared; everything that has none decides nothing. Relative: latencies.
DEFAULTS: Final[Mapping[str, float]] = MappingProxyType(
    {
        "accuracy": 0.01,
        "top5": 0.01,
        "rows that differ": 0.01,
        "failed rows": 0.01,
        "latency": 0.10,
        "run time": 0.10,
        "error rate": 0.01,
        "misses of the objective": 0.01,
    }
)


@dataclasses.dataclass(frozen=True)
class Margins:
    """Margins by metric.

    Attributes
    ----------
    declared : mapping of str to float
        By the user.
    """

    declared: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def parse(cls, given: object) -> Margins:
        """Return margins from ``{"accuracy": 0.01, "latency": "10%"}``, ``"accuracy=0.01"`` or several such texts.

        Raises
        ------
        WorkbenchError
            One is no number, or below zero.
        """
        if given is None:
            return cls()
        if isinstance(given, Margins):
            return given
        if isinstance(given, str):
            given = [each for each in given.replace(",", " ").split() if each]
        pairs: list[tuple[str, Any]]
        if isinstance(given, Mapping):
            pairs = [(str(name), value) for name, value in given.items()]
        elif isinstance(given, Iterable):
            pairs = []
            for text in given:
                name, found, value = str(text).partition("=")
                if not found:
                    raise WorkbenchError(f"'{text}' is no margin.", hint="Write metric=value, as in accuracy=0.01.")
                pairs.append((name.strip(), value.strip()))
        else:
            raise WorkbenchError(f"{given!r} are no margins.", hint='Pass {"accuracy": 0.01, "latency": "10%"}.')
        return cls(
            {name.replace("_", " ") if name not in DEFAULTS else name: _number(name, each) for name, each in pairs}
        )

    def of(self, name: str) -> float | None:
        """Return the margin of a metric; None: it decides nothing."""
        for known in (name, name.replace("_", " ")):
            if known in self.declared:
                return self.declared[known]
        return DEFAULTS.get(name)

    def applied(self, metrics: Iterable[Metric]) -> list[Metric]:
        """Return metrics with their margins; a guardrail that has none is only shown, a primary metric stays one.

        Margins of what was not measured, as when a comparison was ended early, are no error; `check` names those that
        cannot be.
        """
        found = []
        for each in metrics:
            margin = self.of(each.name)
            if each.role == "shown" and each.name not in self._known():
                found.append(each)  # with a margin of its own, such as a drift's: told of beyond it, but not decided by
                continue
            role: Role = each.role
            if role != "primary":
                role = "shown" if margin is None else "guardrail"
            found.append(dataclasses.replace(each, margin=margin, role=role))
        return found

    def check(self, names: Iterable[str]) -> None:
        """Refuse margins of metrics that are not among `names`."""
        known = list(names)
        folded = {name.replace("_", " ") for name in known}
        for name in self.declared:
            if name not in known and name not in folded:
                near = difflib.get_close_matches(name, known, 1)
                raise WorkbenchError(
                    f"There is a margin for '{name}', but no such metric in this comparison"
                    f"{f'; did you mean {near[0]!r}?' if near else '.'}",
                    hint=f"Its metrics: {', '.join(known)}.",
                )

    def _known(self) -> set[str]:
        return {*self.declared, *(name.replace(" ", "_") for name in self.declared)}


def _number(name: str, value: Any) -> float:
    text = str(value).strip()
    try:
        found = float(text.removesuffix("%").strip()) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise WorkbenchError(f"The margin of '{name}' is {value!r}: no number.", hint="Write 0.01, or 10%.") from None
    if not math.isfinite(found) or found < 0:
        raise WorkbenchError(f"The margin of '{name}' is {value!r}; it says how much worse B may be: zero or more.")
    return found
