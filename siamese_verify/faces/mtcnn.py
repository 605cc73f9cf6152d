"""MTCNN: a cascade of three networks that detects faces on an image pyramid.

Zhang et al., "Joint Face Detection and Alignment using Multitask Cascaded Convolutional Networks", 2016. The weights
are those that come with facenet-pytorch, and its thresholds and rounding are kept, so the boxes are the same; the work
between the networks is done on sums over rectangles, for all windows of a photo at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Network = Callable[[Array], tuple[Array, ...]]

CELL, STRIDE = 12, 2  # side of the first network's window, and the step between two windows
FACTOR = 0.709  # between two levels of the image pyramid: about half the area
THRESHOLDS = (0.6, 0.7, 0.7)  # probability of a face that each network asks for


class Limits(NamedTuple):
    """Bounds on the memory and time of one photo.

    Attributes:
        batch: windows that the second and third network see at once.
        band: pixels that the first network sees at once; larger levels of the pyramid are cut into bands.
        proposals: windows of one level that are kept, the most probable first.
        candidates: windows that the second and the third network see, likewise.
    """

    batch: int = 64
    band: int = 100_000
    proposals: int = 2000
    candidates: tuple[int, int] = (4000, 1000)


LIMITS = Limits()


class Networks(NamedTuple):
    """MTCNN's three networks, functions of (N,3,H,W) float32 pixels around 0, and non-maximum suppression.

    Attributes:
        propose: any H, W of `CELL` and more -> shifts (N,4,h,w) and probabilities (N,2,h,w).
        refine: 24 x 24 -> shifts (N,4) and probabilities (N,2).
        output: 48 x 48 -> shifts (N,4), landmarks (N,10) and probabilities (N,2).
        apart: non-maximum suppression: (N,4) boxes, (N,) probabilities and the intersection over union that two may
            have -> rows that are kept, the most probable first.
    """

    propose: Network
    refine: Network
    output: Network
    apart: Callable[[Array, Array, float], NDArray[np.int64]]


class Detections(NamedTuple):
    """Detected faces of one photo, the most probable first."""

    boxes: Array  # (F,4) left, top, right, bottom in pixels
    probabilities: Array  # (F,)
    landmarks: Array  # (F,5,2) x and y of left eye, right eye, nose, left and right corner of the mouth


class AreaSums:
    """Summed-area table of a photo, to downscale any window by exact averaging.

    Args:
        photo: (H,W,3) uint8.
    """

    def __init__(self, photo: NDArray[np.uint8]) -> None:
        self.height, self.width = photo.shape[:2]
        most = 255 * self.height * self.width
        kind = np.int32 if most < 2**31 else np.int64
        self.sums = np.zeros((self.height + 1, self.width + 1, 3), dtype=kind)
        np.cumsum(photo, axis=0, dtype=kind, out=self.sums[1:, 1:])
        np.cumsum(self.sums[1:, 1:], axis=1, out=self.sums[1:, 1:])

    def whole(self, height: int, width: int, first: int = 0, last: int | None = None) -> Array:
        """Rows `first` to `last` of the photo resized to `height` x `width`: (1,3,rows,width) around 0."""
        top, bottom = (rows[:, first:last] for rows in edges(np.zeros(1, np.int64), np.array([self.height]), height))
        left, right = edges(np.zeros(1, np.int64), np.array([self.width]), width)
        rows = self.sums[bottom[0]] - self.sums[top[0]]  # (rows,W+1,3)
        sums = rows[:, right[0]] - rows[:, left[0]]  # (rows,width,3)
        area = (bottom - top)[0][:, None] * (right - left)[0]
        return standardized(sums, area)[None]

    def windows(self, corners: NDArray[np.int64], side: int) -> Array:
        """Windows of the photo at one size.

        Args:
            corners: (N,4) left, top, right, bottom, not empty.
            side: of a shrunk or stretched window.

        Returns:
            (N,3,side,side) around 0.
        """
        left, right = edges(corners[:, 0], corners[:, 2], side)  # (N,side)
        top, bottom = edges(corners[:, 1], corners[:, 3], side)
        top, bottom, left, right = top[:, :, None], bottom[:, :, None], left[:, None], right[:, None]
        flat, across = self.sums.reshape(-1, 3), self.width + 1
        upper, lower = top * across, bottom * across
        sums = flat.take(lower + right, axis=0)
        sums -= flat.take(upper + right, axis=0)
        sums -= flat.take(lower + left, axis=0)
        sums += flat.take(upper + left, axis=0)
        return standardized(sums, (bottom - top) * (right - left))


def edges(start: NDArray[np.int64], end: NDArray[np.int64], parts: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Begin and end of the equal parts of intervals, (N,parts) each; in short intervals they overlap."""
    length = (end - start)[:, None]
    part = np.arange(parts)
    return start[:, None] + part * length // parts, start[:, None] - (-(part + 1) * length // parts)


def standardized(sums: NDArray[np.integer], area: NDArray[np.integer]) -> Array:
    """Averages (...,3) of pixels, normalized as the networks take them: channels first, about -1 ... 1."""
    means = np.divide(sums, area[..., None], dtype=np.float32)
    means -= np.float32(127.5)
    means *= np.float32(0.0078125)
    return np.moveaxis(means, -1, -3)


def pyramid(height: int, width: int, smallest: int) -> list[float]:
    """Scales of the image pyramid: at the first, a face of `smallest` pixels fills the first network's window."""
    scale = CELL / smallest
    scales = []
    while min(height, width) * scale >= CELL:
        scales.append(scale)
        scale *= FACTOR
    return scales


def find_faces(photo: NDArray[np.uint8], networks: Networks, smallest: int, limits: Limits = LIMITS) -> Detections:
    """Detect the faces of one photo.

    Args:
        photo: (H,W,3) RGB.
        networks: of MTCNN.
        smallest: side of the smallest face to look for, in pixels.
        limits: on memory and time.
    """
    height, width = photo.shape[:2]
    sums = AreaSums(photo)
    windows = np.empty((0, 9), np.float32)
    for scale in pyramid(height, width, smallest):
        proposed = propose(networks.propose, sums, int(height * scale + 1), int(width * scale + 1), scale, limits)
        kept = networks.apart(proposed[:, :4], proposed[:, 4], 0.5)
        windows = np.concatenate([windows, proposed[kept]])
    windows = windows[networks.apart(windows[:, :4], windows[:, 4], 0.7)][: limits.candidates[0]]
    size = windows[:, 2:4] - windows[:, :2]
    boxes = np.concatenate([windows[:, :4] + windows[:, 5:9] * np.tile(size, 2), windows[:, 4:5]], axis=1)

    boxes, corners = clipped(squared(boxes), sums)
    shifts, probability = in_batches(networks.refine, sums, corners, 24, limits.batch)
    passed = probability[:, 1] > THRESHOLDS[1]
    boxes, shifts = np.concatenate([boxes[passed, :4], probability[passed, 1:]], axis=1), shifts[passed]
    kept = networks.apart(boxes[:, :4], boxes[:, 4], 0.7)[: limits.candidates[1]]
    boxes, corners = clipped(squared(shifted(boxes[kept], shifts[kept])), sums)

    shifts, points, probability = in_batches(networks.output, sums, corners, 48, limits.batch)
    passed = probability[:, 1] > THRESHOLDS[2]
    boxes, shifts = np.concatenate([boxes[passed, :4], probability[passed, 1:]], axis=1), shifts[passed]
    size = boxes[:, 2:4] - boxes[:, :2] + 1
    places = points[passed].reshape(-1, 2, 5).transpose(0, 2, 1)  # (F,5,2)
    landmarks = places * size[:, None] + boxes[:, None, :2] - 1
    boxes = shifted(boxes, shifts)
    kept = outermost(boxes, 0.7)
    return Detections(boxes[kept, :4], boxes[kept, 4], landmarks[kept])


def propose(network: Network, sums: AreaSums, height: int, width: int, scale: float, limits: Limits) -> Array:
    """Windows of one level of the pyramid in which a face is likely.

    Args:
        network: the first.
        sums: of the photo.
        height: of the level, in pixels.
        width: of the level, in pixels.
        scale: of the level.
        limits: on memory and time.

    Returns:
        (N,9) corners in pixels of the photo, probability and shifts.
    """
    rows = max(1, (limits.band // width - CELL) // STRIDE)  # of windows, for each band
    found = []
    for first in range(0, max(1, (height - CELL + STRIDE) // STRIDE), rows):
        last = height if first + rows >= (height - CELL + STRIDE) // STRIDE else (first + rows - 1) * STRIDE + CELL
        shifts, probabilities = network(sums.whole(height, width, first * STRIDE, last))
        shifts, probability = shifts[0], probabilities[0, 1]  # (4,h,w), (h,w)
        row, column = np.nonzero(probability >= THRESHOLDS[0])
        corner = np.stack([column, row + first], axis=1) * STRIDE
        corners = np.floor(np.concatenate([corner + 1, corner + CELL], axis=1).astype(np.float32) / np.float32(scale))
        found.append(np.concatenate([corners, probability[row, column, None], shifts[:, row, column].T], axis=1))
    windows = np.concatenate(found)
    if len(windows) <= limits.proposals:
        return windows
    return windows[np.sort(np.argpartition(-windows[:, 4], limits.proposals)[: limits.proposals])]


def outermost(boxes: Array, max_overlap: float) -> NDArray[np.int64]:
    """Non-maximum suppression by the area of the smaller box, which also drops boxes within others.

    Args:
        boxes: (N,5) corners, in pixels that belong to the box, and probability.
        max_overlap: intersection over the area of the smaller box that two may have.

    Returns:
        Rows that are kept, the most probable first.
    """
    order = np.argsort(boxes[:, 4], kind="stable")[::-1]  # of equal ones the last, as facenet-pytorch takes them
    left, top, right, bottom = boxes[order, :4].T
    area = (right - left + 1) * (bottom - top + 1)
    there = np.ones(len(order), dtype=np.bool_)
    for row in range(len(order)):
        if not there[row]:
            continue
        rest = row + 1 + np.flatnonzero(there[row + 1 :])
        across = np.minimum(right[row], right[rest]) - np.maximum(left[row], left[rest]) + 1
        down = np.minimum(bottom[row], bottom[rest]) - np.maximum(top[row], top[rest]) + 1
        both = across.clip(min=0) * down.clip(min=0)
        there[rest[both > max_overlap * np.minimum(area[row], area[rest])]] = False
    return order[there]


def squared(boxes: Array) -> Array:
    """Boxes grown to squares of their longer side around the same centers."""
    size = boxes[:, 2:4] - boxes[:, :2]
    side = size.max(axis=1, keepdims=True, initial=0)
    corner = boxes[:, :2] + size / 2 - side / 2
    return np.concatenate([corner, corner + side, boxes[:, 4:]], axis=1)


def shifted(boxes: Array, shifts: Array) -> Array:
    """Boxes corrected by a network's regression, in shares of their size."""
    size = boxes[:, 2:4] - boxes[:, :2] + 1
    return np.concatenate([boxes[:, :4] + shifts * np.tile(size, 2), boxes[:, 4:]], axis=1)


def clipped(boxes: Array, sums: AreaSums) -> tuple[Array, NDArray[np.int64]]:
    """Boxes and their (N,4) parts inside the photo: left, top, right, bottom; boxes outside of it are dropped."""
    corners = np.trunc(boxes[:, :4]).astype(np.int64)
    corners = np.concatenate(
        [corners[:, :2].clip(min=1) - 1, np.minimum(corners[:, 2:], [sums.width, sums.height])], axis=1
    )
    inside = (corners[:, 2:] > corners[:, :2]).all(axis=1)
    return boxes[inside], corners[inside]


def in_batches(
    network: Network, sums: AreaSums, corners: NDArray[np.int64], side: int, batch: int
) -> tuple[Array, ...]:
    """Outputs of a network for any number of windows of a photo, none included."""
    starts = range(0, max(1, len(corners)), batch)
    answers = [network(sums.windows(corners[start : start + batch], side)) for start in starts]
    return tuple(np.concatenate(part) for part in zip(*answers, strict=True))
