"""Photo -> the faces on it, and the one that it is about: searched on all sides, more closely if need be, levelled."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from PIL import Image

from siamese_verify.faces.detector import (
    FACE_PROBABILITY,
    TURNS,
    Choice,
    Face,
    FaceDetector,
    choose_face,
    part,
    rotate_photo,
    rotated_size,
    searched,
    to_photo,
    to_rotated,
)
from siamese_verify.faces.quality import roll_of

SURE = 0.99  # probability of an upright face: one that is upside down, or lies, seldom gets so far
TILT = 10.0  # degrees beyond which a face is levelled
TRIES = 3  # of levelling: the landmarks of a face are the better the less it is tilted
AROUND = 1.5  # sides of a face, to all sides of its centre, that are searched again once it is levelled
SIDES = (40, 100)  # pixels between which a face is brought for that


class Subject(NamedTuple):
    """What was found on a photo."""

    face: Face | None  # in pixels of the photo once it is turned; None where there is none
    faces: int  # how many there are
    turned: float  # degrees counter-clockwise that the photo has to be turned first, from 0 to below 360


def search(detector: FaceDetector, photo: Image.Image, least: float = FACE_PROBABILITY) -> tuple[list[Face], int]:
    """Find the faces of a photo; where none of them is sure, on its other sides, and then more closely.

    Args:
        detector: of faces.
        photo: RGB.
        least: probability that a face must have to count.

    Returns:
        The faces, the most probable first, and the degrees by which the photo has to be turned before: 0, 90, 180 or
        270, of several sides the one with the most probable face.
    """
    small, scale = searched(photo)

    def seen(degrees: int, finer: bool = False) -> list[Face]:
        faces = detector.detect(rotate_photo(small, degrees), finer)
        return [face.placed(scale) for face in faces if face.probability >= least]

    sides = {0: seen(0)}
    if not sides[0] or sides[0][0].probability < SURE:
        sides |= {degrees: seen(degrees) for degrees in TURNS}
    surest = max(sides, key=lambda degrees: sides[degrees][0].probability if sides[degrees] else 0.0)
    return (sides[surest], surest) if sides[surest] else (seen(0, finer=True), 0)


def level(detector: FaceDetector, photo: Image.Image, face: Face, degrees: float) -> tuple[Face, float]:
    """Turn a photo further by the angle at which a face of it is tilted, and find the face there again.

    Args:
        detector: that found it.
        photo: RGB, not turned.
        face: in the turned photo.
        degrees: that the photo was turned by.

    Returns:
        The face and the degrees by which the photo has to be turned for it: as they were if the face is tilted by no
        more than `TILT`, or is not found again. Of several tries it is the least tilted.
    """
    tried = [(face, degrees)]
    for _ in range(TRIES):
        last, angle = tried[-1]
        if abs(roll := roll_of(last.landmarks)) <= TILT:
            break
        further = round((angle + roll) % 360, 2)
        ((x, y),) = to_rotated(to_photo([last.centre], photo.size, angle), photo.size, further)
        found = _around(detector, photo, further, (x, y), last.side)
        if found is None:
            break
        tried.append((found, further))
    return min(tried, key=lambda one: abs(roll_of(one[0].landmarks)))


def _around(
    detector: FaceDetector, photo: Image.Image, degrees: float, centre: tuple[float, float], side: float
) -> Face | None:
    """Find the face around a point of a turned photo."""
    wanted = min(max(side, SIDES[0]), SIDES[1])
    half = AROUND * side
    left, top = centre[0] - half, centre[1] - half
    pixels = max(1, round(2 * AROUND * wanted))
    view = part(photo, degrees, (left, top, centre[0] + half, centre[1] + half), (pixels, pixels))
    scale = 2 * half / pixels
    found = [face.placed(scale, left, top) for face in detector.detect(view)]
    near = [
        face
        for face in found
        if face.probability >= FACE_PROBABILITY
        and face.box[0] <= centre[0] <= face.box[2]
        and face.box[1] <= centre[1] <= face.box[3]
    ]
    return max(near, key=lambda face: face.probability) if near else None


def find_subject(
    detector: FaceDetector, photo: Image.Image, choice: Choice = "central", least: float = FACE_PROBABILITY
) -> Subject:
    """Find the subject of a photo, see `search`, `choose_face` and `level`."""
    faces, degrees = search(detector, photo, least)
    if not faces:
        return Subject(None, 0, 0)
    chosen = choose_face(faces, *rotated_size(photo.size, degrees), choice)
    face, angle = level(detector, photo, chosen, degrees)
    return Subject(face, len(faces), angle)


def find_subjects(
    detector: FaceDetector, photos: Sequence[Image.Image], choice: Choice = "central", threads: int = 1
) -> list[Subject]:
    """Find the subjects of many photos, in several threads; see `find_subject`."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda photo: find_subject(detector, photo, choice), photos))
