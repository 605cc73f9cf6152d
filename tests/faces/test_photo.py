"""open_photo: every form a photo comes in, and one sentence for what is none."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from siamese_verify.errors import InputError
from siamese_verify.faces import Photo, open_photo, reduced
from siamese_verify.faces.image_headers import Parts, excerpt, orientation_of
from siamese_verify.faces.photo import FORMATS, PhotoLimits, TooManyPixels

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


@pytest.mark.parametrize("kind", ["string", "path", "bytes", "array", "image", "file", "memory", "view"])
def test_every_kind_of_source_gives_the_same_rgb_image(kind: str, tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS)
    file = tmp_path / "face.png"
    image.save(file)
    content = file.read_bytes()
    sources: dict[str, Photo] = {"string": str(file), "path": file, "bytes": content, "array": PIXELS, "image": image}
    with file.open("rb", buffering=0) as opened_file:
        sources |= {"file": opened_file, "memory": io.BytesIO(content), "view": memoryview(content)}
        opened = open_photo(sources[kind])
        assert open_photo(sources[kind]).tobytes() == opened.tobytes()
    assert opened.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(opened), PIXELS)


def test_an_image_that_is_given_is_not_the_one_returned() -> None:
    image = Image.fromarray(PIXELS)
    open_photo(image).putpixel((0, 0), (1, 2, 3))
    np.testing.assert_array_equal(np.asarray(image), PIXELS)


def test_a_gray_array_becomes_three_equal_channels() -> None:
    gray = PIXELS[..., 0]
    np.testing.assert_array_equal(np.asarray(open_photo(gray)), np.stack([gray] * 3, axis=-1))


@pytest.mark.parametrize("mode", ["RGB", "L", "I;16"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_rotated_upright_by_its_exif_orientation(orientation: int, mode: str) -> None:
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
    assert opened.getexif().get(ORIENTATION, 1) == 1  # or the next program rotates it again
    np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(opened)), upright)


@pytest.mark.parametrize("levels", [[0, 256, 257, 32768, 65535], [0, 600, 30000]], ids=["bright", "dim"])
def test_sixteen_bits_are_scaled_not_clipped_nor_stretched(levels: list[int]) -> None:
    opened = open_photo(encoded(Image.fromarray(np.array([levels], dtype=np.uint16))))
    assert np.asarray(opened)[0, :, 0].tolist() == [level * 255 // 65535 for level in levels]


@pytest.mark.parametrize("value", [-3.0, 0.0, 0.5, 1.0])
def test_floats_count_from_zero_to_one(value: float) -> None:
    opened = open_photo(Image.new("F", (2, 2), value))
    assert opened.getpixel((0, 0)) == (int(255 * max(value, 0)),) * 3


def test_a_palette_gives_its_colors() -> None:
    image = Image.fromarray(PIXELS).quantize(8)
    expected = np.array(image.getpalette(), dtype=np.uint8).reshape(-1, 3)[np.asarray(image)]
    np.testing.assert_array_equal(np.asarray(open_photo(encoded(image, "GIF"))), expected)
    np.testing.assert_array_equal(np.asarray(open_photo(encoded(image, "PNG"))), expected)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_what_is_transparent_is_white_and_a_photo_that_is_so_all_over_is_refused(kind: str) -> None:
    red = np.zeros((64, 64, 4), dtype=np.uint8)
    red[..., 0] = 200
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    assert "the photo shows nothing" in one_sentence(encoded(Image.fromarray(red), kind, **options))
    red[:32, :, 3] = 255
    red[32:, :32, 3] = 128
    opened = np.asarray(open_photo(encoded(Image.fromarray(red), kind, **options)), dtype=int)
    for place, color in (((0, 0), (200, 0, 0)), ((63, 0), (227, 127, 127)), ((63, 63), (255, 255, 255))):
        np.testing.assert_allclose(opened[place], color, atol=1)


def test_cmyk_is_mixed_to_rgb() -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # magenta and yellow ink: red
    red, green, blue = np.asarray(open_photo(encoded(image, "JPEG"))).mean(axis=(0, 1))
    assert red > 250
    assert max(green, blue) < 5


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "RGBX", "YCbCr", "HSV", "LAB", "I", "F"])
def test_every_common_mode_is_opened_as_rgb(mode: str) -> None:
    opened = open_photo(Image.new(mode, (4, 3), "white" if mode in ("LA", "RGBA") else 0))
    assert (opened.mode, opened.size) == ("RGB", (4, 3))


def test_a_single_pixel_is_a_photo() -> None:
    assert open_photo(PIXELS[:1, :1]).size == (1, 1)


def one_sentence(source: Any, name: str | None = None, **limits: Any) -> str:
    with pytest.raises(InputError) as raised:
        open_photo(source, name, limits=PhotoLimits(**limits))
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


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_is_read_for_the_orientation_alone(order: str) -> None:
    entry = struct.pack(order + "HHI", ORIENTATION, 3, 1) + struct.pack(order + "HH", 6, 0)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    whole = head + struct.pack(order + "H", 1) + entry
    assert orientation_of(b"Exif\0\0" + whole) == orientation_of(whole) == 6
    for length in range(len(whole)):
        assert orientation_of(whole[:length]) == 1
    bomb = head + struct.pack(order + "H", 65535) + struct.pack(order + "HHII", 1, 7, 60_000, 8) * 5000  # 300 MB
    assert orientation_of(bomb) == 1
    file = encoded(Image.fromarray(PIXELS), "JPEG")
    segment = b"Exif\0\0" + bomb
    file = file[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + file[2:]
    assert b"Exif" not in b"".join(excerpt(file, "JPEG").parts)
    assert open_photo(file).size == (9, 6)


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


def test_too_many_bytes_are_refused_before_decoding(tmp_path: Path) -> None:
    file = tmp_path / "poster.jpg"
    file.write_bytes(bytes(3 * 2**20))
    message = one_sentence(file, max_bytes=2**20)
    assert str(file) in message
    assert "3 MB" in message
    assert "1 MB" in message


def test_too_many_pixels_are_refused_before_decoding(tmp_path: Path) -> None:
    file = tmp_path / "poster.png"
    file.write_bytes(encoded(Image.fromarray(PIXELS))[:60])  # decoding this would fail otherwise
    for source in (file, Image.fromarray(PIXELS), PIXELS, encoded(Image.fromarray(PIXELS), "TIFF")):
        with pytest.raises(TooManyPixels, match=r"has 9 x 6 pixels, the limit is 53: scale it down\.$"):
            open_photo(source, "the poster", max_pixels=53)
    assert open_photo(PIXELS, max_pixels=54).size == (9, 6)


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


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (None, "the photo is None"),
        (7, "the photo is int"),
        (io.StringIO("text"), 'open it with mode "rb"'),
    ],
    ids=["None", "number", "text"],
)
def test_what_is_no_photo_is_named(source: Any, words: str) -> None:
    assert words in one_sentence(source)


def test_a_file_is_never_read_beyond_the_limit() -> None:
    class Endless(io.RawIOBase):
        given = 0

        def read(self, size: int = -1) -> bytes:
            self.given += min(size, 1000)
            return bytes(min(size, 1000))

    file = Endless()
    one_sentence(file, max_bytes=10_000)
    assert file.given == 10_001


def test_pipes_devices_and_folders_are_named_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is a pipe or a device" in one_sentence(tmp_path / "pipe")
    assert "is a pipe or a device" in one_sentence("/dev/zero")
    assert "is a folder" in one_sentence(tmp_path)


def test_files_of_other_formats_are_not_opened() -> None:
    assert "EPS" not in FORMATS
    picture = Image.fromarray(PIXELS)
    for kind in ("EPS", "ICO", "TGA", "PCX", "SGI"):
        assert "is not an image that can be read: the formats are AVIF, BMP," in one_sentence(encoded(picture, kind))
    with pytest.raises(InputError, match=r"the formats are BMP, GIF\.$"):
        open_photo(encoded(picture, "PNG"), formats=["GIF", "BMP"])


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_every_format_is_read_from_bytes(kind: str) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    picture = Image.fromarray(np.repeat(np.repeat(PIXELS, 16, axis=0), 16, axis=1)).quantize(200).convert("RGB")
    content = encoded(picture, kind, **({"quality": 95} if kind in ("JPEG", "WEBP", "AVIF", "HEIF") else {}))
    difference = np.abs(np.asarray(open_photo(content), dtype=int) - np.asarray(picture)).mean()
    assert difference < (25 if kind in ("JPEG", "WEBP", "AVIF", "HEIF") else 1)
    half = content[: len(content) // 2]
    with pytest.raises(InputError):
        open_photo(half)


def test_values_of_eight_bits_in_a_gray_file_of_sixteen_are_not_black() -> None:
    content = encoded(Image.fromarray(PIXELS[..., 0].astype(np.uint16)))
    np.testing.assert_array_equal(np.asarray(open_photo(content)), np.stack([PIXELS[..., 0]] * 3, axis=-1))


def png(head: tuple[int, ...], *chunks: tuple[bytes, bytes]) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    parts = [(b"IHDR", struct.pack(">IIBBBBB", *head)), *chunks, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def many_scans(size: tuple[int, int], repeats: int) -> bytes:
    """A progressive JPEG whose last scan is there again and again, without the data that it would need."""
    whole = encoded(Image.new("RGB", size, "gray"), "JPEG", progressive=True)
    begin = whole.rindex(b"\xff\xda")
    head = whole[begin : begin + 2 + int.from_bytes(whole[begin + 2 : begin + 4])]
    return whole[:-2] + head * repeats + whole[-2:]


def test_the_scans_of_a_jpeg_are_counted_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary = excerpt(many_scans((64, 48), 0), "JPEG")  # colors at half the size: 6 scans of 1 and 4 of 1/4 each
    assert ordinary.samples == 64 * 48 * (6 + 2 * 4 / 4)
    assert ordinary.kept == 2 * 64 * 48 * 1.5
    assert excerpt(many_scans((64, 48), 100), "JPEG").samples == ordinary.samples + 100 * 64 * 48
    assert excerpt(encoded(Image.new("RGB", (64, 48)), "JPEG"), "JPEG").kept == 0
    assert open_photo(many_scans((64, 48), 100)).size == (64, 48)

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("it was decoded"))
    assert "its scans are 40,0" in one_sentence(many_scans((4000, 2500), 4000))
    assert "more than 4,096 segments" in one_sentence(many_scans((8, 8), 5000))


def many_chunks() -> bytes:
    whole = encoded(Image.new("RGB", (8, 8)), "WEBP")
    return whole + b"ABCD\0\0\0\0" * 70_000


def frame_of(kind: int, height: int = 8) -> bytes:
    whole = bytearray(encoded(Image.new("RGB", (8, 8)), "JPEG"))
    place = whole.index(b"\xff\xc0")
    whole[place + 1] = kind
    whole[place + 5 : place + 7] = height.to_bytes(2)
    return bytes(whole)


@pytest.mark.parametrize(
    "content",
    [
        *[frame_of(kind) for kind in (0xC3, 0xC5, 0xC9, 0xCA, 0xCB)],
        frame_of(0xC0, height=0),
        png((8, 8, 8, 2, 0, 0, 0), *[(b"IDAT", b"")] * 70_000),
        b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0) + b"!\xfe" + b"\1a" * 70_000 + b"\0,",
        many_chunks(),
        b"P2 2 2 255 1 2 3 4",
        b"P6 2 2 100 " + bytes(12),
    ],
    ids=lambda content: f"{content[:4]!r} {len(content)}",
)
def test_files_whose_work_their_pixels_do_not_bound_are_refused(content: bytes) -> None:
    message = one_sentence(content)
    assert "no camera writes" in message or "formats are" in message


def test_a_run_length_coded_bmp_is_refused() -> None:
    content = bytearray(encoded(Image.new("P", (8, 8)), "BMP"))
    content[30] = 1
    assert "run-length coded" in one_sentence(bytes(content))


def test_only_the_picture_of_a_file_reaches_the_decoder() -> None:
    text = (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1_000_000)))
    animation = [(b"acTL", struct.pack(">II", 2**31 - 1, 0)), (b"fdAT", bytes(999))]
    rows = zlib.compress(b"".join(b"\0" + bytes(24) for _ in range(8)))
    file = png((8, 8, 8, 2, 0, 0, 0), *[text] * 100, *animation, (b"IDAT", rows))
    assert sum(len(part) for part in excerpt(file, "PNG").parts) < 200
    assert open_photo(file).size == (8, 8)
    gif = bytearray(encoded(Image.fromarray(PIXELS).quantize(8), "GIF"))
    plain = open_photo(bytes(gif))
    place = 13 + 3 * 8
    gif[place:place] = b"!\xfe" + (b"\xff" + bytes(255)) * 60_000 + b"\0"  # 15 MB, which Pillow joins one by one
    assert open_photo(bytes(gif)).tobytes() == plain.tobytes()


def test_parts_are_read_as_if_they_were_one() -> None:
    whole = bytes(range(200))
    file = io.BufferedReader(Parts([memoryview(part) for part in (whole[:7], b"", whole[7:90], whole[90:])]), 16)
    assert file.read() == whole
    for place in (0, 6, 7, 89, 90, 150, 200):
        assert (file.seek(place), file.tell(), file.read(20)) == (place, place, whole[place : place + 20])
    assert file.seek(-5, io.SEEK_END) == 195
    assert file.read() == whole[195:]


def test_of_a_file_with_several_pictures_the_first_is_opened() -> None:
    first, second = (Image.new("RGB", (64, 64), color) for color in ("red", "blue"))
    for kind in ("GIF", "PNG", "WEBP", "AVIF", "TIFF", "MPO"):
        content = encoded(first, kind, save_all=True, append_images=[second])
        np.testing.assert_allclose(np.asarray(open_photo(content))[5, 5], (255, 0, 0), atol=6)


def test_a_photo_that_a_child_decodes_is_bounded_by_memory_and_time() -> None:
    content = encoded(Image.new("RGB", (3000, 2000)), "TIFF", compression="tiff_deflate")
    assert open_photo(content).size == (3000, 2000)
    with pytest.raises(TooManyPixels, match="the limit of TIFF is 3,1"):
        open_photo(content, limits=PhotoLimits(max_memory=16_000_000))
    assert "takes too much time or memory" in one_sentence(content, child_seconds=0.0)


def test_a_photo_of_many_megapixels_comes_smaller_and_says_so() -> None:
    colors = np.random.default_rng(0).integers(0, 256, (15, 20, 3), dtype=np.uint8)
    large = Image.fromarray(colors).resize((2000, 1500), Image.Resampling.BICUBIC)  # three bands
    limits = PhotoLimits(full_pixels=2000 * 1500 - 1)
    expected = np.asarray(large.reduce(2), dtype=int)
    files = [encoded(large, kind) for kind in ("PNG", "JPEG", "TIFF")]
    sources: list[Photo] = [large, *files]
    for source in sources:
        opened = open_photo(source, limits=limits)
        assert reduced(opened) == 2
        assert np.abs(np.asarray(opened, dtype=int) - expected).mean() < 2
    gray = open_photo(large.convert("L"), limits=limits)
    assert np.abs(np.asarray(gray, dtype=int)[..., 0] - np.asarray(large.convert("L").reduce(2))).max() == 0
    assert reduced(open_photo(PIXELS)) == 1


PEAK = """
import sys
from pathlib import Path
from siamese_verify.faces import FaceFinder, open_photo

def peak():
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) / 1024

finder = FaceFinder()
finder.find(open_photo(sys.argv[1]))
for path in sys.argv[2:]:
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    finder.find(open_photo(path))
    print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process's peak")
def test_no_photo_takes_more_than_300_mb(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))
    photos = {
        "small.png": Image.new("RGB", (64, 64)),
        "flat.png": Image.new("RGB", (4896, 4896), "gray"),
        "noise.png": noise.resize((1280, 960), Image.Resampling.NEAREST),
        "clear.png": Image.new("RGBA", (8000, 6000), (9, 9, 9, 99)),
        "deep.png": Image.fromarray(np.full((8000, 8000), 30_000, dtype=np.uint16)),
        "phone.jpg": Image.new("RGB", (9200, 6900), "gray"),
    }
    for name, picture in photos.items():
        settings = {"compress_level": 1} if name.endswith("png") else {"progressive": True}
        picture.save(tmp_path / name, **settings)
    command = [sys.executable, "-c", PEAK, *(str(tmp_path / name) for name in photos)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    peaks = [float(line) for line in done.stdout.split()]
    assert len(peaks) == 5
    assert max(peaks) < 300, peaks
