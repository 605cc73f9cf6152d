from __future__ import annotations

import asyncio
import base64
import io
import json
import math
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from siamese_verify.serving.schemas import DECISION
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


async def test_a_probability_is_given_for_a_prior_that_is_stated_only() -> None:
    async with client_of() as client:
        without = (await client.post("/v1/verify", **pair(photo(1), photo(1)))).json()
        stated = (await client.post("/v1/verify", **pair(photo(1), photo(1), prior="0.2"))).json()
        other = (await client.post("/v1/verify", **pair(photo(1), photo(1), prior="0.2", far="0.1"))).json()
        wrong = await client.post("/v1/verify", **pair(prior="1"))
    assert (without["prior"], without["probability"]) == (None, None)
    ratio = without["log_likelihood_ratio"]
    assert "times as frequent among pairs of one person as among pairs of two people" in without["likelihood"]
    odds = math.exp(ratio) * 0.2 / 0.8
    assert (stated["prior"], stated["probability"]) == (0.2, pytest.approx(odds / (1 + odds), rel=1e-9))
    assert (other["log_likelihood_ratio"], other["probability"]) == (ratio, stated["probability"])
    assert (wrong.status_code, wrong.json()["reason"]) == (422, "invalid_field")


def packed(content: bytes) -> str:
    return base64.b64encode(content).decode()


async def test_json_gets_the_answer_of_a_form() -> None:
    async with client_of() as client:
        for path, names in (("verify", ("a", "b")), ("embed", ("photo",)), ("faces", ("photo",))):
            sent = {name: photo(seed) for seed, name in enumerate(names)}
            form = (await client.post(f"/v1/{path}", files=sent)).json()
            packs = {name: packed(content) for name, content in sent.items()}
            answer = (await client.post(f"/v1/{path}", json=packs)).json()
            for one in (form, answer):
                one.pop("milliseconds", None)
            assert answer == form


async def test_a_batch_answers_each_pair_as_if_it_came_alone() -> None:
    firsts = [photo(1), photo(2, NO_FACE), photo(3), b"nothing"]
    seconds = [photo(1), photo(2), photo(4), photo(5, SEVERAL)]
    files = [(name, content) for name, side in (("a", firsts), ("b", seconds)) for content in side]
    judge = StandIn()
    async with client_of(judge) as client:
        judge.batches.clear()
        batch = (await client.post("/v1/verify/batch", files=files, data={"far": "0.1", "prior": "0.5"})).json()
        assert judge.batches == [5]  # the faces that there are, together
        sent = {"a": [*map(packed, firsts)], "b": [*map(packed, seconds)], "far": 0.1, "prior": 0.5}
        assert [one["error"] for one in (await client.post("/v1/verify/batch", json=sent)).json()["results"]] == [
            one["error"] for one in batch["results"]
        ]
        for first, second, result in zip(firsts, seconds, batch["results"], strict=True):
            alone = await client.post("/v1/verify", **pair(first, second, far="0.1", prior="0.5"))
            assert (result["decision"] is None) == (alone.status_code != 200)
            if alone.status_code == 200:
                expected, found = alone.json(), result["decision"]
                assert found["score"] == pytest.approx(expected["score"], abs=1e-6)
                for volatile in ("score", "log_likelihood_ratio", "probability", "milliseconds", "likelihood"):
                    expected.pop(volatile), found.pop(volatile)
                assert found == expected
            else:
                assert {name: value for name, value in result["error"].items() if value is not None} == alone.json()
    assert [result["error"] and result["error"]["reason"] for result in batch["results"]] == [
        None,
        "no_face",
        None,
        "unreadable_photo",
    ]


async def test_one_photo_is_compared_with_many() -> None:
    judge = StandIn()
    async with client_of(judge) as client:
        judge.looking = 0
        files = [("a", photo(2)), *(("b", photo(seed)) for seed in (1, 2, 3))]
        results = (await client.post("/v1/verify/batch", files=files)).json()["results"]
        assert judge.looking == 4
    assert [one["decision"]["same"] for one in results] == [False, True, False]


@pytest.mark.parametrize(
    ("first", "second", "fields", "status", "reason"),
    [
        (2, 3, {}, 400, "malformed_request"),
        (2, 1, {}, 400, "malformed_request"),
        (0, 1, {}, 400, "malformed_request"),
        (1, 17, {}, 400, "malformed_request"),
        (1, 1, {"on_multiple_faces": "any"}, 422, "invalid_field"),
        (1, 1, {"far": "0.7"}, 422, "invalid_field"),
        (1, 1, {"crops": "true"}, 400, "malformed_request"),
    ],
)
async def test_a_batch_that_cannot_be_answered_at_all_says_so(
    first: int, second: int, fields: dict[str, str], status: int, reason: str
) -> None:
    judge = StandIn()
    async with client_of(judge) as client:
        judge.looking = 0
        files = [*[("a", photo(1))] * first, *[("b", photo(1))] * second]
        response = await client.post("/v1/verify/batch", files=files, data=fields)
    assert (response.status_code, response.json()["reason"]) == (status, reason)
    assert judge.looking == 0


async def test_a_batch_of_photos_without_a_face_is_an_answer() -> None:
    async with client_of() as client:
        files = [("a", photo(1, NO_FACE)), ("b", photo(2, NO_FACE))]
        response = await client.post("/v1/verify/batch", files=files)
    assert response.status_code == 200
    assert response.json()["results"][0]["error"]["photo"] == "a"


@pytest.mark.parametrize(("width", "found"), [(64, 1), (SEVERAL, 2), (NO_FACE, 0)])
async def test_all_faces_of_a_photo_are_listed(width: int, found: int) -> None:
    async with client_of() as client:
        answer = (await client.post("/v1/faces", files={"photo": photo(1, width)}, data={"crops": "true"})).json()
        without = (await client.post("/v1/faces", files={"photo": photo(1, width)})).json()
    assert (answer["found"], len(answer["faces"])) == (found, found)
    assert all(face["crop"].startswith("data:image/png;base64,") for face in answer["faces"])
    assert [face["crop"] for face in without["faces"]] == [None] * found
    assert all(face["quality"]["sharpness"] > 0 for face in answer["faces"])


@pytest.mark.parametrize("path", ["/", "/docs", "/docs.js", "/page.css", "/openapi.json", "/healthz", "/v1/model"])
async def test_head_is_get_without_its_body(path: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with client_of() as client:
        got, head = await client.get(path), await client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers == got.headers
    assert int(head.headers["content-length"]) == len(got.content)
    assert any(record.message.startswith("HEAD ") for record in caplog.records)


async def test_head_of_what_takes_no_get_is_refused() -> None:
    async with client_of() as client:
        response = await client.head("/v1/verify")
        assert (response.status_code, response.headers["allow"]) == (405, "POST")
        assert (await client.head("/nothing")).status_code == 404


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
        answer = (
            await client.post("/v1/verify", **pair(photo(1, SEVERAL), photo(2, SEVERAL), on_multiple_faces="any"))
        ).json()
    assert any("best of 4 pairs" in warning for warning in answer["warnings"])


@pytest.mark.parametrize(
    ("first", "fields", "status", "reason", "at"),
    [
        (photo(1, NO_FACE), {}, 422, "no_face", "a"),
        (photo(1, SEVERAL), {}, 422, "multiple_faces", "a"),
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
        (None, {"on_multiple_faces": "all"}, 422, "invalid_field", None),
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
        only = await client.post("/v1/verify", json={"a": "MQ=="})
        assert (only.status_code, only.json()["reason"]) == (400, "malformed_request")


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
    assert np.asarray(answer["embeddings"]).shape == (3, judge.metadata.embedding_size)
    assert answer["fingerprint"] == judge.metadata.fingerprint


async def test_more_photos_than_allowed_are_refused() -> None:
    async with client_of(settings=Settings(rate=0, photos=2)) as client:
        assert (await client.post("/v1/embed", files=[("photo", photo(1))] * 3)).status_code == 400


async def test_any_face_is_not_an_embedding() -> None:
    async with client_of() as client:
        response = await client.post("/v1/embed", files={"photo": photo(1)}, data={"on_multiple_faces": "any"})
    assert (response.status_code, response.json()["reason"]) == (422, "invalid_field")


async def test_the_model_says_what_it_was_measured_on_and_what_it_cannot_see() -> None:
    async with client_of() as client:
        answer = (await client.get("/v1/model")).json()
    assert answer["measured_on"] == "4,000 pairs of nobody"
    assert [point["target"] for point in answer["operating_points"]] == [0.1, 0.01, 0.001]
    assert "printed photo" in answer["notice"]
    assert answer["scale"]["genuine"]["centre"] > answer["scale"]["impostors"]["centre"]


async def test_the_description_says_that_attacks_are_not_detected_and_has_examples() -> None:
    async with client_of() as client:
        described = (await client.get("/openapi.json")).json()
    assert "does not detect presentation attacks" in described["info"]["description"]
    for path, operations in described["paths"].items():
        if "post" not in operations:
            continue
        content = operations["post"]["requestBody"]["content"]
        form, packed = (content[kind]["schema"] for kind in ("multipart/form-data", "application/json"))
        assert form["required"] == packed["required"]
        assert form["properties"].keys() == packed["properties"].keys(), path
    form = described["paths"]["/v1/verify"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["a", "b"]
    assert described["components"]["schemas"]["VerifyAnswer"]["examples"]
    responses = described["paths"]["/v1/verify"]["post"]["responses"]
    assert {"400", "401", "413", "415", "422", "429", "503"} <= set(responses)


async def test_the_description_says_which_scope_a_route_needs() -> None:
    async with client_of() as client:
        described = (await client.get("/openapi.json")).json()
    assert described["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert described["components"]["securitySchemes"]["header"]["name"] == "X-API-Key"
    scopes = {path: next(iter(one.values())).get("security") for path, one in described["paths"].items()}
    assert scopes["/v1/verify"] == [{"bearer": ["verify"]}, {"header": ["verify"]}]
    assert scopes["/v1/model"] == [{"bearer": []}, {"header": []}]
    assert scopes["/healthz"] is None


async def test_the_example_of_the_description_has_the_fields_of_an_answer() -> None:
    async with client_of() as client:
        answer = (await client.post("/v1/verify", **pair())).json()
    assert set(DECISION) == set(answer)
    assert set(DECISION["faces"][0]) | {"crop", "explanation"} == set(answer["faces"][0])


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
