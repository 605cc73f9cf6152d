"""Photos turned by any angle, and where their points come to lie."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

Point = tuple[float, float]
Box = tuple[float, float, float, float]

TURNS = {90: Image.Transpose.ROTATE_90, 270: Image.Transpose.ROTATE_270, 180: Image.Transpose.ROTATE_180}


def turned(photo: Image.Image, degrees: float) -> Image.Image:
    """A photo turned counter-clockwise about its centre and all of it shown, black beyond it."""
    degrees %= 360
    if degrees in TURNS:
        return photo.transpose(TURNS[int(degrees)])
    return part(photo, degrees, (0, 0, *turned_size(photo.size, degrees))) if degrees else photo


def turned_size(size: tuple[int, int], degrees: float) -> tuple[int, int]:
    """Width and height of a photo that is turned."""
    width, height = _extent(size, degrees)
    return math.ceil(width - 1e-6), math.ceil(height - 1e-6)


def to_photo(points: Sequence[Point], size: tuple[int, int], degrees: float) -> tuple[Point, ...]:
    """Points of a turned photo, in the photo as it was; in pixels from the left and the top edge.

    Args:
        points: x and y.
        size: width and height of the photo as it was.
        degrees: counter-clockwise.
    """
    return _rotated(points, _extent(size, degrees), size, -degrees)


def to_turned(points: Sequence[Point], size: tuple[int, int], degrees: float) -> tuple[Point, ...]:
    """Points of a photo, in the turned one; see `to_photo`."""
    return _rotated(points, size, _extent(size, degrees), degrees)


def part(photo: Image.Image, degrees: float, box: Box, size: tuple[int, int] | None = None) -> Image.Image:
    """What a box of the turned photo shows, without turning the rest.

    Args:
        photo: RGB, as it was.
        degrees: counter-clockwise.
        box: left, top, right, bottom in the turned photo; black where there is no photo.
        size: width and height of the answer; by default those of the box.
    """
    left, top, right, bottom = box
    width, height = size or (round(right - left), round(bottom - top))
    corner, across, down = to_photo([(left, top), (right, top), (left, bottom)], photo.size, degrees)
    finer = max(1, math.floor((right - left) / width))  # pixels of the photo for one of the answer
    if finer > 1:  # averaged, not skipped
        corners = (corner, across, down, (across[0] + down[0] - corner[0], across[1] + down[1] - corner[1]))
        x, y = (max(0, math.floor(min(point[axis] for point in corners))) for axis in (0, 1))
        end_x, end_y = (min(photo.size[axis], math.ceil(max(point[axis] for point in corners))) for axis in (0, 1))
        photo = photo.crop((x, y, max(x + 1, end_x), max(y + 1, end_y))).reduce(finer)  # never what lies beyond it
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


def _rotated(points: Sequence[Point], size: Point, other: Point, degrees: float) -> tuple[Point, ...]:
    """Points turned counter-clockwise from about the centre of one size to about that of another."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    moved = [(x - size[0] / 2, y - size[1] / 2) for x, y in points]
    return tuple((x * cosine + y * sine + other[0] / 2, y * cosine - x * sine + other[1] / 2) for x, y in moved)
