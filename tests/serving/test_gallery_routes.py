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


def enrolling(name: str, *seeds: int) -> dict[str, Any]:
    return {"data": {"name": name}, "files": [("photo", photo(seed)) for seed in seeds]}


async def test_enrolled_people_are_identified_until_they_are_deleted(gallery: Gallery) -> None:
    names = ["Ada Lovelace", "Émilie du Châtelet"]
    async with client_of(gallery=gallery) as client:
        for seed, name in enumerate(names, 1):
            answer = await client.post("/v1/enroll", **enrolling(name, seed))
            assert (answer.status_code, answer.json()["templates"]) == (200, 1)
        found = (await client.post("/v1/identify", files={"photo": photo(2)})).json()
        assert (found["name"], found["people"]) == (names[1], 2)
        assert [person["name"] for person in (await client.get("/v1/people")).json()["people"]] == names
        assert (await client.delete("/v1/people/" + quote(names[1]))).json() == {"forgotten": True}
        assert (await client.post("/v1/identify", files={"photo": photo(2)})).json()["name"] is None
        response = await client.delete("/v1/people/" + quote(names[1]))
        assert (response.status_code, response.json()["reason"]) == (404, "not_found")
        assert "milie" not in response.text


async def test_templates_are_those_of_the_gallery_itself(gallery: Gallery) -> None:
    async with client_of(gallery=gallery) as client:
        await client.post("/v1/enroll", **enrolling("Ada", 1, 1))
    with Image.open(io.BytesIO(photo(1))) as picture:
        assert gallery.identify(picture).score == pytest.approx(1, abs=1e-5)
    assert gallery.people()[0].templates == 2


async def test_json_enrolls_and_identifies(gallery: Gallery) -> None:
    content = base64.b64encode(photo(1)).decode()
    async with client_of(gallery=gallery) as client:
        assert (await client.post("/v1/enroll", json={"name": "Ada", "photo": [content]})).json()["added"] == 1
        assert (await client.post("/v1/identify", json={"photo": content})).json()["name"] == "Ada"


async def test_empty_gallery_and_photo_without_a_face(gallery: Gallery) -> None:
    async with client_of(gallery=gallery) as client:
        answer = await client.post("/v1/identify", files={"photo": photo(1)})
        assert (answer.status_code, answer.json()["found"], answer.json()["people"]) == (200, False, 0)
        response = await client.post("/v1/enroll", data={"name": "Ada"}, files=[("photo", photo(1, NO_FACE))])
        assert (response.status_code, response.json()["reason"]) == (422, "no_face")
    assert len(gallery) == 0


async def test_without_a_gallery_its_routes_do_not_exist() -> None:
    async with client_of() as client:
        assert (await client.post("/v1/identify", files={"photo": photo(1)})).status_code == 404


# ---- scores below the threshold


async def test_search_below_the_threshold_names_nobody(gallery: Gallery) -> None:
    async with client_of(gallery=gallery) as client:
        await client.post("/v1/enroll", **enrolling("Ada", 1))
        answer = (await client.post("/v1/identify", files={"photo": photo(9)})).json()
        warnings = (await client.post("/v1/enroll", **enrolling("Ada", 9))).json()["warnings"]
    assert (answer["name"], answer["candidates"], answer["score"]) == (None, [], None)
    assert "best score" not in answer["sentence"]
    assert any("unlike the others of this name" in warning for warning in warnings)
    assert not any("score" in warning for warning in warnings)


@pytest.mark.parametrize("fields", [{"scores": "true"}, {"far": "0.5"}, {"far": "0.0011"}])
async def test_scores_and_loose_rates_need_permission(fields: dict[str, str], gallery: Gallery) -> None:
    """A score can be asked for, or measured by the rate at which the person would be found."""
    async with client_of(gallery=gallery) as client:
        await client.post("/v1/enroll", **enrolling("Ada", 1))
        response = await client.post("/v1/identify", files={"photo": photo(9)}, data=fields)
        assert (response.status_code, response.json()["scope"]) == (403, "scores")
        stricter = await client.post("/v1/identify", files={"photo": photo(1)}, data={"far": "0.001"})
        assert stricter.json()["name"] == "Ada"
    async with client_of(gallery=gallery, settings=Settings(rate=0, allow_scores=True)) as client:
        response = await client.post("/v1/identify", files={"photo": photo(9)}, data=fields)
        assert response.status_code == 200
        assert (response.json()["score"] is None) == ("scores" not in fields)


async def test_key_with_the_scope_scores_sees_the_nearest_neighbors(gallery: Gallery, tmp_path: Path) -> None:
    plain = {"X-API-Key": add_key(tmp_path / "keys", "plain", "identify,enroll")}
    trusted = {"X-API-Key": add_key(tmp_path / "keys", "trusted", "identify,scores")}
    settings = Settings(rate=0, allow_scores=True)  # for servers without keys
    async with client_of(gallery=gallery, keys=KeyFile.read(tmp_path / "keys"), settings=settings) as client:
        assert (await client.post("/v1/enroll", headers=plain, **enrolling("Ada", 1))).status_code == 200
        search: dict[str, Any] = {"files": {"photo": photo(9)}, "data": {"scores": "yes"}}
        assert (await client.post("/v1/identify", headers=plain, **search)).status_code == 403
        found = (await client.post("/v1/identify", headers=trusted, **search)).json()
    assert found["name"] is None
    assert [one["name"] for one in found["candidates"]] == ["Ada"]
    assert found["candidates"][0]["score"] == found["score"] < found["threshold"]


# ---- names


@pytest.mark.parametrize("name", ["", "   ", "x" * 201, "a\nb", "a\r\nSet-Cookie: x=1", "a\0", "\u202eadA", "\ufeff"])
async def test_invisible_name_is_refused(name: str, gallery: Gallery) -> None:
    async with client_of(gallery=gallery) as client:
        response = await client.post("/v1/enroll", **enrolling(name, 1))
        assert (response.status_code, response.json()["reason"]) == (422, "invalid_field")
        assert "set-cookie" not in response.headers
    assert len(gallery) == 0


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "a/b", "'; DROP TABLE person; --", "%00", "<script>", "李 小龍", "👩\u200d🚀", "Zoë"]
)
async def test_any_other_name_can_be_enrolled_and_deleted(name: str, gallery: Gallery) -> None:
    async with client_of(gallery=gallery) as client:
        await client.post("/v1/enroll", **enrolling(name, 1))
        assert [person["name"] for person in (await client.get("/v1/people")).json()["people"]] == [name]
        decomposed = quote(unicodedata.normalize("NFD", name), safe="")
        assert (await client.delete("/v1/people/" + decomposed)).status_code == 200
    assert len(gallery) == 0


async def test_log_has_no_names_of_people(gallery: Gallery, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with client_of(gallery=gallery) as client:
        await client.post("/v1/enroll", **enrolling("Ada", 1))
        await client.post("/v1/identify", files={"photo": photo(1)})
        await client.delete("/v1/people/Ada")
    lines = [record.message for record in caplog.records if record.name == "siamese_verify.serving"]
    assert "DELETE /v1/people/{name:path} 200" in lines[-1]
    assert not any("Ada" in line for line in lines)
