from __future__ import annotations

import base64
import io
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image

from tests.serving.conftest import client_of, photo
from tests.serving.stand_in import NO_FACE, StandIn

pytest.importorskip("sqlcipher3", reason="needs sqlcipher3: pip install 'siamese-verify[gallery]'")

from siamese_verify.gallery import Gallery, new_key
from siamese_verify.serving.api_keys import KeyFile, add_key
from siamese_verify.serving.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    new_key(tmp_path / "key")
    with Gallery.open(tmp_path / "gallery.db", StandIn(), key=tmp_path / "key") as opened:
        yield opened


async def test_whoever_is_enrolled_is_found_and_once_forgotten_is_not(gallery: Gallery) -> None:
    async with client_of(gallery=gallery) as client:
        for name, seed in (("Ada Lovelace", 1), ("Émilie du Châtelet", 2)):
            answer = await client.post("/v1/enroll", data={"name": name}, files=[("photo", photo(seed))])
            assert (answer.status_code, answer.json()["templates"]) == (200, 1)
        found = (await client.post("/v1/identify", files={"photo": photo(2)})).json()
        assert (found["name"], found["people"]) == ("Émilie du Châtelet", 2)
        assert [person["name"] for person in (await client.get("/v1/people")).json()["people"]] == [
            "Ada Lovelace",
            "Émilie du Châtelet",
        ]
        assert (await client.delete("/v1/people/" + quote("Émilie du Châtelet"))).json() == {"forgotten": True}
        assert (await client.post("/v1/identify", files={"photo": photo(2)})).json()["name"] is None


async def test_a_search_for_a_stranger_lists_nobody(gallery: Gallery) -> None:
    async with client_of(gallery=gallery) as client:
        await client.post("/v1/enroll", data={"name": "Ada"}, files=[("photo", photo(1))])
        answer = (await client.post("/v1/identify", files={"photo": photo(9)})).json()
    assert (answer["name"], answer["candidates"], answer["score"]) == (None, [], None)
    assert "best score" not in answer["sentence"]


@pytest.mark.parametrize("fields", [{"scores": "true"}, {"far": "0.5"}, {"far": "0.0011"}])
async def test_the_score_of_somebody_who_was_not_found_needs_leave(fields: dict[str, str], gallery: Gallery) -> None:
    """Neither said, nor read off by asking at which rate the person would have been found."""
    async with client_of(gallery=gallery) as client:
        await client.post("/v1/enroll", data={"name": "Ada"}, files=[("photo", photo(1))])
        response = await client.post("/v1/identify", files={"photo": photo(9)}, data=fields)
        assert (response.status_code, response.json()["scope"]) == (403, "scores")
        stricter = await client.post("/v1/identify", files={"photo": photo(1)}, data={"far": "0.001"})
        assert stricter.json()["name"] == "Ada"
    async with client_of(gallery=gallery, settings=Settings(rate=0, allow_scores=True)) as client:
        response = await client.post("/v1/identify", files={"photo": photo(9)}, data=fields)
        assert response.status_code == 200
        assert (response.json()["score"] is None) == ("scores" not in fields)


async def test_a_key_of_the_scope_scores_sees_the_most_alike(gallery: Gallery, tmp_path: Path) -> None:
    plain = add_key(tmp_path / "keys", "plain", "identify,enroll")
    trusted = add_key(tmp_path / "keys", "trusted", "identify,scores")
    settings = Settings(rate=0, allow_scores=True)  # for servers without keys
    async with client_of(gallery=gallery, keys=KeyFile.read(tmp_path / "keys"), settings=settings) as client:
        sent: dict[str, Any] = {
            "data": {"name": "Ada"},
            "files": [("photo", photo(1))],
            "headers": {"X-API-Key": plain},
        }
        assert (await client.post("/v1/enroll", **sent)).status_code == 200
        for key, status in ((plain, 403), (trusted, 200)):
            asked: dict[str, Any] = {
                "files": {"photo": photo(9)},
                "data": {"scores": "yes"},
                "headers": {"X-API-Key": key},
            }
            response = await client.post("/v1/identify", **asked)
            assert response.status_code == status
    found = response.json()
    assert found["name"] is None
    assert [one["name"] for one in found["candidates"]] == ["Ada"]
    assert found["candidates"][0]["score"] == found["score"] < found["threshold"]


async def test_enrolling_tells_no_score_of_somebody_who_was_not_found(gallery: Gallery) -> None:
    async with client_of(gallery=gallery) as client:
        for seed in (1, 9):
            sent: dict[str, Any] = {"data": {"name": "Ada"}, "files": [("photo", photo(seed))]}
            warnings = (await client.post("/v1/enroll", **sent)).json()["warnings"]
    assert any("unlike the others of this name" in warning for warning in warnings)
    assert not any("score" in warning for warning in warnings)


async def test_json_enrols_and_finds(gallery: Gallery) -> None:
    content = base64.b64encode(photo(1)).decode()
    async with client_of(gallery=gallery) as client:
        assert (await client.post("/v1/enroll", json={"name": "Ada", "photo": [content]})).json()["added"] == 1
        assert (await client.post("/v1/identify", json={"photo": content})).json()["name"] == "Ada"


async def test_a_face_is_enrolled_as_the_gallery_itself_would(gallery: Gallery) -> None:
    async with client_of(gallery=gallery) as client:
        await client.post("/v1/enroll", data={"name": "Ada"}, files=[("photo", photo(1)), ("photo", photo(1))])
    with Image.open(io.BytesIO(photo(1))) as picture:
        assert gallery.identify(picture).score == pytest.approx(1, abs=1e-5)
    assert gallery.people()[0].templates == 2


@pytest.mark.parametrize("name", ["", "   ", "x" * 201, "a\nb", "a\r\nSet-Cookie: x=1", "a\0", "\u202eadA", "\ufeff"])
async def test_a_name_that_nobody_can_see_is_refused(name: str, gallery: Gallery) -> None:
    async with client_of(gallery=gallery) as client:
        response = await client.post("/v1/enroll", data={"name": name}, files=[("photo", photo(1))])
        assert (response.status_code, response.json()["reason"]) == (422, "invalid_field")
        assert "set-cookie" not in response.headers
    assert len(gallery) == 0


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "a/b", "'; DROP TABLE person; --", "%00", "<script>", "李 小龍", "👩\u200d🚀"]
)
async def test_any_other_name_is_a_name(name: str, gallery: Gallery) -> None:
    async with client_of(gallery=gallery) as client:
        await client.post("/v1/enroll", data={"name": name}, files=[("photo", photo(1))])
        assert [person["name"] for person in (await client.get("/v1/people")).json()["people"]] == [name]
        assert (await client.delete("/v1/people/" + quote(name, safe=""))).status_code == 200
    assert len(gallery) == 0


async def test_composed_and_decomposed_letters_are_one_name(gallery: Gallery) -> None:
    async with client_of(gallery=gallery) as client:
        await client.post("/v1/enroll", data={"name": "Zoë"}, files=[("photo", photo(1))])
        assert (await client.delete("/v1/people/" + quote(unicodedata.normalize("NFD", "Zoë")))).status_code == 200


async def test_nobody_cannot_be_forgotten(gallery: Gallery) -> None:
    async with client_of(gallery=gallery) as client:
        response = await client.delete("/v1/people/Ada")
    assert (response.status_code, response.json()["reason"]) == (404, "not_found")
    assert "Ada" not in response.text


async def test_an_empty_gallery_and_a_photo_without_a_face_are_said(gallery: Gallery) -> None:
    async with client_of(gallery=gallery) as client:
        answer = await client.post("/v1/identify", files={"photo": photo(1)})
        assert (answer.status_code, answer.json()["found"], answer.json()["people"]) == (200, False, 0)
        response = await client.post("/v1/enroll", data={"name": "Ada"}, files=[("photo", photo(1, NO_FACE))])
        assert (response.status_code, response.json()["reason"]) == (422, "no_face")
    assert len(gallery) == 0


async def test_no_name_is_in_the_log(gallery: Gallery, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with client_of(gallery=gallery) as client:
        await client.post("/v1/enroll", data={"name": "Ada"}, files=[("photo", photo(1))])
        await client.post("/v1/identify", files={"photo": photo(1)})
        await client.delete("/v1/people/Ada")
    lines = [record.message for record in caplog.records if record.name == "siamese_verify.serving"]
    assert "DELETE /v1/people/{name:path} 200" in lines[-1]
    assert not any("Ada" in line for line in lines)


async def test_without_a_gallery_there_is_no_such_address() -> None:
    async with client_of() as client:
        assert (await client.post("/v1/identify", files={"photo": photo(1)})).status_code == 404
        assert (await client.get("/v1/model")).json()["gallery"] is False
