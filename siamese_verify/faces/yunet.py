"""YuNet: one small network that detects faces with five landmarks at strides of 8, 16 and 32 pixels.

Wu, Peng & Yu, "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research 2023. The network is that
of OpenCV's model zoo, and its outputs are decoded as OpenCV's FaceDetectorYN does, so the faces are the same.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from siamese_verify.faces.mtcnn import Array, Detections

STRIDES = (8, 16, 32)
OUTPUTS = tuple(f"{kind}_{stride}" for stride in STRIDES for kind in ("cls", "obj", "bbox", "kps"))
MAX_OVERLAP = 0.3  # intersection over union that two faces may have
MAX_CANDIDATES = 5000  # boxes that are compared with each other, the most probable first

Network = Callable[[NDArray[np.uint8]], list[Array]]


def find_faces(photo: NDArray[np.uint8], network: Network, min_probability: float) -> Detections:
    """Detect the faces of one photo.

    Args:
        photo: (H,W,3) RGB.
        network: (H,W,3) RGB, with sides that are multiples of 32 -> its `OUTPUTS`.
        min_probability: of the faces, in [0, 1].
    """
    height, width = photo.shape[:2]
    padded = np.zeros((-(-height // 32) * 32, -(-width // 32) * 32, 3), dtype=np.uint8)
    padded[:height, :width] = photo
    outputs = iter(network(padded))
    parts = [
        decode(next(outputs)[0], next(outputs)[0], next(outputs)[0], next(outputs)[0], stride, padded.shape[1])
        for stride in STRIDES
    ]
    probabilities, boxes, landmarks = (np.concatenate(part) for part in zip(*parts, strict=True))
    likely = np.flatnonzero(probabilities >= min_probability)
    order = likely[np.argsort(-probabilities[likely], kind="stable")][:MAX_CANDIDATES]
    kept = order[suppress(boxes[order], MAX_OVERLAP)]
    return Detections(boxes[kept], probabilities[kept], landmarks[kept])


def decode(
    classes: Array, objects: Array, boxes: Array, points: Array, stride: int, width: int
) -> tuple[Array, Array, Array]:
    """Decode the outputs of one stride; the K cells of the photo come row by row.

    Args:
        classes: (K,1) probability of the class face.
        objects: (K,1) probability of an object.
        boxes: (K,4) shift of the center from the cell's corner in strides, and logarithm of the size in strides.
        points: (K,10) x and y of five landmarks from the cell's corner in strides.
        stride: pixels between two cells.
        width: of the photo, in pixels.

    Returns:
        (K,) probabilities: the geometric mean of both; (K,4) left, top, right, bottom, and (K,5,2) landmarks, in
        pixels.
    """
    probabilities = np.sqrt(classes[:, 0].clip(0, 1) * objects[:, 0].clip(0, 1))
    rows, columns = np.divmod(np.arange(len(boxes)), width // stride)
    cells = np.stack([columns, rows], axis=1).astype(np.float32)  # (K,2)
    centers, sizes = (cells + boxes[:, :2]) * stride, np.exp(boxes[:, 2:]) * stride
    corners = np.concatenate([centers - sizes / 2, centers + sizes / 2], axis=1)
    return probabilities, corners, (cells[:, None] + points.reshape(-1, 5, 2)) * stride


def suppress(boxes: Array, max_overlap: float) -> NDArray[np.int64]:
    """Non-maximum suppression.

    Args:
        boxes: (N,4) left, top, right, bottom, the most probable first.
        max_overlap: intersection over union that two may have.

    Returns:
        Ascending rows that are kept: each overlaps no earlier one that is kept by more.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    rest = np.arange(len(boxes))
    kept = []
    while len(rest):
        first, rest = rest[0], rest[1:]
        kept.append(first)
        shared = np.minimum(boxes[rest, 2:], boxes[first, 2:]) - np.maximum(boxes[rest, :2], boxes[first, :2])
        both = shared.clip(min=0).prod(axis=1)
        rest = rest[both <= max_overlap * (areas[rest] + areas[first] - both)]
    return np.array(kept, dtype=np.int64)
