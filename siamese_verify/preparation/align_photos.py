"""Photo -> aligned face in a file and its line of the index; in a process of its own if need be."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import signal
import threading
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

from siamese_verify.atomic_write import write_whole
from siamese_verify.datasets.folder import SUFFIXES
from siamese_verify.datasets.listing import identity_name
from siamese_verify.errors import InputError
from siamese_verify.faces import (
    FaceDetector,
    Subject,
    crop_face,
    detector_files,
    find_subject,
    load_networks,
    reduced,
    rotated_size,
    sharpness,
)
from siamese_verify.faces.alignment import Alignment, spec_for
from siamese_verify.structures import Photos

ORIENTATION = 0x0112  # EXIF's tag
MARK = ".face"  # added to names without the suffix of a picture
SCHEMA = pa.schema(
    [
        pa.field("path", pa.large_string()),  # of the face, in the folder
        pa.field("identity", pa.large_string()),
        pa.field("split", pa.large_string()),
        pa.field("source", pa.large_string()),  # of the photo, where it came from
        pa.field("outcome", pa.large_string()),
        pa.field("reason", pa.large_string()),
        pa.field("box", pa.list_(pa.float32(), 4)),  # left, top, right, bottom in pixels of the turned photo
        pa.field("landmarks", pa.list_(pa.float32(), 10)),  # x and y of eyes, nose and corners of the mouth
        pa.field("probability", pa.float32()),  # of being a face
        pa.field("faces", pa.int32()),  # on the photo
        pa.field("turned", pa.float32()),  # degrees counter-clockwise
        pa.field("sharpness", pa.float32()),
        pa.field("width", pa.int32()),  # of the turned photo
        pa.field("height", pa.int32()),
        pa.field("sha256", pa.large_string()),  # of the face's file
    ]
)


class Aligner:
    """Aligns some photos after others.

    Args:
        photos: of the data set.
        output: folder.
        alignment: how.
        dropped: identities to leave out, and why.
        networks: of the face detector, see `networks_for`.
    """

    def __init__(
        self,
        photos: Photos,
        output: Path,
        alignment: Alignment,
        dropped: dict[int, str],
        networks: dict[str, bytes] | None,
    ) -> None:
        self.photos, self.output, self.alignment, self.dropped = photos, output, alignment, dropped
        self.spec = spec_for(photos, alignment.spec)
        self.detector = FaceDetector(load_networks(networks)) if networks else None
        self.splits = getattr(photos, "splits", None)

    def __call__(self, rows: range, index: Path) -> int:
        """Align photos, write their faces and then a file with their lines of the index; how many photos they are."""
        table = pa.Table.from_pylist([self.align(row) for row in rows], schema=SCHEMA)
        content = io.BytesIO()
        parquet.write_table(table, content)
        write_whole(index, content.getvalue())
        return len(rows)

    def align(self, row: int) -> dict[str, Any]:
        """Align one photo: its line of the index."""
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
        subject = Subject(None, 0, 0)
        if self.detector:
            subject = find_subject(self.detector, photo, self.alignment.choice)
            if subject.face is None:
                return {**line, "outcome": "no face", "reason": "no face was found, whichever side is up"}
        face = crop_face(photo, self.spec, subject.face, subject.turned)
        found, scale = subject.face, reduced(photo)
        width, height = rotated_size((photo.width * scale, photo.height * scale), subject.turned)
        content = self.unchanged(row) or self.encoded(face)
        path = face_path(name, line["identity"])
        (self.output / path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.output / path, content, sync=False)
        line |= {"path": path, "outcome": "aligned", "faces": subject.faces, "turned": subject.turned}
        line |= {"sharpness": sharpness(face), "width": width, "height": height}
        if found:
            found = found.placed(scale)
            line |= {"box": found.box, "landmarks": np.ravel(found.landmarks).tolist()}
            line |= {"probability": found.probability}
        return {**line, "sha256": hashlib.sha256(content).hexdigest()}

    def encoded(self, face: Image.Image) -> bytes:
        """A face as a JPEG."""
        content = io.BytesIO()
        face.save(content, "JPEG", quality=self.alignment.quality, subsampling=0)
        return content.getvalue()

    def unchanged(self, row: int) -> bytes | None:
        """The photo's own file, where it is a JPEG that is the face already: to encode it again would cost quality."""
        if self.spec.crop.kind != "whole" or not hasattr(self.photos, "read"):
            return None
        content: bytes = self.photos.read(row)
        with Image.open(io.BytesIO(content)) as image:
            upright = image.getexif().get(ORIENTATION, 1) == 1
            same = image.format == "JPEG" and image.mode == "RGB" and image.size == (self.spec.size, self.spec.size)
        return content if same and upright else None


def networks_for(photos: Photos, alignment: Alignment) -> dict[str, bytes] | None:
    """The face detector's, had once for all processes; None if the photos are cut without looking for a face."""
    return detector_files() if spec_for(photos, alignment.spec).crop.needs_face else None


def face_path(name: str, identity: str) -> str:
    """Where a face goes: beside its like if the photo's name has folders, else under its identity.

    Photos of different names in one folder have different places: `1.jpg` keeps its name, `1.png` becomes `1.png.jpg`,
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
    """A name that would be more than one folder, or another than it says."""
    return identity in ("", ".", "..") or any(sign in identity for sign in "/\\:\0")


_ALIGNER: Aligner | None = None  # of a worker process


def start_worker(*work: Any) -> None:
    """Make a process ready to align: what `Aligner` takes."""
    global _ALIGNER
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that gives out the work
    threading.Thread(target=leave_with_parent, daemon=True).start()
    _ALIGNER = Aligner(*work)


def leave_with_parent() -> None:
    """End a worker whose parent was killed: it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def run_worker(rows: range, index: Path) -> int:
    """Align photos in a worker process."""
    assert _ALIGNER is not None
    return _ALIGNER(rows, index)
