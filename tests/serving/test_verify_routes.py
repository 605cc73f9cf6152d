from __future__ import annotations

import asyncio
import base64
import io
import math

import numpy as np
import pytest
from PIL import Image

from siamese_verify.serving.schemas import EXAMPLE_DECISION
from siamese_verify.serving.settings import Settings
from tests.serving.conftest import client_of, pair, photo, until
from tests.serving.stand_in import BROKEN, MULTIPLE, NO_FACE, SLOW, StandIn

pytestmark = pytest.mark.anyio


def packed(content: bytes) -> str:
    return base64.b64encode(content).decode()


def unpacked(uri: str) -> np.ndarray:
    kind, _, content = uri.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


# ---- /v1/verify


async def test_decision_is_that_of_the_verifier() -> None:
    verifier = StandIn()
    async with client_of(verifier) as client:
        answer = (await client.post("/v1/verify", **pair(far="0.1"))).json()
    faces = [
        verifier.find(Image.open(io.BytesIO(photo(seed))), f"photo {name}")[0] for seed, name in ((1, "a"), (2, "b"))
    ]
    first, second = verifier.embed_faces(faces)
    expected = verifier.decide(float(first @ second), faces, far=0.1)
    assert answer["score"] == pytest.approx(expected.score, abs=1e-6)
    assert (answer["same"], answer["threshold"], answer["far"]) == (expected.same, expected.threshold, expected.far)
    assert [face["quality"] for face in answer["faces"]] == [face.quality._asdict() for face in faces]
    assert answer["sentence"] == expected.sentence()
    assert set(answer["milliseconds"]) == {"read", "detect", "embed"}


@pytest.mark.parametrize(
    ("second", "fields", "same"), [(1, {}, True), (2, {"threshold": "-1"}, True), (2, {"threshold": "1"}, False)]
)
async def test_photo_matches_itself_and_own_thresholds_are_used(
    second: int, fields: dict[str, str], same: bool
) -> None:
    async with client_of() as client:
        answer = (await client.post("/v1/verify", **pair(photo(1), photo(second), **fields))).json()
    assert answer["same"] is same
    assert second != 1 or answer["score"] == pytest.approx(1, abs=1e-5)


async def test_probability_needs_a_prior() -> None:
    async with client_of() as client:
        without = (await client.post("/v1/verify", **pair(photo(1), photo(1)))).json()
        stated = (await client.post("/v1/verify", **pair(photo(1), photo(1), prior="0.2"))).json()
        other = (await client.post("/v1/verify", **pair(photo(1), photo(1), prior="0.2", far="0.1"))).json()
    assert (without["prior"], without["probability"]) == (None, None)
    ratio = without["log_likelihood_ratio"]
    assert "times as frequent among pairs of one person as among pairs of two people" in without["likelihood"]
    odds = math.exp(ratio) * 0.2 / 0.8
    assert (stated["prior"], stated["probability"]) == (0.2, pytest.approx(odds / (1 + odds), rel=1e-9))
    assert (other["log_likelihood_ratio"], other["probability"]) == (ratio, stated["probability"])


async def test_crops_are_returned_on_request() -> None:
    async with client_of() as client:
        without = (await client.post("/v1/verify", **pair())).json()
        answer = (await client.post("/v1/verify", **pair(crops="true"))).json()
    assert [face["crop"] for face in without["faces"]] == [None, None]
    with Image.open(io.BytesIO(photo(1))) as sent:
        np.testing.assert_array_equal(unpacked(answer["faces"][0]["crop"]), np.asarray(sent.resize((32, 32))))


async def test_explanation_is_a_picture_of_either_face() -> None:
    async with client_of() as client:
        answer = (await client.post("/v1/verify", **pair(explain="true"))).json()
    assert [unpacked(face["explanation"]).shape for face in answer["faces"]] == [(32, 32, 3)] * 2


async def test_any_of_multiple_faces_compares_every_pair() -> None:
    async with client_of() as client:
        sent = pair(photo(1, MULTIPLE), photo(2, MULTIPLE), on_multiple_faces="any")
        answer = (await client.post("/v1/verify", **sent)).json()
    assert any("best of 4 pairs" in warning for warning in answer["warnings"])


@pytest.mark.parametrize(
    ("first", "fields", "status", "reason", "at"),
    [
        (photo(1, NO_FACE), {}, 422, "no_face", "a"),
        (photo(1, MULTIPLE), {}, 422, "multiple_faces", "a"),
        (b"", {}, 400, "unreadable_photo", "a"),
        (b"no picture", {}, 400, "unreadable_photo", "a"),
        (photo(1)[:60], {}, 400, "unreadable_photo", "a"),
        (photo(1, 1001, 1000), {}, 413, "too_many_pixels", "a"),
        (bytes(200_001), {}, 413, "too_large", "a"),
        *[
            (None, fields, 422, "invalid_field", None)
            for fields in (
                {"far": "0.7"},  # not measured
                {"far": "often"},
                {"far": "nan"},
                {"far": "[" * 2000},
                {"prior": "1"},
                {"threshold": "1.5"},
                {"threshold": "inf"},
                {"threshold": "1" * 400},
                {"threshold": "0.5", "far": "0.1"},
                {"on_multiple_faces": "all"},
                {"decide": "perhaps"},
            )
        ],
        (None, {"unknown": "1"}, 400, "malformed_request", None),
    ],
)
async def test_errors_have_a_sentence_and_a_reason(
    first: bytes | None, fields: dict[str, str], status: int, reason: str, at: str | None
) -> None:
    async with client_of(settings=Settings(rate=0, photo_bytes=200_000, photo_pixels=1_000_000)) as client:
        response = await client.post("/v1/verify", **{**pair(first), "data": fields})
    answer = response.json()
    assert (response.status_code, answer["reason"], answer.get("photo")) == (status, reason, at)
    assert answer["detail"].endswith(".")
    assert response.headers["content-type"] == "application/json"


async def test_missing_photos_are_malformed_and_fields_of_json_are_checked() -> None:
    async with client_of() as client:
        only = await client.post("/v1/verify", files={"a": photo(1)})
        assert (only.status_code, only.json()["detail"]) == (400, "The form cannot be read: the photo b is missing.")
        assert (await client.post("/v1/verify", content=b"")).status_code == 415
        asked = await client.post("/v1/verify?far=0.1", **pair())
        sentence = "The form cannot be read: far is in the query of the address; send it as a part of the form."
        assert (asked.status_code, asked.json()["detail"]) == (400, sentence)
        only = await client.post("/v1/verify", json={"a": "MQ=="})
        assert (only.status_code, only.json()["reason"]) == (400, "malformed_request")
        for wrong in ("\ud800", "x" * 2000):
            content = f'{{"a": "MQ==", "b": "MQ==", "on_multiple_faces": "{wrong}"}}'.replace("\ud800", "\\ud800")
            headers = {"Content-Type": "application/json"}
            response = await client.post("/v1/verify", content=content, headers=headers)
            assert (response.status_code, response.json()["reason"]) == (422, "invalid_field")


async def test_bug_is_logged_without_its_message(caplog: pytest.LogCaptureFixture) -> None:
    async with client_of() as client:
        response = await client.post("/v1/verify", **pair(photo(1, BROKEN)))
    assert (response.status_code, response.json()["reason"]) == (500, "internal")
    assert "RuntimeError at" in caplog.text
    assert "secret" not in response.text + caplog.text


async def test_json_is_answered_like_a_form() -> None:
    async with client_of() as client:
        for path, names in (("verify", ("a", "b")), ("embed", ("photo",)), ("faces", ("photo",))):
            sent = {name: photo(seed) for seed, name in enumerate(names)}
            form = (await client.post(f"/v1/{path}", files=sent)).json()
            answer = (await client.post(f"/v1/{path}", json={name: packed(one) for name, one in sent.items()})).json()
            for one in (form, answer):
                one.pop("milliseconds", None)
            assert answer == form


# ---- /v1/verify/batch


async def test_batch_answers_each_pair_as_if_it_were_alone() -> None:
    firsts = [photo(1), photo(2, NO_FACE), photo(3), b"nothing"]
    seconds = [photo(1), photo(2), photo(4), photo(5, MULTIPLE)]
    files = [(name, content) for name, side in (("a", firsts), ("b", seconds)) for content in side]
    verifier = StandIn()
    async with client_of(verifier) as client:
        verifier.batches.clear()
        batch = (await client.post("/v1/verify/batch", files=files, data={"far": "0.1", "prior": "0.5"})).json()
        assert verifier.batches == [4]  # faces of complete pairs, together
        sent = {"a": [*map(packed, firsts)], "b": [*map(packed, seconds)], "far": 0.1, "prior": 0.5}
        as_json = (await client.post("/v1/verify/batch", json=sent)).json()
        assert [one["error"] for one in as_json["results"]] == [one["error"] for one in batch["results"]]
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
    reasons = [result["error"] and result["error"]["reason"] for result in batch["results"]]
    assert reasons == [None, "no_face", None, "unreadable_photo"]


async def test_one_photo_is_compared_with_many() -> None:
    verifier = StandIn()
    async with client_of(verifier) as client:
        verifier.photos = 0
        verifier.batches.clear()
        files = [("a", photo(2)), *(("b", photo(seed)) for seed in (1, 2, 3))]
        results = (await client.post("/v1/verify/batch", files=files)).json()["results"]
    assert (verifier.photos, verifier.batches) == (4, [4])
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
async def test_invalid_batch_is_refused_before_photos_are_decoded(
    first: int, second: int, fields: dict[str, str], status: int, reason: str
) -> None:
    verifier = StandIn()
    async with client_of(verifier) as client:
        verifier.photos = 0
        files = [*[("a", photo(1))] * first, *[("b", photo(1))] * second]
        response = await client.post("/v1/verify/batch", files=files, data=fields)
    assert (response.status_code, response.json()["reason"], verifier.photos) == (status, reason, 0)


async def test_batch_without_any_face_is_an_answer() -> None:
    async with client_of() as client:
        files = [("a", photo(1, NO_FACE)), ("b", photo(2, NO_FACE))]
        response = await client.post("/v1/verify/batch", files=files)
    assert response.status_code == 200
    assert response.json()["results"][0]["error"]["photo"] == "a"


# ---- /v1/faces and /v1/embed


@pytest.mark.parametrize(("width", "found"), [(64, 1), (MULTIPLE, 2), (NO_FACE, 0)])
async def test_all_faces_of_a_photo_are_listed(width: int, found: int) -> None:
    async with client_of() as client:
        answer = (await client.post("/v1/faces", files={"photo": photo(1, width)}, data={"crops": "true"})).json()
        without = (await client.post("/v1/faces", files={"photo": photo(1, width)})).json()
    assert (answer["found"], len(answer["faces"])) == (found, found)
    assert [unpacked(face["crop"]).shape for face in answer["faces"]] == [(32, 32, 3)] * found
    assert [face["crop"] for face in without["faces"]] == [None] * found
    assert all(face["quality"]["sharpness"] > 0 for face in answer["faces"])


async def test_embeddings_are_in_the_order_sent() -> None:
    verifier = StandIn()
    async with client_of(verifier) as client:
        files = [("photo", photo(seed)) for seed in (5, 3, 4)]
        answer = (await client.post("/v1/embed", files=files)).json()
        one = (await client.post("/v1/embed", files=[("photo", photo(3))])).json()
    np.testing.assert_allclose(answer["embeddings"][1], one["embeddings"][0], atol=1e-6)
    assert np.asarray(answer["embeddings"]).shape == (3, verifier.metadata.embedding_size)
    assert answer["fingerprint"] == verifier.metadata.fingerprint


async def test_embed_limits_the_photos_and_takes_one_face_of_each() -> None:
    verifier = StandIn()
    verifier.on_multiple_faces = "any"  # the default of the server
    async with client_of(verifier, Settings(rate=0, photos=2)) as client:
        assert (await client.post("/v1/embed", files=[("photo", photo(1))] * 3)).status_code == 400
        response = await client.post("/v1/embed", files={"photo": photo(1)}, data={"on_multiple_faces": "any"})
        assert (response.status_code, response.json()["reason"]) == (422, "invalid_field")
        response = await client.post("/v1/embed", files={"photo": photo(1, MULTIPLE)})
        assert (response.status_code, response.json()["reason"]) == (422, "multiple_faces")


# ---- the description of the API


async def test_description_has_a_notice_examples_errors_and_the_same_forms_as_json() -> None:
    async with client_of() as client:
        described = (await client.get("/openapi.json")).json()
    assert "does not detect presentation attacks" in described["info"]["description"]
    for path, operations in described["paths"].items():
        if "post" not in operations:
            continue
        content = operations["post"]["requestBody"]["content"]
        form, as_json = (content[kind]["schema"] for kind in ("multipart/form-data", "application/json"))
        assert form["required"] == as_json["required"]
        assert form["properties"].keys() == as_json["properties"].keys(), path
        assert all(one["type"] in ("string", "number", "boolean", "array") for one in form["properties"].values())
    verify = described["paths"]["/v1/verify"]["post"]
    form = verify["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["a", "b"]
    assert form["properties"]["on_multiple_faces"]["enum"] == ["error", "largest", "central", "any"]
    assert described["components"]["schemas"]["VerifyAnswer"]["examples"]
    assert {"400", "401", "413", "415", "422", "429", "503"} <= set(verify["responses"])


async def test_description_says_which_scope_a_route_needs() -> None:
    async with client_of() as client:
        described = (await client.get("/openapi.json")).json()
    assert described["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert described["components"]["securitySchemes"]["header"]["name"] == "X-API-Key"
    scopes = {path: next(iter(one.values())).get("security") for path, one in described["paths"].items()}
    assert scopes["/v1/verify"] == [{"bearer": ["verify"]}, {"header": ["verify"]}]
    assert scopes["/v1/model"] == [{"bearer": []}, {"header": []}]
    assert scopes["/healthz"] is None


async def test_example_of_the_description_has_the_members_of_an_answer() -> None:
    async with client_of() as client:
        answer = (await client.post("/v1/verify", **pair())).json()
    assert set(EXAMPLE_DECISION) == set(answer)
    assert set(EXAMPLE_DECISION["faces"][0]) | {"crop", "explanation"} == set(answer["faces"][0])


# ---- many requests at a time


async def test_request_beyond_the_limit_is_refused_at_once() -> None:
    verifier = StandIn()
    async with client_of(verifier, Settings(rate=0, in_flight=3, workers=2)) as client:
        waiting = [asyncio.create_task(client.post("/v1/verify", **pair(photo(1, SLOW)))) for _ in range(2)]
        await until(lambda: verifier.photos >= 2)
        refused = await client.post("/v1/verify", **pair())
        verifier.gate.set()
        assert [(await task).status_code for task in waiting] == [200, 200]
        assert (refused.status_code, refused.json()["reason"]) == (503, "busy")
        assert int(refused.headers["retry-after"]) >= 1
        assert (await client.post("/v1/verify", **pair())).status_code == 200


async def test_requests_at_a_time_are_embedded_together() -> None:
    verifier = StandIn(seconds=0.1)
    async with client_of(verifier) as client:
        verifier.batches.clear()
        requests = [pair(photo(seed), photo(seed + 1)) for seed in range(12)]
        answers = await asyncio.gather(*[client.post("/v1/verify", **request) for request in requests])
        alone = [(await client.post("/v1/verify", **request)).json()["score"] for request in requests[:3]]
    assert [answer.status_code for answer in answers] == [200] * 12
    assert max(verifier.batches) > 2
    np.testing.assert_allclose([answer.json()["score"] for answer in answers[:3]], alone, atol=1e-5)


async def test_failure_of_one_request_fails_no_other() -> None:
    async with client_of(StandIn(seconds=0.02)) as client:
        contents = [photo(1), photo(1, NO_FACE), photo(1, BROKEN), b"nothing"] * 4
        answers = await asyncio.gather(*[client.post("/v1/verify", **pair(content)) for content in contents])
    assert [answer.status_code for answer in answers] == [200, 422, 500, 400] * 4
