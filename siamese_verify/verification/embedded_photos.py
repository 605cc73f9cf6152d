"""Many photos -> their embeddings in one array, each photo looked at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.faces import Quality
from siamese_verify.verification.kept_embeddings import FACE, KeptEmbeddings, Part, photo_key
from siamese_verify.verification.result import SeenFace

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK = 64  # photos that are embedded together and kept together
THREADS = 2  # photos that are searched at the same time
NO_CROP = np.empty((0, 0, 3), dtype=np.uint8)


class _Record(Protocol):
    @property
    def dimension(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...


class Embedder(Protocol):
    """What embedding many photos needs of a verifier."""

    @property
    def record(self) -> _Record:
        """What is known about its model."""

    def find(self, photo: Path, /, name: str | None = None, several: Any = None) -> list[SeenFace]:
        """Find the faces of a photo; `InputError` where there is none to decide about."""

    def embed_faces(self, faces: Sequence[SeenFace], /) -> NDArray[np.float32]:
        """Embed faces as (N,D) unit rows."""


class EmbeddedPhotos:
    """Embeddings of P photos in one array: 4 D bytes for each, 205 MB for 100,000 photos and 512 numbers.

    A photo's faces are the rows from `first` on, as many as `counts` says; -1 marks a photo that was not looked at.
    """

    def __init__(self, verifier: Embedder, names: list[str], folder: Path, several: str | None) -> None:
        self.verifier, self.several, self.names = verifier, several, names
        numbers: dict[Path, int] = {}
        # One photo may be written as x.jpg and ./x.jpg.
        self.number = np.array([numbers.setdefault(folder / name, len(numbers)) for name in names], dtype=np.int32)
        self.paths = list(numbers)
        self.called = [names[row] for row in np.unique(self.number, return_index=True)[1]]
        self.first = np.zeros(len(self.paths), dtype=np.int64)
        self.counts = np.full(len(self.paths), -1, dtype=np.int32)
        self.errors: dict[int, str] = {}
        self.filled = 0
        self.embeddings = np.empty((len(self.paths), verifier.record.dimension), dtype=np.float32)
        self.faces = np.empty(len(self.paths), dtype=FACE)

    def embed(self, kept: KeptEmbeddings, advance: Callable[[int, int], None]) -> None:
        """Look at every photo, but for those that were kept from last time."""
        keys = [photo_key(path) for path in self.paths]
        rows = {key: row for row, key in enumerate(keys) if key}
        for part in kept.parts():
            self._take([rows.get(key, -1) for key in part.keys.tolist()], part)
        with ThreadPoolExecutor(THREADS) as pool:
            # Chunks are cut at the same places however often it is stopped: the last bits of an embedding may depend on
            # its company in a batch.
            for start in range(0, len(self.paths), CHUNK):
                chunk = range(start, min(start + CHUNK, len(self.paths)))
                todo = [row for row in chunk if self.counts[row] < 0]
                if todo:
                    part = self._look(todo, [keys[row] for row in todo], pool)
                    kept.add(part)
                    self._take(todo, part)
                advance(chunk.stop, len(self.paths))

    def _look(self, rows: list[int], keys: list[str], pool: ThreadPoolExecutor) -> Part:
        found = list(pool.map(self._find, rows))
        faces = [face for one in found if not isinstance(one, str) for face in one]
        embeddings = self.verifier.embed_faces(faces) if faces else self.embeddings[:0]
        return Part(
            keys=np.array(keys),
            errors=np.array([one if isinstance(one, str) else "" for one in found]),
            counts=np.array([0 if isinstance(one, str) else len(one) for one in found], dtype=np.int32),
            faces=np.array([_row_of(face) for face in faces], dtype=FACE),
            embeddings=np.asarray(embeddings, dtype=np.float32),
        )

    def _find(self, row: int) -> list[SeenFace] | str:
        try:
            found = self.verifier.find(self.paths[row], name=self.called[row], several=self.several)
        except (InputError, OSError) as error:
            return str(error) or type(error).__name__
        return found or f"No face was found on {self.called[row]}."

    def _take(self, rows: list[int], part: Part) -> None:
        """Take a part in; row -1 and rows that are there already are left out."""
        starts = np.cumsum(part.counts) - part.counts
        for row, error, count, start in zip(rows, part.errors.tolist(), part.counts.tolist(), starts, strict=True):
            if row < 0 or self.counts[row] >= 0:
                continue
            end = self.filled + count
            if end > len(self.faces):  # only where photos of several faces are taken
                more = max(end, len(self.faces) * 3 // 2) - len(self.faces)
                self.embeddings = np.concatenate([self.embeddings, np.empty((more, self.embeddings.shape[1]), "f4")])
                self.faces = np.concatenate([self.faces, np.empty(more, FACE)])
            self.embeddings[self.filled : end] = part.embeddings[start : start + count]
            self.faces[self.filled : end] = part.faces[start : start + count]
            self.first[row], self.counts[row], self.filled = self.filled, count, end
            if error:
                self.errors[row] = error

    def error(self, name: int) -> str:
        """Why a photo has no face, by the number of its name; empty where it has one."""
        return self.errors.get(int(self.number[name]), "")

    def rows_of(self, name: int) -> range:
        """Rows of the faces of a photo, by the number of its name."""
        row = self.number[name]
        return range(self.first[row], self.first[row] + self.counts[row])

    def face(self, row: int, name: int) -> SeenFace:
        """What a decision has to know of a face."""
        *quality, probability, turned, box, faces = self.faces[row].tolist()
        return SeenFace(
            self.names[name],
            NO_CROP,
            Quality(*(_known(number) for number in quality)),  # type: ignore[arg-type]
            None if math.isnan(box[0]) else tuple(box),
            probability=_known(probability),
            turned=turned,
            faces=faces,
        )


def _row_of(face: SeenFace) -> tuple[Any, ...]:
    numbers = (*face.quality, face.probability)
    known = (math.nan if number is None else number for number in numbers)
    return (*known, face.turned, face.box or (math.nan,) * 4, face.faces)


def _known(number: float) -> float | None:
    return None if math.isnan(number) else number
