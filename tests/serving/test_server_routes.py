from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist

import pytest

from siamese_verify.evaluation import OperatingPoint
from siamese_verify.serving.server_routes import fit_score_curve, score_scale
from tests.serving.conftest import client_of, pair, photo
from tests.serving.stand_in import NO_FACE, StandIn


@pytest.mark.anyio
async def test_model_says_what_it_was_measured_on_and_what_it_does_not_detect() -> None:
    async with client_of() as client:
        answer = (await client.get("/v1/model")).json()
    assert answer["measured_on"] == "4,000 pairs of nobody"
    assert [point["target"] for point in answer["operating_points"]] == [0.1, 0.01, 0.001]
    assert "printed photo" in answer["notice"]
    assert answer["scale"]["genuine"]["mean"] > answer["scale"]["impostors"]["mean"]
    assert answer["gallery"] is False


@pytest.mark.anyio
async def test_health_check_names_the_model() -> None:
    async with client_of() as client:
        assert (await client.get("/healthz")).json() == {"status": "ok", "model": "stand-in"}


@pytest.mark.anyio
async def test_metrics_count_without_names() -> None:
    async with client_of() as client:
        await client.post("/v1/verify", **pair(photo(1), photo(1)))
        await client.post("/v1/verify", **pair(photo(1, NO_FACE)))
        await client.get("/nobody/Ada")
        text = (await client.get("/metrics")).text
    assert 'siamese_verify_decisions_total{decision="same"} 1.0' in text
    assert 'siamese_verify_refusals_total{reason="no_face"} 1.0' in text
    assert 'siamese_verify_requests_total{route="/v1/verify",status="200"} 1.0' in text
    assert "siamese_verify_in_flight 0.0" in text
    assert "siamese_verify_body_bytes 0.0" in text
    assert "process_resident_memory_bytes" in text
    assert "Ada" not in text


@pytest.mark.parametrize(("mean", "std"), [(0.05, 0.15), (-0.3, 0.01), (0.8, 0.4)])
def test_curve_of_normal_scores_is_found_from_their_rates(mean: float, std: float) -> None:
    scores = [mean + step * std for step in (-1.0, 0.2, 1.1, 2.5)]
    curve = fit_score_curve([(score, 1 - NormalDist(mean, std).cdf(score)) for score in scores if abs(score) <= 1])
    assert curve is not None
    assert curve.mean == pytest.approx(mean, abs=1e-9)
    assert curve.std == pytest.approx(std, abs=1e-9)


@pytest.mark.parametrize(
    "rates", [[], [(0.5, 0.1)], [(0.5, 0.1), (0.6, 0.0)], [(0.5, 0.1), (0.5, 0.1)], [(0.1, 0.1), (0.2, 0.5)]]
)
def test_too_few_rates_give_no_curve(rates: list[tuple[float, float]]) -> None:
    assert fit_score_curve(rates) is None


def test_scale_needs_measurements_and_leaves_out_unreachable_thresholds() -> None:
    metadata = StandIn().metadata
    assert score_scale(replace(metadata, operating_points=(), score_calibration=None)) is None
    unreachable = OperatingPoint(1e-6, 0.0, 0.0, float("inf"), True, 4000, 0)
    more = replace(metadata, operating_points=(*metadata.operating_points, unreachable))
    assert score_scale(more) == score_scale(metadata)
