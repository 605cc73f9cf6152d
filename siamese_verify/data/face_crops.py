"""Photos -> face crops, as an encoder's InputSpec says, for training and evaluation alike."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.markup import escape
from rich.progress import track
from torch import Tensor

from siamese_verify.atomic_write import write_whole
from siamese_verify.errors import InputError, printable
from siamese_verify.faces import (
    Choice,
    Face,
    FaceDetector,
    Quality,
    Subject,
    crop_face,
    find_subjects,
    quality_of,
    reduced,
)
from siamese_verify.faces.alignment import spec_for
from siamese_verify.structures import InputSpec, Photos
from siamese_verify.tables import csv_cell

log = logging.getLogger(__name__)

CHUNK = 64  # photos decoded, searched and embedded together
SAVE_EVERY = 1024  # photos searched between two savings of the faces: what a kill can lose


class FaceCropper:
    """Cuts faces, and keeps account of the photos it could not read or found no face on.

    A photo without a face gives its central square, as a data set would otherwise lose pairs; such photos are listed in
    `faceless`, and left out of `qualities`.

    Args:
        spec: what the encoder takes.
        cache: folder to remember faces' places in (never photos): a file for each detector, by the photos' SHA-256.
            None searches anew each time.
        max_damaged: photos that may be unreadable before it is an error.
        choice: which of several faces is the subject of a photo, see `siamese_verify.faces.choose_face`.
    """

    def __init__(
        self, spec: InputSpec, cache: str | Path | None = None, max_damaged: int = 0, choice: Choice = "central"
    ) -> None:
        self.spec = spec
        self.max_damaged = max_damaged
        self.damaged: list[tuple[str, str]] = []  # name, reason
        self.faceless: list[str] = []
        self.qualities: list[Quality] = []
        self._finder = SubjectFinder(cache, choice) if spec.crop.needs_face else None
        self._digest = hashlib.sha256()

    @property
    def digest(self) -> str:
        """SHA-256 of all crops so far and their names: the data as the encoder saw it."""
        return self._digest.hexdigest()

    def stream(self, photos: Photos, rows: Sequence[int], title: str) -> Iterator[tuple[list[int], Tensor]]:
        """Crop some photos, a chunk at a time, under a progress bar.

        Args:
            photos: where from; faces that were aligned before are taken as they are.
            rows: which.
            title: what the progress bar says.

        Yields:
            The rows that could be read, and (n,3,S,S) uint8 crops.

        Raises:
            InputError: more than `max_damaged` photos are damaged, or the faces were aligned for another input.
        """
        names, spec = photos.names, spec_for(photos, self.spec)
        finder = self._finder if spec.crop.needs_face else None
        try:
            for start in track(range(0, len(rows), CHUNK), escape(printable(title))):
                readable, images = self._open(photos, rows[start : start + CHUNK], len(rows))
                if not readable:
                    continue
                subjects = finder(images) if finder else [Subject(None, 0, 0)] * len(images)
                found = list(zip(readable, images, subjects, strict=True))
                if finder:
                    self.faceless += [names[row] for row, _, subject in found if subject.face is None]
                cut = [crop_face(image, spec, subject.face, subject.turned) for _, image, subject in found]
                self._judge(cut, [subject.face and subject.face.placed(reduced(image)) for _, image, subject in found])
                crops = np.stack([np.asarray(crop) for crop in cut])
                self._digest.update("\n".join(names[row] for row in readable).encode() + crops.tobytes())
                yield readable, torch.from_numpy(crops).permute(0, 3, 1, 2)  # (n,3,S,S), channels last in memory
        finally:
            if finder:
                finder.save()

    def _judge(self, crops: list[Image.Image], faces: list[Face | None]) -> None:
        for crop, face in zip(crops, faces, strict=True):
            if face:
                self.qualities.append(quality_of(crop, face.box, face.landmarks))
            elif not self._finder:
                self.qualities.append(quality_of(crop))

    def __call__(self, photos: Photos, rows: Sequence[int], title: str) -> tuple[list[int], Tensor]:
        """Crop some photos at once: the rows that could be read, and (n,3,S,S) uint8 crops.

        Raises:
            InputError: more than `max_damaged` photos are damaged, or there are none at all.
        """
        chunks = list(self.stream(photos, rows, title))
        if not chunks:
            raise InputError(f"There are no photos to crop ({len(rows)} given, {len(self.damaged)} damaged).")
        return [row for chunk, _ in chunks for row in chunk], torch.cat([images for _, images in chunks])

    def _open(self, photos: Photos, rows: Sequence[int], total: int) -> tuple[list[int], list[Image.Image]]:
        readable, images = [], []
        for row in rows:
            try:
                images.append(photos[row])
                readable.append(row)
            except InputError as error:
                self.damaged.append((photos.names[row], str(error)))
                if len(self.damaged) > self.max_damaged:
                    raise InputError(
                        f"More than {self.max_damaged} of {total:,} photos cannot be read (max_damaged), the first: "
                        f"{' '.join(reason for _, reason in self.damaged[:5])}"
                    ) from None
        return readable, images

    def save_account(self, folder: Path) -> None:
        """List the photos that were skipped, or have no face, in `skipped.csv`; no file if there are none."""
        rows = [(name, reason) for name, reason in self.damaged]
        rows += [(name, "no face found: central square used") for name in self.faceless]
        if rows:
            table = io.StringIO()
            csv.writer(table).writerows([("photo", "reason"), *(map(csv_cell, row) for row in rows)])
            write_whole(folder / "skipped.csv", table.getvalue().encode())


class SubjectFinder:
    """Finds the subjects of photos, and remembers where they are.

    Args:
        cache: folder for what is remembered, or None.
        choice: which of several faces it is.
    """

    def __init__(self, cache: str | Path | None, choice: Choice = "central") -> None:
        self.choice = choice
        self.detector: FaceDetector | None = None  # built at the first photo that is not in the cache
        name = f"{FaceDetector.identifier}-{choice}.json"
        self.file = Path(cache).expanduser() / "faces" / name if cache else None
        self.known: dict[str, Subject] = self._read()
        self.unsaved: dict[str, Subject] = {}

    def _read(self) -> dict[str, Subject]:
        if self.file is None or not self.file.is_file():
            return {}
        try:
            return {key: _subject(*stored) for key, stored in json.loads(self.file.read_text()).items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}  # a damaged cache is no loss: the faces are searched again

    def __call__(self, photos: list[Image.Image]) -> list[Subject]:
        """Where the subjects of RGB photos are."""
        keys = [hashlib.sha256(f"{photo.size}".encode() + photo.tobytes()).hexdigest() for photo in photos]
        new = {key: photo for key, photo in zip(keys, photos, strict=True) if key not in self.known}
        if new:
            self.detector = self.detector or FaceDetector()
            found = find_subjects(self.detector, list(new.values()), self.choice, torch.get_num_threads())
            for key, subject in zip(new, found, strict=True):
                self.known[key] = self.unsaved[key] = subject
            if len(self.unsaved) >= SAVE_EVERY:
                self.save()
        return [self.known[key] for key in keys]

    def save(self) -> None:
        """Keep what was found since the last time."""
        if self.file is None or not self.unsaved:
            return
        merged = self._read() | self.unsaved  # another run may have saved in the meantime
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.file, json.dumps(merged).encode())
        except OSError as error:  # a cache must not end a run
            log.warning("The places of faces cannot be kept in %s (%s): they will be searched again.", self.file, error)
        self.unsaved = {}


def _subject(face: list[Any] | None, faces: int, turned: float) -> Subject:
    if face is None:
        return Subject(None, int(faces), float(turned))
    (left, top, right, bottom), probability, landmarks = face
    box = (float(left), float(top), float(right), float(bottom))
    return Subject(
        Face(box, float(probability), tuple((float(x), float(y)) for x, y in landmarks)), int(faces), float(turned)
    )
