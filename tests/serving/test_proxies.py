from __future__ import annotations

from typing import Any

import pytest

from siamese_verify.errors import InputError
from siamese_verify.serving.middleware import Proxies, parsed, subscriber
from siamese_verify.serving.settings import Settings
from tests.serving.conftest import client_of, pair

TRUSTED = ("10.0.0.0/8", "::1", "192.0.2.7")


def seen(peer: str, header: str = "x-forwarded", **headers: str) -> tuple[str, str, str]:
    """Client, Host and scheme of a request."""
    listed = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope: dict[str, Any] = {
        "type": "http",
        "client": (peer, 5),
        "scheme": "http",
        "headers": [(b"host", b"own"), *listed],
    }
    through = Proxies(TRUSTED, header).seen_through(scope)
    [host] = [value.decode() for name, value in through["headers"] if name == b"host"]
    return through["client"][0], host, through["scheme"]


@pytest.mark.parametrize(
    ("hops", "client"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("198.51.100.1, 203.0.113.9", "203.0.113.9"),  # what the client wrote itself is not believed
        ("203.0.113.9, 10.1.2.3", "203.0.113.9"),  # through two proxies
        ("198.51.100.1, 203.0.113.9 , 192.0.2.7,10.1.2.3", "203.0.113.9"),
        ("203.0.113.9:4711", "203.0.113.9"),
        ("[2001:db8::9]:4711", "2001:db8::9"),
        ("2001:db8::9", "2001:db8::9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("10.1.2.3", "10.1.2.3"),  # all are proxies: it is the first of them
        ("203.0.113.9, unknown", "10.9.9.9"),
        ("203.0.113.9, <script>", "10.9.9.9"),
        ("", "10.9.9.9"),
    ],
)
def test_the_client_is_the_last_hop_that_is_no_proxy(hops: str, client: str) -> None:
    assert seen("10.9.9.9", x_forwarded_for=hops)[0] == client


@pytest.mark.parametrize("peer", ["203.0.113.1", "127.0.0.1", "", "unix:"])
def test_nobody_else_is_believed(peer: str) -> None:
    told = {"x_forwarded_for": "198.51.100.1", "x_forwarded_host": "evil", "x_forwarded_proto": "https"}
    assert seen(peer, **told) == (peer, "own", "http")
    assert seen(peer, "forwarded", forwarded="for=198.51.100.1;host=evil;proto=https") == (peer, "own", "http")


def test_host_and_scheme_are_what_the_nearest_proxy_says() -> None:
    told = {"x_forwarded_for": "203.0.113.9", "x_forwarded_host": "evil, faces.example", "x_forwarded_proto": "HTTPS"}
    assert seen("::1", **told) == ("203.0.113.9", "faces.example", "https")
    assert seen("::1", x_forwarded_proto="javascript")[2] == "http"


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("for=203.0.113.9", ("203.0.113.9", "own", "http")),
        (
            'For="[2001:db8::9]:4711";Proto=https;Host="faces.example:8443"',
            ("2001:db8::9", "faces.example:8443", "https"),
        ),
        ("for=198.51.100.1, for=203.0.113.9;host=b", ("203.0.113.9", "b", "http")),
        ("for=203.0.113.9;proto=http;by=10.0.0.1, for=10.1.1.1;proto=https", ("203.0.113.9", "own", "https")),
        ('for="a,b;for=198.51.100.1", for=203.0.113.9', ("203.0.113.9", "own", "http")),
        ("for=_hidden", ("10.9.9.9", "own", "http")),
        ("nonsense", ("10.9.9.9", "own", "http")),
    ],
)
def test_forwarded_is_read(value: str, found: tuple[str, str, str]) -> None:
    assert seen("10.9.9.9", "forwarded", forwarded=value) == found


def test_only_the_header_that_is_asked_for_is_read() -> None:
    both = {"x_forwarded_for": "203.0.113.9", "forwarded": "for=198.51.100.1;host=evil"}
    assert seen("10.9.9.9", **both)[:2] == ("203.0.113.9", "own")
    assert seen("10.9.9.9", "forwarded", **both)[0] == "198.51.100.1"


@pytest.mark.parametrize("hop", ["", "unknown", "_a", "1.2.3", "1.2.3.4.5", "[::1", "::1]", "1.2.3.4:x", "٣.1.1.1"])
def test_what_is_no_address_is_none(hop: str) -> None:
    assert parsed(hop) is None


def test_all_addresses_of_one_subscriber_count_as_one() -> None:
    assert subscriber("2001:db8:1:2::a") == subscriber("2001:db8:1:2:ffff::b") == "2001:db8:1:2::/64"
    assert [subscriber(one) for one in ("203.0.113.9", "::ffff:203.0.113.9", "::1", "")] == [
        *["203.0.113.9"] * 2,
        "::1",
        "",
    ]


@pytest.mark.parametrize("given", ["nginx", "10.0.0.1/8", "300.1.1.1", ""])
def test_what_is_no_proxy_is_said(given: str) -> None:
    with pytest.raises(InputError, match="A proxy is an address or a network"):
        Settings(trusted_proxies=(given,))


@pytest.mark.parametrize("path", ["faces", "/faces/", "/", "//a", "/a b", "/%2f"])
def test_what_is_no_root_path_is_said(path: str) -> None:
    with pytest.raises(InputError, match="A root path looks like /faces"):
        Settings(root_path=path)


@pytest.mark.anyio
@pytest.mark.parametrize("prefix", ["", "/faces"])
async def test_paths_come_with_the_root_path_or_without(prefix: str) -> None:
    async with client_of(settings=Settings(rate=0.01, burst=1, root_path="/faces")) as client:
        for _ in range(3):  # needs no key and counts for nobody, with the path before it as well
            assert (await client.get(f"{prefix}/healthz")).status_code == 200
        assert (await client.post(f"{prefix}/v1/verify", **pair())).status_code == 200
        assert (await client.get("/facesv1/model")).status_code == 429
