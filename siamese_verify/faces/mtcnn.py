"""The cascade of MTCNN: three networks that look at ever fewer windows ever more closely.

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

CELL, STRIDE = 12, 2  # the window that the first network sees, and the step between two windows
FACTOR = 0.709  # between two levels of the image pyramid: about half the area
THRESHOLDS = (0.6, 0.7, 0.7)  # probability of a face that each network asks for
WINDOWS = 64  # that a network sees at once, at most: bounds the memory of photos full of faces
BAND = 100_000  # pixels that the first network sees at once: larger levels are shown to it in bands
LIKELY = 2000  # windows of one level of the pyramid that go on, the most probable first
CANDIDATES = (4000, 1000)  # windows that the second and the third network see, likewise


class Networks(NamedTuple):
    """The three networks, as functions of (N,3,H,W) float32 pixels around 0, and the choice among boxes.

    Attributes:
        propose: any H, W of `CELL` and more -> shifts (N,4,h,w) and probabilities (N,2,h,w).
        refine: 24 x 24 -> shifts (N,4) and probabilities (N,2).
        output: 48 x 48 -> shifts (N,4), landmarks (N,10) and probabilities (N,2).
        apart: (N,4) boxes, (N,) probabilities and the intersection over union that two may have -> rows of those that
            overlap with no more probable one, the most probable first.
    """

    propose: Network
    refine: Network
    output: Network
    apart: Callable[[Array, Array, float], NDArray[np.int64]]


class Detections(NamedTuple):
    """Faces of one photo."""

    boxes: Array  # (F,4) left, top, right, bottom in pixels
    probabilities: Array  # (F,)
    landmarks: Array  # (F,5,2) x and y of left eye, right eye, nose, left and right corner of the mouth


class AreaSums:
    """Sums over any rectangle of a photo, for shrinking windows by averaging: exact, as pixels are whole numbers.

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
        """The photo at another size, or the rows of it from `first` to before `last`: (1,3,rows,width) around 0."""
        top, bottom = (rows[:, first:last] for rows in edges(np.zeros(1, np.int64), np.array([self.height]), height))
        left, right = edges(np.zeros(1, np.int64), np.array([self.width]), width)
        rows = self.sums[bottom[0]] - self.sums[top[0]]  # (rows,W+1,3)
        sums = rows[:, right[0]] - rows[:, left[0]]  # (rows,width,3)
        area = (bottom - top)[0][:, None] * (right - left)[0]
        return standardised(sums, area)[None]

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
        return standardised(sums, (bottom - top) * (right - left))


def edges(start: NDArray[np.int64], end: NDArray[np.int64], parts: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the parts of some stretches begin and end, (N,parts) each; of short stretches they overlap."""
    length = (end - start)[:, None]
    part = np.arange(parts)
    return start[:, None] + part * length // parts, start[:, None] - (-(part + 1) * length // parts)


def standardised(sums: NDArray[np.integer], area: NDArray[np.integer]) -> Array:
    """Averages (...,3) of pixels as the networks take them: channels first, about -1 ... 1."""
    means = np.divide(sums, area[..., None], dtype=np.float32)
    means -= np.float32(127.5)
    means *= np.float32(0.0078125)
    return np.moveaxis(means, -1, -3)


def pyramid(height: int, width: int, smallest: int) -> list[float]:
    """Scales at which faces from `smallest` pixels on fill the first network's window; none for a tiny photo."""
    scale = CELL / smallest
    scales = []
    while min(height, width) * scale >= CELL:
        scales.append(scale)
        scale *= FACTOR
    return scales


def find_faces(photo: NDArray[np.uint8], networks: Networks, smallest: int) -> Detections:
    """Find the faces of one photo, whatever other photos there are.

    Args:
        photo: (H,W,3) RGB.
        networks: of MTCNN.
        smallest: side of the smallest face to look for, in pixels.

    Returns:
        The faces, the most probable first.
    """
    height, width = photo.shape[:2]
    sums = AreaSums(photo)
    windows = np.empty((0, 9), np.float32)
    for scale in pyramid(height, width, smallest):
        proposed = propose(networks.propose, sums, int(height * scale + 1), int(width * scale + 1), scale)
        kept = networks.apart(proposed[:, :4], proposed[:, 4], 0.5)
        windows = np.concatenate([windows, proposed[kept]])
    windows = windows[networks.apart(windows[:, :4], windows[:, 4], 0.7)][: CANDIDATES[0]]
    size = windows[:, 2:4] - windows[:, :2]
    boxes = np.concatenate([windows[:, :4] + windows[:, 5:9] * np.tile(size, 2), windows[:, 4:5]], axis=1)

    boxes, corners = clipped(squared(boxes), sums)
    shifts, probability = in_parts(networks.refine, sums, corners, 24)
    passed = probability[:, 1] > THRESHOLDS[1]
    boxes, shifts = np.concatenate([boxes[passed, :4], probability[passed, 1:]], axis=1), shifts[passed]
    kept = networks.apart(boxes[:, :4], boxes[:, 4], 0.7)[: CANDIDATES[1]]
    boxes, corners = clipped(squared(shifted(boxes[kept], shifts[kept])), sums)

    shifts, points, probability = in_parts(networks.output, sums, corners, 48)
    passed = probability[:, 1] > THRESHOLDS[2]
    boxes, shifts = np.concatenate([boxes[passed, :4], probability[passed, 1:]], axis=1), shifts[passed]
    size = boxes[:, 2:4] - boxes[:, :2] + 1
    places = points[passed].reshape(-1, 2, 5).transpose(0, 2, 1)  # (F,5,2)
    landmarks = places * size[:, None] + boxes[:, None, :2] - 1
    boxes = shifted(boxes, shifts)
    kept = outermost(boxes, 0.7)
    return Detections(boxes[kept, :4], boxes[kept, 4], landmarks[kept])


def propose(network: Network, sums: AreaSums, height: int, width: int, scale: float) -> Array:
    """Windows of one level of the pyramid in which a face is likely.

    Args:
        network: the first.
        sums: of the photo.
        height: of the level, in pixels.
        width: likewise.
        scale: of the level.

    Returns:
        (N,9) corners in pixels of the photo, probability and shifts; at most `LIKELY`.
    """
    rows = max(1, (BAND // width - CELL) // STRIDE)  # of windows, for each band
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
    if len(windows) <= LIKELY:
        return windows
    return windows[np.sort(np.argpartition(-windows[:, 4], LIKELY)[:LIKELY])]


def outermost(boxes: Array, most: float) -> NDArray[np.int64]:
    """Choose boxes that neither hold a more probable one nor lie in one: suppression by the smaller one's area.

    Args:
        boxes: (N,5) corners, in pixels that belong to the box, and probability.
        most: intersection over the area of the smaller box that two may have.

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
        there[rest[both > most * np.minimum(area[row], area[rest])]] = False
    return order[there]


def squared(boxes: Array) -> Array:
    """The same centres, and the longer side for both."""
    size = boxes[:, 2:4] - boxes[:, :2]
    side = size.max(axis=1, keepdims=True, initial=0)
    corner = boxes[:, :2] + size / 2 - side / 2
    return np.concatenate([corner, corner + side, boxes[:, 4:]], axis=1)


def shifted(boxes: Array, shifts: Array) -> Array:
    """Corners moved by the share of the size that a network says."""
    size = boxes[:, 2:4] - boxes[:, :2] + 1
    return np.concatenate([boxes[:, :4] + shifts * np.tile(size, 2), boxes[:, 4:]], axis=1)


def clipped(boxes: Array, sums: AreaSums) -> tuple[Array, NDArray[np.int64]]:
    """Boxes and what of them lies in the photo, (N,4) left, top, right, bottom; those without a pixel are left out."""
    corners = np.trunc(boxes[:, :4]).astype(np.int64)
    corners = np.concatenate(
        [corners[:, :2].clip(min=1) - 1, np.minimum(corners[:, 2:], [sums.width, sums.height])], axis=1
    )
    inside = (corners[:, 2:] > corners[:, :2]).all(axis=1)
    return boxes[inside], corners[inside]


def in_parts(network: Network, sums: AreaSums, corners: NDArray[np.int64], side: int) -> tuple[Array, ...]:
    """A network's answers about any number of windows of a photo, none included."""
    starts = range(0, max(1, len(corners)), WINDOWS)
    answers = [network(sums.windows(corners[start : start + WINDOWS], side)) for start in starts]
    return tuple(np.concatenate(part) for part in zip(*answers, strict=True))
