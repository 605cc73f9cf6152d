"""open_photo: every form a photo comes in, and one sentence for what is none."""

from __future__ import annotations

import io
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from siamese_verify.errors import InputError
from siamese_verify.faces import Photo, open_photo
from siamese_verify.faces import photo as photo_module

ORIENTATION = 0x0112
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def jpeg(size: int = 64) -> bytes:
    noise = np.random.default_rng(1).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return encoded(Image.fromarray(noise), "JPEG")


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


@pytest.mark.parametrize("kind", ["string", "path", "bytes", "array", "image"])
def test_every_kind_of_source_gives_the_same_rgb_image(kind: str, tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS)
    file = tmp_path / "face.png"
    image.save(file)
    content = file.read_bytes()
    sources: dict[str, Photo] = {"string": str(file), "path": file, "bytes": content, "array": PIXELS, "image": image}
    opened = open_photo(sources[kind])
    assert opened.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(opened), PIXELS)


def test_an_image_that_is_given_is_not_the_one_returned() -> None:
    image = Image.fromarray(PIXELS)
    open_photo(image).putpixel((0, 0), (1, 2, 3))
    np.testing.assert_array_equal(np.asarray(image), PIXELS)


def test_a_grey_array_becomes_three_equal_channels() -> None:
    grey = PIXELS[..., 0]
    np.testing.assert_array_equal(np.asarray(open_photo(grey)), np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize("mode", ["RGB", "L", "I;16"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_upright_by_its_exif_orientation(orientation: int, mode: str) -> None:
    image = Image.fromarray(PIXELS)
    if mode == "L":
        image = image.convert("L")
    elif mode == "I;16":
        image = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)
    stored = np.asarray(open_photo(image))
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored, 1),
    }[orientation]
    opened = open_photo(encoded(image, "PNG", exif=oriented(orientation)))
    np.testing.assert_array_equal(np.asarray(opened), upright)
    assert opened.getexif().get(ORIENTATION, 1) == 1  # or the next program turns it again
    np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(opened)), upright)


@pytest.mark.parametrize("levels", [[0, 256, 257, 32768, 65535], [0, 600, 30000]], ids=["bright", "dim"])
def test_sixteen_bits_are_scaled_not_clipped_nor_stretched(levels: list[int]) -> None:
    opened = open_photo(encoded(Image.fromarray(np.array([levels], dtype=np.uint16))))
    assert np.asarray(opened)[0, :, 0].tolist() == [level * 255 // 65535 for level in levels]


@pytest.mark.parametrize("value", [-3.0, 0.0, 0.5, 1.0])
def test_floats_count_from_zero_to_one(value: float) -> None:
    opened = open_photo(Image.new("F", (2, 2), value))
    assert opened.getpixel((0, 0)) == (int(255 * max(value, 0)),) * 3


def test_a_palette_gives_its_colours() -> None:
    image = Image.fromarray(PIXELS).quantize(8)
    expected = np.array(image.getpalette(), dtype=np.uint8).reshape(-1, 3)[np.asarray(image)]
    np.testing.assert_array_equal(np.asarray(open_photo(encoded(image, "GIF"))), expected)
    np.testing.assert_array_equal(np.asarray(open_photo(encoded(image, "PNG"))), expected)


def test_transparency_is_left_out() -> None:
    alpha = np.dstack([PIXELS, np.full(PIXELS.shape[:2], 128, dtype=np.uint8)])
    np.testing.assert_array_equal(np.asarray(open_photo(encoded(Image.fromarray(alpha)))), PIXELS)


def test_cmyk_is_mixed_to_rgb() -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # magenta and yellow ink: red
    red, green, blue = np.asarray(open_photo(encoded(image, "JPEG"))).mean(axis=(0, 1))
    assert red > 250
    assert max(green, blue) < 5


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "RGBX", "YCbCr", "HSV", "LAB", "I", "F"])
def test_every_common_mode_is_opened_as_rgb(mode: str) -> None:
    opened = open_photo(Image.new(mode, (4, 3)))
    assert (opened.mode, opened.size) == ("RGB", (4, 3))


def test_a_single_pixel_is_a_photo() -> None:
    assert open_photo(PIXELS[:1, :1]).size == (1, 1)


def one_sentence(source: Any, name: str | None = None) -> str:
    with pytest.raises(InputError) as raised:
        open_photo(source, name)
    message = str(raised.value)
    assert message.endswith(".")
    assert not message.endswith("..")
    assert "\n" not in message
    assert not re.search(r"\. [A-Z]", message)
    return message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert str(tmp_path / "nobody.jpg") in one_sentence(tmp_path / "nobody.jpg")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert str(tmp_path) in one_sentence(tmp_path)


@pytest.mark.parametrize("content", [b"", b"Dear diary,\ntoday I looked like this.\n", b"\xff\xd8\xff"])
def test_a_file_that_only_claims_to_be_a_jpeg_is_named(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "face.jpg"
    file.write_bytes(content)
    message = one_sentence(file)
    assert str(file) in message
    assert "image" in message


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_truncated_jpeg_is_damaged(kept: float, tmp_path: Path) -> None:
    file = tmp_path / "half.jpg"
    whole = jpeg()
    file.write_bytes(whole[: int(kept * len(whole))])
    message = one_sentence(file)
    assert str(file) in message
    assert "damaged" in message


def test_an_image_opened_elsewhere_can_turn_out_damaged_too() -> None:
    lazy = Image.open(io.BytesIO(jpeg()[:2000]))
    assert "scan is damaged" in one_sentence(lazy, "scan")


def test_exif_that_cannot_be_read_is_one_sentence_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(image: Image.Image) -> Image.Image:
        raise struct.error("required argument is not an integer")  # what one JPEG in a thousand damaged ones does

    monkeypatch.setattr(ImageOps, "exif_transpose", broken)
    assert "the photo is damaged: required argument" in one_sentence(jpeg())


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about the damage
def test_random_damage_gives_a_photo_or_an_input_error() -> None:
    rng = np.random.default_rng(0)
    whole = np.frombuffer(encoded(Image.fromarray(PIXELS), "JPEG", exif=oriented(6)), dtype=np.uint8)
    refused = 0
    for _ in range(300):
        damaged = whole.copy()
        damaged[rng.integers(0, len(whole), 4)] = rng.integers(0, 256, 4)
        try:
            assert open_photo(damaged.tobytes()).mode == "RGB"
        except InputError:
            refused += 1
    assert 0 < refused < 300


def test_too_many_bytes_are_refused_before_decoding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(photo_module, "MAX_BYTES", 2**20)
    file = tmp_path / "poster.jpg"
    file.write_bytes(bytes(3 * 2**20))
    message = one_sentence(file)
    assert str(file) in message
    assert "3 MB" in message
    assert "1 MB" in message


def test_too_many_pixels_are_refused_before_decoding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "poster.jpg"
    file.write_bytes(jpeg(64)[:1500])  # decoding this would fail otherwise
    monkeypatch.setattr(photo_module, "MAX_PIXELS", 64 * 64 - 1)
    message = one_sentence(file)
    assert str(file) in message
    assert "64 x 64" in message
    assert "4,095" in message


def test_as_many_pixels_as_the_limit_are_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo_module, "MAX_PIXELS", PIXELS.shape[0] * PIXELS.shape[1])
    assert open_photo(PIXELS).size == (9, 6)


def test_a_decompression_bomb_is_refused() -> None:
    bomb = bytearray(encoded(Image.new("L", (1, 1)), "BMP"))
    bomb[18:26] = struct.pack("<ii", 100_000, 100_000)
    assert "the bomb has more than 64 megapixels" in one_sentence(bytes(bomb), "the bomb")


@pytest.mark.parametrize("shape", [(0, 0, 3), (0, 5), (5, 0, 3)])
def test_an_empty_array_is_refused(shape: tuple[int, ...]) -> None:
    assert "the photo is empty" in one_sentence(np.zeros(shape, dtype=np.uint8))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 4), dtype=np.uint8),
        np.zeros((3, 4, 4), dtype=np.uint8),
        np.zeros((4,), dtype=np.uint8),
        np.zeros((1, 4, 4, 3), dtype=np.uint8),
        np.zeros((4, 4, 3), dtype=np.float32),
        np.zeros((4, 4), dtype=np.int64),
    ],
    ids=lambda array: f"{array.shape} {array.dtype}",
)
def test_a_wrong_array_is_described(array: np.ndarray) -> None:
    message = one_sentence(array, "frame 7")
    assert "frame 7" in message
    assert f"{array.shape} {array.dtype}" in message
