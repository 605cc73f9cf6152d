"""Photo in any common form -> upright RGB image, with limits checked before anything is decoded."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import warnings
from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from siamese_verify.errors import InputError
from siamese_verify.faces import raster
from siamese_verify.faces.image_headers import Parts, UnusualFile, excerpt, format_of, webp_size
from siamese_verify.faces.raster import bands, oriented, reduction, to_rgb

MAX_BYTES = 64 * 2**20
MAX_PIXELS = 64_000_000
MAX_SIDE = 65_535  # as in JPEG; each row costs memory of its own
MEMORY = 285_000_000  # bytes that the file and decoding it may take together
PASSES = 16  # samples that the scans of a JPEG may decode for each pixel that is allowed; Pillow's progressive ones: 14
CHILD_WAIT = 30.0  # seconds that a decoder of its own process may take by the clock
# What cameras, phones, browsers and programs for photos write. Never those that Pillow opens by other programs (EPS).
FORMATS = frozenset({"JPEG", "PNG", "WEBP", "AVIF", "HEIF", "GIF", "BMP", "TIFF", "PPM"})
APART = frozenset({"HEIF", "AVIF", "TIFF"})  # decoded in a process of their own, see `siamese_verify.faces.raster`
HELD = {"WEBP": 17, "AVIF": 9.5, "HEIF": 5.2}  # bytes that the decoder takes for a pixel, as measured
LARGE = threading.Lock()  # photos of more than a sixteenth of MEMORY are decoded one at a time

Photo = str | Path | bytes | bytearray | memoryview | BinaryIO | np.ndarray | Image.Image


class TooManyPixels(InputError):
    """A photo is larger than what may be decoded."""


def open_photo(
    source: Photo,
    name: str | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
    formats: Collection[str] = FORMATS,
) -> Image.Image:
    """Decode a photo.

    Photos of more than 26 megapixels come smaller by a whole number, which `reduced` tells: more of a face than that
    nobody needs. What is transparent is shown over white. Of several pictures in a file it is the first.

    Args:
        source: a path, the bytes of an image file, a file object that gives such bytes, an (H,W,3) or (H,W) uint8 RGB
            array, or a PIL image.
        name: what to call it in errors; by default its path.
        max_pixels: that it may have, up to `MAX_PIXELS`.
        formats: of files that are read, some of `FORMATS`.

    Returns:
        The photo in RGB, turned upright by its EXIF orientation.

    Raises:
        TooManyPixels: it has more pixels than `max_pixels`, or more than its format can have in `MEMORY`.
        InputError: there is no such file, it is no image of these formats, it is damaged, empty or transparent all
            over, it has more than `MAX_BYTES` or would cost more to decode than any photo, or it is HEIC and the
            package for it is not installed.
    """
    name = name or (str(source) if isinstance(source, str | Path) else "the photo") or "''"
    try:
        if isinstance(source, np.ndarray):
            source = _from_array(source, name)
        if isinstance(source, Image.Image):
            return _given(source, name, max_pixels)
        return _decoded(_content(source, name), name, max_pixels, formats)
    except InputError:
        raise
    except UnidentifiedImageError:
        raise _unreadable(name, formats) from None
    except Image.DecompressionBombError:
        raise TooManyPixels(f"{name} has more than {max_pixels / 1e6:g} megapixels: scale it down.") from None
    except UnusualFile as error:
        raise InputError(f"{name} is of a kind that no camera writes ({error}): save it anew as JPEG or PNG.") from None
    except Exception as error:  # damage deep in a file can raise anything: struct.error, RuntimeError in AVIF
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise InputError(f"{name} is damaged: {reason}.") from None


def reduced(photo: Image.Image) -> int:
    """By what whole number `open_photo` made a photo smaller; 1 for most."""
    return int(photo.info.get("reduced", 1))


def too_large(name: str, size: int) -> InputError:
    """What is wrong with a file of more than `MAX_BYTES`."""
    return InputError(f"{name} has {size / 2**20:.0f} MB, the limit is {MAX_BYTES // 2**20} MB: scale it down.")


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise InputError(
            f"An array must be (H, W, 3) or (H, W) uint8, {name} is {array.shape} {array.dtype}: convert it."
        )
    if not array.size:
        raise InputError(f"{name} is empty: it has {array.shape[1]} x {array.shape[0]} pixels.")
    return Image.fromarray(array)


def _given(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    """An image that somebody else opened."""
    _check_size(image.size, name, max_pixels)
    factor = reduction(image.width * image.height)
    photo = ImageOps.exif_transpose(image)  # makes a copy, as an image that is given is not the one returned
    return _finished(_seen(photo, factor, name), factor)


def _content(source: str | Path | bytes | bytearray | memoryview | BinaryIO, name: str) -> bytes:
    """The bytes of a file, never more than `MAX_BYTES`."""
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            raise InputError(f"{name} is a folder: give the file of a photo.")
        if not path.exists():
            raise InputError(f"There is no file {name}.")
        if not path.is_file():  # reading a pipe that nobody writes to would never end
            raise InputError(f"{name} is a pipe or a device: give the file of a photo.")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise too_large(name, size)
        return path.read_bytes()
    if isinstance(source, bytes | bytearray | memoryview):
        content = bytes(source)
    elif hasattr(source, "read"):
        content = _read(source, name)
    else:
        kind = "None" if source is None else type(source).__name__
        raise InputError(f"A photo is a path, bytes, a file, an array or a PIL image, {name} is {kind}.")
    if len(content) > MAX_BYTES:
        raise too_large(name, len(content))
    return content


def _read(file: IO[bytes], name: str) -> bytes:
    """Read a file from where it stands, and go back there if it can: the photo may be opened again, to be drawn."""
    if getattr(file, "closed", False):
        raise InputError(f"{name} is a closed file: give it while it is open, or its path.")
    start = file.tell() if hasattr(file, "seekable") and file.seekable() else None
    parts: list[bytes] = []
    left = MAX_BYTES + 1
    while left > 0:
        try:
            part = file.read(left)
        except UnicodeDecodeError:
            raise InputError(f'{name} is a file that gives text: open it with mode "rb".') from None
        except (OSError, ValueError) as error:
            raise InputError(f"{name} cannot be read: {' '.join(str(error).split()).rstrip('.')}.") from None
        if not isinstance(part, bytes | bytearray | memoryview | None):
            raise InputError(f'{name} is a file that gives text: open it with mode "rb".')
        if not part:
            if start is not None:
                file.seek(start)
            return b"".join(parts)
        parts.append(bytes(part))
        left -= len(part)
    raise InputError(f"{name} has more than {MAX_BYTES // 2**20} MB: scale it down.")


def _decoded(content: bytes, name: str, max_pixels: int, formats: Collection[str]) -> Image.Image:
    kind = format_of(content)
    if kind is None or kind not in formats:
        raise _unreadable(name, formats)
    if kind in APART:
        return _decoded_apart(content, kind, name, max_pixels)
    if kind == "WEBP" and all(webp_size(content)):  # its decoder takes memory as soon as it is opened
        _check_memory(webp_size(content), kind, content, 0, name, max_pixels)
    found = excerpt(content, kind)
    if found.samples > PASSES * MAX_PIXELS:
        raise UnusualFile(f"its scans are {found.samples / 1e6:,.0f} million samples")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is stricter
        image = Image.open(io.BufferedReader(Parts(found.parts)), formats=[kind])
    with image:
        _check_size(image.size, name, max_pixels)
        factor = reduction(image.width * image.height)
        if kind == "JPEG" and factor > 1:
            image.draft(None, (image.width // factor, image.height // factor))
        _check_memory(image.size, image.mode, content, found.kept, name, max_pixels)
        large = image.width * image.height * 4 + found.kept > MEMORY // 16
        with LARGE if large else nullcontext():
            photo = _pixels(image, content, kind, factor, name)
    return _finished(oriented(photo, found.orientation), factor)


def _pixels(image: Image.Image, content: bytes, kind: str, factor: int, name: str) -> Image.Image:
    if kind == "JPEG":
        return _seen(image, 1, name)  # made smaller while it is decoded
    if kind != "PNG" or image.mode not in ("RGB", "RGBA"):
        return _seen(image, factor, name)
    deep = ";16B" in str(image.tile[0].args)  # type: ignore[attr-defined]
    image.load()
    if not deep or any(high for _, high in image.getextrema()[:3]):  # type: ignore[misc]
        return _seen(image, factor, name)
    # Of 16 bits a colour Pillow takes the upper byte, which is empty where the numbers are those of 8 bits.
    with Image.open(io.BufferedReader(Parts(excerpt(content, kind).parts)), formats=[kind]) as lower:
        tile = lower.tile[0]
        lower.tile = [tile._replace(args=str(tile.args).replace(";16B", ";16L"))]
        image.close()
        return _seen(lower, factor, name)


def _decoded_apart(content: bytes, kind: str, name: str, max_pixels: int) -> Image.Image:
    """Decode in a process of its own, whose memory and time are bounded."""
    if kind == "HEIF":
        try:
            import pillow_heif  # noqa: F401
        except ImportError:
            message = f"{name} is a HEIC photo: pip install 'siamese-verify[heic]' to read such files."
            raise InputError(message) from None
    most = min(max_pixels, int((MEMORY - len(content)) / HELD.get(kind, 5)))
    with LARGE:
        answer, photo = _child(content, kind, most)
    if answer is None:
        raise InputError(f"{name} takes too much time or memory to decode: save it anew as JPEG or PNG.")
    if "error" in answer:
        raise ValueError(answer["error"])
    if "transparent" in answer:
        raise _empty(name)
    width, height = answer["of"]
    if photo is None:
        _check_size((width, height), name, max_pixels)
        raise _too_many((width, height), most, name, f" of {kind}")
    return _finished(photo, reduction(width * height))


def _child(content: bytes, kind: str, most: int) -> tuple[dict[str, Any] | None, Image.Image | None]:
    """What the child says, None where it was ended, and the photo."""
    command = [sys.executable, "-P", str(Path(raster.__file__)), kind, str(most)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdin and child.stdout
    timer = threading.Timer(CHILD_WAIT, child.kill)
    timer.start()
    try:
        try:
            child.stdin.write(content)
            child.stdin.close()
        except BrokenPipeError:
            pass
        line = child.stdout.readline()
        if not line.endswith(b"\n"):
            return None, None
        answer = json.loads(line)
        if not answer.get("size"):
            return answer, None
        photo = Image.new("RGB", tuple(answer["size"]))
        for top, bottom in bands(*photo.size):
            rows = child.stdout.read(3 * photo.width * (bottom - top))
            if len(rows) < 3 * photo.width * (bottom - top):
                return None, None
            photo.paste(Image.frombytes("RGB", (photo.width, bottom - top), rows), (0, top))
        return answer, photo
    finally:
        timer.cancel()
        child.kill()
        child.stdout.close()
        child.wait()


def _seen(image: Image.Image, factor: int, name: str) -> Image.Image:
    try:
        return to_rgb(image, factor)
    except raster.Transparent:
        raise _empty(name) from None


def _finished(photo: Image.Image, factor: int) -> Image.Image:
    photo.info.clear()  # of the file, such as an orientation that was followed
    if factor > 1:
        photo.info["reduced"] = factor
    return photo


def _check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels or max(size) > MAX_SIDE:
        raise _too_many(size, max_pixels, name)
    if not width * height:
        raise InputError(f"{name} is empty: it has {width} x {height} pixels.")


def _check_memory(size: tuple[int, int], mode: str, content: bytes, kept: int, name: str, max_pixels: int) -> None:
    """Refuse what takes more than `MEMORY`: file, pixels, and what the decoder keeps or the photo made of them."""
    _check_size(size, name, max_pixels)
    pixels = size[0] * size[1]
    each = HELD.get(mode) or (1 if mode in ("1", "L", "P") else 2 if mode.startswith("I;16") else 4)
    made = 4 / reduction(pixels) ** 2
    if len(content) + pixels * each + max(kept, pixels * made) > MEMORY:
        most = min((MEMORY - len(content) - kept) / each, (MEMORY - len(content)) / (each + made))
        raise _too_many(size, int(most), name, " of such a file")


def _too_many(size: tuple[int, int], most: int, name: str, of: str = "") -> TooManyPixels:
    width, height = size
    limit = f"{max(most, 0):,} on at most {MAX_SIDE:,} x {MAX_SIDE:,}" if max(size) > MAX_SIDE else f"{max(most, 0):,}"
    return TooManyPixels(f"{name} has {width} x {height} pixels, the limit{of} is {limit}: scale it down.")


def _empty(name: str) -> InputError:
    return InputError(f"{name} shows nothing: all of it is transparent.")


def _unreadable(name: str, formats: Collection[str]) -> InputError:
    words = {"HEIF": "HEIC", "WEBP": "WebP", "PPM": "PPM or PGM"}
    kinds = ", ".join(words.get(kind, kind) for kind in sorted(formats))
    return InputError(f"{name} is not an image that can be read: the formats are {kinds}.")
