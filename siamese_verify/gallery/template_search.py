"""Search among templates in memory: exact, or with a FAISS index that proposes candidates."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from siamese_verify.atomic_write import atomic_open, atomic_write
from siamese_verify.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

CANDIDATES = 64  # templates proposed by the index, then scored exactly
PROBES = 64  # lists visited by a search
PER_LIST = 40  # training templates per list
CHUNK = 50_000  # templates added at a time


class ApproximateIndex:
    """Inverted file (FAISS, 8-bit scalar quantizer) of template ids that proposes candidates.

    `Templates` scores the proposals exactly and drops those that are no longer enrolled.

    Args:
        index: of FAISS, over template ids.
        last: largest template id in it; later templates are searched exactly.
    """

    def __init__(self, index: Any, last: int) -> None:
        self._index, self.last = index, last
        index.nprobe = PROBES

    @classmethod
    def build(cls, rows: NDArray[np.float32], numbers: NDArray[np.int64], seed: int = 0) -> ApproximateIndex:
        """Train and fill an index.

        Args:
            rows: (N,D) templates of unit length.
            numbers: (N,) ids, ascending.
            seed: of the choice of training templates.

        Raises:
            InputError: no templates, or FAISS is not installed.
        """
        faiss = _faiss()
        count, embedding_size = rows.shape
        if not count:
            raise InputError("There are no templates to index: enroll a person first.")
        lists = 2 ** round(math.log2(2 * math.sqrt(count)))  # 2,048 for a million
        while lists * PER_LIST > count and lists > 1:
            lists //= 2
        quantizer = faiss.IndexFlatIP(embedding_size)
        kind = faiss.ScalarQuantizer.QT_8bit
        index = faiss.IndexIVFScalarQuantizer(quantizer, embedding_size, lists, kind, faiss.METRIC_INNER_PRODUCT)
        chosen = np.random.default_rng(seed).permutation(count)[: lists * PER_LIST]
        index.train(np.ascontiguousarray(rows[np.sort(chosen)]))
        for start in range(0, count, CHUNK):
            index.add_with_ids(rows[start : start + CHUNK], numbers[start : start + CHUNK])
        return cls(index, int(numbers[-1]))

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def propose(self, probe: NDArray[np.float32], count: int = CANDIDATES) -> NDArray[np.int64]:
        """Up to `count` ids of templates that may be nearest to a (D,) probe."""
        _, numbers = self._index.search(probe[None], min(count, len(self)))
        found: NDArray[np.int64] = numbers[0][numbers[0] >= 0]
        return found

    def save(self, path: Path, sign: Callable[[bytes], str] | None) -> None:
        """Write it, readable by its owner only and NOT ENCRYPTED: the file holds the templates at 8 bits a number.

        Args:
            path: of the file; a second file with `.json` appended holds its signature.
            sign: keyed signature of the gallery, so that no other index is read back; None without one.
        """
        faiss = _faiss()
        try:
            with atomic_open(path, private=True) as file:
                faiss.write_index(self._index, faiss.PyCallbackIOWriter(file.write))
            about = {"last": self.last, "signature": sign(_digest(path, self.last)) if sign else None}
            atomic_write(_about(path), json.dumps(about).encode(), private=True)
        except (OSError, RuntimeError) as error:
            raise InputError(f"The index {path} cannot be written ({error}): make room on the disk.") from None

    @classmethod
    def load(cls, path: Path, sign: Callable[[bytes], str] | None) -> ApproximateIndex | None:
        """Map a saved index into memory; lists that no search visits stay on the disk, unless it is signed.

        Args:
            path: see `save`.
            sign: see `save`; reads the whole file.

        Returns:
            None if there is none, or its signature is wrong.
        """
        faiss = _faiss()
        try:
            about = json.loads(_about(path).read_bytes())
            last = int(about["last"])
            if about["signature"] != (sign(_digest(path, last)) if sign else None):
                return None
            return cls(faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY), last)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError):
            return None


def index_path(gallery: Path) -> Path:
    """Path of a saved index, beside the gallery."""
    return gallery.with_name(gallery.name + ".index")


def remove_index(gallery: Path) -> None:
    """Delete a saved index: it holds the templates of a person who was forgotten."""
    for path in (index_path(gallery), _about(index_path(gallery))):
        path.unlink(missing_ok=True)


def _about(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _digest(path: Path, last: int) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest() + str(last).encode()


def _faiss() -> Any:
    try:
        return importlib.import_module("faiss")
    except ImportError:
        raise InputError(
            "An approximate index needs FAISS, which is not installed: pip install 'siamese-verify[faiss]'."
        ) from None


NOBODY = -1
FLOAT32_ERROR = 1e-4  # bound on the error of a float32 product of unit rows of 4,096 dimensions


class Hit(NamedTuple):
    """A person found by a search."""

    person: int  # id in the gallery
    score: float  # best cosine of the templates, in [-1, 1]


class Buffer(NamedTuple):
    """Arrays with free rows at the end."""

    rows: NDArray[np.float32]  # (C,D)
    people: NDArray[np.int64]  # (C,)
    numbers: NDArray[np.int64]  # (C,)


@dataclass(frozen=True)
class Templates:
    """Templates and their people. Immutable: `grown` and `without` return new ones, so a search needs no lock.

    Attributes:
        rows: (N,D) float32 of unit length, contiguous; zeros for people who were forgotten.
        people: (N,) int64 ids of the people; `NOBODY` likewise.
        numbers: (N,) int64 ids of the templates, ascending.
        buffer: whose first N rows these are; shared with what it grows into.
        forgotten: number of rows of `NOBODY`.
        index: that proposes templates; None to compare with all.
    """

    rows: NDArray[np.float32]
    people: NDArray[np.int64]
    numbers: NDArray[np.int64]
    buffer: Buffer
    forgotten: int = 0
    index: ApproximateIndex | None = None

    @classmethod
    def of(cls, buffer: Buffer, count: int, forgotten: int = 0, index: ApproximateIndex | None = None) -> Templates:
        """The first `count` rows of a buffer."""
        return cls(buffer.rows[:count], buffer.people[:count], buffer.numbers[:count], buffer, forgotten, index)

    @classmethod
    def empty(cls, embedding_size: int) -> Templates:
        """No templates."""
        whose, own = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        return cls.of(Buffer(np.empty((0, embedding_size), dtype=np.float32), whose, own), 0)

    def __len__(self) -> int:
        """Number of templates of enrolled people."""
        return len(self.rows) - self.forgotten

    def grown(self, rows: NDArray[np.float32], people: Sequence[int], numbers: Sequence[int]) -> Templates:
        """Append rows, in place where the buffer has space. Only the latest may grow, by one caller at a time."""
        held, total = len(self.rows), len(self.rows) + len(rows)
        buffer = self.buffer
        if total > len(buffer.rows):
            capacity = max(total, held + held // 2)
            wide = np.empty((capacity, self.rows.shape[1]), dtype=np.float32)
            buffer = Buffer(wide, np.empty(capacity, dtype=np.int64), np.empty(capacity, dtype=np.int64))
            buffer.rows[:held], buffer.people[:held], buffer.numbers[:held] = self.rows, self.people, self.numbers
        buffer.rows[held:total], buffer.people[held:total], buffer.numbers[held:total] = rows, people, numbers
        return Templates.of(buffer, total, self.forgotten, self.index)

    def without(self, people: Collection[int]) -> Templates:
        """Remove people. Their rows are overwritten even for searches that run: the gallery checks who they found."""
        gone = np.isin(self.people, list(people))
        self.rows[gone] = 0
        count, forgotten = len(self.rows), self.forgotten + int(gone.sum())
        if forgotten <= count // 8:  # copying all rows would delay the next search
            owners = self.buffer.people.copy()
            owners[:count][gone] = NOBODY
            return Templates.of(self.buffer._replace(people=owners), count, forgotten, self.index)
        keep = ~gone & (self.people != NOBODY)
        buffer = Buffer(self.rows[keep], self.people[keep], self.numbers[keep])
        return Templates.of(buffer, len(buffer.rows), 0, self.index)

    def living(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Rows and ids of the templates of enrolled people."""
        if not self.forgotten:
            return self.rows, self.numbers
        keep = self.people != NOBODY
        return self.rows[keep], self.numbers[keep]

    def best(self, probe: NDArray[np.float32], top: int) -> list[Hit]:
        """The nearest people, among all templates or those that the index proposes.

        Scores are computed in float64: they depend neither on the machine nor on the rest of the gallery.

        Args:
            probe: (D,) of unit length.
            top: people to return, >= 1.

        Returns:
            Up to `top` people, best first; equal scores in the order of enrollment.
        """
        if not len(self):
            return []
        near = self._proposed(probe, top) if self.index else self._nearest(probe, top)
        if not len(near):  # all proposals are forgotten
            near = self._nearest(probe, top)
        return ranked(self.rows[near], self.people[near], probe)[:top]

    def best_combined(self, probe: NDArray[np.float32], top: int, weights: NDArray[np.float64] | None) -> list[Hit]:
        """The nearest people by the direction of the mean of their templates; see `best`.

        Args:
            probe: see `best`.
            top: see `best`.
            weights: (N,) positive, of the templates; None for equal ones.
        """
        there = np.flatnonzero(self.people != NOBODY)
        if not len(there):
            return []
        order = there[np.argsort(self.people[there], kind="stable")]
        people, starts = np.unique(self.people[order], return_index=True)
        rows = self.rows[order].astype(np.float64)
        if weights is not None:
            rows *= weights[order, None]
        sums = np.add.reduceat(rows, starts, axis=0)
        lengths = np.maximum(np.linalg.norm(sums, axis=1), np.finfo(np.float64).tiny)
        scores = np.clip(sums @ probe.astype(np.float64) / lengths, -1, 1)
        ranking = np.lexsort((people, -scores))[:top]
        return [Hit(int(people[place]), float(scores[place])) for place in ranking]

    def _nearest(self, probe: NDArray[np.float32], top: int) -> NDArray[np.int64]:
        """Rows with the best template of each of the best people, by one matrix-vector product."""
        scores = self.rows @ probe  # (N,)
        wanted = 4 * top
        while True:
            whole = wanted >= len(scores)
            least = -np.inf if whole else np.partition(scores, len(scores) - wanted)[-wanted]
            near = np.flatnonzero((scores >= least - FLOAT32_ERROR) & (self.people != NOBODY))
            if whole or len(np.unique(self.people[near])) >= top:
                return near
            wanted *= 4  # one person with many templates takes several places

    def _proposed(self, probe: NDArray[np.float32], top: int) -> NDArray[np.int64]:
        """Rows that the index proposes and that are enrolled, and the nearest of those enrolled since."""
        assert self.index is not None
        numbers = self.index.propose(probe, max(CANDIDATES, 8 * top))
        rows = np.minimum(np.searchsorted(self.numbers, numbers), len(self.numbers) - 1)
        known: NDArray[np.int64] = rows[(self.numbers[rows] == numbers) & (self.people[rows] != NOBODY)]
        start = int(np.searchsorted(self.numbers, self.index.last, side="right"))
        if start == len(self.numbers):
            return known
        since = Buffer(self.rows[start:], self.people[start:], self.numbers[start:])
        return np.concatenate([known, start + Templates.of(since, len(since.rows))._nearest(probe, top)])


def ranked(rows: NDArray[np.float32], people: NDArray[np.int64], probe: NDArray[np.float32]) -> list[Hit]:
    """People ranked by their best template, in float64.

    Args:
        rows: (K,D) of unit length.
        people: (K,) ids of the people.
        probe: (D,) of unit length.
    """
    # Not a matrix product: its last digit depends on the number of rows.
    scores = np.clip((rows.astype(np.float64) * probe.astype(np.float64)).sum(axis=1), -1, 1)
    best: dict[int, float] = {}
    for person, score in zip(people.tolist(), scores.tolist(), strict=True):
        best[person] = max(score, best.get(person, -1.0))
    return [Hit(person, score) for person, score in sorted(best.items(), key=lambda one: (-one[1], one[0]))]


def unit_templates(embeddings: ArrayLike, embedding_size: int) -> NDArray[np.float32]:
    """Embeddings checked and scaled to unit length.

    Args:
        embeddings: (N,D), or (D,) for one, of any nonzero length.
        embedding_size: D of the gallery.

    Returns:
        (N,D) float32.

    Raises:
        InputError: another shape, numbers that are not finite, or a zero row.
    """
    try:
        rows = np.atleast_2d(np.asarray(embeddings, dtype=np.float64))
    except (TypeError, ValueError):
        raise InputError(f"Embeddings are (N,{embedding_size}) numbers: give an array of one shape.") from None
    if rows.ndim != 2 or rows.shape[1] != embedding_size or not len(rows):
        raise InputError(f"Embeddings of this gallery are (N,{embedding_size}), got {rows.shape}: use its model.")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not (lengths > 0).all():
        place = int(np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))[0])
        raise InputError(f"Embedding {place + 1} is NaN, infinite or zero: check its photo or model.")
    scaled: NDArray[np.float32] = (rows / lengths).astype(np.float32)
    return scaled
