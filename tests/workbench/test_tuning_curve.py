"""The service-time curve: interpolation, fit, and what it is saved as."""

from __future__ import annotations

import numpy as np
import pytest

from serving_workbench.tuning.service_curve import ServiceCurve


def noisy(seconds: dict[int, float], sigma: float = 0.03) -> ServiceCurve:
    generator = np.random.default_rng(3)
    return ServiceCurve(
        {
            (at_once, rows): value * at_once * generator.lognormal(0, sigma, 40)
            for at_once in (1, 2)
            for rows, value in seconds.items()
        }
    )


def test_one_straight_line_is_found() -> None:
    fit = noisy({rows: 0.002 + 0.0005 * rows for rows in (1, 2, 4, 8, 16, 32, 64)}).fit()
    (piece,) = fit.pieces
    assert piece.fixed == pytest.approx(0.002, rel=0.05)
    assert piece.per_row == pytest.approx(0.0005, rel=0.05)
    assert fit.r2 > 0.99
    assert "ms" in str(fit)


def test_a_bend_makes_two_pieces() -> None:
    sizes = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
    fit = noisy({rows: 0.002 + (0 if rows <= 16 else 0.001 * (rows - 16)) for rows in sizes}, 0.01).fit()
    assert [piece.last for piece in fit.pieces] == [16, 64]
    assert fit.pieces[0].per_row == pytest.approx(0, abs=2e-5)
    assert fit.pieces[1].per_row == pytest.approx(0.001, rel=0.1)


def test_between_and_beyond_what_was_measured() -> None:
    curve = ServiceCurve(
        {(1, 1): np.array([1.0]), (1, 4): np.array([2.5]), (2, 1): np.array([2.0]), (2, 4): np.array([5.0])}
    )
    assert curve.median(2) == pytest.approx(1.5)
    assert curve.median(6) == pytest.approx(3.5)
    assert curve.median(1, 2) == 2.0
    assert curve.median(1, 4) == pytest.approx(4.0)  # the processors are full: in proportion
    assert ServiceCurve.of({1: 1.0}).median(5, 3) == 1.0


def test_a_curve_survives_json() -> None:
    curve = noisy({1: 0.001, 8: 0.002})
    again = ServiceCurve.from_json(curve.to_json())
    assert again.sizes == [1, 8]
    assert again.at_once == [1, 2]
    assert again.median(8, 2) == pytest.approx(curve.median(8, 2), rel=1e-4)
    assert list(again.to_frame()["rows"]) == [1, 8, 1, 8]


@pytest.mark.parametrize("samples", [{}, {(1, 1): np.array([])}, {(1, 0): np.array([1.0])}])
def test_nothing_measured_is_refused(samples: dict[tuple[int, int], np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"service-time curve|usable"):
        ServiceCurve(samples)
