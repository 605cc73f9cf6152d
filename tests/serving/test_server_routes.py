from __future__ import annotations

from dataclasses import replace

import pytest

from tests.serving.conftest import client_of, pair, photo
from tests.serving.stand_in import NO_FACE, StandIn


@pytest.mark.anyio
async def test_model_says_what_it_was_measured_on_and_what_it_does_not_detect() -> None:
    async with client_of() as client:
        answer = (await client.get("/v1/model")).json()
    assert answer["measured_on"] == "4,000 pairs of nobody"
    assert [point["target"] for point in answer["operating_points"]] == [0.1, 0.01, 0.001]
    assert "printed photo" in answer["notice"]
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


@pytest.mark.anyio
async def test_model_has_the_histogram_of_its_metrics_as_shares() -> None:
    verifier = StandIn()
    async with client_of(verifier) as client:
        answer = (await client.get("/v1/model")).json()
    assert answer["histogram"] == {
        "edges": [-0.5, 0.0, 0.5, 1.0],
        "genuine": [0.0, 0.1, 0.9],
        "impostors": [0.5, 0.49, 0.01],
    }
    verifier.metadata = replace(verifier.metadata, metrics={})
    async with client_of(verifier) as client:
        assert (await client.get("/v1/model")).json()["histogram"] is None
