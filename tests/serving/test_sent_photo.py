from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image

from siamese_verify.serving.problems import Problem
from siamese_verify.serving.uploads import decode_photo
from tests.serving.conftest import photo

MOST = 100_000


def refusal(content: bytes, most: int = MOST) -> Problem:
    with pytest.raises(Problem) as caught:
        decode_photo(content, "a", most)
    assert caught.value.photo == "a"
    return caught.value


def claims(width: int, height: int) -> bytes:
    """A PNG whose head says that it is large, and that holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF", "HEIF"])
def test_photos_of_every_kind_are_read(kind: str) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    picture = decode_photo(photo(kind=kind), "a", MOST)
    assert (picture.mode, picture.size) == ("RGB", (64, 64))


@pytest.mark.parametrize("size", [(20_000, 20_000), (2**31 - 1, 2**31 - 1), (100_001, 1), (400, 251)])
def test_a_bomb_is_refused_by_its_head(size: tuple[int, int]) -> None:
    problem = refusal(claims(*size))
    assert (problem.status, problem.reason) == (413, "too_many_pixels")


def test_a_real_bomb_is_never_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(content, "PNG")
    assert len(content.getvalue()) < 200_000

    def load(*args: object) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    assert refusal(content.getvalue(), 24_000_000).status == 413


@pytest.mark.parametrize(
    "content", [b"", b"GIF89a", b"<svg/>", b"%PDF-1.4", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\xff\xd8\xff", bytes(999)]
)
def test_what_is_no_photo_is_unreadable(content: bytes) -> None:
    problem = refusal(content)
    assert (problem.status, problem.reason) == (400, "unreadable_photo")


@pytest.mark.parametrize("kind", ["TIFF", "ICO", "PPM", "TGA", "EPS"])
def test_formats_that_no_camera_makes_are_not_offered(kind: str) -> None:
    assert refusal(photo(kind=kind)).reason == "unreadable_photo"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_a_photo_cut_in_half_is_damaged(kind: str) -> None:
    whole = photo(width=200, height=200, kind=kind)
    assert refusal(whole[: len(whole) // 2]).reason == "unreadable_photo"
