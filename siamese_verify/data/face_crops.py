"""Face crops of photos, as an encoder's input specification says, for training and evaluation."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from siamese_verify.atomic_write import atomic_write
from siamese_verify.data.data_loaders import drawn_ahead
from siamese_verify.data.face_dataset import as_array, refuse_arrays, stacked
from siamese_verify.errors import InputError, printable
from siamese_verify.faces import (
    AlignedFace,
    FaceFinder,
    Quality,
    SelectOneFace,
    align_face,
    check_select_one_face,
)
from siamese_verify.faces.alignment import spec_for
from siamese_verify.structures import InputSpec, Photos
from siamese_verify.tables import csv_cell

CHUNK = 64  # photos decoded, searched and embedded together
FAILURES = {"no_face": "no face was found", "multiple_faces": "multiple faces, and it is unclear which one is meant"}


class FaceCropper:
    """Crops the faces of photos, and lists the photos that it leaves out.

    Faces are found by `siamese_verify.faces.FaceFinder`, as in verification. A photo without a face is left out as a
    failure to acquire; faces that were aligned before, and `whole` and `center` crops, need no search.

    Args:
        spec: input of the encoder.
        cache: folder that remembers found faces; see `FaceFinder`.
        max_damaged: photos that may be unreadable before it is an error.
        on_multiple_faces: `error`, `central` or `largest`, see `siamese_verify.faces.finder`.
        finder: to share among croppers; by default one with `cache`.

    Attributes:
        damaged: name and reason of the photos that could not be read.
        failures: name and reason of the photos without a face.
        qualities: of the faces.
    """

    def __init__(
        self,
        spec: InputSpec,
        cache: str | Path | None = None,
        max_damaged: int = 0,
        on_multiple_faces: SelectOneFace = "central",
        finder: FaceFinder | None = None,
    ) -> None:
        self.spec = spec
        self.max_damaged = max_damaged
        self.on_multiple_faces = check_select_one_face(on_multiple_faces)
        self.damaged: list[tuple[str, str]] = []
        self.failures: list[tuple[str, str]] = []
        self.qualities: list[Quality] = []
        self._finder = finder or FaceFinder(cache=cache, name=spec.crop.detector)
        self._digest = hashlib.sha256()

    @property
    def digest(self) -> str:
        """SHA-256 of all crops so far and the names of their photos."""
        return self._digest.hexdigest()

    def stream(
        self, photos: Photos, rows: Sequence[int], title: str, chunk: int = CHUNK
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Crop photos chunk by chunk, under a delayed progress bar.

        Args:
            photos: source.
            rows: of the photos to crop.
            title: of the progress bar.
            chunk: photos decoded and searched together.

        Yields:
            Rows of the photos that have a face, and (n,3,S,S) uint8 crops; all rows and (n,*shape) of arrays.

        Raises:
            InputError: more than `max_damaged` photos are damaged, or the faces were aligned for another input.
        """
        spec = spec_for(photos, self.spec)
        try:
            names = photos.names  # once: a source may make the whole list anew
            parts = [rows[start : start + chunk] for start in range(0, len(rows), chunk)]
            drawn = drawn_ahead(photos, parts)
            for part in tqdm(parts, printable(title), delay=2, leave=False, disable=None):
                readable, images = (list(part), next(drawn)) if drawn else self._open(photos, part, len(rows))
                if spec.is_photo:
                    refuse_arrays(images)
                    found, aligned = self._crop(photos, readable, images, spec)
                    arrays = [as_array(None, spec, face.crop) for face in aligned]
                else:
                    found, arrays = readable, [as_array(item, spec) for item in images]
                if found:
                    content = b"".join(array.tobytes() for array in arrays)
                    self._digest.update("\n".join(names[row] for row in found).encode() + content)
                    yield found, stacked(arrays, spec)
        finally:
            self._finder.save()

    def __call__(self, photos: Photos, rows: Sequence[int], title: str, chunk: int = CHUNK) -> tuple[list[int], Tensor]:
        """Crop photos at once; see `stream`.

        Raises:
            InputError: more than `max_damaged` photos are damaged, or there are none at all.
        """
        chunks = list(self.stream(photos, rows, title, chunk))
        if not chunks:
            left_out = f"{len(self.damaged)} damaged, {len(self.failures)} without a face"
            raise InputError(f"There are no photos to crop ({len(rows)} given, {left_out}).")
        return [row for found, _ in chunks for row in found], torch.cat([images for _, images in chunks])

    def _open(self, photos: Photos, rows: Sequence[int], total: int) -> tuple[list[int], list[Any]]:
        readable: list[int] = []
        images: list[Any] = []
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

    def _crop(
        self, photos: Photos, rows: list[int], images: list[Image.Image], spec: InputSpec
    ) -> tuple[list[int], list[AlignedFace]]:
        if not spec.crop.needs_face:
            aligned = [align_face(image, spec) for image in images]
            if not self.spec.crop.needs_face:  # the quality of faces aligned before, without landmarks, is another
                self.qualities += [face.quality for face in aligned]
            return rows, aligned
        found, aligned = [], []
        searches = self._finder.find_many(images, self.on_multiple_faces, torch.get_num_threads())
        for row, image, search in zip(rows, images, searches, strict=True):
            if search.failure:
                self.failures.append((photos.names[row], FAILURES[search.failure]))
                continue
            found.append(row)
            aligned.append(align_face(image, spec, search.selected[0]))
        self.qualities += [face.quality for face in aligned]
        return found, aligned

    def save_left_out(self, folder: Path) -> None:
        """List the photos that were left out in `left_out.csv`; no file if there are none."""
        if rows := self.damaged + self.failures:
            table = io.StringIO()
            csv.writer(table).writerows([("photo", "reason"), *(map(csv_cell, row) for row in rows)])
            atomic_write(folder / "left_out.csv", table.getvalue().encode())
