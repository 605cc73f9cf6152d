"""Photos -> the faces on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

LONGEST_SIDE = 1280  # larger photos are searched at this size: the time of the search grows with the area


class Face(NamedTuple):
    """A face as the detector saw it, in pixels of the photo."""

    box: tuple[float, float, float, float]  # left, top, right, bottom
    probability: float  # of being a face, in [0, 1]
    landmarks: tuple[tuple[float, float], ...]  # left eye, right eye, nose, left and right corner of the mouth


class FaceDetector:
    """MTCNN through facenet-pytorch, whose weights come inside that package.

    Zhang et al., "Joint Face Detection and Alignment using Multitask Cascaded Convolutional Networks", 2016.

    Args:
        smallest: side of the smallest face to look for, in pixels.
        batch_size: photos searched together; only photos of one size can be.
    """

    identifier = "mtcnn-1"  # what a cache of boxes is named after: to be counted up with any change of the boxes

    def __init__(self, smallest: int = 20, batch_size: int = 32) -> None:
        from facenet_pytorch import MTCNN

        self.mtcnn = MTCNN(min_face_size=smallest).eval()
        self.smallest = smallest
        self.batch_size = batch_size

    def detect(self, photos: Sequence[Image.Image]) -> list[list[Face]]:
        """Find all faces.

        Args:
            photos: RGB images of any sizes.

        Returns:
            For each photo its faces, the most probable first; an empty list where there is none.
        """
        by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
        for row, photo in enumerate(photos):
            by_size[photo.size].append(row)
        found: list[list[Face]] = [[] for _ in photos]
        for (width, height), rows in by_size.items():
            shrink = min(1.0, LONGEST_SIDE / max(width, height))
            size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
            if min(size) * (12 / self.smallest) < 12:  # facenet-pytorch's arithmetic: 47 * (12 / 47) is less
                continue  # not one level of the image pyramid
            for start in range(0, len(rows), self.batch_size):
                batch = rows[start : start + self.batch_size]
                images = [photos[row] if shrink == 1 else photos[row].resize(size) for row in batch]
                for row, faces in zip(batch, self._detect_equal(images), strict=True):
                    found[row] = [
                        Face(
                            tuple((face[:4] / shrink).tolist()),
                            float(face[4]),
                            tuple((x / shrink, y / shrink) for x, y in points.tolist()),
                        )
                        for face, points in sorted(faces, key=lambda face: -face[0][4])
                    ]
        return found

    def _detect_equal(self, images: list[Image.Image]) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        # MTCNN.detect() fails on a batch with a faceless photo, the function beneath it does not, as long as the
        # numbers of faces differ in its last np.array: an array of one shape is what it is asked for then.
        from facenet_pytorch.models.utils.detect_face import detect_face

        mtcnn = self.mtcnn
        with torch.inference_mode():
            boxes, points = detect_face(
                images,
                mtcnn.min_face_size,
                mtcnn.pnet,
                mtcnn.rnet,
                mtcnn.onet,
                mtcnn.thresholds,
                mtcnn.factor,
                mtcnn.device,
            )
        return [
            list(zip(np.asarray(b, dtype=np.float64), np.asarray(p, dtype=np.float64), strict=True))
            for b, p in zip(boxes, points, strict=True)
        ]


def most_central(faces: Sequence[Face], width: int, height: int) -> Face:
    """The subject of a portrait: the largest face, but for its squared distance from the photo's centre.

    The weight of 2 is that of FaceNet's alignment script. LFW defines its subject as the person in the centre.

    Args:
        faces: one or more.
        width: of the photo, in pixels.
        height: of the photo, in pixels.
    """

    def merit(face: Face) -> float:
        left, top, right, bottom = face.box
        off_centre = ((left + right - width) ** 2 + (top + bottom - height) ** 2) / 4
        return (right - left) * (bottom - top) - 2 * off_centre

    return max(faces, key=merit)
