"""Search guided by the simulator: predict the whole grid, coarse to fine, and measure only where it looks best."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from serving_workbench.tuning.space import Point, Space
from serving_workbench.tuning.trials import Trials

__all__ = ["Predictions", "guided", "predicted", "shortlist"]

#: Predicted rates by point.
Predictions = dict[Point, float]

#: So many of the best points have their neighbours looked at, until these are no better.
_FRONT: Final = 6

#: A point takes part in the shortlist when it promises this part of the best.
_WORTH: Final = 0.7

#: Of the shortlist, this part is measured before the predictions are corrected.
_FIRST: Final = 0.6


def predicted(space: Space, predict: Callable[[Point, float], float]) -> Predictions:
    """Predict the rates of a grid, coarse to fine.

    Parameters
    ----------
    space : Space
    predict : callable
        Gives the rate of a point; its second argument is a rate below which nobody wants to know it exactly.

    Returns
    -------
    dict of Point to float
        Not of every point.
    """
    found: Predictions = {}

    def look(points: Iterable[Point]) -> bool:
        fresh = [point for point in points if point not in found]
        for point in fresh:
            found[point] = predict(point, 0.5 * max(found.values(), default=0.0))
        return bool(fresh)

    look(space.coarse())
    while look(near for point in ranked(found)[:_FRONT] for near in space.neighbours(point)):
        pass
    return found


def ranked(predictions: Predictions) -> list[Point]:
    """Return the points with the best first; of equals the one with the smaller batch and the shorter wait."""
    return sorted(predictions, key=lambda point: (-predictions[point], point))


def shortlist(predictions: Predictions, count: int) -> list[Point]:
    """Return `count` points to measure: the best ones, but no close neighbours of each other unless these run out."""
    order = [point for point in ranked(predictions) if predictions[point] > 0]
    if not order:
        return []
    worth = [point for point in order if predictions[point] >= _WORTH * predictions[order[0]]]
    chosen: list[Point] = []
    for distance in (2, 1, 0):
        for point in worth if distance else order:
            if len(chosen) == count:
                return chosen
            if point not in chosen and all(_apart(point, other) >= distance for other in chosen):
                chosen.append(point)
    return chosen


def _apart(one: Point, other: Point) -> int:
    if one.threads != other.threads or one.padding != other.padding:
        return 2
    return max(abs(one.size - other.size), abs(one.timeout - other.timeout))


def guided(predictions: Predictions, trials: Trials, budget: int) -> Point:
    """Measure the points that look best, correcting the predictions by what was measured; return the best one.

    Parameters
    ----------
    predictions : dict of Point to float
    trials : Trials
    budget : int
        Points to measure.
    """
    for point in shortlist(predictions, max(1, round(_FIRST * budget))):
        trials.ask(point)
    while len(trials) < budget:
        left = [point for point in predictions if point not in trials and predictions[point] > 0]
        if not left:
            break
        trials.ask(max(left, key=lambda point: _corrected(point, predictions, trials)))
    return trials.best


def _corrected(point: Point, predictions: Predictions, trials: Trials) -> float:
    """Return a prediction times how far the measured points were from theirs, the near ones counting more."""
    weights = ratios = 0.0
    for other in trials.ranked():
        if predictions.get(other, 0.0) > 0:
            gap = sum(abs(a - b) for a, b in zip(point, other, strict=True))
            weight = 1.0 / (1.0 + gap * gap)
            weights += weight
            ratios += weight * trials.mean(other) / predictions[other]
    return predictions[point] * (ratios / weights if weights else 1.0)
