from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest

from siamese_verify.errors import InputError
from siamese_verify.serving.api_keys import SCOPES, KeyFile, add_key
from siamese_verify.serving.middleware import host_name, subscriber
from siamese_verify.serving.settings import Settings
from tests.serving.conftest import client_of, pair, photo

pytestmark = pytest.mark.anyio


@pytest.fixture
def keys(tmp_path: Path) -> tuple[str, KeyFile]:
    key = add_key(tmp_path / "keys", "kiosk")
    return key, KeyFile.read(tmp_path / "keys")


def refused(response: httpx.Response, status: int, reason: str) -> bool:
    return (response.status_code, response.json()["reason"]) == (status, reason)


# ---- keys and scopes


@pytest.mark.parametrize("path", ["/v1/model", "/metrics", "/v1/people", "/nothing"])
async def test_api_needs_a_key(path: str, keys: tuple[str, KeyFile]) -> None:
    async with client_of(keys=keys[1]) as client:
        response = await client.get(path)
        assert refused(response, 401, "no_key")
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert (await client.get(path, headers={"X-API-Key": keys[0][:-1]})).status_code == 401
        assert (await client.post(path, headers={"Authorization": f"Basic {keys[0]}"})).status_code == 401


@pytest.mark.parametrize("header", ["X-API-Key: {}", "Authorization: Bearer {}", "authorization: bearer {}"])
async def test_key_is_accepted_in_either_header(header: str, keys: tuple[str, KeyFile]) -> None:
    name, value = header.format(keys[0]).split(": ")
    async with client_of(keys=keys[1]) as client:
        assert (await client.get("/v1/model", headers={name: value})).status_code == 200
        assert (await client.post("/v1/verify", headers={name: value}, **pair())).status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/page.css", "/page.js", "/icon.svg", "/docs", "/docs.js", "/docs.css", "/healthz", "/openapi.json"]
)
async def test_page_needs_no_key(path: str, keys: tuple[str, KeyFile]) -> None:
    async with client_of(keys=keys[1]) as client:
        assert (await client.get(path)).status_code == 200


class EmptyGallery:
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
    async with client_of(keys=KeyFile.read(tmp_path / "keys"), gallery=EmptyGallery()) as client:
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
                assert refused(response, 403, "missing_scope")
                assert response.json()["scope"] == needed
                assert f"The key {scope} may not" in response.json()["detail"]
                assert f'scope="{needed}"' in response.headers["www-authenticate"]


async def test_expired_key_is_told_so(keys: tuple[str, KeyFile]) -> None:
    expired = KeyFile([replace(keys[1].keys[0], expires=date(2020, 1, 1))])
    async with client_of(keys=expired) as client:
        response = await client.get("/v1/model", headers={"X-API-Key": keys[0]})
        assert refused(response, 401, "expired_key")
        assert "kiosk expired on 2020-01-01" in response.json()["detail"]
        assert refused(await client.get("/v1/model", headers={"X-API-Key": keys[0] + "a"}), 401, "no_key")


async def test_log_has_the_name_of_a_key_and_never_the_key(
    keys: tuple[str, KeyFile], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    async with client_of(keys=keys[1]) as client:
        await client.get("/v1/model", headers={"X-API-Key": keys[0]})
        await client.get("/v1/model", headers={"X-API-Key": "sv_wrong"})
    assert any(record.message.endswith("key kiosk") for record in caplog.records)
    assert keys[0] not in caplog.text
    assert "sv_wrong" not in caplog.text


async def test_log_has_no_name_no_query_and_no_number_of_a_face(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with client_of() as client:
        files = {"a": ("Ada Lovelace.png", photo(1)), "b": ("secret.png", photo(2))}
        await client.post("/v1/verify?who=Ada", files=files)
        await client.get("/Ada?Ada=Ada")
        await client.delete("/v1/people/Ada")
    lines = [record.message for record in caplog.records if record.name == "siamese_verify.serving"]
    assert [line.split(" ")[:3] for line in lines] == [
        ["POST", "/v1/verify", "400"],
        ["GET", "(none)", "404"],
        ["DELETE", "(none)", "404"],
    ]
    assert not any("Ada" in line or "secret" in line for line in lines)


# ---- hosts and origins


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "localhost.evil.example:8000", "[::2]"])
async def test_name_that_was_rebound_to_this_machine_is_refused(host: str) -> None:
    async with client_of() as client:
        for path in ("/", "/v1/model"):
            assert refused(await client.get(path, headers={"Host": host}), 400, "wrong_host")


@pytest.mark.parametrize(
    ("hosts", "host", "status"),
    [
        ((), "localhost", 200),
        ((), "LOCALHOST:8000", 200),
        ((), "127.0.0.1:1", 200),
        ((), "[::1]:8000", 200),
        (("Faces.Example",), "faces.example:443", 200),
        (("Faces.Example",), "localhost", 400),
    ],
)
async def test_names_of_this_machine_are_answered_or_those_that_are_set(
    hosts: tuple[str, ...], host: str, status: int
) -> None:
    async with client_of(settings=Settings(hosts=hosts)) as client:
        assert (await client.get("/v1/model", headers={"Host": host})).status_code == status


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_probes_are_answered_by_any_name_and_without_a_rate(path: str) -> None:
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
async def test_page_of_another_origin_is_refused(headers: dict[str, str]) -> None:
    async with client_of() as client:
        assert refused(await client.post("/v1/verify", headers=headers, **pair()), 403, "wrong_origin")
        assert (await client.delete("/v1/people/Ada", headers=headers)).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "https://faces.example", "Sec-Fetch-Site": "same-origin"},  # a proxy did not pass on Host
        {"Sec-Fetch-Site": "none"},
        {"Origin": "HTTP://127.0.0.1:8000"},
        {"Host": "localhost", "Origin": "http://localhost:80"},
        {"Host": "localhost:443", "Origin": "https://localhost"},  # a proxy with TLS did
        {},
    ],
)
async def test_page_of_the_same_origin_and_other_programs_are_answered(headers: dict[str, str]) -> None:
    async with client_of() as client:
        assert (await client.post("/v1/verify", headers=headers, **pair())).status_code == 200


async def test_no_other_origin_may_read_answers() -> None:
    async with client_of() as client:
        headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        for response in (
            await client.options("/v1/verify", headers=headers),
            await client.get("/v1/model", headers=headers),
        ):
            assert not any(name.startswith("access-control") for name in response.headers)


@pytest.mark.parametrize("path", ["/", "/v1/model", "/nothing", "/page.js"])
async def test_every_answer_has_security_headers(path: str) -> None:
    async with client_of() as client:
        headers = (await client.get(path)).headers
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] in ("no-store", "no-cache")


# ---- HEAD


@pytest.mark.parametrize("path", ["/", "/docs", "/docs.js", "/page.css", "/openapi.json", "/healthz", "/v1/model"])
async def test_head_is_get_without_its_body(path: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with client_of() as client:
        got, head = await client.get(path), await client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers == got.headers
    assert int(head.headers["content-length"]) == len(got.content)
    assert any(record.message.startswith("HEAD ") for record in caplog.records)


async def test_head_of_a_route_without_get_is_refused() -> None:
    async with client_of() as client:
        response = await client.head("/v1/verify")
        assert (response.status_code, response.headers["allow"]) == (405, "POST")
        assert (await client.head("/nothing")).status_code == 404


# ---- rates, and the clients that they count


async def test_client_above_its_rate_is_told_when_to_come_back() -> None:
    async with client_of(settings=Settings(rate=0.5, burst=2)) as client:
        answers = [await client.get("/v1/model") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[2].json()["reason"] == "too_many_requests"
        assert int(answers[2].headers["retry-after"]) == 2


async def test_guesses_of_keys_count_against_a_rate_and_not_against_that_of_a_key(keys: tuple[str, KeyFile]) -> None:
    async with client_of(settings=Settings(rate=0.5, burst=2), keys=keys[1]) as client:
        guesses = [(await client.get("/v1/model", headers={"X-API-Key": str(n)})).status_code for n in range(3)]
        assert guesses == [401, 401, 429]
        assert (await client.get("/v1/model", headers={"X-API-Key": keys[0]})).status_code == 200


TRUSTED = ("127.0.0.1", "10.0.0.0/8")


@pytest.mark.parametrize(
    ("trusted", "hops", "client"),
    [
        (TRUSTED, "203.0.113.9", "203.0.113.9"),
        (TRUSTED, "198.51.100.1, 203.0.113.9", "203.0.113.9"),  # what the client wrote itself is not believed
        (TRUSTED, "203.0.113.9, 10.1.2.3", "203.0.113.9"),  # through two proxies
        (TRUSTED, "203.0.113.9:4711", "203.0.113.9"),
        (TRUSTED, "[2001:db8:1:2::9]:4711", "2001:db8:1:2::/64"),
        (TRUSTED, "10.1.2.3", "10.1.2.3"),  # all are proxies
        (TRUSTED, "", "127.0.0.1"),
        (("192.0.2.7",), "203.0.113.9", "127.0.0.1"),  # nobody else is believed
        ((), "203.0.113.9", "127.0.0.1"),
    ],
)
async def test_client_is_the_last_hop_that_is_not_a_trusted_proxy(
    trusted: tuple[str, ...], hops: str, client: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with client_of(settings=Settings(trusted_proxies=trusted)) as asking:
        headers = {"X-Forwarded-For": hops, "X-Forwarded-Host": "evil", "Forwarded": "for=198.51.100.1;host=evil"}
        assert (await asking.get("/v1/model", headers=headers)).status_code == 200
    [line] = [record.message for record in caplog.records if record.name == "siamese_verify.serving"]
    assert line.endswith(f", {client}")


async def test_addresses_of_one_ipv6_subscriber_are_one_client() -> None:
    assert subscriber("2001:db8:1:2::a") == subscriber("2001:db8:1:2:ffff::b") == "2001:db8:1:2::/64"
    assert [subscriber(one) for one in ("203.0.113.9", "::ffff:203.0.113.9", "::1", "")] == [
        *["203.0.113.9"] * 2,
        "::1",
        "",
    ]


@pytest.mark.parametrize("prefix", ["", "/faces"])
async def test_paths_come_with_the_root_path_or_without(prefix: str) -> None:
    async with client_of(settings=Settings(rate=0.01, burst=1, root_path="/faces")) as client:
        for _ in range(3):
            assert (await client.get(f"{prefix}/healthz")).status_code == 200
        assert (await client.post(f"{prefix}/v1/verify", **pair())).status_code == 200
        assert (await client.get("/facesv1/model")).status_code == 429


@pytest.mark.parametrize(
    "setting",
    [
        *[{"trusted_proxies": (proxy,)} for proxy in ("nginx", "10.0.0.1/8", "300.1.1.1", "")],
        *[{"root_path": path} for path in ("faces", "/faces/", "/", "//a", "/a b", "/%2f")],
    ],
)
async def test_invalid_proxies_and_root_paths_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="must be"):
        Settings(**setting)


@pytest.mark.parametrize(
    ("host", "name"), [("a:80", "a"), ("A", "a"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("a:b", "a:b"), ("", "")]
)
async def test_host_name_has_no_port(host: str, name: str) -> None:
    assert host_name(host) == name
