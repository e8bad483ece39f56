"""`profile_live`: what users call."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving_workbench.handle import ServedModel
    from serving_workbench.profiling.tab.dashboard import ProfileTab

__all__ = ["profile_live"]


def profile_live(
    model: ServedModel | str, version: int | str | None = None, *, instance: str | None = None
) -> ProfileTab:
    """Return the profile tab of a model, to be shown by a notebook's cell: it follows the requests that are answered.

    Stages of requests near the percentiles, the slow ones one by one with their batch mates, batches in time; ops,
    memory and load at the press of a button; and a trace of all of it.

    Parameters
    ----------
    model : ServedModel or str
    version : int or str, optional
        Number or label: only its requests, and its ops; by default all requests, and the ops of the one that answers.
    instance : str, optional

    Returns
    -------
    ProfileTab
        Where widgets cannot be rendered it shows as text of that moment.

    Raises
    ------
    ServerNotRunningError, ModelNotServedError
    WorkbenchError
        The model has no such version.
    """
    from serving_workbench.profiling.tab.dashboard import ProfileTab  # ipywidgets, only for those who look

    return ProfileTab(model, version, instance=instance)
