"""Align photos one by one: a file for each face and its line of the index, in a worker process if need be."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

from siamese_verify.atomic_write import atomic_write
from siamese_verify.datasets.folder import SUFFIXES
from siamese_verify.datasets.listing import identity_name
from siamese_verify.errors import InputError
from siamese_verify.faces import (
    FaceFinder,
    SelectedFace,
    SelectOneFace,
    align_face,
    check_select_one_face,
    detector_files,
    load_detector,
    reduced,
    rotated_size,
    sharpness,
)
from siamese_verify.faces.alignment import spec_for
from siamese_verify.faces.image_headers import ORIENTATION_TAG
from siamese_verify.structures import InputSpec, Photos

MARK = ".face"  # added to names without the suffix of an image
SCHEMA = pa.schema(
    [
        pa.field("path", pa.large_string()),  # of the face, relative to the folder
        pa.field("identity", pa.large_string()),
        pa.field("split", pa.large_string()),
        pa.field("source", pa.large_string()),  # name of the photo
        pa.field("outcome", pa.large_string()),
        pa.field("reason", pa.large_string()),
        pa.field("box", pa.list_(pa.float32(), 4)),  # left, top, right, bottom in pixels of the rotated photo
        pa.field("landmarks", pa.list_(pa.float32(), 10)),  # x and y of eyes, nose and corners of the mouth
        pa.field("probability", pa.float32()),  # of being a face
        pa.field("faces", pa.int32()),  # on the photo
        pa.field("rotated_by", pa.float32()),  # degrees counter-clockwise
        pa.field("sharpness", pa.float32()),
        pa.field("width", pa.int32()),  # of the rotated photo
        pa.field("height", pa.int32()),
        pa.field("sha256", pa.large_string()),  # of the face's file
    ]
)


@dataclass(frozen=True)
class Alignment:
    """How the faces of a data set are aligned and stored.

    Attributes:
        spec: size and crop.
        on_multiple_faces: `error`, `central` or `largest`, see `siamese_verify.faces.finder`.
        quality: of the JPEGs, 1 ... 100.
    """

    spec: InputSpec
    on_multiple_faces: SelectOneFace = "central"
    quality: int = 95

    def __post_init__(self) -> None:
        check_select_one_face(self.on_multiple_faces)
        if not 1 <= self.quality <= 100:
            raise InputError(f"quality must be from 1 to 100, got {self.quality}.")


class Aligner:
    """Aligns the photos of a data set.

    Args:
        photos: of the data set.
        output: folder.
        alignment: how faces are selected, cut and stored.
        dropped: identities to leave out, with the reasons.
        files: of the face detector, see `files_for`.
    """

    def __init__(
        self,
        photos: Photos,
        output: Path,
        alignment: Alignment,
        dropped: dict[int, str],
        files: dict[str, bytes] | None,
    ) -> None:
        self.photos, self.output, self.alignment, self.dropped = photos, output, alignment, dropped
        self.spec = spec_for(photos, alignment.spec)
        detector = alignment.spec.crop.detector
        self.finder = FaceFinder(partial(load_detector, detector, files or {}), name=detector)
        self.splits = getattr(photos, "splits", None)

    def __call__(self, rows: range, index: Path) -> int:
        """Align photos, write their faces and then their lines of the index to a file; the number of photos."""
        table = pa.Table.from_pylist([self.align(row) for row in rows], schema=SCHEMA)
        content = io.BytesIO()
        parquet.write_table(table, content)
        atomic_write(index, content.getvalue())
        return len(rows)

    def align(self, row: int) -> dict[str, Any]:
        """Align one photo and return its line of the index."""
        photos, name = self.photos, self.photos.names[row]
        code = int(photos.identities[row])
        line: dict[str, Any] = {
            "identity": identity_name(photos, code),
            "split": self.splits[row] if self.splits is not None else None,
            "source": name,
        }
        if code in self.dropped:
            return {**line, "outcome": "dropped", "reason": self.dropped[code]}
        try:
            photo = photos[row]
        except InputError as error:
            return {**line, "outcome": "unreadable", "reason": str(error)}
        selected: SelectedFace | None = None
        detected = 0
        if self.spec.crop.needs_face:
            search = self.finder.find(photo, self.alignment.on_multiple_faces)
            if search.failure == "no_face":
                return {**line, "outcome": "no face", "reason": "no face was found in any rotation"}
            if search.failure:
                return {**line, "outcome": "multiple faces", "reason": f"unclear which of {search.detected} is meant"}
            (selected,), detected = search
        (crop, face, rotated_by), scale = align_face(photo, self.spec, selected), reduced(photo)
        width, height = rotated_size((photo.width * scale, photo.height * scale), rotated_by)
        content = self.unchanged(row) or self.encoded(crop)
        path = face_path(name, line["identity"])
        (self.output / path).parent.mkdir(parents=True, exist_ok=True)
        atomic_write(self.output / path, content, sync=False)
        line |= {"path": path, "outcome": "aligned", "faces": detected, "rotated_by": rotated_by}
        line |= {"sharpness": sharpness(crop), "width": width, "height": height}
        if face:
            line |= {"box": face.box, "landmarks": np.ravel(face.landmarks).tolist()}
            line |= {"probability": face.probability}
        return {**line, "sha256": hashlib.sha256(content).hexdigest()}

    def encoded(self, face: Image.Image) -> bytes:
        """Encode a face as JPEG."""
        content = io.BytesIO()
        face.save(content, "JPEG", quality=self.alignment.quality, subsampling=0)
        return content.getvalue()

    def unchanged(self, row: int) -> bytes | None:
        """The photo's own file where it is a JPEG of the finished face: encoding it again would cost quality."""
        if self.spec.crop.kind != "whole" or not hasattr(self.photos, "read"):
            return None
        content: bytes = self.photos.read(row)
        with Image.open(io.BytesIO(content)) as image:
            upright = image.getexif().get(ORIENTATION_TAG, 1) == 1
            same = image.format == "JPEG" and image.mode == "RGB" and image.size == (self.spec.size, self.spec.size)
        return content if same and upright else None


def files_for(photos: Photos, alignment: Alignment) -> dict[str, bytes] | None:
    """ONNX files of the face detector, loaded once for all processes; None if the photos need no search."""
    crop = spec_for(photos, alignment.spec).crop
    return detector_files(crop.detector) if crop.needs_face else None


def face_path(name: str, identity: str) -> str:
    """Path of a face: that of its photo if its name has folders, else one in the folder of its identity.

    Photos of different names in one folder have different paths: `1.jpg` keeps its name, `1.png` becomes `1.png.jpg`,
    and so `1.png.jpg` becomes `1.png.jpg.jpg`.
    """
    source = PurePosixPath(name)
    if len(source.parts) < 2:
        source = PurePosixPath(
            hashlib.sha256(identity.encode()).hexdigest()[:16] if unsafe(identity) else identity, name
        )
    suffix = source.suffix.lower()
    added = MARK + ".jpg" if suffix not in SUFFIXES else ".jpg"
    if suffix in (".jpg", ".jpeg") and PurePosixPath(source.stem).suffix.lower() not in {MARK, *SUFFIXES}:
        added = ""
    named = source.with_name(source.name + added)
    return PurePosixPath("faces", *[part for part in named.parts if part not in ("/", "..")]).as_posix()


def unsafe(identity: str) -> bool:
    """Whether an identity is not the name of one folder."""
    return identity in ("", ".", "..") or any(sign in identity for sign in "/\\:\0")


_ALIGNER: Aligner | None = None  # of this worker process


def start_worker(*arguments: Any) -> None:
    """Initialize a worker process with the arguments of `Aligner`."""
    global _ALIGNER
    _ALIGNER = Aligner(*arguments)


def run_worker(rows: range, index: Path) -> int:
    """Align photos in a worker process."""
    assert _ALIGNER is not None
    return _ALIGNER(rows, index)
