from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist

import pytest

from siamese_verify.evaluation import OperatingPoint
from siamese_verify.serving.page_files import fitted_hill, score_scale
from tests.serving.stand_in import StandIn


@pytest.mark.parametrize(("centre", "spread"), [(0.05, 0.15), (-0.3, 0.01), (0.8, 0.4)])
def test_the_hill_of_normal_scores_is_found_from_its_rates(centre: float, spread: float) -> None:
    scores = [centre + step * spread for step in (-1.0, 0.2, 1.1, 2.5)]
    hill = fitted_hill([(score, 1 - NormalDist(centre, spread).cdf(score)) for score in scores if abs(score) <= 1])
    assert hill is not None
    assert hill.centre == pytest.approx(centre, abs=1e-9)
    assert hill.spread == pytest.approx(spread, abs=1e-9)


@pytest.mark.parametrize(
    "rates", [[], [(0.5, 0.1)], [(0.5, 0.1), (0.6, 0.0)], [(0.5, 0.1), (0.5, 0.1)], [(0.1, 0.1), (0.2, 0.5)]]
)
def test_too_little_gives_no_hill(rates: list[tuple[float, float]]) -> None:
    assert fitted_hill(rates) is None


def test_a_model_without_measurements_has_no_scale() -> None:
    assert score_scale(replace(StandIn().metadata, operating_points=(), score_calibration=None)) is None


def test_an_unreachable_threshold_is_left_out() -> None:
    metadata = StandIn().metadata
    beyond = OperatingPoint(1e-6, 0.0, 0.0, float("inf"), True, 4000, 0)
    assert score_scale(replace(metadata, operating_points=(*metadata.operating_points, beyond))) == score_scale(
        metadata
    )
