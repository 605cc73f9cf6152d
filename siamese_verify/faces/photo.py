"""Decode photos: files of common formats, arrays and PIL images to upright RGB, within limits on size and memory."""

from __future__ import annotations

import io
import json
import sys
import threading
import warnings
from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from siamese_verify.errors import InputError
from siamese_verify.faces import raster
from siamese_verify.faces.image_headers import Parts, UnusualFile, excerpt, format_of, webp_size
from siamese_verify.faces.raster import FULL_PIXELS, bands, oriented, reduction, to_rgb

MAX_BYTES = 64 * 2**20
MAX_PIXELS = 64_000_000
MAX_SIDE = 65_535  # as in JPEG; each row costs memory of its own
MAX_PASSES = 16  # samples that the scans of a JPEG may decode for each pixel allowed; Pillow's progressive ones: 14
# What cameras, phones, browsers and photo software write. Never those that Pillow opens by other programs (EPS).
FORMATS = frozenset({"JPEG", "PNG", "WEBP", "AVIF", "HEIF", "GIF", "BMP", "TIFF", "PPM"})
CHILD_FORMATS = frozenset({"HEIF", "AVIF", "TIFF"})  # decoded in a process of their own, see `raster`
DECODER_BYTES = {"WEBP": 17, "AVIF": 9.5, "HEIF": 5.2}  # that the decoder takes for a pixel, as measured
LARGE = threading.Lock()  # photos of more than a sixteenth of the memory are decoded one at a time

Photo = str | Path | bytes | bytearray | memoryview | BinaryIO | np.ndarray | Image.Image


class NotAPhoto(InputError):
    """A value is of a type that holds no photo: an error of the program, not of a photo."""


class TooManyPixels(InputError):
    """A photo is larger than what may be decoded."""


@dataclass(frozen=True)
class PhotoLimits:
    """Limits on decoding a photo.

    Attributes:
        max_bytes: of the file.
        max_pixels: width times height.
        max_memory: bytes that the file and decoding it may take together.
        child_seconds: that a decoder in a process of its own may take by the clock.
        full_pixels: photos of more pixels are made smaller by a whole number.
    """

    max_bytes: int = MAX_BYTES
    max_pixels: int = MAX_PIXELS
    max_memory: int = 285_000_000
    child_seconds: float = 30.0
    full_pixels: int = FULL_PIXELS


LIMITS = PhotoLimits()


def open_photo(
    source: Photo,
    name: str | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
    formats: Collection[str] = FORMATS,
    limits: PhotoLimits = LIMITS,
) -> Image.Image:
    """Decode a photo.

    Photos of more than 26 megapixels are made smaller by a whole number, see `reduced`: no crop needs more. Transparent
    pixels are white. Of several pictures in a file the first is decoded.

    Args:
        source: a path, the bytes of an image file, a binary file object, an (H,W,3) RGB or (H,W) gray uint8 array, or a
            PIL image.
        name: of the photo in errors; by default its path.
        max_pixels: that it may have, up to `limits.max_pixels`.
        formats: of files that are read, some of `FORMATS`.
        limits: on size, memory and time.

    Returns:
        RGB image, rotated upright by its EXIF orientation.

    Raises:
        NotAPhoto: it is nothing of these.
        TooManyPixels: it has more pixels than `max_pixels`, or more than its format can have in the memory allowed.
        InputError: the file is missing, not an image of these formats, damaged, empty, fully transparent, larger than
            `limits.max_bytes`, or would cost more to decode than any photo; or it is HEIC and its package is missing.
    """
    name = name or (str(source) if isinstance(source, str | Path) else "the photo") or "''"
    decoder = _Decoder(name, min(max_pixels, limits.max_pixels), formats, limits)
    try:
        if isinstance(source, np.ndarray):
            source = decoder.from_array(source)
        if isinstance(source, Image.Image):
            return decoder.from_image(source)
        return decoder.decode(decoder.read(source))
    except InputError:
        raise
    except UnidentifiedImageError:
        raise decoder.unreadable() from None
    except Image.DecompressionBombError:
        raise TooManyPixels(f"{name} has more than {decoder.max_pixels / 1e6:g} megapixels: scale it down.") from None
    except raster.Transparent:
        raise InputError(f"{name} shows nothing: all of it is transparent.") from None
    except UnusualFile as error:
        raise InputError(f"{name} is of a kind that no camera writes ({error}): save it anew as JPEG or PNG.") from None
    except Exception as error:  # damage deep in a file can raise anything: struct.error, RuntimeError in AVIF
        raise InputError(f"{name} is damaged: {_one_line(error) or type(error).__name__}.") from None


def reduced(photo: Image.Image) -> int:
    """The whole number by which `open_photo` made a photo smaller; 1 for most."""
    return int(photo.info.get("reduced", 1))


def too_large(name: str, size: int, limit: int = MAX_BYTES) -> InputError:
    """The error for a file of too many bytes."""
    return InputError(f"{name} has {size / 2**20:.0f} MB, the limit is {limit / 2**20:.0f} MB: scale it down.")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


@dataclass(frozen=True)
class _Decoder:
    """Decodes one photo, see `open_photo`."""

    name: str
    max_pixels: int
    formats: Collection[str]
    limits: PhotoLimits

    def from_array(self, array: np.ndarray) -> Image.Image:
        if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
            raise NotAPhoto(
                f"An array must be (H, W, 3) or (H, W) uint8, {self.name} is {array.shape} {array.dtype}: convert it."
            )
        if not array.size:
            raise InputError(f"{self.name} is empty: it has {array.shape[1]} x {array.shape[0]} pixels.")
        return Image.fromarray(array)

    def from_image(self, image: Image.Image) -> Image.Image:
        from PIL import ImageOps

        self.check_size(image.size)
        factor = self.factor(image.size)
        photo = ImageOps.exif_transpose(image)  # makes a copy: the image given is not the one returned
        return _finished(to_rgb(photo, factor), factor)

    def read(self, source: str | Path | bytes | bytearray | memoryview | BinaryIO) -> bytes:
        """The bytes of a file, never more than the limit."""
        limit = self.limits.max_bytes
        if isinstance(source, str | Path):
            path = Path(source)
            if path.is_dir():
                raise InputError(f"{self.name} is a folder: give the file of a photo.")
            if not path.exists():
                raise InputError(f"There is no file {self.name}.")
            if not path.is_file():  # reading a pipe that nobody writes to would never end
                raise InputError(f"{self.name} is a pipe or a device: give the file of a photo.")
            size = path.stat().st_size
            if size > limit:
                raise too_large(self.name, size, limit)
            return path.read_bytes()
        if isinstance(source, bytes | bytearray | memoryview):
            content = bytes(source)
        elif hasattr(source, "read"):
            content = self.read_file(source)
        else:
            kind = "None" if source is None else type(source).__name__
            way_out = ": give an (H, W, 3) uint8 array, by .numpy()" if hasattr(source, "numpy") else ""
            raise NotAPhoto(
                f"A photo is a path, bytes, a file, an array or a PIL image, {self.name} is {kind}{way_out}."
            )
        if len(content) > limit:
            raise too_large(self.name, len(content), limit)
        return content

    def read_file(self, file: IO[bytes]) -> bytes:
        """Read a file object from its position and seek back: the photo may be opened again, to be drawn."""
        if getattr(file, "closed", False):
            raise NotAPhoto(f"{self.name} is a closed file: give it while it is open, or its path.")
        start = file.tell() if hasattr(file, "seekable") and file.seekable() else None
        content = bytearray()
        while len(content) <= self.limits.max_bytes:
            part: Any
            try:
                part = file.read(self.limits.max_bytes + 1 - len(content))
            except UnicodeDecodeError:
                part = ""
            except (OSError, ValueError) as error:
                raise InputError(f"{self.name} cannot be read: {_one_line(error)}.") from None
            if isinstance(part, str):
                raise NotAPhoto(f'{self.name} is a file that gives text: open it with mode "rb".')
            if not part:
                if start is not None:
                    file.seek(start)
                return bytes(content)
            content += part
        raise InputError(f"{self.name} has more than {self.limits.max_bytes // 2**20} MB: scale it down.")

    def decode(self, content: bytes) -> Image.Image:
        """Decode a file, in a process of its own where its header does not bound the work."""
        if not content:
            raise InputError(f"{self.name} is empty: give a file that holds an image.")
        kind = format_of(content)
        if kind is None or kind not in self.formats:
            raise self.unreadable()
        if kind in CHILD_FORMATS:
            return self.decode_in_child(content, kind)
        if kind == "WEBP" and all(webp_size(content)):  # its decoder takes memory as soon as it is opened
            self.check_memory(webp_size(content), kind, content, 0)
        found = excerpt(content, kind)
        if found.samples > MAX_PASSES * MAX_PIXELS:
            raise UnusualFile(f"its scans are {found.samples / 1e6:,.0f} million samples")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels is stricter
            image = Image.open(io.BufferedReader(Parts(found.parts)), formats=[kind])
        with image:
            self.check_size(image.size)
            factor = self.factor(image.size)
            if kind == "JPEG" and factor > 1:
                image.draft(None, (image.width // factor, image.height // factor))  # made smaller by the decoder
            self.check_memory(image.size, image.mode, content, found.kept)
            large = image.width * image.height * 4 + found.kept > self.limits.max_memory // 16
            with LARGE if large else nullcontext():
                photo = to_rgb(image, 1 if kind == "JPEG" else factor)
        return _finished(oriented(photo, found.orientation), factor)

    def decode_in_child(self, content: bytes, kind: str) -> Image.Image:
        if kind == "HEIF":
            try:
                import pillow_heif  # noqa: F401
            except ImportError:
                message = f"{self.name} is a HEIC photo: pip install 'siamese-verify[heic]' to read such files."
                raise InputError(message) from None
        most = min(self.max_pixels, int((self.limits.max_memory - len(content)) / DECODER_BYTES.get(kind, 5)))
        with LARGE:
            answer, photo = _run_child(content, kind, most, self.limits)
        if answer is None:
            raise InputError(f"{self.name} takes too much time or memory to decode: save it anew as JPEG or PNG.")
        if "error" in answer:
            raise ValueError(answer["error"])
        if "transparent" in answer:
            raise raster.Transparent
        width, height = answer["of"]
        if photo is None:
            self.check_size((width, height))
            raise self.too_many((width, height), most, f" of {kind}")
        return _finished(photo, self.factor((width, height)))

    def factor(self, size: tuple[int, int]) -> int:
        return reduction(size[0] * size[1], self.limits.full_pixels)

    def check_size(self, size: tuple[int, int]) -> None:
        width, height = size
        if width * height > self.max_pixels or max(size) > MAX_SIDE:
            raise self.too_many(size, self.max_pixels)
        if not width * height:
            raise InputError(f"{self.name} is empty: it has {width} x {height} pixels.")

    def check_memory(self, size: tuple[int, int], mode: str, content: bytes, kept: int) -> None:
        """Check that decoding fits the memory: the file, its pixels, and what the decoder keeps or the photo takes."""
        self.check_size(size)
        pixels = size[0] * size[1]
        each = DECODER_BYTES.get(mode) or (1 if mode in ("1", "L", "P") else 2 if mode.startswith("I;16") else 4)
        finished = 4 / self.factor(size) ** 2
        free = self.limits.max_memory - len(content)
        if pixels * each + max(kept, pixels * finished) > free:
            raise self.too_many(size, int(min((free - kept) / each, free / (each + finished))), " of such a file")

    def too_many(self, size: tuple[int, int], most: int, of: str = "") -> TooManyPixels:
        limit = f"{max(most, 0):,}"
        if max(size) > MAX_SIDE:
            limit += f" on at most {MAX_SIDE:,} x {MAX_SIDE:,}"
        return TooManyPixels(f"{self.name} has {size[0]} x {size[1]} pixels, the limit{of} is {limit}: scale it down.")

    def unreadable(self) -> InputError:
        words = {"HEIF": "HEIC", "WEBP": "WebP", "PPM": "PPM or PGM"}
        kinds = ", ".join(words.get(kind, kind) for kind in sorted(self.formats))
        return InputError(f"{self.name} is not an image that can be read: the formats are {kinds}.")


def _finished(photo: Image.Image, factor: int) -> Image.Image:
    photo.info.clear()  # of the file, such as an orientation that was followed
    if factor > 1:
        photo.info["reduced"] = factor
    return photo


def _run_child(
    content: bytes, kind: str, max_pixels: int, limits: PhotoLimits
) -> tuple[dict[str, Any] | None, Image.Image | None]:
    """The answer of a child process that decodes, None where it was killed, and the photo."""
    import subprocess

    command = [sys.executable, "-P", str(Path(raster.__file__)), kind, str(max_pixels), str(limits.full_pixels)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdin and child.stdout
    timer = threading.Timer(limits.child_seconds, child.kill)
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
