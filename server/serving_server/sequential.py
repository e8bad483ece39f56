"""Statistics that may be looked at while requests come: intervals that hold at all times at once.

An interval of a fixed number of requests, looked at again and again until it excludes zero, does so by chance in a
third of the experiments. A confidence sequence holds at every moment with the same confidence, so that whoever looks at
each request may stop whenever it has decided.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

__all__ = ["ALPHA", "MIN_REQUESTS", "Sums", "difference_of_means", "difference_of_shares", "half_width", "share"]

#: One minus the confidence.
ALPHA: Final = 0.05
#: Requests of each arm below which nothing is said: the sequence of a mean is asymptotic.
MIN_REQUESTS: Final = 200
#: Requests at which the sequence is meant to be tightest.
TUNED_FOR: Final = 2000.0


class Sums(NamedTuple):
    """Number, sum and sum of squares of some values."""

    n: int
    total: float
    squares: float

    @property
    def mean(self) -> float:
        """Mean; not a number without values."""
        return self.total / self.n if self.n else math.nan

    @property
    def variance(self) -> float:
        """Unbiased; not a number below two values."""
        if self.n < 2:
            return math.nan
        return max(0.0, (self.squares - self.total * self.total / self.n) / (self.n - 1))


def half_width(variance: float, count: float, alpha: float = ALPHA, tuned_for: float = TUNED_FOR) -> float:
    """Return the half width of the asymptotic confidence sequence of a mean.

    Parameters
    ----------
    variance : float
        Of one value.
    count : float
        Values so far.
    alpha : float
        One minus the confidence.
    tuned_for : float
        Values at which it is to be tightest.

    Notes
    -----
    Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2021), "Time-uniform central limit theory and asymptotic confidence
    sequences", equation 2: ``sd * sqrt(2 (n r^2 + 1) / (n^2 r^2) * log(sqrt(n r^2 + 1) / alpha))``, with
    ``r^2 = (-2 log alpha + log(-2 log alpha + 1)) / tuned_for``.
    """
    if count <= 0 or math.isnan(variance):
        return math.inf
    rho = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / tuned_for
    inner = count * rho + 1
    return math.sqrt(variance * 2 * inner / (count * count * rho) * math.log(math.sqrt(inner) / alpha))


def difference_of_means(a: Sums, b: Sums, alpha: float = ALPHA) -> tuple[float, float, float]:
    """Return B's mean less A's with the ends of its confidence sequence; infinite below `MIN_REQUESTS` per arm.

    Notes
    -----
    The arms are independent. With all requests counted by one clock, n = n_a + n_b, the difference is a mean of n
    values of variance ``n (v_a / n_a + v_b / n_b)`` (inverse weights by share), to which `half_width` applies.
    """
    value = b.mean - a.mean
    if min(a.n, b.n) < MIN_REQUESTS:
        return value, -math.inf, math.inf
    count = a.n + b.n
    half = half_width(count * (a.variance / a.n + b.variance / b.n), count, alpha, 2 * TUNED_FOR)
    return value, value - half, value + half


def share(count: float, of: int, alpha: float = ALPHA) -> tuple[float, float]:
    """Return the ends of a confidence sequence of a rare event's probability, exact at any number of requests.

    Parameters
    ----------
    count : float
        Events; or the sum of any values between 0 and 1, such as the share of each key's requests that failed.
    of : int
        Requests; or such values.

    Notes
    -----
    Beta-binomial mixture (Robbins 1970) with the uniform prior: those p for which
    ``B(count + 1, of - count + 1) / (p^count (1 - p)^(of - count)) < 1 / alpha``. By Ville's inequality it holds at all
    times at once. For values x between 0 and 1 of mean p, ``(q / p)^x ((1 - q) / (1 - p))^(1 - x)`` is convex in x, so
    its mean is at most that at x = 0 and 1, which is 1: the same sequence holds, and is wide where they vary little.
    """
    if of == 0:
        return 0.0, 1.0
    marginal = math.lgamma(count + 1) + math.lgamma(of - count + 1) - math.lgamma(of + 2)
    bound = marginal + math.log(alpha)

    def kept(p: float) -> bool:
        likelihood = (count * math.log(p) if count else 0.0) + ((of - count) * math.log1p(-p) if of > count else 0.0)
        return likelihood > bound

    middle = count / of
    return _edge(kept, middle, 0.0), _edge(kept, middle, 1.0)


def _edge(kept: object, inside: float, outside: float) -> float:
    """Return where the interval ends between its middle and 0 or 1, by bisection."""
    assert callable(kept)
    if inside == outside:
        return outside
    for _ in range(60):
        middle = (inside + outside) / 2
        if middle in (inside, outside):
            break
        if 0 < middle < 1 and kept(middle):
            inside = middle
        else:
            outside = middle
    return inside


def difference_of_shares(
    events_a: float, of_a: int, events_b: float, of_b: int, alpha: float = ALPHA
) -> tuple[float, float, float]:
    """Return B's share of events less A's with the ends of a confidence sequence; exact for rare events too.

    Notes
    -----
    Each arm's share has a sequence at half of `alpha`; both hold at once with the whole (Bonferroni). Wider than
    `difference_of_means`, which is not to be believed where events are fewer than one in twenty.
    """
    low_a, high_a = share(events_a, of_a, alpha / 2)
    low_b, high_b = share(events_b, of_b, alpha / 2)
    value = (events_b / of_b if of_b else math.nan) - (events_a / of_a if of_a else math.nan)
    return value, low_b - high_a, high_b - low_a
