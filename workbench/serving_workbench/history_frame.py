"""The history of a model as a DataFrame that shows what people look for, and keeps all the rest."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any, Final

import pandas as pd

__all__ = ["HistoryFrame"]

_ALWAYS: Final = ("version", "state", "serving", "published", "note")

#: Shown when there is something in them.
_TELLING: Final = ("rejected", "intact")


def _text(value: Any) -> str:
    if pd.isna(value):
        return ""
    return f"{value:%Y-%m-%d %H:%M}" if isinstance(value, pd.Timestamp) else str(value)


class HistoryFrame(pd.DataFrame):
    """A DataFrame whose display leaves columns out, and names them; what is made of it is a plain DataFrame."""

    @property
    def _constructor(self) -> Callable[..., pd.DataFrame]:
        return pd.DataFrame

    def left_out(self) -> list[str]:
        """Return the columns that are not displayed."""
        return [name for name in self.columns if name not in self._chosen()]

    def _chosen(self) -> list[str]:
        metrics = [name for name in self.columns if name.startswith("metrics.")]
        always = [name for name in _ALWAYS if name in self.columns]  # people delete columns
        return [*always, *metrics, *(name for name in _TELLING if name in self.columns and self[name].notna().any())]

    def _shown(self) -> tuple[pd.DataFrame, str]:
        """Return the part that is displayed, and a line about the rest."""
        part = pd.DataFrame(self)[self._chosen()].map(_text)
        return part, f"More columns: {', '.join(self.left_out())}."

    def __repr__(self) -> str:
        part, more = self._shown()
        text = part.to_string(index=False) if len(part) else "no versions"
        return f"{text}\n{more}"

    def _repr_html_(self) -> str:
        part, more = self._shown()
        table = part.to_html(index=False, border=0)
        return f"{table}<p>{html.escape(more)}</p>"

    def _repr_data_resource_(self) -> Any:
        """Nothing: it would show all columns again."""
        return None
