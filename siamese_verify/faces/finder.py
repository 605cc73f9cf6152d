"""Face finder: which face of a photo is compared.

There is one policy, and preparation, training, evaluation, verification, gallery and server all follow it, so that a
threshold is measured by the procedure that later applies it:

1. Faces are detected on the upright photo, at `longest_side` of the detector at most; its `min_probability` makes a
   face.
2. If none reaches its `sure`, the photo is searched rotated by 90, 180 and 270 degrees as well, and the rotation with
   the most probable face counts.
3. If none is found, the upright photo is searched for faces of half the size.
4. If there are multiple faces, `on_multiple_faces` selects: `central` is the one of largest area minus twice the
   squared distance from the center (FaceNet's alignment; the subjects of LFW are in the center), `largest` the largest,
   `any` all of them. `error` is `central`, too, but fails where another face may be meant (see `ambiguous`): wherever
   `error` finds a face it is that of `central`, so thresholds measured with either hold for both. Verification defaults
   to `error`, since a stranger's photo may show anybody; data sets of portraits default to `central`.
5. A selected face that is tilted by more than 10 degrees is leveled: the photo is rotated by its tilt, and the face is
   detected there again.
6. `align_face` cuts it out as the encoder's input specification says.

A photo without a selected face is a failure to acquire (ISO/IEC 19795-1). It is never replaced by a crop of its center.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from PIL import Image

from siamese_verify.atomic_write import atomic_write
from siamese_verify.errors import InputError
from siamese_verify.faces.alignment import crop_face
from siamese_verify.faces.detector import DETECTORS, Face, FaceDetector, load_detector
from siamese_verify.faces.photo import reduced
from siamese_verify.faces.quality import Quality, quality_of, roll_of
from siamese_verify.faces.rotation import (
    RIGHT_ANGLES,
    Point,
    crop_rotated,
    rotate_photo,
    rotated_size,
    to_photo,
    to_rotated,
)
from siamese_verify.structures import DetectorName, InputSpec

log = logging.getLogger(__name__)

OnMultipleFaces = Literal["error", "largest", "central", "any"]
SelectOneFace = Literal["error", "largest", "central"]  # where a photo gives one face at most
ON_MULTIPLE_FACES: tuple[OnMultipleFaces, ...] = get_args(OnMultipleFaces)

MAX_TILT = 10.0  # degrees beyond which a face is leveled
LEVELINGS = 3  # at most: the less a face is tilted, the better are its landmarks
LEVELED_REGION = 1.5  # sides of a face, to all sides of its center, that are searched again after a rotation
LEVELED_SIDES = (40, 100)  # pixels between which the face is scaled for that
MAX_FACES = 64  # selected by `any` on one photo
SAVE_EVERY = 1024  # photos searched between two saves of the cache: what a kill can lose


class SelectedFace(NamedTuple):
    """A face to be compared."""

    face: Face  # in pixels of the rotated photo
    rotated_by: float  # degrees counter-clockwise that the photo has to be rotated by first, in [0, 360)


class FaceSearch(NamedTuple):
    """Result of a search: the faces selected on a photo, and how many were detected."""

    selected: tuple[SelectedFace, ...]  # empty: a failure to acquire; more than one only with `any`
    detected: int

    @property
    def failure(self) -> Literal["no_face", "multiple_faces"] | None:
        """Why no face was selected, None where one was."""
        return None if self.selected else "multiple_faces" if self.detected else "no_face"


class AlignedFace(NamedTuple):
    """A face cut out for an encoder."""

    crop: Image.Image  # RGB, of the encoder's size
    face: Face | None  # in pixels of the original photo, rotated; None for crops without a detector
    rotated_by: float

    @property
    def quality(self) -> Quality:
        """Quality of the face."""
        return quality_of(self.crop, self.face.box, self.face.landmarks) if self.face else quality_of(self.crop)


def align_face(photo: Image.Image, spec: InputSpec, selected: SelectedFace | None = None) -> AlignedFace:
    """Cut out a face that was found on an RGB photo; without one the photo itself, see `crop_face`."""
    face, rotated_by = selected or (None, 0)
    crop = crop_face(photo, spec, face, rotated_by)
    return AlignedFace(crop, face and face.scaled(reduced(photo)), rotated_by)


class FaceFinder:
    """Finds the face of a photo by the policy of this module; thread-safe.

    Args:
        make_detector: builds the detector at the first search; by default from this machine's cache.
        cache: folder that remembers found faces (never photos), by the SHA-256 of a photo's pixels, in a file for each
            detector and selection; None searches each time.
        name: of the detector.
    """

    def __init__(
        self,
        make_detector: Callable[[], FaceDetector] | None = None,
        cache: str | Path | None = None,
        name: DetectorName = "mtcnn",
    ) -> None:
        self._make_detector = make_detector or partial(load_detector, name)
        self._identifier = DETECTORS[name].identifier
        self._detector: FaceDetector | None = None
        self._cache = Path(cache).expanduser() / "faces" if cache else None
        self._known: dict[OnMultipleFaces, dict[str, FaceSearch]] = {}
        self._unsaved: dict[OnMultipleFaces, dict[str, FaceSearch]] = {}

    @property
    def detector(self) -> FaceDetector:
        """The detector."""
        if self._detector is None:  # two threads may both make one, and one of them is kept
            self._detector = self._make_detector()
        return self._detector

    def find(self, photo: Image.Image, on_multiple_faces: OnMultipleFaces = "central") -> FaceSearch:
        """Find the face of an RGB photo, without the cache."""
        faces, rotated_by = detect_rotated(self.detector, photo)
        chosen = select_faces(faces, rotated_size(photo.size, rotated_by), on_multiple_faces)
        leveled = (level_face(self.detector, photo, SelectedFace(face, rotated_by)) for face in chosen)
        return FaceSearch(tuple(leveled), len(faces))

    def find_many(
        self, photos: Sequence[Image.Image], on_multiple_faces: OnMultipleFaces = "central", threads: int = 1
    ) -> list[FaceSearch]:
        """Find the faces of RGB photos in parallel, or in the cache.

        Args:
            photos: RGB.
            on_multiple_faces: `error`, `central` or `largest`.
            threads: to search in.
        """
        if on_multiple_faces not in self._known:
            self._known[on_multiple_faces] = self._read(on_multiple_faces)
        known = self._known[on_multiple_faces]
        keys = [hashlib.sha256(f"{photo.size}".encode() + photo.tobytes()).hexdigest() for photo in photos]
        new = {key: photo for key, photo in zip(keys, photos, strict=True) if key not in known}
        with ThreadPoolExecutor(threads) as pool:
            found = dict(
                zip(new, pool.map(lambda photo: self.find(photo, on_multiple_faces), new.values()), strict=True)
            )
        known.update(found)
        self._unsaved.setdefault(on_multiple_faces, {}).update(found)
        if sum(map(len, self._unsaved.values())) >= SAVE_EVERY:
            self.save()
        return [known[key] for key in keys]

    def save(self) -> None:
        """Write what was found since the last time to the cache."""
        for on_multiple_faces, found in self._unsaved.items():
            if not self._cache or not found:
                continue
            merged = self._read(on_multiple_faces) | found  # another run may have saved in the meantime
            try:
                self._cache.mkdir(parents=True, exist_ok=True)
                content = {key: [*(selected or (None,)), detected] for key, (selected, detected) in merged.items()}
                atomic_write(self._file(on_multiple_faces), json.dumps(content).encode())
            except OSError as error:  # a cache must not end a run
                log.warning("Found faces cannot be cached in %s (%s): they will be searched again.", self._cache, error)
        self._unsaved = {}

    def _file(self, on_multiple_faces: OnMultipleFaces) -> Path:
        assert self._cache is not None
        return self._cache / f"found-{self._identifier}-{on_multiple_faces}.json"

    def _read(self, on_multiple_faces: OnMultipleFaces) -> dict[str, FaceSearch]:
        if self._cache is None:
            return {}
        try:
            stored = json.loads(self._file(on_multiple_faces).read_text())
            return {key: _read_search(*entry) for key, entry in stored.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}  # missing or damaged: the faces are searched again


def _read_search(selected: Any, detected: int) -> FaceSearch:
    if selected is None:
        return FaceSearch((), int(detected))
    ((left, top, right, bottom), probability, landmarks), rotated_by = selected
    box = (float(left), float(top), float(right), float(bottom))
    face = Face(box, float(probability), tuple((float(x), float(y)) for x, y in landmarks))
    return FaceSearch((SelectedFace(face, float(rotated_by)),), int(detected))


def detect_rotated(detector: FaceDetector, photo: Image.Image) -> tuple[list[Face], int]:
    """Detect the faces of a photo in the rotation in which they are surest: steps 1 to 3 of the policy.

    Returns:
        The faces, the most probable first, and the degrees counter-clockwise by which the photo is rotated for them: 0,
        90, 180 or 270.
    """
    small, scale = detector.downscale(photo)

    def likely(faces: list[Face]) -> list[Face]:
        return [face for face in faces if face.probability >= detector.min_probability]

    def detected(degrees: int) -> list[Face]:
        return [face.scaled(scale) for face in likely(detector.detect(rotate_photo(small, degrees)))]

    by_rotation = {0: detected(0)}
    if not by_rotation[0] or by_rotation[0][0].probability < detector.sure:
        by_rotation |= {degrees: detected(degrees) for degrees in RIGHT_ANGLES}
    surest = max(by_rotation, key=lambda degrees: max((face.probability for face in by_rotation[degrees]), default=0.0))
    return (by_rotation[surest], surest) if by_rotation[surest] else (likely(detector.detect(photo, finer=True)), 0)


def select_faces(
    faces: Sequence[Face], size: tuple[int, int], on_multiple_faces: OnMultipleFaces = "central"
) -> list[Face]:
    """Select the faces to compare: step 4 of the policy.

    Args:
        faces: that were detected.
        size: width and height of the photo.
        on_multiple_faces: see the module.

    Returns:
        One face, all with `any`, none where it cannot be told which one is meant.

    Raises:
        InputError: there is no such selection.
    """
    check_on_multiple_faces(on_multiple_faces)
    if on_multiple_faces == "any":
        return list(faces) if len(faces) <= MAX_FACES else []
    if not faces or (on_multiple_faces == "error" and ambiguous(faces, size)):
        return []
    return [max(faces, key=_area)] if on_multiple_faces == "largest" else [central_face(faces, size)]


def check_on_multiple_faces(on_multiple_faces: OnMultipleFaces) -> OnMultipleFaces:
    """Return a face selection.

    Raises:
        InputError: it is not one of `OnMultipleFaces`.
    """
    if on_multiple_faces not in ON_MULTIPLE_FACES:
        names = ", ".join(map(repr, ON_MULTIPLE_FACES))
        raise InputError(f"on_multiple_faces must be one of {names}, got {on_multiple_faces!r}.")
    return on_multiple_faces


def check_select_one_face(on_multiple_faces: SelectOneFace) -> SelectOneFace:
    """Return a face selection that gives one face at most.

    Raises:
        InputError: it is not one of `SelectOneFace`.
    """
    names = get_args(SelectOneFace)
    if on_multiple_faces not in names:
        raise InputError(f"on_multiple_faces must be one of {', '.join(map(repr, names))}, got {on_multiple_faces!r}.")
    return on_multiple_faces


def _area(face: Face) -> float:
    left, top, right, bottom = face.box
    return (right - left) * (bottom - top)


def _distance_from_center(face: Face, size: tuple[int, int]) -> float:
    return math.dist(face.center, (size[0] / 2, size[1] / 2))


def central_face(faces: Sequence[Face], size: tuple[int, int]) -> Face:
    """The face of largest area minus twice its squared distance from the photo's center, as in FaceNet's alignment."""
    return max(faces, key=lambda face: _area(face) - 2 * _distance_from_center(face, size) ** 2)


def ambiguous(faces: Sequence[Face], size: tuple[int, int]) -> bool:
    """Whether it is unclear which of the faces of a photo is meant.

    It is clear if the central face is also the largest, and every other one that is at least half as large (by the side
    of a square of its area) lies farther from the photo's center by more than half a side of the central face.
    """
    chosen = central_face(faces, size)
    near = _distance_from_center(chosen, size) + chosen.side / 2
    return any(
        face.side > chosen.side or (face.side >= chosen.side / 2 and _distance_from_center(face, size) <= near)
        for face in faces
        if face is not chosen
    )


def level_face(detector: FaceDetector, photo: Image.Image, selected: SelectedFace) -> SelectedFace:
    """Rotate a photo until a face of it is not tilted by more than `MAX_TILT`: step 5 of the policy.

    Args:
        detector: that found the face.
        photo: RGB, not rotated.
        selected: face and rotation.

    Returns:
        The least tilted of the attempts, the given one included; it ends where the face is not found again.
    """
    attempts = [selected]
    for _ in range(LEVELINGS):
        face, angle = attempts[-1]
        if abs(roll := roll_of(face.landmarks)) <= MAX_TILT:
            break
        further = round((angle + roll) % 360, 2)
        (center,) = to_rotated(to_photo([face.center], photo.size, angle), photo.size, further)
        found = _detect_around(detector, photo, further, center, face.side)
        if found is None:
            break
        attempts.append(SelectedFace(found, further))
    return min(attempts, key=lambda attempt: abs(roll_of(attempt.face.landmarks)))


def _detect_around(
    detector: FaceDetector, photo: Image.Image, degrees: float, center: Point, side: float
) -> Face | None:
    """The most probable face that covers a point of a rotated photo."""
    x, y = center
    half = LEVELED_REGION * side
    pixels = max(1, round(2 * LEVELED_REGION * min(max(side, LEVELED_SIDES[0]), LEVELED_SIDES[1])))
    view = crop_rotated(photo, degrees, (x - half, y - half, x + half, y + half), (pixels, pixels))
    found = [face.scaled(2 * half / pixels, x - half, y - half) for face in detector.detect(view)]
    likely = [face for face in found if face.probability >= detector.min_probability]
    near = [face for face in likely if face.box[0] <= x <= face.box[2] and face.box[1] <= y <= face.box[3]]
    return max(near, key=lambda face: face.probability, default=None)
