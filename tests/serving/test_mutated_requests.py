"""Random and mutated requests to every route are answered in time, without crashes or growth of memory."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from siamese_verify.serving.problems import REASONS
from siamese_verify.serving.settings import Settings
from tests.serving.conftest import client_of, pair, photo
from tests.serving.stand_in import StandIn

T = TypeVar("T")
KINDS = [photo(seed, 40, 40, kind) for seed, kind in enumerate(("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"))]
RARELY_AVIF = (10, 10, 10, 10, 10, 1)  # it is decoded in a process of its own
ENTRIES = ("/v1/verify", "/v1/verify/batch", "/v1/faces", "/v1/embed", "/v1/enroll", "/v1/identify")
LIMITS = Settings(rate=0, photo_bytes=200_000, photo_pixels=1_000_000, answer_seconds=5.0, workers=1)
CASES = 10_000


def resident() -> float:
    """Resident megabytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Flip, drop, repeat, cut or insert something somewhere."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(changed) + 1)
        kind = rng.randrange(6)
        if kind == 0 and place < len(changed):
            changed[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[place : place + rng.randint(1, 64)]
        elif kind == 2:
            changed[place:place] = rng.randbytes(rng.randint(1, 64))
        elif kind == 3:
            changed[place:place] = changed[place : place + rng.randint(1, 200)]
        elif kind == 4:
            changed[place : place + 4] = rng.choice([b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff", b"\r\n--"])
        elif rng.random() < 0.2:
            del changed[place:]
    return bytes(changed)


def checked(response: httpx.Response) -> int:
    """Check that a response is an answer or a documented error, and not a bug of the server."""
    assert response.status_code in {200, 400, 403, 404, 405, 408, 413, 415, 422, 503}, response.text
    if response.status_code != 200:
        said = response.json()
        assert said["reason"] in REASONS
        assert said["detail"].endswith(".")
    assert "set-cookie" not in response.headers
    return response.status_code


class OpenGallery:
    """Accepts anything."""

    def enroll_embeddings(self, name: str, embeddings: Any, qualities: Any = None, *, sources: Any = None) -> Any:
        from siamese_verify.gallery import Enrollment

        return Enrollment(name, "p", len(embeddings), len(embeddings))

    def identify_embedding(self, embedding: Any, **asked: Any) -> Any:
        from siamese_verify.gallery import Identification

        return Identification(False, None, None, 0.5, None, asked["far"], (), 1, 1, False, face=asked["face"])

    def people(self) -> list[Any]:
        return []

    def forget(self, name: str) -> int:
        return 0


def encoded(entry: str, contents: list[bytes], fields: dict[str, str], packed: bool) -> tuple[bytes, str]:
    """Body and content type of a form, or of the same as JSON."""
    names = ("a", "b") if entry.startswith("/v1/verify") else ("photo",)
    if packed:
        photos = {name: base64.b64encode(content).decode() for name, content in zip(names, contents, strict=False)}
        return json.dumps({**photos, **fields}).encode(), "application/json"
    files = [(name, ("x.jpg", content, "image/jpeg")) for name, content in zip(names, contents, strict=False)]
    request = httpx.Request("POST", "http://127.0.0.1" + entry, files=files, data=fields)
    return request.read(), request.headers["content-type"]


def within(work: Callable[[httpx.AsyncClient], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine with a client."""

    async def run() -> T:
        async with client_of(StandIn(), LIMITS, gallery=OpenGallery()) as client:
            return await work(client)

    return asyncio.run(run())


@pytest.mark.slow
def test_ten_thousand_mutated_requests_are_answered() -> None:
    rng = random.Random(0)
    statuses: Counter[int] = Counter()
    sizes: list[float] = []

    async def attack(client: httpx.AsyncClient) -> None:
        for case in range(CASES):
            entry = rng.choice(ENTRIES)
            contents = rng.choices(KINDS, RARELY_AVIF, k=2)
            fields = {"name": "Ada"} if entry == "/v1/enroll" else {}
            if case % 3 == 0:
                contents[rng.randrange(2)] = rng.randbytes(rng.randrange(500))
            elif case % 3 == 1:
                contents = [mutated(content, rng) for content in contents]
            body, kind = encoded(entry, contents, fields, rng.random() < 0.5)
            if case % 3 == 2:  # the form itself
                body = mutated(body, rng)
                kind = kind if rng.random() < 0.8 else mutated(kind.encode(), rng).decode("latin-1")
            headers = {"Content-Type": "".join(letter for letter in kind if " " <= letter <= "~")}
            statuses[checked(await client.post(entry, content=body, headers=headers))] += 1
            if case % 2000 == 1999:
                gc.collect()
                sizes.append(resident())
        assert (await client.post("/v1/verify", **pair())).status_code == 200

    within(attack)
    assert sum(statuses.values()) == CASES
    assert statuses[200] > 100
    assert statuses[400] > 1000
    assert sizes[-1] - sizes[1] < 30, sizes


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    entry=st.sampled_from(ENTRIES),
    fields=st.dictionaries(
        st.sampled_from(
            ["far", "threshold", "prior", "on_multiple_faces", "decide", "crops", "scores", "name", "other"]
        ),
        st.one_of(st.text(max_size=40), st.floats().map(str), st.integers().map(str), st.just("[" * 1500)),
        max_size=4,
    ),
    kinds=st.lists(st.sampled_from([*KINDS, b"", b"\0"]), min_size=2, max_size=2),
    packed=st.booleans(),
)
def test_any_fields_are_answered(entry: str, fields: dict[str, str], kinds: list[bytes], packed: bool) -> None:
    body, kind = encoded(entry, kinds, fields, packed)

    async def ask(client: httpx.AsyncClient) -> int:
        return checked(await client.post(entry, content=body, headers={"Content-Type": kind}))

    within(ask)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE", "FOO"]),
    path=st.one_of(
        st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#?"), max_size=60),
        st.sampled_from(
            ["v1/people/../../x", "page/../page.js", "%2e%2e/%2e%2e/etc/passwd", "v1/verify/", "page.html"]
        ),
    ),
    query=st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#"), max_size=30),
)
def test_any_address_is_answered(method: str, path: str, query: str) -> None:
    async def ask(client: httpx.AsyncClient) -> int:
        url = httpx.URL("http://127.0.0.1:8000", raw_path=f"/{path}?{query}".encode())
        response = await client.send(client.build_request(method, url))
        assert b"root:" not in response.content
        return response.status_code

    assert within(ask) in {200, 400, 404, 405, 413, 415, 422}
