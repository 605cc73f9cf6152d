"""Rotated photos, the coordinates of points in them, and boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

Point = tuple[float, float]
Box = tuple[float, float, float, float]

RIGHT_ANGLES = {90: Image.Transpose.ROTATE_90, 270: Image.Transpose.ROTATE_270, 180: Image.Transpose.ROTATE_180}


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, in [0, 1]."""
    sides = (min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1]))
    shared = max(0.0, sides[0]) * max(0.0, sides[1])
    areas = sum(max(0.0, one[2] - one[0]) * max(0.0, one[3] - one[1]) for one in (a, b))
    return shared / (areas - shared) if areas > shared else float(a == b)


def rotate_photo(photo: Image.Image, degrees: float) -> Image.Image:
    """Rotate a photo counter-clockwise about its center, with all of it shown and black corners."""
    degrees %= 360
    if degrees in RIGHT_ANGLES:
        return photo.transpose(RIGHT_ANGLES[int(degrees)])
    return crop_rotated(photo, degrees, (0, 0, *rotated_size(photo.size, degrees))) if degrees else photo


def rotated_size(size: tuple[int, int], degrees: float) -> tuple[int, int]:
    """Width and height of a photo after `rotate_photo`."""
    width, height = _extent(size, degrees)
    return math.ceil(width - 1e-6), math.ceil(height - 1e-6)


def to_photo(points: Sequence[Point], size: tuple[int, int], degrees: float) -> tuple[Point, ...]:
    """Map points of a rotated photo to the original one.

    Args:
        points: x and y in pixels from the left and the top edge.
        size: width and height of the original.
        degrees: by which it was rotated counter-clockwise.
    """
    return _rotate_points(points, _extent(size, degrees), size, -degrees)


def to_rotated(points: Sequence[Point], size: tuple[int, int], degrees: float) -> tuple[Point, ...]:
    """Map points of a photo to the rotated one; see `to_photo`."""
    return _rotate_points(points, size, _extent(size, degrees), degrees)


def crop_rotated(photo: Image.Image, degrees: float, box: Box, size: tuple[int, int] | None = None) -> Image.Image:
    """Crop a box of the rotated photo without rotating the rest; black outside of the photo.

    Args:
        photo: RGB, not rotated.
        degrees: counter-clockwise.
        box: left, top, right, bottom in the rotated photo.
        size: width and height of the result; by default those of the box.
    """
    left, top, right, bottom = box
    width, height = size or (round(right - left), round(bottom - top))
    corner, across, down = to_photo([(left, top), (right, top), (left, bottom)], photo.size, degrees)
    finer = max(1, math.floor((right - left) / width))  # pixels of the photo for one of the result
    if finer > 1:  # averaged, not skipped; only the part of the photo that the box covers
        corners = (corner, across, down, (across[0] + down[0] - corner[0], across[1] + down[1] - corner[1]))
        x, y = (max(0, math.floor(min(point[axis] for point in corners))) for axis in (0, 1))
        end_x, end_y = (min(photo.size[axis], math.ceil(max(point[axis] for point in corners))) for axis in (0, 1))
        photo = photo.crop((x, y, max(x + 1, end_x), max(y + 1, end_y))).reduce(finer)
        corner, across, down = (((p[0] - x) / finer, (p[1] - y) / finer) for p in (corner, across, down))
    matrix = [
        value
        for axis in (0, 1)
        for value in ((across[axis] - corner[axis]) / width, (down[axis] - corner[axis]) / height, corner[axis])
    ]
    return photo.transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)


def _extent(size: tuple[int, int], degrees: float) -> Point:
    angle = math.radians(degrees)
    cosine, sine = abs(math.cos(angle)), abs(math.sin(angle))
    return size[0] * cosine + size[1] * sine, size[0] * sine + size[1] * cosine


def _rotate_points(points: Sequence[Point], size: Point, rotated: Point, degrees: float) -> tuple[Point, ...]:
    """Rotate points counter-clockwise from about the center of one size to about that of another."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    moved = [(x - size[0] / 2, y - size[1] / 2) for x, y in points]
    return tuple((x * cosine + y * sine + rotated[0] / 2, y * cosine - x * sine + rotated[1] / 2) for x, y in moved)
