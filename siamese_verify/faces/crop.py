"""Photo and box -> the square face that an encoder sees."""

from __future__ import annotations

from PIL import Image

from siamese_verify.types import InputSpec

Box = tuple[float, float, float, float]


def crop_face(photo: Image.Image, spec: InputSpec, box: Box | None = None) -> Image.Image:
    """Cut and scale a face as the encoder's input says.

    `box` crops follow facenet-pytorch's `extract_face` to the pixel, since pretrained weights depend on it: the box is
    widened by `margin` (counted in pixels of the finished crop), clipped to the photo, and scaled to a square.

    Args:
        photo: RGB.
        spec: size and crop.
        box: left, top, right, bottom of the face in pixels; needed by a `box` crop only.

    Returns:
        RGB image of `spec.size` x `spec.size`.
    """
    width, height = photo.size
    size, crop = spec.size, spec.crop
    region: Box
    if crop.kind == "whole":
        region = (0, 0, width, height)
    elif crop.kind == "center" or box is None:
        region = central_square(width, height, crop.fraction)
    else:
        left, top, right, bottom = box
        across = crop.margin * (right - left) / (size - crop.margin) / 2
        down = crop.margin * (bottom - top) / (size - crop.margin) / 2
        region = (
            int(max(left - across, 0)),
            int(max(top - down, 0)),
            int(min(right + across, width)),
            int(min(bottom + down, height)),
        )
    return photo.crop(region).resize((size, size), Image.Resampling.BILINEAR)


def central_square(width: int, height: int, fraction: float) -> Box:
    """Box of the central square whose side is `fraction` of the shorter side, in whole pixels."""
    side = max(1, round(min(width, height) * fraction))
    left, top = (width - side) // 2, (height - side) // 2
    return (left, top, left + side, top + side)
