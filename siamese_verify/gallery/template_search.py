"""A FAISS index: which of very many templates may be the most alike."""

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

from siamese_verify.atomic_write import whole_file, write_whole
from siamese_verify.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

CANDIDATES = 64  # templates of each search whose scores are then taken exactly
PROBES = 64  # lists that a search looks into
PER_LIST = 40  # templates that each list is learned from
CHUNK = 50_000  # templates added at a time


class ApproximateIndex:
    """Numbers of templates, in lists of those that point into similar directions, a byte for each dimension.

    It proposes, and no more: whether a proposed template is still enrolled, and how alike it is, others decide.

    Args:
        index: of FAISS, an inverted file over template numbers.
        last: largest number of a template in it; what was enrolled later is searched besides.
    """

    def __init__(self, index: Any, last: int) -> None:
        self._index, self.last = index, last
        index.nprobe = PROBES

    @classmethod
    def build(cls, rows: NDArray[np.float32], numbers: NDArray[np.int64], seed: int = 0) -> ApproximateIndex:
        """Learn the lists and fill them.

        Args:
            rows: (N,D) templates of unit length.
            numbers: (N,) ascending.
            seed: of the templates that the lists are learned from.

        Raises:
            InputError: there are none, or FAISS is not installed.
        """
        faiss = _faiss()
        count, dimension = rows.shape
        if not count:
            raise InputError("There are no templates to index: enrol somebody first.")
        lists = 2 ** round(math.log2(2 * math.sqrt(count)))  # 2,048 for a million
        while lists * PER_LIST > count and lists > 1:
            lists //= 2
        quantizer = faiss.IndexFlatIP(dimension)
        kind = faiss.ScalarQuantizer.QT_8bit
        index = faiss.IndexIVFScalarQuantizer(quantizer, dimension, lists, kind, faiss.METRIC_INNER_PRODUCT)
        chosen = np.random.default_rng(seed).permutation(count)[: lists * PER_LIST]
        index.train(np.ascontiguousarray(rows[np.sort(chosen)]))
        for start in range(0, count, CHUNK):
            index.add_with_ids(rows[start : start + CHUNK], numbers[start : start + CHUNK])
        return cls(index, int(numbers[-1]))

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def propose(self, probe: NDArray[np.float32], count: int = CANDIDATES) -> NDArray[np.int64]:
        """Return up to `count` numbers of templates that may be the most alike to a (D,) probe."""
        _, numbers = self._index.search(probe[None], min(count, len(self)))
        found: NDArray[np.int64] = numbers[0][numbers[0] >= 0]
        return found

    def save(self, path: Path, mark: Callable[[bytes], int]) -> None:
        """Write it, for its owner only, IN THE CLEAR: whoever reads the file has the templates, to a byte each.

        Args:
            path: of the file; another one with `.json` behind its name says what belongs to it.
            mark: of the gallery, see `Cipher.mark`, so that nothing is read back but what was written here.
        """
        faiss = _faiss()
        try:
            with whole_file(path, private=True) as file:
                faiss.write_index(self._index, faiss.PyCallbackIOWriter(file.write))
            about = {"last": self.last, "mark": hex(mark(_digest(path, self.last)))}
            write_whole(_about(path), json.dumps(about).encode(), private=True)
        except (OSError, RuntimeError) as error:
            raise InputError(f"The index {path} cannot be written ({error}): look at the room on the disk.") from None

    @classmethod
    def load(cls, path: Path, mark: Callable[[bytes], int]) -> ApproximateIndex | None:
        """Map it into memory: what a search does not look into stays on the disk.

        Args:
            path: see `save`.
            mark: see `save`.

        Returns:
            None if there is none, or not what was written here: FAISS does not read what somebody else made.
        """
        faiss = _faiss()
        try:
            about = json.loads(_about(path).read_bytes())
            last = int(about["last"])
            if about["mark"] != hex(mark(_digest(path, last))):
                return None
            return cls(faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY), last)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError):
            return None


def index_path(gallery: Path) -> Path:
    """Where the index of a gallery lies if it is kept: beside it."""
    return gallery.with_name(gallery.name + ".index")


def remove_index(gallery: Path) -> None:
    """Delete a kept index, which holds the templates of somebody who was forgotten."""
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
FLOAT32_DOUBT = 1e-4  # more than a product of unit rows of 4,096 dimensions is ever off in float32


class Hit(NamedTuple):
    """A person among the best of a search."""

    person: int  # number in the gallery
    score: float  # best cosine of her templates, in [-1, 1]


class Room(NamedTuple):
    """Arrays with room for more rows at their end."""

    rows: NDArray[np.float32]  # (C,D)
    people: NDArray[np.int64]  # (C,)
    numbers: NDArray[np.int64]  # (C,)


@dataclass(frozen=True)
class Templates:
    """Unit rows and whose they are. Never changed: `grown` and `without` return others, so a search needs no lock.

    Attributes:
        rows: (N,D) float32 of unit length, contiguous; zeros in place of what was forgotten.
        people: (N,) int64, whose they are; `NOBODY` likewise.
        numbers: (N,) int64 ascending, their own.
        room: what these are the beginning of; shared with what it grows into.
        forgotten: how many rows are nobody's.
        index: that proposes templates, in place of looking at all; None for all.
    """

    rows: NDArray[np.float32]
    people: NDArray[np.int64]
    numbers: NDArray[np.int64]
    room: Room
    forgotten: int = 0
    index: ApproximateIndex | None = None

    @classmethod
    def of(cls, room: Room, count: int, forgotten: int = 0, index: ApproximateIndex | None = None) -> Templates:
        """The first `count` rows of some room."""
        return cls(room.rows[:count], room.people[:count], room.numbers[:count], room, forgotten, index)

    @classmethod
    def empty(cls, dimension: int) -> Templates:
        """None yet."""
        whose, own = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        return cls.of(Room(np.empty((0, dimension), dtype=np.float32), whose, own), 0)

    def __len__(self) -> int:
        """Templates that are somebody's."""
        return len(self.rows) - self.forgotten

    def grown(self, rows: NDArray[np.float32], people: Sequence[int], numbers: Sequence[int]) -> Templates:
        """Append rows, in place where there is room. Only the latest may grow, and one caller at a time."""
        held, total = len(self.rows), len(self.rows) + len(rows)
        room = self.room
        if total > len(room.rows):
            capacity = max(total, held + held // 2)
            wide = np.empty((capacity, self.rows.shape[1]), dtype=np.float32)
            room = Room(wide, np.empty(capacity, dtype=np.int64), np.empty(capacity, dtype=np.int64))
            room.rows[:held], room.people[:held], room.numbers[:held] = self.rows, self.people, self.numbers
        room.rows[held:total], room.people[held:total], room.numbers[held:total] = rows, people, numbers
        return Templates.of(room, total, self.forgotten, self.index)

    def without(self, people: Collection[int]) -> Templates:
        """Leave people out. Their rows are overwritten, also for searches that run: those look up whom they found."""
        gone = np.isin(self.people, list(people))
        self.rows[gone] = 0
        count, forgotten = len(self.rows), self.forgotten + int(gone.sum())
        if forgotten <= count // 8:  # copying all of them would take longer than the next search may
            owners = self.room.people.copy()
            owners[:count][gone] = NOBODY
            return Templates.of(self.room._replace(people=owners), count, forgotten, self.index)
        keep = ~gone & (self.people != NOBODY)
        room = Room(self.rows[keep], self.people[keep], self.numbers[keep])
        return Templates.of(room, len(room.rows), 0, self.index)

    def living(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Rows and numbers of the templates that are somebody's."""
        if not self.forgotten:
            return self.rows, self.numbers
        keep = self.people != NOBODY
        return self.rows[keep], self.numbers[keep]

    def best(self, probe: NDArray[np.float32], top: int) -> list[Hit]:
        """Search for the people who are most alike: all templates, or those that an index proposes.

        The scores are taken in float64, so that they depend neither on the machine nor on what else the gallery holds.

        Args:
            probe: (D,) of unit length.
            top: people to return, 1 or more.

        Returns:
            Up to `top` people, best first; those who score alike in the order of their enrolment.
        """
        if not len(self):
            return []
        near = self._proposed(probe, top) if self.index else self._nearest(probe, top)
        if not len(near):  # all that was proposed is forgotten
            near = self._nearest(probe, top)
        return ranked(self.rows[near], self.people[near], probe)[:top]

    def _nearest(self, probe: NDArray[np.float32], top: int) -> NDArray[np.int64]:
        """Rows that hold the best template of each of the best people: one product of the matrix with the probe."""
        scores = self.rows @ probe  # (N,)
        wanted = 4 * top
        while True:
            whole = wanted >= len(scores)
            least = -np.inf if whole else np.partition(scores, len(scores) - wanted)[-wanted]
            near = np.flatnonzero((scores >= least - FLOAT32_DOUBT) & (self.people != NOBODY))
            if whole or len(np.unique(self.people[near])) >= top:
                return near
            wanted *= 4  # a person with many templates fills the places

    def _proposed(self, probe: NDArray[np.float32], top: int) -> NDArray[np.int64]:
        """Rows that the index proposes, without those since forgotten, and the best of those enrolled since."""
        assert self.index is not None
        numbers = self.index.propose(probe, max(CANDIDATES, 8 * top))
        rows = np.minimum(np.searchsorted(self.numbers, numbers), len(self.numbers) - 1)
        known: NDArray[np.int64] = rows[(self.numbers[rows] == numbers) & (self.people[rows] != NOBODY)]
        start = int(np.searchsorted(self.numbers, self.index.last, side="right"))
        if start == len(self.numbers):
            return known
        since = Room(self.rows[start:], self.people[start:], self.numbers[start:])
        return np.concatenate([known, start + Templates.of(since, len(since.rows))._nearest(probe, top)])


def ranked(rows: NDArray[np.float32], people: NDArray[np.int64], probe: NDArray[np.float32]) -> list[Hit]:
    """Rank people by their best template, in float64.

    Args:
        rows: (K,D) of unit length.
        people: (K,) whose they are.
        probe: (D,) of unit length.
    """
    # Not a matrix product, whose last digit depends on how many rows there are.
    scores = np.clip((rows.astype(np.float64) * probe.astype(np.float64)).sum(axis=1), -1, 1)
    best: dict[int, float] = {}
    for person, score in zip(people.tolist(), scores.tolist(), strict=True):
        best[person] = max(score, best.get(person, -1.0))
    return [Hit(person, score) for person, score in sorted(best.items(), key=lambda one: (-one[1], one[0]))]


def unit_templates(embeddings: ArrayLike, dimension: int) -> NDArray[np.float32]:
    """Check embeddings and scale them to unit length.

    Args:
        embeddings: (N,D), or (D,) for one, of any non-zero length.
        dimension: D of the gallery.

    Returns:
        (N,D) float32.

    Raises:
        InputError: another shape, numbers that are not finite, or a row without a direction.
    """
    try:
        rows = np.atleast_2d(np.asarray(embeddings, dtype=np.float64))
    except (TypeError, ValueError):
        raise InputError(f"Embeddings are (N,{dimension}) numbers: give an array of one shape.") from None
    if rows.ndim != 2 or rows.shape[1] != dimension or not len(rows):
        raise InputError(f"Embeddings of this gallery are (N,{dimension}), got {rows.shape}: embed with its model.")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not (lengths > 0).all():
        place = int(np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))[0])
        raise InputError(f"Embedding {place + 1} is NaN, infinite or zero: look for an empty or diverged one.")
    scaled: NDArray[np.float32] = (rows / lengths).astype(np.float32)
    return scaled
