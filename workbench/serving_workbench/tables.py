"""A small table for notebooks and terminals: `text/html` where it can be shown, aligned text everywhere else."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

__all__ = ["Table"]


class Table:
    """Rows that display themselves.

    Parameters
    ----------
    rows : list of dict
        Column name to value; None is shown as a dash.
    columns : sequence of str
        Which columns, in which order.
    title : str
        One line above the table.
    data : object, optional
        What the rows were made from, for programs.

    Examples
    --------
    >>> print(Table([{"version": 2, "state": "AVAILABLE"}], ["version", "state"], "digits"))
    digits
    version  state
    2        AVAILABLE
    """

    def __init__(self, rows: list[dict[str, Any]], columns: Sequence[str], title: str, data: Any = None) -> None:
        self.rows = rows
        self.columns = list(columns)
        self.title = title
        self.data = data

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]

    def _cells(self) -> list[list[str]]:
        return [["-" if row.get(c) is None else str(row[c]) for c in self.columns] for row in self.rows]

    def __repr__(self) -> str:
        if self.title and not self.rows:
            return self.title
        lines = [self.columns, *self._cells()]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        text = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
        return "\n".join([self.title, *text] if self.title else text)

    def _repr_html_(self) -> str:
        def line(tag: str, cells: list[str]) -> str:
            opening = f"<{tag} style='text-align:left;padding:2px 10px 2px 0'>"
            return f"<tr>{''.join(f'{opening}{html.escape(c)}</{tag}>' for c in cells)}</tr>"

        body = "".join(line("td", cells) for cells in self._cells())
        title = f"<div><b>{html.escape(self.title)}</b></div>" if self.title else ""
        if title and not self.rows:
            return title
        return f"{title}<table><thead>{line('th', self.columns)}</thead><tbody>{body}</tbody></table>"

    def to_frame(self) -> Any:
        """Return the rows as a `pandas.DataFrame`."""
        import pandas as pd  # only for those who ask

        return pd.DataFrame(self.rows, columns=pd.Index(self.columns))
