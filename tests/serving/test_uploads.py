from __future__ import annotations

import asyncio
import base64
import io
import json
import struct
import tempfile
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image
from starlette.datastructures import Headers

from siamese_verify.serving.problems import Problem
from siamese_verify.serving.uploads import BodyLimits, Form, decode_photo, read_form
from tests.serving.conftest import photo

MULTIPART = "multipart/form-data; boundary=XX"
JSON = "application/json"
LIMITS = BodyLimits({"a": 1, "photo": 3}, ("far", "name"), 1000, 5000, seconds=5.0, stall_seconds=5.0, rate=1)


def part(name: str, content: bytes, headers: str | None = None) -> bytes:
    """A part of a form: a field, or a photo with a file name."""
    more = ('; filename="x.png"' if name in LIMITS.photos else "") if headers is None else headers
    return f'--XX\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + content + b"\r\n"


def body(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--XX--\r\n"


async def sliced(content: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def endless(start: bytes, chunk: bytes, pause: float = 0.0) -> AsyncIterator[bytes]:
    yield start
    while True:
        yield chunk
        await asyncio.sleep(pause)


def read(
    content: bytes | AsyncIterator[bytes],
    kind: str = MULTIPART,
    *,
    size: int = 1 << 20,
    length: str | None = None,
    count: Callable[[int], None] = lambda size: None,
    **limits: Any,
) -> Form:
    headers = Headers({"content-type": kind, **({} if length is None else {"content-length": length})})
    chunks = sliced(content, size) if isinstance(content, bytes) else content
    return asyncio.run(read_form(headers, chunks, replace(LIMITS, **limits), count))


def refusal(content: bytes | AsyncIterator[bytes], kind: str = MULTIPART, **more: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        read(content, kind, **more)
    return caught.value


def packed(content: bytes) -> str:
    return base64.b64encode(content).decode()


# ---- multipart forms


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_form_is_parsed_in_chunks_of_any_size(size: int) -> None:
    content = bytes(range(256)) + b"\r\n--X\r\n-- \r\n--XY"
    photos = [part("photo", bytes([n])) for n in (3, 1, 2)]
    form = read(body(part("a", content), *photos, part("far", b"0.001"), part("name", "Žofie 李".encode())), size=size)
    assert form.photos == {"a": [content], "photo": [b"\3", b"\1", b"\2"]}
    assert form.fields == {"far": "0.001", "name": "Žofie 李"}


def test_photos_stay_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")  # writing a temporary file fails
    content = bytes(3_000_000)
    form = read(body(part("a", content)), size=65536, photo_bytes=1 << 22, body_bytes=1 << 23)
    assert form.photos["a"] == [content]


@pytest.mark.parametrize("name", ["../../etc/passwd", "C:\\\\x", "a\\0b", "x" * 500, "\u202egnp.a", "%2e%2e%2f", ""])
def test_file_name_is_dropped(name: str) -> None:
    assert read(body(part("a", b"1", f'; filename="{name}"'))).photos == {"a": [b"1"]}


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
        body(part("a", b"1", "")),  # a photo without a file name
        body(part("far", b"1", '; filename="x"')),
        body(part("a secret", b"1")),
        body(part("", b"1")),
        body(b"--XX\r\nContent-Type: image/png\r\n\r\n1\r\n"),  # without a name
        body(part("a", b"1", '; filename="x"\r\n' + "\r\n".join(f"X-{n}: 1" for n in range(50)))),
        body(part("a", b"1", f'; filename="x"\r\nX: {"y" * 5000}')),
        body(part("far", b"1" * 3000)),
        body(*[part("far", b"")] * 100),
    ],
)
def test_invalid_form_is_malformed(content: bytes) -> None:
    problem = refusal(content, body_bytes=9000)
    assert (problem.status, problem.reason) == (400, "malformed_request")
    assert "secret" not in problem.detail


@pytest.mark.parametrize("content", [body(part("fra", b"0.1")), b'{"fra": 0.1}'])
def test_an_unknown_part_is_named(content: bytes) -> None:
    problem = refusal(content, JSON if content[:1] == b"{" else MULTIPART)
    assert problem.detail == "The form cannot be read: it has an unknown part fra; the parts are a, photo, far, name."


@pytest.mark.parametrize("boundary", ["", "; boundary=", f"; boundary={'x' * 999}"])
def test_invalid_boundary_is_malformed(boundary: str) -> None:
    assert refusal(b"", f"multipart/form-data{boundary}").status == 400


@pytest.mark.parametrize("kind", ["text/html", "application/x-php", "video/mp4", "application/zip"])
def test_photo_declared_as_another_type_is_refused(kind: str) -> None:
    problem = refusal(body(part("a", b"1", f'; filename="a"\r\nContent-Type: {kind}')))
    assert (problem.status, problem.photo) == (415, "a")


# ---- limits of any body


@pytest.mark.parametrize(
    "kind", ["", "application/jsonp", "text/json", "image/png", "multipart/mixed; boundary=XX", "text/plain", "é"]
)
def test_other_content_type_is_refused(kind: str) -> None:
    assert refusal(b"{}", kind).status == 415


@pytest.mark.parametrize(
    ("length", "status"), [*[(text, 400) for text in ("-1", "abc", "1e3", "²", "")], ("9" * 999, 413)]
)
def test_invalid_length_is_refused(length: str, status: int) -> None:
    assert refusal(b"", length=length).status == status


def test_large_body_is_refused_by_its_length() -> None:
    counted: list[int] = []
    problem = refusal(body(part("a", b"1")), length="5001", count=counted.append)
    assert (problem.status, problem.reason, counted) == (413, "too_large", [])


@pytest.mark.parametrize("kind", [MULTIPART, JSON])
def test_body_longer_than_its_length_is_refused_as_it_arrives(kind: str) -> None:
    counted: list[int] = []
    start = part("a", b"")[:-2] if kind == MULTIPART else b'{"a": "'
    problem = refusal(endless(start, b"A" * 100), kind, count=counted.append, length="10")
    assert (problem.status, problem.reason) == (413, "too_large")
    assert sum(counted) <= 7500


def test_memory_stays_within_the_limit_while_a_large_body_arrives() -> None:
    tracemalloc.start()
    try:
        content = endless(part("a", b"")[:-2], bytes(1 << 16))
        assert refusal(content, photo_bytes=1 << 20, body_bytes=1 << 21).status == 413
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("limit", [{"seconds": 0.1}, {"stall_seconds": 0.1, "rate": 1 << 20}])
def test_slow_body_times_out(limit: dict[str, Any]) -> None:
    problem = refusal(endless(b"", b"\r\n", pause=0.02), **limit)
    assert (problem.status, problem.reason) == (408, "slow_upload")


def test_count_may_refuse_a_body() -> None:
    def refuse(size: int) -> None:
        raise Problem(503, "busy", "Full.")

    assert refusal(body(part("a", b"1")), count=refuse).status == 503


@pytest.mark.parametrize(
    ("photos", "photo"),
    [
        ({"a": [bytes(1001)]}, "a"),
        ({"photo": [bytes(1000), bytes(1001)]}, "photo"),
        ({"photo": [bytes(900)] * 3}, None),
    ],
)
def test_photos_have_the_same_limits_in_a_form_and_in_json(photos: dict[str, list[bytes]], photo: str | None) -> None:
    form = body(*[part(name, content) for name, contents in photos.items() for content in contents])
    sent = {name: [*map(packed, contents)] for name, contents in photos.items()}
    for content, kind in ((form, MULTIPART), (json.dumps(sent).encode(), JSON)):
        problem = refusal(content, kind, body_bytes=2300)
        assert (problem.status, problem.reason, problem.photo) == (413, "too_large", photo)


# ---- JSON


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_json_is_the_same_form(size: int) -> None:
    content = bytes(range(256))
    sent = {
        "a": f"data:image/png;name=x;base64,{packed(content)}",
        "photo": [packed(bytes([n])) for n in (3, 1, 2)],
        "far": 1e-3,
        "name": "Žofie 李",
    }
    for text in (json.dumps(sent), json.dumps(sent, ensure_ascii=False, indent=1)):
        form = read(text.encode(), f"{JSON}; charset=utf-8", size=size)
        assert form.photos == {"a": [content], "photo": [b"\3", b"\1", b"\2"]}
        assert form.fields == {"far": "0.001", "name": "Žofie 李"}


def test_base64_in_lines_true_and_null_are_accepted() -> None:
    text = json.dumps({"a": base64.encodebytes(bytes(200)).decode(), "far": True, "name": None})
    form = read(text.encode(), JSON)
    assert (form.photos, form.fields) == ({"a": [bytes(200)]}, {"far": "true"})


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
        '{"far": ' + "9" * 5000 + "}",
        '{"a secret": 1}',
        '{"secret": ' + "[" * 3000,
    ],
)
def test_invalid_json_is_malformed(content: str) -> None:
    problem = refusal(content.encode(), JSON, body_bytes=9000)
    assert (problem.status, problem.reason) == (400, "malformed_request")
    assert "secret" not in problem.detail


@pytest.mark.parametrize(
    ("sent", "status", "photo"), [({"far": "1" * 3000}, 413, None), ({"a": "data:text/html;base64,MQ=="}, 415, "a")]
)
def test_fields_and_types_of_json_are_checked(sent: dict[str, Any], status: int, photo: str | None) -> None:
    problem = refusal(json.dumps(sent).encode(), JSON)
    assert (problem.status, problem.photo) == (status, photo)


def test_photos_that_fit_into_a_form_fit_into_json() -> None:
    photos = [bytes(1000), bytes(999), bytes(1000)]
    content = json.dumps({"photo": [base64.encodebytes(photo).decode() for photo in photos], "name": "Ada"})
    assert read(content.encode(), JSON, body_bytes=3100).photos["photo"] == photos


def test_json_that_grows_when_it_is_parsed_is_refused_before() -> None:
    """A list of empty lists takes twenty times the memory of its text."""
    content = b'{"far": [' + b"[]," * 1_000_000 + b"1]}"
    tracemalloc.start()
    try:
        assert refusal(content, JSON, body_bytes=1 << 22).status == 400
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


# ---- decoding of photos


def undecodable(content: bytes, max_pixels: int = 100_000) -> Problem:
    with pytest.raises(Problem) as caught:
        decode_photo(content, "a", max_pixels)
    assert caught.value.photo == "a"
    return caught.value


def empty_png(width: int, height: int) -> bytes:
    """A PNG whose header claims a size, without pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF", "HEIF"])
def test_photos_of_all_formats_are_decoded(kind: str) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    picture = decode_photo(photo(kind=kind), "a", 100_000)
    assert (picture.mode, picture.size) == ("RGB", (64, 64))


@pytest.mark.parametrize("size", [(20_000, 20_000), (2**31 - 1, 2**31 - 1), (100_001, 1), (400, 251)])
def test_decompression_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    problem = undecodable(empty_png(*size))
    assert (problem.status, problem.reason) == (413, "too_many_pixels")


def test_decompression_bomb_is_not_decoded() -> None:
    content = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(content, "PNG")
    assert len(content.getvalue()) < 200_000
    tracemalloc.start()
    try:
        assert undecodable(content.getvalue(), 24_000_000).status == 413
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"GIF89a", b"<svg/>", b"%PDF-1.4", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\xff\xd8\xff", bytes(999)),
        *[photo(kind=kind) for kind in ("TIFF", "ICO", "PPM", "TGA", "EPS")],  # no camera or browser sends these
        *[whole[: len(whole) // 2] for whole in (photo(0, 200, 200, kind) for kind in ("JPEG", "PNG", "WEBP", "AVIF"))],
    ],
)
def test_other_files_and_damaged_photos_are_unreadable(content: bytes) -> None:
    problem = undecodable(content)
    assert (problem.status, problem.reason) == (400, "unreadable_photo")
