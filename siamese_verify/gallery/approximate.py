"""A FAISS index: which of very many templates may be the most alike."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.files import whole_file, write_whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

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
