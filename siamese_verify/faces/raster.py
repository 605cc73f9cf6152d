"""Convert decoded images of any mode to RGB; run as a program, decode a file in a process of its own.

The headers of HEIC, AVIF and TIFF do not bound the work of decoding them. They are decoded by a child process whose
memory and time are limited.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from PIL import Image

FULL_PIXELS = 26_000_000  # up to which a photo keeps its size; the finest crops need a hundredth of them
BAND = 1_000_000  # pixels that are converted together
CHILD_MEMORY = 340 * 2**20  # bytes of the child process, its interpreter included
CHILD_SECONDS = 10  # of CPU time


class Transparent(ValueError):
    """All of an image is transparent."""


def reduction(pixels: int, full_pixels: int = FULL_PIXELS) -> int:
    """The whole number by which the sides of a photo are divided so that at most `full_pixels` remain."""
    factor = 1
    while pixels > full_pixels * factor**2:
        factor += 1
    return factor


def bands(width: int, height: int, factor: int = 1) -> Iterator[tuple[int, int]]:
    """First and last row (exclusive) of the bands of an image, in whole blocks of `factor` rows."""
    rows = max(1, BAND // (width * factor)) * factor
    return ((top, min(top + rows, height)) for top in range(0, height, rows))


def to_rgb(image: Image.Image, factor: int = 1) -> Image.Image:
    """Convert an image to RGB (itself if it is), averaging `factor` x `factor` pixels, with transparent ones white.

    Values of more than 8 bits are scaled by their range: integers by 65,535, or 255 where none is larger; floats by 1,
    or 255 or 65,535 where some are larger.

    Raises:
        Transparent: all of the image is.
    """
    image.load()
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.reduce(factor) if factor > 1 else image
    scale = _scale(image)
    clear = image.has_transparency_data
    seen = not clear
    width, height = image.size
    result = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    for top, bottom in bands(width, height, factor):
        band = image.crop((0, top, width, bottom))
        if scale:
            band = _levels(band, scale)
        elif clear:
            band = band.convert("RGBA")
            seen = seen or band.getchannel("A").getbbox() is not None
            band = Image.alpha_composite(Image.new("RGBA", band.size, "white"), band)
        band = band.convert("RGB")
        result.paste(band.reduce(factor) if factor > 1 else band, (0, top // factor))
    if not seen:
        raise Transparent("all of it is transparent")
    return result


def _scale(image: Image.Image) -> float | None:
    """End of the range of an image of more than 8 bits, None for 8 bits."""
    if not (image.mode.startswith("I") or image.mode == "F"):
        return None
    ends = image.getextrema()
    most = float(ends[1])  # type: ignore[arg-type]
    ranges = ((1.0,) if image.mode == "F" else ()) + (255.0, 65535.0)
    return next((top for top in ranges if most <= top), most)


def _levels(band: Image.Image, scale: float) -> Image.Image:
    import numpy as np

    levels = np.nan_to_num(np.asarray(band, dtype=np.float32), nan=0.0).clip(0, scale)
    return Image.fromarray((levels * np.float64(255 / scale)).astype(np.uint8))


def oriented(photo: Image.Image, orientation: int) -> Image.Image:
    """Rotate or mirror a photo upright by its EXIF orientation, 1 to 8."""
    methods = Image.Transpose
    method = {
        2: methods.FLIP_LEFT_RIGHT,
        3: methods.ROTATE_180,
        4: methods.FLIP_TOP_BOTTOM,
        5: methods.TRANSPOSE,
        6: methods.ROTATE_270,
        7: methods.TRANSVERSE,
        8: methods.ROTATE_90,
    }.get(orientation)
    return photo if method is None else photo.transpose(method)


def _decode(content: bytes, kind: str, max_pixels: int, full_pixels: int) -> tuple[Image.Image | None, tuple[int, int]]:
    """A photo, None if it has too many pixels, and its size."""
    if kind == "HEIF":
        from pillow_heif import open_heif, options

        options.DECODE_THREADS = 1
        picture: Any = open_heif(content, convert_hdr_to_8bit=True)
        width, height = picture.size
        if width * height > max_pixels:
            return None, picture.size
        data, stride, mode = picture.data, picture.stride, picture.mode  # turned upright by the decoder
        width, height = picture.size
        factor = reduction(width * height, full_pixels)

        def part(top: int, bottom: int) -> Image.Image:
            rows = data[top * stride : bottom * stride]
            return Image.frombuffer(mode, (width, bottom - top), rows, "raw", mode, stride, 1)

        if mode != "RGB":
            return to_rgb(part(0, height), factor), picture.size
        photo = Image.new("RGB", (-(-width // factor), -(-height // factor)))
        for top, bottom in bands(width, height, factor):  # Pillow would hold all of it a second time
            photo.paste(to_rgb(part(top, bottom), factor), (0, top // factor))
        return photo, picture.size
    if kind == "AVIF":
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    with Image.open(io.BytesIO(content), formats=[kind]) as image:
        width, height = image.size
        if width * height > max_pixels:
            return None, image.size
        photo = to_rgb(image, reduction(width * height, full_pixels))
        return oriented(photo, image.getexif().get(0x0112, 1)), image.size


def main(kind: str, max_pixels: int, full_pixels: int) -> None:
    """Decode a file from standard input to standard output: one line of JSON, then the rows of pixels."""
    with suppress(ImportError):  # Windows has none: the parent's clock has to do
        import resource

        for limit, value in ((resource.RLIMIT_DATA, CHILD_MEMORY), (resource.RLIMIT_CPU, CHILD_SECONDS)):
            with suppress(ValueError, OSError):
                resource.setrlimit(limit, (value, value))
    out = sys.stdout.buffer
    answer: dict[str, Any]
    photo = None
    try:
        Image.MAX_IMAGE_PIXELS = None  # the caller's limit is stricter
        photo, size = _decode(sys.stdin.buffer.read(), kind, max_pixels, full_pixels)
        answer = {"of": size, "size": photo.size if photo else None}
    except Transparent:
        answer = {"transparent": True}
    except MemoryError:
        answer = {"error": "it takes too much memory"}
    except Exception as error:  # of any type, from deep in a damaged file
        answer = {"error": str(error) or type(error).__name__}
    out.write(json.dumps(answer).encode() + b"\n")
    if photo:
        for top, bottom in bands(*photo.size):
            out.write(photo.crop((0, top, photo.width, bottom)).tobytes())
    out.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
