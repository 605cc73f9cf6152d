"""Bytes from anywhere -> photo, with a server's limits checked before anything is decoded."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

from siamese_verify.errors import InputError
from siamese_verify.serving.problem import Problem

if TYPE_CHECKING:
    from PIL.Image import Image

# Cameras, phones and browsers make these. Pillow reads forty more, some by other programs (EPS) or by libraries with a
# long list of holes (TIFF), which nobody needs to offer to strangers.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "HEIF", "GIF", "BMP")


def decode_photo(content: bytes, name: str, most_pixels: int) -> Image:
    """Decode a photo.

    Args:
        content: bytes of an image file.
        name: of the part it came in, for sentences.
        most_pixels: that it may have.

    Returns:
        Upright and RGB.

    Raises:
        Problem: 413 for too many pixels, 400 for what is no photo.
    """
    from PIL import Image, UnidentifiedImageError

    from siamese_verify.faces.photo import open_photo, read_heic

    if not content:
        raise Problem(400, "unreadable_photo", f"The photo {name} is empty: choose a file.", photo=name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is stricter
            read_heic(io.BytesIO(content), "the photo")
            with Image.open(io.BytesIO(content), formats=[one for one in FORMATS if one in registered()]) as image:
                width, height = image.size
    except Image.DecompressionBombError:
        raise _too_many(name, most_pixels) from None
    except (UnidentifiedImageError, InputError):  # of the second kind: HEIC, and no package for it
        kinds = "JPEG, PNG, WebP, AVIF, HEIC, GIF or BMP"
        detail = f"The photo {name} is not a picture that can be read: send {kinds}."
        raise Problem(400, "unreadable_photo", detail, photo=name) from None
    except Exception:  # damage deep in a file can raise anything
        raise _damaged(name) from None
    if width * height > most_pixels:
        raise _too_many(name, most_pixels)
    try:
        return open_photo(content, f"The photo {name}")
    except InputError:
        raise _damaged(name) from None


def registered() -> frozenset[str]:
    """Formats that this machine's Pillow can open, once its plugins are loaded."""
    from PIL import Image

    Image.init()
    return frozenset(Image.OPEN)


def _too_many(name: str, most: int) -> Problem:
    detail = f"The photo {name} has more than {most / 1e6:g} megapixels: scale it down."
    return Problem(413, "too_many_pixels", detail, photo=name)


def _damaged(name: str) -> Problem:
    return Problem(400, "unreadable_photo", f"The photo {name} is damaged: send it again, or another one.", photo=name)
