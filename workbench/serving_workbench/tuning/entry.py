"""`tune`: what users call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from serving_workbench.handle import ServedModel

if TYPE_CHECKING:
    from serving_workbench.load.objective import Objective
    from serving_workbench.tuning.dashboard import TuneDashboard
    from serving_workbench.tuning.result import TuneResult

__all__ = ["tune"]


def tune(
    model: ServedModel | str, p99: Objective | str | float | None = None, *, instance: str | None = None, **options: Any
) -> TuneResult | TuneDashboard:
    """Find the batching parameters that answer most requests within a latency objective; or open the live dashboard.

    With an objective: run times are measured in the server by batch size, the queue is simulated with the scheduler's
    own rules for every configuration of a grid, the most promising ones are measured by real load, and the best are
    measured repeatedly, taking turns. Then the parameters that were in force are put back. Requests of others go on.

    Parameters
    ----------
    model : ServedModel or str
        A handle, or the name of a model on the running instance.
    p99 : str, float or Objective, optional
        ``"20ms"``, ``"p95 20ms"`` or seconds. Without it, the live dashboard: knobs that act on the running server at
        once, beside plots of what they do.
    instance : str
        Where a model's name is looked for.
    rate : float, optional
        Requests per second that are expected: the configuration with the lowest latency there is looked for. By
        default: the one that sustains the highest rate.
    data : array_like, dict, DataFrame or Series, optional
        What to send; by default values that fit the signature.
    rows : int
        Rows per request, 1 by default.
    signature : str, optional
    seconds : float
        How long it may take, about; 110 by default.
    repeats : int
        Of the last measurements, 5 by default; at least 2.
    method : {'guided', 'optuna', 'random', 'grid'}
        By default guided by the simulator; the others measure without looking at its predictions.
    trials : int, optional
        Configurations that are measured on the way: 7 beside those that all are compared with, or what time allows.
    sizes, timeouts, threads : sequence of int, optional
        Of the grid: ``max_batch_size``, ``batch_timeout_micros``, ``num_batch_threads``.
    padding : bool, optional
        Whether to try ``allowed_batch_sizes`` too; by default when some are in force.
    seed : int
        Of all that is drawn.
    apply : bool
        Put the winner into force at the end.
    progress : bool
        Show a bar.

    Returns
    -------
    TuneResult or TuneDashboard
        A partial result, with ``complete`` False, after an interrupt or when the server ended meanwhile.

    Raises
    ------
    WorkbenchError
        The model cannot be batched, or an argument is wrong.
    ServerNotRunningError, ModelNotServedError
    """
    if p99 is None:
        from serving_workbench.tuning.dashboard import TuneDashboard

        return TuneDashboard(model, instance=instance, **options)
    from serving_workbench.tuning.tuner import search

    return search(model, p99, instance=instance, **options)
