from __future__ import annotations

import io

import pytest
from PIL import Image

from siamese_verify.faces.image_headers import MAX_SEGMENTS, declared_pixels


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True, "exif": Image.Exif(), "comment": b"x" * 60_000}),
        ("MPO", {"save_all": True}),
        ("PNG", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": Image.Exif()}),
        ("AVIF", {}),
        ("HEIF", {}),
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (640, 480), (301, 1007)])
def test_it_is_what_pillow_reads(kind: str, options: dict[str, object], size: tuple[int, int]) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif", reason="needs pillow-heif: pip install pillow-heif").register_heif_opener()
    content = io.BytesIO()
    if isinstance(options.get("exif"), Image.Exif):
        options = {**options, "exif": Image.Exif()}
        options["exif"][0x0112] = 6  # type: ignore[index]
    Image.new("RGB", size).save(content, kind, **options)
    found = declared_pixels(content.getvalue())
    assert found is not None
    padded = 64 if kind == "HEIF" else 0  # to whole blocks of its coding
    assert size[0] * size[1] <= found <= (size[0] + padded) * (size[1] + padded)
    for end in range(0, 60, 7):
        assert declared_pixels(content.getvalue()[:end]) in (None, found)


@pytest.mark.parametrize("content", [b"", b"nothing", b"\xff\xd8", b"RIFF\0\0\0\0WEBP", b"\0\0\0\x18ftypheic", b"BM"])
def test_what_cannot_be_read_has_no_size(content: bytes) -> None:
    assert declared_pixels(content) is None


def test_a_head_without_an_end_is_not_read_to_its_end() -> None:
    assert declared_pixels(b"\xff\xd8" + b"\xff\xe1\0\2" * (MAX_SEGMENTS + 1) + b"\xff\xc0\0\x0b\x08\0\1\0\1") is None
