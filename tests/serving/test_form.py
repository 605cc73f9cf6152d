from __future__ import annotations

import asyncio
import base64
import json
import tempfile
import tracemalloc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from siamese_verify.serving.problems import Problem
from siamese_verify.serving.uploads import Form, read_form

KIND = "multipart/form-data; boundary=XX"


def part(name: str, content: bytes, more: str = "") -> bytes:
    return f'--XX\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + content + b"\r\n"


def body(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--XX--\r\n"


async def sliced(content: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


def read(
    content: bytes, size: int = 1 << 20, kind: str = KIND, count: Callable[[int], None] = lambda n: None, **more: Any
) -> Form:
    limits: dict[str, Any] = {
        "photo_bytes": 1000,
        "body_bytes": 5000,
        "seconds": 5.0,
        "stall_seconds": 5.0,
        "rate": 1,
        **more,
    }
    limits.setdefault("content_length", None)
    chunks = limits.pop("chunks", None) or sliced(content, size)
    photos, fields = {"a": 1, "photo": 3}, ("far", "name")
    reading = read_form(chunks, content_type=kind, count=count, photos=photos, fields=fields, **limits)
    return asyncio.run(reading)


def refusal(content: bytes, **more: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        read(content, **more)
    return caught.value


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_a_form_is_read_however_it_is_cut(size: int) -> None:
    photo = bytes(range(256)) + b"\r\n--X\r\n-- \r\n--XY"
    form = read(
        body(part("a", photo, '; filename="x.png"'), part("far", b"0.001"), part("name", "Žofie 李".encode())), size
    )
    assert form.photos == {"a": [photo]}
    assert form.fields == {"far": "0.001", "name": "Žofie 李"}


def test_several_photos_keep_their_order() -> None:
    assert read(body(*[part("photo", bytes([n])) for n in (3, 1, 2)])).photos["photo"] == [b"\3", b"\1", b"\2"]


def test_nothing_is_spooled_to_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    for name in ("TemporaryFile", "NamedTemporaryFile", "SpooledTemporaryFile", "mkstemp", "mkdtemp"):
        monkeypatch.setattr(tempfile, name, lambda *args, name=name, **more: opened.append(name))
    photo = bytes(3_000_000)  # Starlette's own parser would write it down
    form = read(body(part("a", photo, '; filename="a.jpg"')), 65536, photo_bytes=1 << 22, body_bytes=1 << 23)
    assert form.photos["a"] == [photo]
    assert not opened


@pytest.mark.parametrize("name", ["../../etc/passwd", "C:\\\\x", "a\\0b", "x" * 500, "\u202egnp.a", "%2e%2e%2f", ""])
def test_a_file_name_is_of_no_consequence(name: str) -> None:
    assert read(body(part("a", b"1", f'; filename="{name}"'))).photos == {"a": [b"1"]}


def test_a_body_larger_than_it_may_be_is_refused_by_its_head() -> None:
    taken: list[int] = []
    problem = refusal(body(part("a", b"1")), content_length="5001", count=taken.append)
    assert (problem.status, problem.reason) == (413, "too_large")
    assert not taken


@pytest.mark.parametrize("length", ["-1", "abc", "1e3", "٣", ""])
def test_a_length_that_is_no_number_is_malformed(length: str) -> None:
    assert refusal(b"", content_length=length).reason == "malformed_request"


def test_a_length_of_a_thousand_digits_is_too_large() -> None:
    assert refusal(b"", content_length="9" * 1000).status == 413


def test_a_body_that_lies_about_its_length_is_refused_as_it_comes() -> None:
    taken: list[int] = []

    async def endless() -> AsyncIterator[bytes]:
        yield part("a", b"")[:-2]
        while True:
            yield bytes(100)

    problem = refusal(b"", chunks=endless(), count=taken.append, content_length="10")
    assert (problem.status, problem.photo) == (413, "a")
    assert sum(taken) < 1500


def test_many_small_photos_are_too_large_together() -> None:
    problem = refusal(body(*[part("photo", bytes(900))] * 3), body_bytes=2000)
    assert (problem.status, problem.reason, problem.photo) == (413, "too_large", None)


def test_memory_stays_within_the_limit_while_a_large_body_comes() -> None:
    async def large() -> AsyncIterator[bytes]:
        yield part("a", b"")[:-2]
        for _ in range(500):
            yield bytes(1 << 16)

    tracemalloc.start()
    try:
        assert refusal(b"", chunks=large(), photo_bytes=1 << 20, body_bytes=1 << 21).status == 413
        assert tracemalloc.get_traced_memory()[1] < 4 << 20  # of the 32 MB that were sent
    finally:
        tracemalloc.stop()


def test_a_slow_body_ends_in_time() -> None:
    async def slow() -> AsyncIterator[bytes]:
        while True:
            yield b"\r\n"
            await asyncio.sleep(0.02)

    problem = refusal(b"", chunks=slow(), seconds=0.1)
    assert (problem.status, problem.reason) == (408, "slow_upload")


def test_a_count_that_refuses_is_heard() -> None:
    def refuse(size: int) -> None:
        raise Problem(503, "busy", "Full.")

    assert refusal(body(part("a", b"1")), count=refuse).status == 503


@pytest.mark.parametrize(
    "kind", ["", "application/jsonp", "text/json", "image/png", "multipart/mixed; boundary=XX", "text/plain", "é"]
)
def test_another_content_type_is_refused(kind: str) -> None:
    assert refusal(b"{}", kind=kind).status == 415


@pytest.mark.parametrize("kind", ["text/html", "application/x-php", "video/mp4", "application/zip"])
def test_a_photo_that_says_it_is_none_is_refused(kind: str) -> None:
    problem = refusal(body(part("a", b"1", f'; filename="a"\r\nContent-Type: {kind}')))
    assert (problem.status, problem.photo) == (415, "a")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        b"--XX\r\n",
        b"--XX--\r\n"[:5],
        body(part("a", b"1"))[:-6],  # cut
        body(part("a", b"1"), part("a", b"2")),  # twice
        body(*[part("photo", b"1")] * 4),  # more than three
        body(part("far", b"1"), part("far", b"2")),
        body(part("unknown", b"1")),
        body(part("", b"1")),
        body(b"--XX\r\nContent-Type: image/png\r\n\r\n1\r\n"),  # without a name
        body(b'--XX\r\nContent-Disposition: attachment; name="a"\r\n\r\n1\r\n'),
        body(part("far", b"\xff\xfe")),
        body(part("a", b"1", "\r\n" + "\r\n".join(f"X-{n}: 1" for n in range(50)))),
        body(part("a", b"1", f"\r\nX: {'y' * 3000}")),
    ],
)
def test_what_is_no_form_is_malformed(content: bytes) -> None:
    problem = refusal(content)
    assert (problem.status, problem.reason) == (400, "malformed_request")


@pytest.mark.parametrize(
    "kind", ["multipart/form-data", "multipart/form-data; boundary=", f"multipart/form-data; boundary={'x' * 999}"]
)
def test_a_boundary_that_is_none_is_malformed(kind: str) -> None:
    assert refusal(b"", kind=kind).status == 400


def test_a_field_has_its_own_limit() -> None:
    assert refusal(body(part("far", b"1" * 3000))).status == 413


def test_a_name_that_is_not_known_is_not_said_back() -> None:
    assert "secret" not in refusal(body(part("secret", b"1"))).detail


# ---- JSON


def packed(photo: bytes) -> str:
    return base64.b64encode(photo).decode()


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_json_is_the_same_form(size: int) -> None:
    photo = bytes(range(256))
    sent = {
        "a": f"data:image/png;name=x;base64,{packed(photo)}",
        "photo": [packed(bytes([n])) for n in (3, 1, 2)],
        "far": 1e-3,
        "name": "Žofie 李",
    }
    for content in (json.dumps(sent), json.dumps(sent, ensure_ascii=False, indent=1)):
        form = read(content.encode(), size, kind="application/json; charset=utf-8")
        assert form.photos == {"a": [photo], "photo": [b"\3", b"\1", b"\2"]}
        assert form.fields == {"far": "0.001", "name": "Žofie 李"}


def test_base64_in_lines_true_and_null_are_taken() -> None:
    photo = bytes(200)
    content = json.dumps({"a": base64.encodebytes(photo).decode(), "far": True, "name": None})
    form = read(content.encode(), kind="application/json")
    assert (form.photos, form.fields) == ({"a": [photo]}, {"far": "true"})


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '"a"',
        "[" * 900,
        '{"a": "' + packed(b"1"),
        '{"a": 1}',
        '{"a": ["MQ==", "MQ=="]}',
        '{"photo": []}',
        '{"photo": [["MQ=="]]}',
        '{"a": "MQ"}',
        '{"a": "!!!!"}',
        '{"a": "data:image/png,MQ=="}',
        '{"a": "MQ==", "a": "MQ=="}',
        '{"far": NaN}',
        '{"far": {"x": 1}}',
        '{"far": "\\ud800"}',
        '{"far": ' + "9" * 5000 + "}",
        '{"secret": 1}',
        '{"secret": ' + "[" * 3000,
    ],
)
def test_what_is_no_form_in_json_is_malformed(content: str) -> None:
    problem = refusal(content.encode(), kind="application/json", body_bytes=9000)
    assert (problem.status, problem.reason) == (400, "malformed_request")
    assert "secret" not in problem.detail


@pytest.mark.parametrize(
    ("sent", "status", "photo"),
    [
        ({"a": packed(bytes(1001))}, 413, "a"),
        ({"far": "1" * 3000}, 413, None),
        ({"photo": [packed(bytes(1000))] * 3, "name": "x" * 2100}, 413, None),
        ({"a": "data:text/html;base64,MQ=="}, 415, "a"),
    ],
)
def test_json_has_the_limits_of_a_form(sent: dict[str, Any], status: int, photo: str | None) -> None:
    problem = refusal(json.dumps(sent).encode(), kind="application/json", body_bytes=3000)
    assert (problem.status, problem.photo) == (status, photo)


def test_photos_that_fit_into_a_form_fit_into_json() -> None:
    photos = [bytes(1000), bytes(999), bytes(1000)]
    content = json.dumps({"photo": [base64.encodebytes(photo).decode() for photo in photos], "name": "Ada"})
    assert read(content.encode(), kind="application/json", body_bytes=3100).photos["photo"] == photos


def test_json_that_grows_when_it_is_parsed_is_refused_before() -> None:
    """A list of empty lists takes twenty times the memory of its text."""
    content = b'{"far": [' + b"[]," * 1_000_000 + b"1]}"
    tracemalloc.start()
    try:
        assert refusal(content, kind="application/json", body_bytes=1 << 22).status == 400
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
