"""Whether a split gave the arms what it declared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from serving_workbench.comparison.evidence import Check

__all__ = ["sample_ratio"]

#: p-value below which a split is called broken: a rare verdict, as it makes all others void.
LEVEL: Final = 0.001


def sample_ratio(counts: Mapping[str, int], shares: Mapping[str, float], unit: str = "requests") -> Check:
    """Return the check of a split's shares: Pearson's chi-square.

    Parameters
    ----------
    counts : mapping of str to int
        Requests (or keys, where these are what was assigned) by arm.
    shares : mapping of str to float
        As declared; any positive scale.
    unit : str
        What was assigned.
    """
    arms = [arm for arm in shares if shares[arm] > 0]
    seen = [counts.get(arm, 0) for arm in arms]
    total, whole = sum(seen), sum(shares[arm] for arm in arms)
    text = ", ".join(f"{arm} {count}" for arm, count in zip(arms, seen, strict=True))
    stray = sum(count for arm, count in counts.items() if arm not in arms)
    if stray:
        return Check("sample ratio", False, f"{stray} {unit} went to arms without a share.")
    if total == 0 or len(arms) < 2:
        return Check("sample ratio", True, f"Nothing to compare with the declared shares yet ({text or f'no {unit}'}).")
    from scipy.stats import chisquare

    expected = [shares[arm] / whole * total for arm in arms]
    p = float(chisquare(seen, expected).pvalue)
    wanted = " : ".join(f"{shares[arm] / whole:.4g}" for arm in arms)
    if p < LEVEL:
        return Check(
            "sample ratio", False, f"The arms got {text} of {total} {unit}; declared was {wanted} (p {p:.2g})."
        )
    return Check("sample ratio", True, f"The arms got {text} {unit}, as declared ({wanted}; chi-square p {p:.2g}).")
