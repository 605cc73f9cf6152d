"""Photos turned by any angle, and where their points come to lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from siamese_verify.errors import InputError
from siamese_verify.faces.detector_networks import detector_files, load_networks
from siamese_verify.faces.mtcnn import Networks, find_faces

Point = tuple[float, float]
Box = tuple[float, float, float, float]

TURNS = {90: Image.Transpose.ROTATE_90, 270: Image.Transpose.ROTATE_270, 180: Image.Transpose.ROTATE_180}


def rotate_photo(photo: Image.Image, degrees: float) -> Image.Image:
    """A photo turned counter-clockwise about its centre and all of it shown, black beyond it."""
    degrees %= 360
    if degrees in TURNS:
        return photo.transpose(TURNS[int(degrees)])
    return part(photo, degrees, (0, 0, *rotated_size(photo.size, degrees))) if degrees else photo


def rotated_size(size: tuple[int, int], degrees: float) -> tuple[int, int]:
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


def to_rotated(points: Sequence[Point], size: tuple[int, int], degrees: float) -> tuple[Point, ...]:
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


LONGEST_SIDE = 1280  # larger photos are searched at this size: the time of the search grows with the area
FINER = 2  # by how much smaller are the faces that a second look finds
FACE_PROBABILITY = 0.9  # what the detector is less sure of does not count as a face
Choice = Literal["central", "largest", "probable"]


class Face(NamedTuple):
    """A face as the detector saw it, in pixels of the photo."""

    box: tuple[float, float, float, float]  # left, top, right, bottom
    probability: float  # of being a face, in [0, 1]
    landmarks: tuple[tuple[float, float], ...]  # left eye, right eye, nose, left and right corner of the mouth

    @property
    def side(self) -> float:
        """Side of the square that is as large as its box."""
        left, top, right, bottom = self.box
        return math.sqrt(max(0.0, right - left) * max(0.0, bottom - top))

    @property
    def centre(self) -> tuple[float, float]:
        """x and y of the middle of its box."""
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2

    def placed(self, scale: float, x: float = 0.0, y: float = 0.0) -> Face:
        """The face in a photo of another size, where the corner of its own comes to lie at `x` and `y`."""
        left, top, right, bottom = self.box
        return Face(
            (left * scale + x, top * scale + y, right * scale + x, bottom * scale + y),
            self.probability,
            tuple((across * scale + x, down * scale + y) for across, down in self.landmarks),
        )


class FaceDetector:
    """MTCNN with the weights that come inside facenet-pytorch, on ONNX Runtime.

    What is found on a photo does not depend on the photos beside it, and one detector serves any number of threads.

    Args:
        networks: those that come with a model; by default those of this machine's cache, see `detector_files`.
        smallest: side of the smallest face to look for, in pixels.
    """

    identifier = "mtcnn-4"  # names caches and alignments: to be counted up with any change of the boxes or the search

    def __init__(self, networks: Networks | None = None, smallest: int = 20) -> None:
        self.networks = networks or load_networks(detector_files())
        self.smallest = smallest

    def detect(self, photo: Image.Image, finer: bool = False) -> list[Face]:
        """Find all faces of a photo.

        Args:
            photo: RGB, of any size.
            finer: look for faces of half the size, too: about four times the work.

        Returns:
            The faces, the most probable first.
        """
        # At most 2.4 megapixels are searched for the smallest faces: 1.2 times a photo of 1,280 pixels.
        smallest = max(1, self.smallest // FINER) if finer else self.smallest
        small, scale = searched(photo)
        found = find_faces(np.asarray(small), self.networks, smallest)
        faces = zip(found.boxes.tolist(), found.probabilities.tolist(), found.landmarks.tolist(), strict=True)
        return [
            Face(tuple(box), probability, tuple((x, y) for x, y in points)).placed(scale)
            for box, probability, points in faces
        ]


def searched(photo: Image.Image) -> tuple[Image.Image, float]:
    """A photo at the size at which it is searched for faces, and how many of its pixels one of those is."""
    shrink = min(1.0, LONGEST_SIDE / max(photo.size))
    if shrink == 1:
        return photo, 1.0
    width, height = photo.size
    return photo.resize((max(1, round(width * shrink)), max(1, round(height * shrink)))), 1 / shrink


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
        if choice == "probable":
            return face.probability
        left, top, right, bottom = face.box
        off_centre = ((left + right - width) ** 2 + (top + bottom - height) ** 2) / 4
        return (right - left) * (bottom - top) - (2 * off_centre if choice == "central" else 0)

    if choice not in ("central", "largest", "probable"):
        raise InputError(f"Of several faces the central, largest or probable one can be chosen, not {choice!r}.")
    return max(faces, key=merit)


def ambiguous(faces: Sequence[Face], width: int, height: int) -> bool:
    """Tell whether a photo of several faces leaves open which one is meant.

    It does not if the central face (see `choose_face`) is also the largest, and every other one that is at least half
    as large (by the side of the square that is as large as its box) lies farther from the photo's centre by more than
    half a side of the central face.

    Args:
        faces: one or more.
        width: of the photo, in pixels.
        height: of the photo, in pixels.
    """
    chosen = choose_face(faces, width, height)

    def off_centre(face: Face) -> float:
        return math.dist(face.centre, (width / 2, height / 2))

    return any(
        face.side > chosen.side
        or (face.side >= chosen.side / 2 and off_centre(face) <= off_centre(chosen) + chosen.side / 2)
        for face in faces
        if face is not chosen
    )
