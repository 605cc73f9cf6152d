"""The faces of an album: where each is, how well it can be compared, and its embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from siamese_verify.albums.album_folder import AlbumFolder
from siamese_verify.datasets.index import StringColumn
from siamese_verify.faces import Quality


@dataclass(frozen=True)
class FaceTable:
    """N faces of an album, those of a photo one after the other.

    `FaceTable.read(FOLDER)` gives what `siamese-verify embed` has written, always in the same order: photos in the
    order of their list, which only grows, so that a row keeps its number when photos are added. `AlbumFolder(FOLDER)`
    knows more: `source.read(photo)` gives the bytes of a photo for pictures of its faces, `left_out()` the photos
    without a face, `tables()` the parts one at a time for albums that do not fit into memory. The track of a face
    through a clip is one row; its photo is named as `clip.mp4#t=12.48,15.2`, by the seconds from and to.

    Attributes:
        photos: (N,) name of each face's photo, within the album; a photo with several faces is there several times.
        embeddings: (N,D) float32 of unit length.
        boxes: (N,4) float32 left, top, right and bottom of the face in pixels of the upright photo; the whole photo
            where no detector was used.
        probability: (N,) float32 of being a face, in [0, 1].
        quality: by the names of `siamese_verify.faces.Quality`, (N,) float32; NaN where it is unknown.
        model: name of the model.
        weights_sha256: of its weights: embeddings of other weights cannot be compared.
        root: folder or address that the names of the photos start from.
    """

    photos: Sequence[str]
    embeddings: np.ndarray
    boxes: np.ndarray
    probability: np.ndarray
    quality: Mapping[str, np.ndarray] = field(default_factory=dict)
    model: str = ""
    weights_sha256: str = ""
    root: str = ""

    def __len__(self) -> int:
        return len(self.embeddings)

    @classmethod
    def read(cls, folder: str | Path, unfinished: bool = False) -> FaceTable:
        """Read the faces of an album.

        Embeddings of up to 2 GiB are in memory; more are mapped from a file that the first call makes in the folder
        (those stored as int8 are float32 in memory, whatever their number: `AlbumFolder.rows` maps them as they are).

        Args:
            folder: that `siamese-verify embed` has written.
            unfinished: read what is there of an album that is not finished.

        Raises:
            InputError: there is no such folder, it is damaged, or it is not finished.
        """
        album = AlbumFolder(folder)
        names = ["photo", "left", "top", "right", "bottom", "probability", *Quality._fields]
        table = pa.concat_tables(album.tables(names, unfinished)) if album.finished() else None
        column = (lambda name: table[name].to_numpy()) if table else (lambda name: np.empty(0, dtype=np.float32))
        rows = album.rows(unfinished)
        return cls(
            photos=StringColumn(table["photo"] if table else pa.array([], pa.large_string())),
            embeddings=rows.stored if rows.stored.dtype == np.float32 else rows[:],
            boxes=np.stack([column(name) for name in names[1:5]], axis=1),
            probability=column("probability"),
            quality={name: column(name) for name in Quality._fields},
            model=album.metadata.model,
            weights_sha256=album.metadata.weights_sha256,
            root=album.metadata.root,
        )
