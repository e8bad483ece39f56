"""`ab`: what users call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving_workbench.comparison.tab.dashboard import ABTab
    from serving_workbench.handle import ServedModel

__all__ = ["ab"]


def ab(model: ServedModel | str, a: int | None = None, b: int | None = None, **options: Any) -> ABTab:
    """Return the A/B tab of a model, to be shown by a notebook's cell: split, ramp and mirror, compared live.

    Parameters
    ----------
    model : ServedModel or str
    a, b : int, optional
        Versions; by default those of the split that is there, or the one that answers and the highest other one. Others
        can be chosen in the tab.
    instance : str, optional
    margins : dict, str or sequence of str, optional
        By how much B may be worse: ``{"run time": "10%", "error rate": 0.01}``, and those of `compare`.
    slo_ms : float, optional
        Objective in milliseconds, for splits and ramps that are started in the tab.
    key : str, optional
        Name of a header whose values stay with their version.
    data : array_like, dict, DataFrame, Series or path, optional
        Rows for "Compare rows" and "A/A check"; then ``labels``, ``metric``, ``slices`` and the like, too, as `compare`
        takes them.

    Returns
    -------
    ABTab
        Where widgets cannot be rendered it shows as text of that moment.

    Raises
    ------
    ServerNotRunningError, ModelNotServedError
    WorkbenchError
        The model has no such version, or an argument is wrong.
    """
    from serving_workbench.comparison.tab.dashboard import ABTab  # ipywidgets, only for those who look

    return ABTab(model, a, b, **options)
