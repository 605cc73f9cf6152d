"""The page of people over HTTP: decisions, and who may not make them."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from siamese_verify.albums.album_folder import AlbumFolder
from siamese_verify.albums.people import DECISIONS, GROUPS, Decisions, group_album
from siamese_verify.albums.people_review import SIDE, PeopleReview
from siamese_verify.serving.page_files import PEOPLE_PAGE, TYPES
from siamese_verify.serving.people_page import BODY_BYTES, create_people_app
from siamese_verify.serving.settings import Settings
from tests.albums.people_album import PeopleAlbum, write_people

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "a-token-of-a-test"
HERE = "http://127.0.0.1:8765"
KEYS = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> PeopleAlbum:
    return write_people(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def review(album: PeopleAlbum) -> Iterator[PeopleReview]:
    decisions = Decisions()
    people = group_album(album.table, album.calibration, decisions)
    opened = PeopleReview(AlbumFolder(album.folder), people, decisions, album.calibration, quiet=0.0)
    yield opened
    assert opened.close(20)


@pytest.fixture(scope="module")
def client(review: PeopleReview) -> Iterator[TestClient]:
    app = create_people_app(review, TOKEN, Settings(port=8765, rate=0, body_seconds=5.0))
    with TestClient(app, base_url=HERE, headers=KEYS, raise_server_exceptions=False) as opened:
        yield opened


def post(client: TestClient, **decision: Any) -> Any:
    return client.post("/v1/decide", json=decision)


def test_every_kind_of_decision_is_made_and_taken_back(client: TestClient, album: PeopleAlbum) -> None:
    people = client.get("/v1/people").json()["people"]
    first, second = people[0]["number"], people[1]["number"]
    face = people[0]["sample"][0]["row"]
    said = [
        post(client, kind="name", people=[first], name="Ann"),
        post(client, kind="different", people=[first, second]),
        post(client, kind="same", people=[first, second]),
        post(client, kind="not_this_person", people=[first], faces=[face]),
        post(client, kind="new_person", people=[min(first, second)], faces=[people[0]["sample"][1]["row"]]),
    ]
    assert [answer.status_code for answer in said] == [200] * 5, [answer.text for answer in said]
    assert said[0].json() == {"said": f"Person {first} is Ann."}
    assert [name for _, name in Decisions.read(album.folder).names] == ["Ann"]
    assert client.get("/v1/names", params={"start": "a"}).json() == ["Ann"]
    for answer in reversed(said):
        assert post(client, kind="undo").json()["said"] == f"Taken back: {answer.json()['said']}"
    assert post(client, kind="undo").status_code == 422
    assert client.get("/v1/people").json()["people"] == people


def test_faces_are_pictures_of_a_bounded_size_and_missing_photos_a_sentence(
    client: TestClient, album: PeopleAlbum
) -> None:
    answer = client.get("/v1/faces/0")
    assert answer.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert picture.size == (SIDE, SIDE)
    photo = Path(album.table.root) / album.table.photos[7]
    content = photo.read_bytes()
    photo.unlink()
    answer = client.get("/v1/faces/7")
    photo.write_bytes(content)
    assert answer.status_code == 404 and answer.json()["reason"] == "not_found"
    assert client.get("/v1/faces/7").status_code == 200


@pytest.mark.parametrize("path", ["state", "people", "people/1", "questions", "names", "faces/0", "decide", "else"])
def test_nothing_is_told_without_the_token(client: TestClient, path: str) -> None:
    method = "POST" if path == "decide" else "GET"
    for key in ("", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x"):
        answer = client.request(method, f"/v1/{path}", headers={"Authorization": key})
        assert answer.status_code == 401, key
    assert client.request(method, f"/v1/{path}?token={TOKEN}", headers={"Authorization": ""}).status_code == 401


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "", "169.254.1.1"])
def test_other_names_of_this_machine_are_refused(client: TestClient, host: str) -> None:
    for path in ("/", "/v1/state", "/people.js"):
        answer = client.get(path, headers={"Host": host})
        assert (answer.status_code, answer.json()["reason"]) == (400, "wrong_host")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_pages_of_other_origins_decide_nothing(client: TestClient, headers: dict[str, str]) -> None:
    answer = client.post("/v1/decide", json={"kind": "undo"}, headers=headers)
    assert (answer.status_code, answer.json()["reason"]) == (403, "wrong_origin")


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/faces/-1", "/v1/faces/1e1", "/v1/faces/48", "/v1/faces/99999999999999999999", "/v1/faces/%D9%A1"),
        *("/v1/faces/" + "9" * 5000, "/v1/faces/..%2f..%2fmetadata.json", "/v1/faces/%2e%2e/%2e%2e/etc/passwd"),
        *(
            "/..%2fpeople_page.py",
            "/people.css/../page.html",
            "/page.html",
            "/decisions.json",
            "/docs",
            "/openapi.json",
        ),
        *("/v1/people/x", "/v1/people/1?page=-1", "/v1/people?page=1e9", "/healthz", "//etc/passwd"),
    ],
)
def test_there_is_nothing_at_other_addresses(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json()["reason"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"[" * 20_000, 400),
        (b'{"kind": "undo"', 400),
        (b"\xff\xfe", 400),
        (b"[]", 422),
        (b'{"kind": "forget"}', 422),
        (b'{"kind": "same", "people": ["1", 2]}', 422),
        (b'{"kind": "same", "people": [true, 2]}', 422),
        (b'{"kind": "same", "people": [1e400, 2]}', 422),
        (b'{"kind": "same", "people": [%s]}' % b",".join([b"1"] * 2000), 422),
        (b'{"kind": "same", "people": [1, 99999999999999999999999999]}', 422),
        (b'{"kind": "undo", "path": "/etc/passwd"}', 422),
        (b'{"kind": "name", "people": [1], "name": "%s"}' % (b"a" * 201), 422),
        (b'{"kind": "name", "people": [1], "name": "\\ud800"}', 400),
        (b'{"kind": "name", "people": [1], "name": "a\\u0000b"}', 422),
        (b'{"kind": "name", "people": [1, 2], "name": "Ann"}', 422),
        (b'{"kind": "new_person", "people": [1], "faces": [-1]}', 422),
        (b'{"kind": "new_person", "people": [1], "faces": []}', 422),
        (b" " * (BODY_BYTES + 1), 413),
    ],
)
def test_invalid_decisions_change_nothing(client: TestClient, album: PeopleAlbum, content: bytes, status: int) -> None:
    version = client.get("/v1/state").json()["version"]
    answer = client.post("/v1/decide", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"detail", "reason"} and answer.json()["detail"].endswith(".")
    assert client.get("/v1/state").json()["version"] == version


def test_a_form_of_another_page_is_no_decision(client: TestClient) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        answer = client.post("/v1/decide", content=b'{"kind": "undo"}', headers={"Content-Type": kind})
        assert answer.status_code == 415


@pytest.mark.anyio
async def test_a_body_without_end_is_cut_off(review: PeopleReview) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 8192

    app = create_people_app(review, TOKEN, Settings(port=8765, rate=0))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=HERE, headers=KEYS) as opened:
        answer = await opened.post("/v1/decide", content=endless(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


@pytest.mark.anyio
async def test_a_client_that_leaves_is_no_bug(review: PeopleReview, caplog: pytest.LogCaptureFixture) -> None:
    app, sent = create_people_app(review, TOKEN, Settings(port=8765, rate=0)), []
    received = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])
    headers = {"host": "127.0.0.1:8765", "authorization": KEYS["Authorization"], "content-type": "application/json"}
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/decide",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }

    async def receive() -> Any:
        return next(received)

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert 500 not in [one.get("status") for one in sent]


def test_the_page_loads_nothing_from_elsewhere_and_may_not(client: TestClient) -> None:
    for path, name in PEOPLE_PAGE.items():
        answer = client.get(path, headers={"Authorization": ""})
        assert answer.status_code == 200 and answer.headers["content-type"] == TYPES[Path(name).suffix]
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy and "form-action 'none'" in policy and "unsafe" not in policy
        assert answer.headers["x-frame-options"] == "DENY" and answer.headers["referrer-policy"] == "no-referrer"
        assert not re.search(r"https?:(?!//www\.w3\.org/2000/svg)", answer.text)
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(", answer.text)
    assert client.get("/v1/state").headers["cache-control"] == "no-store"


def served(album: PeopleAlbum, *arguments: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "siamese_verify.cli.main", "group", str(album.folder), *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env={**os.environ, "PYTHONPATH": path})


def test_the_command_serves_until_ctrl_c_and_nobody_else_may_write_meanwhile(tmp_path: Path) -> None:
    album = write_people(tmp_path)
    known = {file.name for file in album.folder.iterdir()}
    process = served(album, "--serve", "--port", "0")
    assert process.stdout is not None
    try:
        address = next(line for line in process.stdout if "http://" in line).split()[-1]
        url, _, token = address.partition("#")
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url) and len(token) >= 40
        keys = {"Authorization": f"Bearer {token}"}
        decision = {"kind": "name", "people": [1], "name": "Ann"}
        assert httpx.post(f"{url}v1/decide", json=decision, headers=keys).json() == {"said": "Person 1 is Ann."}
        assert httpx.get(f"{url}v1/state").status_code == 401
        other = served(album, "--name", "1=Bob")
        assert "Another process is writing to" in other.communicate(timeout=60)[1] and other.returncode == 2
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)
        assert process.returncode == 0 and "Traceback" not in said[1]
    finally:
        process.kill()
        process.communicate()
    assert {file.name for file in album.folder.iterdir()} - known <= {GROUPS, DECISIONS, ".lock"}
    assert json.loads((album.folder / DECISIONS).read_bytes())["names"][0][1] == "Ann"
    with (album.folder / GROUPS).open(newline="") as file:
        assert {line["name"] for line in csv.DictReader(file) if line["person"] == "1"} == {"Ann"}
    for name in (GROUPS, DECISIONS):
        assert (album.folder / name).stat().st_mode & 0o777 == 0o600
        assert token not in (album.folder / name).read_text()
