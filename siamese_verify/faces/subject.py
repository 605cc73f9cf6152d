"""Photo -> the faces on it, and the one that it is about, searched on its side and more closely if need be."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from PIL import Image

from siamese_verify.faces.detector import Choice, Face, FaceDetector, choose_face

TURNS = {90: Image.Transpose.ROTATE_90, 270: Image.Transpose.ROTATE_270, 180: Image.Transpose.ROTATE_180}


class Subject(NamedTuple):
    """What was found on a photo."""

    face: Face | None  # in pixels of the photo once it is turned; None where there is none
    faces: int  # how many there are
    turned: int  # degrees counter-clockwise that the photo has to be turned first: 0, 90, 180 or 270

    def upright(self, photo: Image.Image) -> Image.Image:
        """The photo as its face is upright."""
        return turned(photo, self.turned)


def turned(photo: Image.Image, degrees: int) -> Image.Image:
    """A photo turned counter-clockwise by 0, 90, 180 or 270 degrees."""
    return photo.transpose(TURNS[degrees]) if degrees else photo


def search(detector: FaceDetector, photo: Image.Image, least: float = 0.0) -> tuple[list[Face], int]:
    """Find the faces of a photo; where there is none, on its other sides, and then more closely.

    Args:
        detector: of faces.
        photo: RGB.
        least: probability that a face must have to count.

    Returns:
        The faces, the most probable first, and the degrees by which the photo has to be turned before; of several sides
        the one with the most probable face.
    """

    def seen(degrees: int, finer: bool = False) -> list[Face]:
        return [face for face in detector.detect(turned(photo, degrees), finer) if face.probability >= least]

    if faces := seen(0):
        return faces, 0
    sides = {degrees: faces for degrees in TURNS if (faces := seen(degrees))}
    if sides:
        surest = max(sides, key=lambda degrees: sides[degrees][0].probability)
        return sides[surest], surest
    return seen(0, finer=True), 0


def find_subject(detector: FaceDetector, photo: Image.Image, choice: Choice = "central", least: float = 0.0) -> Subject:
    """Find the subject of a photo, see `search` and `choose_face`."""
    faces, degrees = search(detector, photo, least)
    face = choose_face(faces, *turned(photo, degrees).size, choice) if faces else None
    return Subject(face, len(faces), degrees)


def find_subjects(
    detector: FaceDetector, photos: Sequence[Image.Image], choice: Choice = "central", threads: int = 1
) -> list[Subject]:
    """Find the subjects of many photos, in several threads; see `find_subject`."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda photo: find_subject(detector, photo, choice), photos))
