"""Photo in any common form -> upright RGB image, with limits checked before anything is decoded."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from siamese_verify.errors import InputError

MAX_BYTES = 64 * 2**20
MAX_PIXELS = 64_000_000
HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}  # brands of ISO/IEC 23008-12

Photo = str | Path | bytes | np.ndarray | Image.Image


def open_photo(source: Photo, name: str | None = None) -> Image.Image:
    """Decode a photo.

    Args:
        source: a path, the bytes of an image file, an (H,W,3) or (H,W) uint8 RGB array, or a PIL image.
        name: what to call it in errors; by default its path.

    Returns:
        The photo in RGB, turned upright by its EXIF orientation.

    Raises:
        InputError: there is no such file, it is no image, it is damaged or empty, it is larger than `MAX_BYTES` or
            `MAX_PIXELS`, or it is HEIC and the package for it is not installed.
    """
    name = name or (str(source) if isinstance(source, str | Path) else "the photo")
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim not in (2, 3) or (source.ndim == 3 and source.shape[2] != 3):
            raise InputError(
                f"An array must be (H, W, 3) or (H, W) uint8, {name} is {source.shape} {source.dtype}: convert it."
            )
        source = Image.fromarray(source)
    if not isinstance(source, str | Path | bytes | Image.Image):
        raise InputError(f"A photo is a path, bytes, an array or a PIL image, {name} is {type(source).__name__}.")
    try:
        if isinstance(source, Image.Image):
            return _upright(source, name)
        with _opened(source, name) as image:
            return _upright(image, name)
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{name} is not an image that can be read.") from None
    except Image.DecompressionBombError:
        raise InputError(f"{name} has more than {MAX_PIXELS / 1e6:.0f} megapixels: scale it down.") from None
    except Exception as error:  # damage deep in a file can raise anything: struct.error in EXIF, RuntimeError in AVIF
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise InputError(f"{name} is damaged: {reason}.") from None


def _opened(source: str | Path | bytes, name: str) -> Image.Image:
    file: io.BytesIO | Path
    if isinstance(source, bytes):
        size, file = len(source), io.BytesIO(source)
    else:
        file = Path(source)
        if not file.is_file():
            raise InputError(f"There is no file {name}.")
        size = file.stat().st_size
    if size > MAX_BYTES:
        raise too_large(name, size)
    read_heic(file, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is stricter
        return Image.open(file)


def read_heic(file: io.BytesIO | Path, name: str) -> None:
    """Make Pillow read HEIC, as soon as the first such file comes."""
    if isinstance(file, io.BytesIO):
        head = file.getvalue()[:12]
    else:
        with file.open("rb") as opened:
            head = opened.read(12)
    if head[4:8] != b"ftyp" or head[8:12] not in HEIC:
        return
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise InputError(f"{name} is a HEIC photo: pip install 'siamese-verify[heic]' to read such files.") from None
    register_heif_opener()


def too_large(name: str, size: int) -> InputError:
    """What is wrong with a file of more than `MAX_BYTES`."""
    return InputError(f"{name} has {size / 2**20:.0f} MB, the limit is {MAX_BYTES // 2**20} MB: scale it down.")


def _upright(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise InputError(f"{name} has {width} x {height} pixels, the limit is {MAX_PIXELS:,}: scale it down.")
    if not width * height:
        raise InputError(f"{name} is empty: it has {width} x {height} pixels.")
    image = ImageOps.exif_transpose(image)  # first, as an image made from an array has no EXIF
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits and more: convert("RGB") would clip, not scale
        levels = np.asarray(image, dtype=np.float64).clip(min=0)
        levels *= 255 / max(65535.0 if image.mode != "F" else 1.0, levels.max())
        image = Image.fromarray(levels.astype(np.uint8))
    return image.convert("RGB")
