"""Live requests that a shadow answered too, compared: the strongest evidence there is without risk to anybody."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from serving_workbench.comparison.entry import DIFFER, FAILED, found_heads, rows_that_differ
from serving_workbench.comparison.evidence import Check, Metric
from serving_workbench.comparison.intervals import proportion
from serving_workbench.comparison.latency import paired_rows
from serving_workbench.comparison.margins import Margins
from serving_workbench.comparison.result import CompareResult, Evidence, Rows
from serving_workbench.errors import WorkbenchError
from serving_workbench.handle import ServedModel, connect

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["compare_mirrored"]

RUN_TIME = "run time"


def compare_mirrored(
    model: ServedModel | str,
    *,
    margins: Any = None,
    signature: str | None = None,
    instance: str | None = None,
    **options: Any,
) -> CompareResult:
    """Compare what the primary and the shadow answered to the same live requests (`ServedModel.mirror`).

    Parameters
    ----------
    model : ServedModel or str
    margins : dict, str or sequence of str, optional
        As for `serving_workbench.compare`; metrics are ``rows that differ``, ``failed rows`` and ``run time``.
    signature : str, optional
        Of the requests that are compared; by default the most frequent one.
    instance : str, optional
    **options
        ``atol``, ``rtol``, ``kinds`` and ``seed`` of `serving_workbench.compare`.

    Returns
    -------
    CompareResult
        Rows are those of all requests, in the order in which they came. Times are of primary and shadow, whose requests
        do not run at the same moment nor in the same batches, so they are shown and decide nothing by themselves.

    Raises
    ------
    WorkbenchError
        There are no pairs.
    """
    wanted = Margins.parse(margins)
    found = model if isinstance(model, ServedModel) else connect(model, instance)
    assert isinstance(found, ServedModel)
    mirror = found.describe().get("mirror")
    frame = found.mirrored()
    if mirror is None or not len(frame):
        raise WorkbenchError(
            f"No request of '{found.name}' was answered by a shadow too.",
            hint=f"Begin with {found.name}.mirror(<version>, fraction=0.1) and let requests come.",
        )
    shadow = int(frame["shadow"].iloc[-1])
    primary = int(frame["primary"].iloc[-1])
    same = frame[(frame["shadow"] == shadow) & (frame["primary"] == primary)]
    chosen = signature or str(same["signature"].mode().iloc[0])
    same = same[same["signature"] == chosen]
    good = same[same["error"].isna()].sort_values("time", kind="stable")  # pairs are numbered as shadows answer
    if not len(good):
        raise WorkbenchError(f"Version {shadow} failed in all {len(same)} mirrored requests: {same['error'].iloc[0]}")
    seed = int(options.pop("seed", 0))
    inputs, first, second, rows_of = _joined(good)
    heads = found_heads(first, second, rows_of, seed=seed, **options)
    failed = int(same["error"].notna().sum())
    a_ms, b_ms = good["primary_ms"].to_numpy(float), good["shadow_ms"].to_numpy(float)
    ratio = paired_rows(a_ms, b_ms)
    metrics = [
        rows_that_differ(heads, len(rows_of), primary=True),
        Metric(
            RUN_TIME,
            float(np.median(a_ms)),
            float(np.median(b_ms)),
            ratio,
            relative=True,
            higher_is_better=False,
            role="shown",
            unit="ms",
        ),
    ]
    if failed:
        share = proportion(failed, len(same))
        metrics.append(Metric(FAILED, 0.0, share.value, share, higher_is_better=False, unit="%"))
    wanted.check([DIFFER, FAILED, RUN_TIME])
    shown = wanted.applied(metrics)
    return CompareResult(
        model=found.name,
        a=f"{found.name}@{primary}",
        b=f"{found.name}@{shadow}",
        source=f"{len(same):,} mirrored requests ({len(rows_of):,} rows)",
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        metrics=shown,
        heads=heads,
        slices=[],
        checks=_checks(mirror),
        margins=wanted,
        rows=Rows(inputs, list(range(len(rows_of))), None, np.arange(len(rows_of)), first, second, {}, {}),
        latency=Evidence(a_ms / 1e3, b_ms / 1e3, what="mirrored requests"),
    )


def _joined(frame: pd.DataFrame) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], list[int]]:
    """Return inputs and outputs of all requests, row by row, and the request of each row."""
    parts: list[dict[str, list[Any]]] = [{}, {}, {}]
    rows_of: list[int] = []
    columns = (frame["inputs"], frame["primary_outputs"], frame["shadow_outputs"])
    for number, sets in enumerate(zip(*columns, strict=True)):
        lengths = {len(array) if np.ndim(array) else 1 for arrays in sets for array in arrays.values()}
        # Without a common first axis the request is one row.
        rows = lengths.pop() if len(lengths) == 1 else 1
        whole = rows == 1 and any(
            np.ndim(array) == 0 or len(array) != 1 for arrays in sets for array in arrays.values()
        )
        for place, arrays in zip(parts, sets, strict=True):
            for name, array in arrays.items():
                kept = place.setdefault(name, [])
                kept.extend([np.asarray(array)] if whole else list(array))
        rows_of += [number] * rows
    return _stacked(parts[0]), _stacked(parts[1]), _stacked(parts[2]), rows_of


def _stacked(columns: dict[str, list[Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, rows in columns.items():
        same = len({np.shape(row) for row in rows}) == 1
        found[name] = np.array(rows, dtype=object if isinstance(rows[0], bytes | str) else None) if same else rows
    return found


def _checks(mirror: dict[str, Any]) -> list[Check]:
    seen, answered, dropped = mirror["seen"], mirror["answered"], mirror["dropped"]
    share = 100 * answered / seen if seen else 0.0
    coverage = f"The shadow answered {answered:,} of {seen:,} requests that could be copied ({share:.3g} %)"
    return [Check("coverage", True, f"{coverage}; {dropped:,} were dropped for want of room.", fatal=False)]
