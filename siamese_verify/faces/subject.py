"""Photo -> the one face that it is about, searched on its side if need be."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from PIL import Image

from siamese_verify.faces.detector import Choice, Face, FaceDetector, choose_face

TURNS = {90: Image.Transpose.ROTATE_90, 270: Image.Transpose.ROTATE_270}


class Subject(NamedTuple):
    """What was found on a photo."""

    face: Face | None  # in pixels of the photo once it is turned; None where there is none
    faces: int  # how many there are
    turned: int  # degrees counter-clockwise that the photo has to be turned first: 0, 90 or 270

    def upright(self, photo: Image.Image) -> Image.Image:
        """The photo as its face is upright."""
        return photo.transpose(TURNS[self.turned]) if self.turned else photo


def find_subject(detector: FaceDetector, photo: Image.Image, choice: Choice = "central", least: float = 0.0) -> Subject:
    """Find the subject of a photo; where there is no face, on its sides, where the surer one wins.

    Args:
        detector: of faces.
        photo: RGB.
        choice: among several faces.
        least: probability that a face must have to count.
    """
    sides = []
    for turned in (0, *TURNS):
        image = photo.transpose(TURNS[turned]) if turned else photo
        faces = [face for face in detector.detect(image) if face.probability >= least]
        if faces:
            subject = Subject(choose_face(faces, *image.size, choice), len(faces), turned)
            if not turned:
                return subject
            sides.append(subject)
    return max(sides, key=lambda side: side.face.probability if side.face else 0, default=Subject(None, 0, 0))


def find_subjects(detector: FaceDetector, photos: Sequence[Image.Image], choice: Choice = "central") -> list[Subject]:
    """Find the subjects of many photos, in as many threads as torch has; see `find_subject`.

    Each search runs in one of them: with more, the last bits, and so a face at the limit, would depend on their number.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(lambda photo: find_subject(detector, photo, choice), photos))
    finally:
        torch.set_num_threads(threads)
