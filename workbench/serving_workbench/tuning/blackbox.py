"""Search without a model of the server: a grid, random points, or Optuna; for those who distrust the simulator."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from serving_workbench.errors import WorkbenchError
from serving_workbench.tuning.space import Point, Space
from serving_workbench.tuning.trials import Trials

__all__ = ["METHODS", "search"]

METHODS: Final = ("optuna", "random", "grid")

#: Optuna proposes points again (its issues 2021 and 5440); after so many it is stopped.
_DUPLICATES_PER_POINT: Final = 4


def search(
    space: Space,
    trials: Trials,
    budget: int,
    method: str = "optuna",
    seed: int = 0,
    enough: Callable[[], bool] = lambda: False,
) -> Point:
    """Measure up to `budget` points and return the best one.

    Parameters
    ----------
    space : Space
    trials : Trials
    budget : int
        Different points to measure.
    method : {'optuna', 'random', 'grid'}
        ``grid`` takes points evenly from the whole grid, all of it when the budget allows.
    seed : int
    enough : callable
        Asked before each measurement: whether there is no time for another.

    Raises
    ------
    WorkbenchError
        An unknown method, or Optuna is not installed.
    """
    if method not in METHODS:
        raise WorkbenchError(f"There is no search method '{method}'.", hint=f"There are {', '.join(METHODS)}.")
    budget = min(budget, len(space))
    if method == "optuna":
        _by_optuna(space, trials, budget, seed, enough)
    else:
        points = list(space)
        if method == "random":
            chosen = random.Random(seed).sample(points, budget)  # noqa: S311 - no secret
        else:
            chosen = [points[(2 * k + 1) * len(points) // (2 * budget)] for k in range(budget)]
        for point in chosen:
            if enough():
                break
            trials.ask(point)
    return trials.best


def _by_optuna(space: Space, trials: Trials, budget: int, seed: int, enough: Callable[[], bool]) -> None:
    try:
        import optuna
    except ImportError as error:
        raise WorkbenchError(
            f"The search method 'optuna' needs a package that is not installed: {error.name}.",
            hint="Install it, in the clone, with: pip install '.[tune]'; or use method='random'.",
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=min(10, budget))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    names = ("size", "timeout", "threads", "padding")
    # Indices are ordered, unlike categories: the sampler learns that 16 lies between 8 and 32.
    for _ in range(budget * _DUPLICATES_PER_POINT):
        if len(trials) >= budget or enough():
            return
        trial = study.ask()
        point = Point(*(trial.suggest_int(name, 0, count - 1) for name, count in zip(names, space.shape, strict=True)))
        study.tell(trial, trials.ask(point))
