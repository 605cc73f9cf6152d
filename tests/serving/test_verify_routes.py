from __future__ import annotations

import asyncio
import base64
import io
import json
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from siamese_verify.serving.settings import Settings
from tests.serving.conftest import client_of, pair, photo
from tests.serving.stand_in import BROKEN, NO_FACE, SEVERAL, SLOW, StandIn

pytestmark = pytest.mark.anyio


async def test_a_decision_is_that_of_the_verifier() -> None:
    judge = StandIn()
    async with client_of(judge) as client:
        answer = (await client.post("/v1/verify", **pair(far="0.1"))).json()
    faces = [judge.find(Image.open(io.BytesIO(photo(seed))), f"photo {name}")[0] for seed, name in ((1, "a"), (2, "b"))]
    first, second = judge.embed_faces(faces)
    said = judge.decide(float(first @ second), faces, far=0.1)
    assert answer["score"] == pytest.approx(said.score, abs=1e-6)
    assert (answer["same"], answer["threshold"], answer["far"]) == (said.same, said.threshold, said.far)
    assert [face["quality"] for face in answer["faces"]] == [face.quality._asdict() for face in faces]
    assert answer["sentence"] == said.sentence()
    assert set(answer["milliseconds"]) == {"read", "detect", "embed"}


async def test_a_photo_is_itself() -> None:
    async with client_of() as client:
        answer = (await client.post("/v1/verify", **pair(photo(1), photo(1)))).json()
    assert answer["same"] is True
    assert answer["score"] == pytest.approx(1, abs=1e-5)


async def test_a_threshold_of_ones_own_is_kept() -> None:
    async with client_of() as client:
        for threshold, same in (("-1", True), ("1", False)):
            assert (await client.post("/v1/verify", **pair(threshold=threshold))).json()["same"] is same


async def test_faces_come_back_only_when_they_are_asked_for() -> None:
    async with client_of() as client:
        without = (await client.post("/v1/verify", **pair())).json()
        answer = (await client.post("/v1/verify", **pair(crops="true"))).json()
    assert [face["crop"] for face in without["faces"]] == [None, None]
    kind, _, content = answer["faces"][0]["crop"].partition(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as crop, Image.open(io.BytesIO(photo(1))) as sent:
        np.testing.assert_array_equal(np.asarray(crop), np.asarray(sent.resize((32, 32))))


async def test_an_explanation_is_a_picture_of_either_face() -> None:
    async with client_of() as client:
        answer = (await client.post("/v1/verify", **pair(explain="true"))).json()
    for face in answer["faces"]:
        with Image.open(io.BytesIO(base64.b64decode(face["explanation"].partition(",")[2]))) as picture:
            assert picture.size == (32, 32)


async def test_any_of_several_faces_counts_every_pair() -> None:
    async with client_of() as client:
        answer = (await client.post("/v1/verify", **pair(photo(1, SEVERAL), photo(2, SEVERAL), several="any"))).json()
    assert any("best of 4 pairs" in warning for warning in answer["warnings"])


@pytest.mark.parametrize(
    ("first", "fields", "status", "reason", "at"),
    [
        (photo(1, NO_FACE), {}, 422, "no_face", "a"),
        (photo(1, SEVERAL), {}, 422, "several_faces", "a"),
        (b"", {}, 400, "unreadable_photo", "a"),
        (b"no picture", {}, 400, "unreadable_photo", "a"),
        (photo(1)[:60], {}, 400, "unreadable_photo", "a"),
        (photo(1, 1001, 1000), {}, 413, "too_many_pixels", "a"),
        (bytes(200_001), {}, 413, "too_large", "a"),
        (None, {"far": "0.7"}, 422, "invalid_field", None),
        (None, {"far": "often"}, 422, "invalid_field", None),
        (None, {"far": "nan"}, 422, "invalid_field", None),
        (None, {"threshold": "1.5"}, 422, "invalid_field", None),
        (None, {"threshold": "inf"}, 422, "invalid_field", None),
        (None, {"threshold": "1" * 400}, 422, "invalid_field", None),
        (None, {"threshold": "0.5", "far": "0.1"}, 422, "invalid_field", None),
        (None, {"several": "all"}, 422, "invalid_field", None),
        (None, {"decide": "perhaps"}, 422, "invalid_field", None),
        (None, {"unknown": "1"}, 400, "malformed_request", None),
        (None, {"far": "[" * 2000}, 422, "invalid_field", None),
    ],
)
async def test_what_cannot_be_answered_is_said_in_a_sentence_and_a_word(
    first: bytes | None, fields: dict[str, str], status: int, reason: str, at: str | None
) -> None:
    settings = Settings(rate=0, photo_bytes=200_000, photo_pixels=1_000_000)
    async with client_of(settings=settings) as client:
        request = pair(first)
        response = await client.post("/v1/verify", files=request["files"], data=fields)
    said = response.json()
    assert (response.status_code, said["reason"], said.get("photo")) == (status, reason, at)
    assert said["detail"].endswith(".")
    assert response.headers["content-type"] == "application/json"


async def test_a_missing_photo_and_an_empty_body_are_malformed() -> None:
    async with client_of() as client:
        only = await client.post("/v1/verify", files={"a": photo(1)})
        assert (only.status_code, only.json()["detail"]) == (400, "The form cannot be used: the photo b is missing.")
        assert (await client.post("/v1/verify", content=b"")).status_code == 415
        assert (await client.post("/v1/verify", json={"a": "[" * 100_000})).status_code == 415


async def test_a_mistake_of_the_servers_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with client_of() as client:
        response = await client.post("/v1/verify", **pair(photo(1, BROKEN)))
    assert (response.status_code, response.json()["reason"]) == (500, "internal")
    assert "secret" not in response.text
    assert "RuntimeError at" in caplog.text
    assert "secret" not in caplog.text


async def test_embeddings_come_in_the_order_sent() -> None:
    judge = StandIn()
    async with client_of(judge) as client:
        files = [("photo", photo(seed)) for seed in (5, 3, 4)]
        answer = (await client.post("/v1/embed", files=files)).json()
        one = (await client.post("/v1/embed", files=[("photo", photo(3))])).json()
    np.testing.assert_allclose(answer["embeddings"][1], one["embeddings"][0], atol=1e-6)
    assert np.asarray(answer["embeddings"]).shape == (3, judge.record.dimension)
    assert answer["fingerprint"] == judge.record.fingerprint


async def test_more_photos_than_allowed_are_refused() -> None:
    async with client_of(settings=Settings(rate=0, photos=2)) as client:
        assert (await client.post("/v1/embed", files=[("photo", photo(1))] * 3)).status_code == 400


async def test_any_face_is_not_an_embedding() -> None:
    async with client_of() as client:
        response = await client.post("/v1/embed", files={"photo": photo(1)}, data={"several": "any"})
    assert (response.status_code, response.json()["reason"]) == (422, "invalid_field")


async def test_the_model_says_what_it_was_measured_on_and_what_it_cannot_see() -> None:
    async with client_of() as client:
        answer = (await client.get("/v1/model")).json()
    assert answer["measured_on"] == "4,000 pairs of nobody"
    assert [point["target"] for point in answer["operating_points"]] == [0.1, 0.01, 0.001]
    assert "printed photo" in answer["notice"]
    assert answer["scale"]["genuine"]["centre"] > answer["scale"]["strangers"]["centre"]


async def test_the_description_says_that_attacks_are_not_detected_and_has_examples() -> None:
    async with client_of() as client:
        described = (await client.get("/openapi.json")).json()
    assert "does not detect presentation attacks" in described["info"]["description"]
    form = described["paths"]["/v1/verify"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["a", "b"]
    assert described["components"]["schemas"]["VerifyAnswer"]["examples"]
    responses = described["paths"]["/v1/verify"]["post"]["responses"]
    assert {"400", "401", "413", "415", "422", "429", "503"} <= set(responses)


async def test_an_example_of_the_description_has_the_fields_of_an_answer() -> None:
    async with client_of() as client:
        described = (await client.get("/openapi.json")).json()
        answer = (await client.post("/v1/verify", **pair())).json()
    example = described["components"]["schemas"]["VerifyAnswer"]["examples"][0]
    assert set(example) == set(answer)
    assert set(example["faces"][0]) | {"crop", "explanation"} == set(answer["faces"][0])


async def test_counters_are_counted_without_names() -> None:
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


async def test_the_log_holds_no_name_no_query_and_no_number_of_a_face(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with client_of() as client:
        files = {"a": ("Ada Lovelace.png", photo(1)), "b": ("secret.png", photo(2))}
        await client.post("/v1/verify?who=Ada", files=files)
        await client.get("/Ada?Ada=Ada")
        await client.delete("/v1/people/Ada")
    lines = [record.message for record in caplog.records if record.name == "siamese_verify.serving"]
    assert [line.split(" ")[:3] for line in lines] == [
        ["POST", "/v1/verify", "200"],
        ["GET", "(none)", "404"],
        ["DELETE", "(none)", "404"],
    ]
    assert not any("Ada" in line or "secret" in line for line in lines)


def slow(**more: Any) -> dict[str, Any]:
    return pair(photo(1, SLOW), **more)


async def test_beyond_the_places_a_request_is_refused_at_once() -> None:
    judge = StandIn()
    async with client_of(judge, Settings(rate=0, in_flight=3, workers=2)) as client:
        waiting = [asyncio.create_task(client.post("/v1/verify", **slow())) for _ in range(2)]
        while judge.looking < 2:
            await asyncio.sleep(0.01)
        refused = await client.post("/v1/verify", **pair())
        judge.gate.set()
        assert [(await task).status_code for task in waiting] == [200, 200]
        assert (refused.status_code, refused.json()["reason"]) == (503, "busy")
        assert int(refused.headers["retry-after"]) >= 1
        assert (await client.post("/v1/verify", **pair())).status_code == 200


async def test_an_answer_that_takes_too_long_is_given_up() -> None:
    judge = StandIn()
    async with client_of(judge, Settings(rate=0, answer_seconds=0.2, workers=2)) as client:
        response = await client.post("/v1/verify", **slow())
        assert (response.status_code, response.json()["reason"]) == (503, "timeout")
        assert "retry-after" in response.headers
        judge.gate.set()
        assert (await client.post("/v1/verify", **pair())).status_code == 200


async def test_bodies_together_have_a_limit() -> None:
    judge = StandIn()
    large = photo(1, 1200, 1200, "BMP")  # four megabytes
    async with client_of(judge, Settings(rate=0, body_bytes=6_000_000, workers=1)) as client:
        waiting = asyncio.create_task(client.post("/v1/verify", **slow(second=large)))
        while not judge.looking:
            await asyncio.sleep(0.01)
        refused = await client.post("/v1/verify", **pair(large))
        judge.gate.set()
        assert (await waiting).status_code == 200
        assert refused.status_code == 503
        assert (await client.post("/v1/verify", **pair(large))).status_code == 200


async def test_requests_at_the_same_time_are_embedded_together() -> None:
    judge = StandIn(seconds=0.1)
    async with client_of(judge) as client:
        judge.batches.clear()
        requests = [pair(photo(seed), photo(seed + 1)) for seed in range(12)]
        answers = await asyncio.gather(*[client.post("/v1/verify", **request) for request in requests])
        alone = [(await client.post("/v1/verify", **request)).json()["score"] for request in requests[:3]]
    assert [answer.status_code for answer in answers] == [200] * 12
    assert max(judge.batches) > 2
    np.testing.assert_allclose([answer.json()["score"] for answer in answers[:3]], alone, atol=1e-5)


async def test_a_failure_of_one_request_fails_no_other() -> None:
    async with client_of(StandIn(seconds=0.02)) as client:
        kinds = [photo(1), photo(1, NO_FACE), photo(1, BROKEN), b"nothing"] * 4
        answers = await asyncio.gather(*[client.post("/v1/verify", **pair(kind)) for kind in kinds])
    assert [answer.status_code for answer in answers] == [200, 422, 500, 400] * 4


async def test_a_client_that_has_gone_is_not_worked_for() -> None:
    judge = StandIn()
    app_client = client_of(judge, Settings(rate=0, workers=1))
    async with app_client as client:
        busy = asyncio.create_task(client.post("/v1/verify", **slow()))
        while not judge.looking:
            await asyncio.sleep(0.01)
        gone = asyncio.create_task(client.post("/v1/verify", **pair()))
        await asyncio.sleep(0.1)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        judge.gate.set()
        assert (await busy).status_code == 200
        assert judge.looking == 2  # both photos of the first, none of the second


async def test_a_health_check_needs_nothing(anyio_backend: str) -> None:
    async with client_of() as client:
        response: httpx.Response = await client.get("/healthz")
    assert json.loads(response.content) == {"status": "ok", "model": "stand-in"}
