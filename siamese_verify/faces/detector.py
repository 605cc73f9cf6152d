"""Photos -> the faces on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from siamese_verify.errors import InputError
from siamese_verify.faces.mtcnn import Networks, find_faces
from siamese_verify.faces.networks import detector_files, load_networks

LONGEST_SIDE = 1280  # larger photos are searched at this size: the time of the search grows with the area
FINER = 2  # times this size, and for faces of half the size, in a second look
Choice = Literal["central", "largest", "probable"]


class Face(NamedTuple):
    """A face as the detector saw it, in pixels of the photo."""

    box: tuple[float, float, float, float]  # left, top, right, bottom
    probability: float  # of being a face, in [0, 1]
    landmarks: tuple[tuple[float, float], ...]  # left eye, right eye, nose, left and right corner of the mouth


class FaceDetector:
    """MTCNN with the weights that come inside facenet-pytorch, on ONNX Runtime.

    What is found on a photo does not depend on the photos beside it, and one detector serves any number of threads.

    Args:
        networks: those that come with a model; by default those of this machine's cache, see `detector_files`.
        smallest: side of the smallest face to look for, in pixels.
    """

    identifier = "mtcnn-3"  # names caches and alignments: to be counted up with any change of the boxes

    def __init__(self, networks: Networks | None = None, smallest: int = 20) -> None:
        self.networks = networks or load_networks(detector_files())
        self.smallest = smallest

    def detect(self, photo: Image.Image, finer: bool = False) -> list[Face]:
        """Find all faces of a photo.

        Args:
            photo: RGB, of any size.
            finer: look for smaller faces too, and at large photos in more detail: about four times the work.

        Returns:
            The faces, the most probable first.
        """
        longest, smallest = LONGEST_SIDE, self.smallest
        if finer:
            longest, smallest = longest * FINER, max(1, smallest // FINER)
        shrink = min(1.0, longest / max(photo.size))
        if shrink < 1:
            width, height = photo.size
            photo = photo.resize((max(1, round(width * shrink)), max(1, round(height * shrink))))
        found = find_faces(np.asarray(photo), self.networks, smallest)
        return [
            Face(tuple(box), probability, tuple((x, y) for x, y in points))
            for box, probability, points in zip(
                (found.boxes / shrink).tolist(),
                found.probabilities.tolist(),
                (found.landmarks / shrink).tolist(),
                strict=True,
            )
        ]


def choose_face(faces: Sequence[Face], width: int, height: int, choice: Choice = "central") -> Face:
    """The subject of a photo with several faces.

    Args:
        faces: one or more.
        width: of the photo, in pixels.
        height: of the photo, in pixels.
        choice: `central`: the largest, but for twice its squared distance from the photo's centre, the weight of
            FaceNet's alignment script (LFW defines its subject as the person in the centre); `largest`; `probable`:
            the one the detector is surest of.

    Raises:
        InputError: another choice.
    """

    def merit(face: Face) -> float:
        left, top, right, bottom = face.box
        if choice == "probable":
            return face.probability
        off_centre = ((left + right - width) ** 2 + (top + bottom - height) ** 2) / 4
        return (right - left) * (bottom - top) - (2 * off_centre if choice == "central" else 0)

    if choice not in ("central", "largest", "probable"):
        raise InputError(f"Of several faces the central, largest or probable one can be chosen, not {choice!r}.")
    return max(faces, key=merit)
