from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from siamese_verify.serving.api_keys import SCOPES, KeyFile, add_key
from siamese_verify.serving.middleware import host_name
from siamese_verify.serving.settings import Settings
from tests.serving.conftest import client_of, pair

pytestmark = pytest.mark.anyio


@pytest.fixture
def keys(tmp_path: Path) -> tuple[str, KeyFile]:
    key = add_key(tmp_path / "keys", "kiosk")
    return key, KeyFile.read(tmp_path / "keys")


@pytest.mark.parametrize("path", ["/v1/model", "/metrics", "/v1/people", "/nothing"])
async def test_without_a_key_nothing_of_the_api_opens(path: str, keys: tuple[str, KeyFile]) -> None:
    async with client_of(keys=keys[1]) as client:
        response = await client.get(path)
        assert (response.status_code, response.json()["reason"]) == (401, "no_key")
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert (await client.get(path, headers={"X-API-Key": keys[0][:-1]})).status_code == 401
        assert (await client.post(path, headers={"Authorization": f"Basic {keys[0]}"})).status_code == 401


async def test_a_key_opens_by_either_header(keys: tuple[str, KeyFile]) -> None:
    async with client_of(keys=keys[1]) as client:
        for headers in (
            {"X-API-Key": keys[0]},
            {"Authorization": f"Bearer {keys[0]}"},
            {"authorization": f"bearer {keys[0]}"},
        ):
            assert (await client.get("/v1/model", headers=headers)).status_code == 200
            assert (await client.post("/v1/verify", headers=headers, **pair())).status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/page.css", "/page.js", "/icon.svg", "/docs", "/docs.js", "/docs.css", "/healthz", "/openapi.json"]
)
async def test_the_page_opens_without_a_key_to_take_one(path: str, keys: tuple[str, KeyFile]) -> None:
    async with client_of(keys=keys[1]) as client:
        assert (await client.get(path)).status_code == 200


class Nobody:
    """A gallery without people."""

    def people(self) -> list[Any]:
        return []


NEEDED = {
    "POST /v1/verify": "verify",
    "POST /v1/verify/batch": "verify",
    "POST /v1/faces": "verify",
    "POST /v1/embed": "verify",
    "POST /v1/enroll": "enroll",
    "POST /v1/identify": "identify",
    "GET /v1/people": "read",
    "GET /metrics": "read",
    "DELETE /v1/people/Ada": "delete",
}


async def test_every_route_needs_its_scope_and_no_other(tmp_path: Path) -> None:
    keys = {scope: add_key(tmp_path / "keys", scope, scope) for scope in SCOPES}
    async with client_of(keys=KeyFile.read(tmp_path / "keys"), gallery=Nobody()) as client:
        described = (await client.get("/openapi.json")).json()["paths"]
        routes = {f"{method.upper()} {path}" for path, one in described.items() for method in one}
        assert routes - {"GET /healthz", "GET /readyz", "GET /v1/model"} == {
            route.replace("Ada", "{name}") for route in NEEDED
        }, "a route without a scope"
        for scope, key in keys.items():
            headers = {"X-API-Key": key}
            assert (await client.get("/v1/model", headers=headers)).status_code == 200
            for route, needed in NEEDED.items():
                method, path = route.split()
                response = await client.request(method, path, headers=headers)
                if scope == needed:
                    assert response.status_code in (200, 404, 415), route
                    continue
                said = response.json()
                assert (response.status_code, said["reason"], said["scope"]) == (403, "missing_scope", needed)
                assert f"The key {scope} may not" in said["detail"]
                assert f'scope="{needed}"' in response.headers["www-authenticate"]


async def test_a_key_whose_time_is_over_opens_nothing_and_says_so(keys: tuple[str, KeyFile]) -> None:
    over = KeyFile([replace(keys[1].keys[0], expires=date(2020, 1, 1))])
    async with client_of(keys=over) as client:
        response = await client.get("/v1/model", headers={"X-API-Key": keys[0]})
        assert (response.status_code, response.json()["reason"]) == (401, "expired_key")
        assert "kiosk expired on 2020-01-01" in response.json()["detail"]
        wrong = await client.get("/v1/model", headers={"X-API-Key": keys[0] + "a"})
        assert wrong.json()["reason"] == "no_key"


async def test_the_log_has_the_name_of_the_key(keys: tuple[str, KeyFile], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with client_of(keys=keys[1]) as client:
        await client.get("/v1/model", headers={"X-API-Key": keys[0]})
    assert any(record.message.endswith("key kiosk") for record in caplog.records)


async def test_a_key_is_in_no_log(keys: tuple[str, KeyFile], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    async with client_of(keys=keys[1]) as client:
        await client.get("/v1/model", headers={"X-API-Key": keys[0]})
        await client.get("/v1/model", headers={"X-API-Key": "sv_wrong"})
    assert keys[0] not in caplog.text
    assert "sv_wrong" not in caplog.text


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "localhost.evil.example:8000", "[::2]"])
async def test_a_name_that_was_rebound_to_this_machine_is_refused(host: str) -> None:
    async with client_of() as client:
        for path in ("/", "/v1/model"):
            response = await client.get(path, headers={"Host": host})
            assert (response.status_code, response.json()["reason"]) == (400, "wrong_host")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000"])
async def test_this_machines_names_are_answered_to(host: str) -> None:
    async with client_of() as client:
        assert (await client.get("/v1/model", headers={"Host": host})).status_code == 200


async def test_names_of_ones_own_take_their_place() -> None:
    async with client_of(settings=Settings(hosts=("Faces.Example",))) as client:
        assert (await client.get("/v1/model", headers={"Host": "faces.example:443"})).status_code == 200
        assert (await client.get("/v1/model", headers={"Host": "localhost"})).status_code == 400


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_probes_are_answered_by_any_name(path: str) -> None:
    async with client_of(settings=Settings(hosts=("faces.example",), rate=0.01, burst=1)) as client:
        for _ in range(3):
            assert (await client.get(path, headers={"Host": "10.1.2.3:8000"})).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},  # another server on this machine is another origin
        {"Origin": "http://[bad"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1:8000"},
        {"Origin": "https://127.0.0.1"},
    ],
)
async def test_a_page_of_another_origin_cannot_ask(headers: dict[str, str]) -> None:
    async with client_of() as client:
        response = await client.post("/v1/verify", headers=headers, **pair())
        assert (response.status_code, response.json()["reason"]) == (403, "wrong_origin")
        assert (await client.delete("/v1/people/Ada", headers=headers)).status_code == 403


async def test_the_servers_own_page_can_ask() -> None:
    async with client_of() as client:
        headers = {"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}
        assert (await client.post("/v1/verify", headers=headers, **pair())).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "same-origin", "Origin": "https://faces.example"},  # a proxy did not pass on Host
        {"Sec-Fetch-Site": "none"},
        {"Origin": "HTTP://127.0.0.1:8000"},
        {"Host": "localhost", "Origin": "http://localhost:80"},
        {"Host": "localhost:443", "Origin": "https://localhost"},  # a proxy with TLS did
        {},
    ],
)
async def test_who_is_of_this_origin_can_ask(headers: dict[str, str]) -> None:
    async with client_of() as client:
        assert (await client.post("/v1/verify", headers=headers, **pair())).status_code == 200


async def test_no_other_origin_is_ever_allowed_to_read() -> None:
    async with client_of() as client:
        headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        for response in (
            await client.options("/v1/verify", headers=headers),
            await client.get("/v1/model", headers=headers),
        ):
            assert not any(name.startswith("access-control") for name in response.headers)


@pytest.mark.parametrize("path", ["/", "/v1/model", "/nothing", "/page.js"])
async def test_every_answer_is_guarded(path: str) -> None:
    async with client_of() as client:
        headers = (await client.get(path)).headers
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] in ("no-store", "no-cache")


async def test_a_client_that_asks_too_often_is_told_when_to_come_back() -> None:
    async with client_of(settings=Settings(rate=0.5, burst=2)) as client:
        answers = [await client.get("/v1/model") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[2].json()["reason"] == "too_many_requests"
        assert int(answers[2].headers["retry-after"]) == 2
        assert (await client.get("/healthz")).status_code == 200


async def test_guessing_keys_is_slowed_down_too(keys: tuple[str, KeyFile]) -> None:
    async with client_of(settings=Settings(rate=0.5, burst=2), keys=keys[1]) as client:
        statuses = [(await client.get("/v1/model", headers={"X-API-Key": str(n)})).status_code for n in range(3)]
        assert statuses == [401, 401, 429]
        assert (await client.get("/v1/model", headers={"X-API-Key": keys[0]})).status_code == 200  # has its own count


@pytest.mark.parametrize(
    ("host", "name"), [("a:80", "a"), ("A", "a"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("a:b", "a:b"), ("", "")]
)
async def test_a_host_without_its_port(host: str, name: str) -> None:
    assert host_name(host) == name
