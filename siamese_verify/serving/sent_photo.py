"""Bytes from anywhere -> photo, with a server's limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from siamese_verify.errors import InputError
from siamese_verify.serving.problem import Problem

if TYPE_CHECKING:
    from PIL.Image import Image

OWN_PROGRAMS = {"TIFF", "PPM"}  # that cameras and browsers do not send


def decode_photo(content: bytes, name: str, most_pixels: int) -> Image:
    """Decode a photo.

    Args:
        content: bytes of an image file.
        name: of the part it came in, for sentences.
        most_pixels: that it may have.

    Returns:
        Upright and RGB, see `siamese_verify.faces.open_photo`.

    Raises:
        Problem: 413 for too many pixels, 400 for what is no photo.
    """
    from siamese_verify.faces.photo import FORMATS, TooManyPixels, open_photo

    if not content:
        raise Problem(400, "unreadable_photo", f"The photo {name} is empty: choose a file.", photo=name)
    try:
        return open_photo(content, f"The photo {name}", max_pixels=most_pixels, formats=FORMATS - OWN_PROGRAMS)
    except TooManyPixels as error:
        raise Problem(413, "too_many_pixels", str(error), photo=name) from None
    except InputError as error:
        raise Problem(400, "unreadable_photo", str(error), photo=name) from None
