"""Scores of all pairs of a set, or of two sets, block by block.

They are cosine similarities times `SCALE`, which as a power of two rounds nothing and makes bins whole numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.pairwise.blocks import blocks, ranges

SCALE = 2.0**20
SIZE = 768  # rows of a block of impostors: product and bins stay in the processor's cache
GPU_SIZE = 8192  # rows of a block on a GPU: a product of 256 MB in float32, with what is made of it 2 GB
GENUINE_SIZE = 256  # rows of a block of genuine pairs, which lie along the diagonal

Ranges = tuple[slice, slice]
T = TypeVar("T")
R = TypeVar("R")


def torch_device(name: str) -> torch.device:
    """The device of a name such as `cpu`, `cuda` or `cuda:1`; of `auto` a GPU if torch finds one, else the CPU.

    Raises:
        InputError: torch knows no such device, or has none here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        said = str(error).splitlines()[0].partition(". ")[0]
        reason = "torch finds no GPU here" if "NVIDIA" in said else said
        raise InputError(f"The device {name!r} cannot be used ({reason}): give cpu or auto.") from None


@contextmanager
def full_precision() -> Iterator[None]:
    """Context manager in which float32 factors are multiplied as they are, whatever torch is told elsewhere.

    Those of matrices and of convolutions, which torch rounds on a GPU by default (TF32).
    """
    with _exact_matrices(), _exact_convolutions():
        yield


@contextmanager
def _exact_convolutions() -> Iterator[None]:
    cudnn: Any = torch.backends.cudnn
    try:
        before = cudnn.allow_tf32
    except RuntimeError:  # it was set by the newer names instead
        there, cudnn.conv.fp32_precision = cudnn.conv.fp32_precision, "ieee"
        try:
            yield
        finally:
            cudnn.conv.fp32_precision = there
        return
    cudnn.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32 = before


@contextmanager
def _exact_matrices() -> Iterator[None]:
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # it was set by torch.backends instead
        cuda: Any = torch.backends.cuda.matmul
        there, cuda.fp32_precision = cuda.fp32_precision, "ieee"
        try:
            yield
        finally:
            cuda.fp32_precision = there
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class _Side(NamedTuple):
    """Rows in the order of their identities."""

    rows: Tensor  # (N,D)
    identities: NDArray[np.int64]  # (N,) ascending
    order: NDArray[np.int64]  # (N,) place of each row as given

    @classmethod
    def of(cls, rows: NDArray[np.floating], identities: NDArray[np.int64]) -> _Side:
        order = np.argsort(identities, kind="stable")
        return cls(torch.from_numpy(np.ascontiguousarray(rows[order])), identities[order], order)


class PairScores:
    """Scores of all pairs i < j of one set, or of all pairs of a probe with a gallery row, block by block.

    Rows are sorted by identity: genuine pairs lie along the diagonal and all other blocks hold impostors only. The
    blocks depend on the set alone, so that whoever computes one finds the same bits. A pair has the number i * M + j,
    by the order in which rows were given; M is the size of the gallery, or of the set.

    Args:
        rows: (N,D) of unit length.
        identities: (N,) numbers.
        gallery: (M,D) of unit length, or None for the set with itself.
        gallery_identities: (M,) numbers.
        device: where the impostors are compared; genuine pairs are few, and compared on the CPU.
    """

    def __init__(
        self,
        rows: NDArray[np.floating],
        identities: NDArray[np.int64],
        gallery: NDArray[np.floating] | None = None,
        gallery_identities: NDArray[np.int64] | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.probes = self.gallery = _Side.of(rows, identities)
        self.itself = gallery is None or gallery_identities is None
        if gallery is not None and gallery_identities is not None:
            self.gallery = _Side.of(gallery, gallery_identities)
        self.device = device or torch.device("cpu")
        self.there: tuple[tuple[Tensor, Tensor], ...] = ()  # rows and identities of both sides on a GPU
        if self.device.type != "cpu":
            self.move()

    def move(self) -> None:
        """Put the rows where the impostors are compared, for `masked`."""
        sides = (self.probes,) if self.itself else (self.probes, self.gallery)
        moved = [(side.rows.to(self.device), torch.from_numpy(side.identities).to(self.device)) for side in sides]
        self.there = (moved[0], moved[-1])

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        height, width = len(self.probes.rows), len(self.gallery.rows)
        return height * (height - 1) // 2 if self.itself else height * width

    def walk(self, size: int = 0) -> list[Ranges]:
        """Row and column ranges of all blocks; `size` rows and columns at most, by default what suits the device."""
        size = size or (GPU_SIZE if self.there else SIZE)
        return list(blocks(len(self.probes.rows), None if self.itself else len(self.gallery.rows), size))

    def sample(self, share: int, seed: int = 0) -> PairScores:
        """One of `share` rows, drawn at random, as a set of its own."""
        rng = np.random.default_rng(seed)

        def draw(side: _Side) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
            rows = rng.choice(len(side.rows), -(-len(side.rows) // share), replace=False)
            return side.rows.numpy()[rows], side.identities[rows]

        gallery, people = (None, None) if self.itself else draw(self.gallery)
        return PairScores(*draw(self.probes), gallery, people, self.device)

    def product(self, block: Ranges, out: Tensor | None = None) -> Tensor:
        """(n, m) scaled scores of a block; `out` is memory for them."""
        rows, columns = self.probes.rows[block[0]], self.gallery.rows[block[1]]
        shape = len(rows), len(columns)
        memory = rows.new_empty(shape) if out is None else out[: shape[0] * shape[1]].view(shape)
        return torch.addmm(memory, rows, columns.T, beta=0, alpha=SCALE, out=memory)

    def mask(self, block: Ranges, same: bool) -> NDArray[np.bool_] | None:
        """(n, m) mask of the genuine pairs or of the impostors in a block; None where all are impostors."""
        rows, columns = self.probes.identities[block[0]], self.gallery.identities[block[1]]
        if rows[-1] < columns[0] or rows[0] > columns[-1]:
            return None
        mask: NDArray[np.bool_] = (rows[:, None] == columns) == same
        return np.triu(mask, 1) if self.itself and block[0] == block[1] else mask

    def impostors(self, block: Ranges, out: Tensor | None = None) -> tuple[Tensor, NDArray[np.bool_] | None]:
        """(K,) scaled scores of the impostors of a block, and their mask unless all are."""
        scores, mask = self.product(block, out), self.mask(block, same=False)
        # numpy takes a twentieth of torch's time for this
        return scores.view(-1) if mask is None else torch.from_numpy(scores.numpy()[mask]), mask

    def masked(self, block: Ranges) -> tuple[Tensor, Tensor | None]:
        """(n * m,) scaled scores of a block on its device, and a mask of those that are no impostors; None if all are.

        Nothing waits for the device.
        """
        (rows, row_people), (columns, column_people) = self.there
        left, right = rows[block[0]], columns[block[1]]
        scores = torch.addmm(left.new_empty(len(left), len(right)), left, right.T, beta=0, alpha=SCALE)
        first, second = self.probes.identities[block[0]], self.gallery.identities[block[1]]
        if first[-1] < second[0] or first[0] > second[-1]:
            return scores.view(-1), None
        others = row_people[block[0], None] == column_people[block[1]]
        if self.itself and block[0] == block[1]:
            others |= torch.ones_like(others).tril_()
        return scores.view(-1), others.view(-1)

    def genuine(self) -> Iterator[tuple[NDArray[np.floating], NDArray[np.int64]]]:
        """Genuine pairs, some at a time: (K,) scaled scores and numbers."""
        for block in self._blocks_of_one_person():
            mask = self.mask(block, same=True)
            if mask is not None and mask.any():
                yield self.product(block).numpy()[mask], self.numbers(block, np.flatnonzero(mask))

    def _blocks_of_one_person(self) -> Iterator[Ranges]:
        """Blocks, `GENUINE_SIZE` high and wide at most, in which somebody may be twice: few of all."""
        above, beside = self.probes.identities, self.gallery.identities
        for rows in ranges(len(above), GENUINE_SIZE):
            for columns in ranges(len(beside), GENUINE_SIZE, rows.start if self.itself else 0):
                if beside[columns.start] > above[rows.stop - 1]:
                    break
                if beside[columns.stop - 1] >= above[rows.start]:
                    yield rows, columns

    def numbers(self, block: Ranges, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of the pairs at (K,) flat places of a block."""
        rows, columns = np.divmod(places, block[1].stop - block[1].start)
        first, second = self.probes.order[rows + block[0].start], self.gallery.order[columns + block[1].start]
        if self.itself:
            first, second = np.minimum(first, second), np.maximum(first, second)
        numbers: NDArray[np.int64] = first * len(self.gallery.rows) + second
        return numbers


def parallel(work: Callable[[T], R], parts: Sequence[T], title: str = "") -> Iterator[R]:
    """Results of parts in order, each computed by one of as many threads as torch has.

    That is a fifth faster than to divide each step of a part among all threads.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        results = pool.map(work, parts)
        if title:
            from tqdm import tqdm

            yield from tqdm(results, title, len(parts), delay=2, leave=False, disable=None)
        else:
            yield from results
    finally:
        pool.shutdown(cancel_futures=True)  # if one fails or is interrupted, no other begins
        torch.set_num_threads(threads)  # what threads to come begin with
