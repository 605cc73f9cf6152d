"""Grouping: the faces of an album sorted by person, without labels."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.optimize import brentq
from tqdm import tqdm

from siamese_verify.errors import InputError
from siamese_verify.evaluation import Calibration, ImpostorTail, ScoreCalibration
from siamese_verify.evaluation.operating_points import DECISIVE_IMPOSTORS
from siamese_verify.pairwise.distances import identical
from siamese_verify.pairwise.neighbors import nearest_neighbors

CORRELATION = 0.2  # of the photos of one person; chosen on people of LFW's training list, see docs/grouping.md
NEIGHBORS = 32  # candidates of each face, and then of each group
QUEUED = 8  # times as many candidates of a group that was merged are compared after each merge; the others wait
ROUNDS = 4  # searches for candidates: of faces, then of the groups found so far
FALSE_MERGE_RATE = 0.01
WRONG_LABELS = 1e-5  # share of impostor pairs that may be one person under two names; chosen on the same people
BLOCK = 2**12  # pairs whose scores are computed at once
Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class PersonModel:
    """Log-likelihood ratio of two groups of faces: one person or two.

    The embedding of a face is the person's vector plus that of the photo, both normal with the same variance in each of
    `dimensions` dimensions, which add up to the unit length of an embedding. For two single faces the ratio is then a
    straight line of their score, and the line of the calibration determines both parameters. For groups it follows
    exactly from the sums of their embeddings. n photos of one person count as n / (1 + (n - 1) correlation) independent
    ones, the design effect, since photos of one day or decade have more in common than the person.

    Attributes:
        ratio: variance between people by variance between photos of one, > 0.
        dimensions: effective number of dimensions, > 0.
        slope: of the ratio of two single faces, in nats for a change of the score by 1.
        neutral: score of two single faces where the ratio is 0.
        correlation: of the photos of one person beyond the model, in [0, 1].

    Ioffe, "Probabilistic Linear Discriminant Analysis", ECCV 2006; Kish, "Survey Sampling", 1965 (design effect).
    """

    ratio: float
    dimensions: float
    slope: float
    neutral: float
    correlation: float = CORRELATION

    @classmethod
    def from_calibration(cls, calibration: Calibration, correlation: float = CORRELATION) -> PersonModel:
        """Return the model whose single faces have the ratios of a calibration.

        Raises:
            InputError: scores that say nothing about who it is, or a correlation outside of [0, 1].
        """
        if not 0 <= correlation <= 1:
            raise InputError(f"The correlation of photos is in [0, 1], got {correlation}.")
        grid = np.linspace(calibration.scores[0], calibration.scores[-1], 1001)
        ratios = calibration.log_likelihood_ratio(grid)
        inner = ~calibration.bounded(grid)
        if inner.sum() > 1:
            grid, ratios = grid[inner], ratios[inner]
        slope, start = (float(one) for one in np.polyfit(grid, ratios, 1)) if np.ptp(grid) > 0 else (0.0, 0.0)
        if not slope > 0:
            raise InputError("The scores of this model do not tell people apart: calibrate it on more people.")
        neutral = min(max(-start / slope, 0.01), 0.99)
        ratio = float(brentq(lambda one: _neutral(one) - neutral, 1e-9, 1e9, xtol=1e-12))
        return cls(ratio, slope * (1 + 2 * ratio) / (ratio * (1 + ratio)), slope, neutral, correlation)

    def effective(self, size: ArrayLike) -> Floats:
        """Return how many independent photos `size` photos of one person count as."""
        count = np.asarray(size, dtype=np.float64)
        return np.asarray(count / (1 + (count - 1) * self.correlation))

    def log_likelihood(self, size: ArrayLike, square: ArrayLike) -> Floats:
        """Return the log-likelihood of effective photos being of one person, less that of each being of its own.

        Args:
            size: effective number of photos.
            square: squared length of the sum of their embeddings.
        """
        count, photo = np.asarray(size), 1 / (self.dimensions * (1 + self.ratio))  # variance of a photo, per dimension
        spread = 1 + count * self.ratio
        return 0.5 * self.ratio / photo * np.asarray(square) / spread - 0.5 * self.dimensions * np.log(spread)

    def log_likelihood_ratio(
        self, score: ArrayLike, first: tuple[ArrayLike, ArrayLike], second: tuple[ArrayLike, ArrayLike]
    ) -> Floats:
        """Return the log-likelihood ratio of two groups of faces in nats: above 0 for one person, below 0 for two.

        Args:
            score: mean of the scores of all pairs of a face of each.
            first: number of faces of the first group, and squared length of the mean of its embeddings.
            second: of the second group.
        """
        a, b = self.effective(first[0]), self.effective(second[0])
        squares = a**2 * np.asarray(first[1]), b**2 * np.asarray(second[1])
        joined = squares[0] + squares[1] + 2 * a * b * np.asarray(score)
        apart = self.log_likelihood(a, squares[0]) + self.log_likelihood(b, squares[1])
        return np.asarray(self.log_likelihood(a + b, joined) - apart)


def _neutral(ratio: float) -> float:
    """Score at which two single faces of the model are as likely one person as two."""
    return ratio / (1 + ratio) - 0.5 * (1 + 2 * ratio) / (ratio * (1 + ratio)) * math.log1p(ratio**2 / (1 + 2 * ratio))


class FalseMerges:
    """Expected number of merges of two people among pairs of groups.

    Args:
        tail: impostor tail of the scores.
        model: that the log-likelihood ratios are of.
    """

    def __init__(self, tail: ImpostorTail, model: PersonModel) -> None:
        accepted = np.array(tail.accepted)
        decisive = max(1, int((accepted >= max(DECISIVE_IMPOSTORS, WRONG_LABELS * tail.impostors)).sum()))
        self.ratios = model.slope * (np.array(tail.scores[:decisive]) - model.neutral)
        self.rates = np.maximum(accepted[:decisive], 1) / tail.impostors

    def share(self, ratio: float) -> float:
        """Return the share of pairs of different people whose log-likelihood ratio is as high.

        Where fewer than ten impostors decide, or so few that many may be wrong labels, it falls as e^-ratio: less than
        any calibrated ratio above those that are frequent in one person.
        """
        place = int(np.searchsorted(self.ratios, ratio, side="right")) - 1
        if place < 0:
            return 1.0
        beyond = ratio - self.ratios[-1]
        return float(self.rates[place] * (math.exp(-beyond) if place == len(self.ratios) - 1 else 1.0))

    def expected(self, ratio: float, groups: int) -> float:
        """Return how many of the pairs of `groups` groups are expected to reach a ratio by chance."""
        return groups * (groups - 1) / 2 * self.share(ratio)


@dataclass(frozen=True)
class Grouping:
    """Faces sorted by person.

    Attributes:
        groups: (N,) number of each face's group: 0, 1, ... by the first face of each.
        scores: (N,) mean score of each face with the others of its group; NaN where there are none.
        cut: log-likelihood ratio from which groups were merged, in nats; +inf where none were.
        expected_rate: share of the merges that are expected to join two people, see `FalseMerges`.
        merges: number of merges by likelihood.
    """

    groups: Rows
    scores: Floats
    cut: float
    expected_rate: float
    merges: int


class _Agglomeration:
    """Groups while they are merged, each under the row of one of its faces.

    Args:
        model: of the ratios.
        rows: (N,D) embeddings, each a group.
        exclusive: by row, numbers of the sets of which no two are one person.
    """

    def __init__(self, model: PersonModel, rows: NDArray[np.float32], exclusive: dict[int, set[int]]) -> None:
        self.model, self.exclusive, count = model, exclusive, len(rows)
        self.sums = rows.copy()
        self.size = np.ones(count, dtype=np.int64)
        self.parent = np.arange(count)
        self.changed = np.zeros(count, dtype=np.int64)  # how often
        self.candidates: list[Rows] = []
        # By group: effective photos, these by photos, squared length of the sum of these, and its log-likelihood.
        self.terms = np.ones((count, 4))
        for part in range(0, count, BLOCK):
            rows_of = self.sums[part : part + BLOCK]
            self.terms[part : part + BLOCK, 2] = np.einsum("nd,nd->n", rows_of, rows_of, dtype=np.float64)
        self.terms[:, 3] = model.log_likelihood(self.terms[:, 0], self.terms[:, 2])

    def roots(self) -> Rows:
        return np.flatnonzero(self.parent == np.arange(len(self.parent)))

    def find(self, rows: Rows) -> Rows:
        """Groups of rows."""
        while True:
            above = self.parent[rows]
            if (above == rows).all():
                return rows
            rows = above

    def find_one(self, row: int) -> int:
        """Group of a row."""
        while (above := int(self.parent[row])) != row:
            row = above
        return row

    def ratios(self, group: int | Rows, others: Rows, products: NDArray[np.floating]) -> Floats:
        """Log-likelihood ratios of groups, by the inner products of their sums."""
        effective, weight, square, likelihood = self.terms[group].T
        terms = self.terms[others]
        joined = 2 * weight * terms[:, 1] * products + square + terms[:, 2]
        together = self.model.log_likelihood(effective + terms[:, 0], joined)
        return np.asarray(together - likelihood - terms[:, 3])

    def allowed(self, a: int, b: int) -> bool:
        one, other = self.exclusive.get(a), self.exclusive.get(b)
        return one is None or other is None or one.isdisjoint(other)

    def merge(self, a: int, b: int) -> tuple[int, int]:
        """Merge two groups; the one that stays and the one that goes."""
        if (self.size[a], -a) < (self.size[b], -b):
            a, b = b, a
        self.sums[a] += self.sums[b]
        self.size[a] += self.size[b]
        effective = float(self.model.effective(self.size[a]))
        weight = effective / self.size[a]
        square = float(self.sums[a] @ self.sums[a]) * weight**2
        self.terms[a] = effective, weight, square, self.model.log_likelihood(effective, square)
        self.parent[b] = a
        self.changed[a] += 1
        if mine := self.exclusive.pop(b, None):
            small, large = sorted((mine, self.exclusive.get(a, set())), key=len)
            large |= small
            self.exclusive[a] = large
        return a, b

    def search(self, count: int) -> sparse.csr_matrix:
        """Find the candidates of each group; (N,N) symmetric inner products of their sums."""
        rows = self.roots()
        lengths = np.maximum(np.linalg.norm(self.sums[rows], axis=1, keepdims=True), np.float32(1e-12))
        means = self.sums[rows] / lengths
        found = nearest_neighbors(torch.from_numpy(means), None, count).numpy()
        left, right = np.repeat(np.arange(len(rows)), found.shape[1]), found.ravel()
        pairs = zip(_parts(left), _parts(right), strict=True)
        cosine = np.concatenate([np.einsum("nd,nd->n", means[a], means[b]) for a, b in pairs] or [np.empty(0)])
        close = cosine >= self.model.neutral
        left, right = left[close], right[close]
        product = cosine[close].astype(np.float64) * lengths[left, 0] * lengths[right, 0]
        graph = sparse.csr_matrix((product, (rows[left], rows[right])), shape=(len(self.parent), len(self.parent)))
        graph = graph.maximum(graph.T).tocsr()
        graph.sort_indices()
        return graph

    def greedy(self, products: sparse.csr_matrix, least: float, stop: _Stop, most: int) -> None:
        """Merge the pair of candidates with the largest ratio, as long as `stop` lets it.

        Of a group that was merged, the `most` candidates of the largest ratios are compared anew after each merge; the
        others wait until half of these are left, since a person with many photos has nearly all of them as candidates.
        """
        start, near = products.indptr, products.indices.astype(np.int64)
        group = np.repeat(np.arange(len(self.parent)), np.diff(start))
        ratio = self.ratios(group, near, products.data)
        order = np.lexsort((-ratio, group))
        sorted_near, sorted_ratio = near[order], ratio[order]
        self.candidates = [near[start[row] : start[row + 1]] for row in range(len(self.parent))]
        queues: dict[int, tuple[Floats, Rows, Rows]] = {}
        heap: list[tuple[float, int, int, int]] = []  # negative ratio, group, its changes, place in its queue

        def put(group: int, ratios: Floats, others: Rows) -> None:
            """Queue the candidates of a group, the largest ratio first."""
            high = int(np.searchsorted(-ratios, -least, side="right"))
            if high:
                queues[group] = ratios[:high], others[:high], self.changed[others[:high]]
                heap.append((-float(ratios[0]), group, int(self.changed[group]), 0))

        waiting: dict[int, list[Rows]] = {}  # candidates of a group beyond `most`

        def put_again(group: int, with_waiting: bool = False) -> None:
            """Queue the best candidates of a group that has changed."""
            close = _distinct(self.find(self.candidates[group]))
            if (with_waiting or 2 * len(close) <= most) and (others := waiting.pop(group, None)):
                close = _distinct(self.find(np.concatenate([close, *others])))
            close = close[close != group]
            ratios = self.ratios(group, close, self.sums[close] @ self.sums[group])
            order = np.argsort(-ratios, kind="stable")
            if len(order) > most and group not in self.exclusive:
                waiting.setdefault(group, []).append(close[order[most:]])
                order = order[:most]
            elif len(order) > most:
                free = (place for place, other in enumerate(close[order].tolist()) if self.allowed(group, other))
                best = list(islice(free, most))
                if len(best) == most:
                    waiting.setdefault(group, []).append(close[order[best[-1] + 1 :]])
                order = order[np.array(best, dtype=np.int64)]
            self.candidates[group] = close[order]
            queues.pop(group, None)
            put(group, ratios[order], close[order])
            if group in queues:
                heapq.heappush(heap, heap.pop())

        for row in np.flatnonzero(np.diff(start)).tolist():
            part = slice(start[row], start[row + 1])
            put(row, sorted_ratio[part], sorted_near[part])
        heapq.heapify(heap)
        while heap:
            negative, one, changes, place = heap[0]
            if self.parent[one] != one or self.changed[one] != changes:
                heapq.heappop(heap)
                continue
            ratios, others, versions = queues[one]
            other = int(others[place])
            present = self.parent[other] == other and self.changed[other] == versions[place]
            if not (present and self.allowed(one, other)):
                if place + 1 < len(ratios):
                    heapq.heapreplace(heap, (-float(ratios[place + 1]), one, changes, place + 1))
                else:
                    heapq.heappop(heap)
                    if one in waiting:
                        put_again(one, with_waiting=True)
                continue
            if stop.before(-negative, one, other):
                return
            heapq.heappop(heap)
            kept, gone = self.merge(one, other)
            queues.pop(gone, None)
            self.candidates[kept] = np.concatenate([self.candidates[kept], self.candidates[gone]])
            self.candidates[gone] = self.candidates[gone][:0]
            if others_waiting := waiting.pop(gone, None):
                waiting.setdefault(kept, []).extend(others_waiting)
            put_again(kept)


def _distinct(values: Rows) -> Rows:
    """Values in order, each once: `np.unique`, which is slower for a few."""
    values.sort()
    different = np.ones(len(values), dtype=bool)
    np.not_equal(values[1:], values[:-1], out=different[1:])
    return values[different]


def _parts(values: NDArray[Any]) -> list[NDArray[Any]]:
    return [values[start : start + BLOCK] for start in range(0, len(values), BLOCK)]


class _Stop:
    """Says when merging has to end, and which merges then hold.

    Args:
        false: expected number of false merges.
        rate: share of the merges that may be false.
        groups: number of groups before the first merge.
        cut: fixed ratio instead; None finds it.
    """

    def __init__(self, false: FalseMerges, rate: float, groups: int, cut: float | None = None) -> None:
        self.false, self.rate, self.before_all = false, rate, groups
        self.cut = math.inf if cut is None else cut
        self.fixed = cut is not None
        self.merged: list[tuple[int, int]] = []
        self.lowest = math.inf
        self.holds = 0  # merges up to the last at which the expected share is kept

    def before(self, ratio: float, a: int, b: int) -> bool:
        """Whether to end before a merge; else it is remembered."""
        if self.fixed:
            self.merged.append((a, b))
            self.holds += 1
            return False
        self.lowest = min(self.lowest, ratio)
        expected = self.false.expected(self.lowest, self.before_all - len(self.merged))
        if expected > self.rate * (self.before_all - 1):  # even if all of the rest were merged
            return True
        self.merged.append((a, b))
        if expected <= self.rate * len(self.merged):
            self.holds, self.cut = len(self.merged), self.lowest
        return False


def check_embeddings(embeddings: ArrayLike, rate: float) -> NDArray[np.float32]:
    """Return (N,D) embeddings as float32.

    Raises:
        InputError: another shape, NaN or infinity, no unit length, or a rate outside of (0, 1).
    """
    rows = np.asarray(embeddings, dtype=np.float32)
    if rows.ndim != 2:
        raise InputError(f"Embeddings are (N, D), got shape {rows.shape}.")
    if not 0 < rate < 1:
        raise InputError(f"The false-merge rate is between 0 and 1, such as {FALSE_MERGE_RATE}, got {rate}.")
    if not np.isfinite(rows).all():
        raise InputError("Embeddings hold NaN or infinity: embed these photos again.")
    if len(rows) and np.abs(np.linalg.norm(rows, axis=1) - 1).max() > 1e-2:
        raise InputError("Embeddings must have unit length: divide each by its length.")
    return rows


def group_faces(
    embeddings: ArrayLike,
    calibration: ScoreCalibration,
    photos: ArrayLike | None = None,
    *,
    rate: float = FALSE_MERGE_RATE,
    start: ArrayLike | None = None,
    exclusive: Sequence[Sequence[int]] = (),
    correlation: float = CORRELATION,
    neighbors: int = NEIGHBORS,
    progress: bool = False,
) -> Grouping:
    """Sort faces by person, without labels.

    Groups, at first of one face, are merged in the order of their log-likelihood ratio (`PersonModel`), the largest
    first, among pairs of nearest neighbors; later searches take the means of the groups. After a merge only the 8 x
    `neighbors` best candidates of a group are compared anew, and the others when half of these are merged: the order is
    exact where no group has more candidates than that, and nearly so in a person of more photos. Merging ends where
    among all pairs of the groups that are left so many are expected to reach the ratio by chance that they would be
    more than the stated share of the merges: by the impostor tail of the model's scores and the number of comparisons.
    Memory is some three times that of the embeddings, plus `neighbors` numbers for each.

    Args:
        embeddings: (N,D) of unit length.
        calibration: of the model's scores.
        photos: (N,) number or name of each face's photo: two faces of one are never one person. None if each has its
            own.
        rate: false-merge rate, the share of merges that may join two people; in (0, 1).
        start: (N,) groups to start from, such as known people: faces of one stay together. None: every face alone.
        exclusive: sets of rows of which no two are one person.
        correlation: see `PersonModel`.
        neighbors: candidates of each face.
        progress: show a progress bar.

    Raises:
        InputError: NaN or infinity, embeddings that are not of unit length, a rate outside of (0, 1), or `start` puts
            two faces of one exclusive set together.

    Benjamini & Hochberg, "Controlling the False Discovery Rate", J. R. Stat. Soc. B 1995, for the share of the merges.
    """
    rows = check_embeddings(embeddings, rate)
    model = PersonModel.from_calibration(calibration.calibration, correlation)
    false = FalseMerges(calibration.impostor_tail, model)
    first = np.arange(len(rows)) if start is None else np.unique(np.asarray(start), return_inverse=True)[1]
    photo = np.arange(len(rows)) if photos is None else np.unique(np.asarray(photos), return_inverse=True)[1]

    def begin() -> _Agglomeration:
        return _starting(rows, model, first.astype(np.int64), photo.astype(np.int64), exclusive)

    state = begin()
    groups = len(state.roots())
    cut: float | None = None
    merges = 0
    with tqdm(total=ROUNDS, desc="Grouping faces", delay=2, disable=not progress, unit=" searches") as bar:
        for _ in range(ROUNDS):
            remaining = len(state.roots())
            if remaining < 2:
                break
            products = state.search(neighbors)
            stop = _Stop(false, rate, groups if cut is None else remaining, cut)
            state.greedy(products, 0.0 if cut is None else cut, stop, QUEUED * neighbors)
            if cut is None:
                if stop.holds < len(stop.merged):  # without the last ones
                    state = begin()
                    for a, b in stop.merged[: stop.holds]:
                        state.merge(state.find_one(a), state.find_one(b))
                cut = stop.cut
            merges += stop.holds
            bar.update()
            if not stop.holds:
                break
    if cut is None or not merges:
        return _finished(rows, state, math.inf, 0.0, merges)
    return _finished(rows, state, cut, false.expected(cut, len(state.roots())) / merges, merges)


def _starting(
    rows: NDArray[np.float32], model: PersonModel, first: Rows, photo: Rows, exclusive: Sequence[Sequence[int]]
) -> _Agglomeration:
    """Groups to start from: those given, and identical embeddings of different photos together."""
    count = len(rows)
    sets: dict[int, set[int]] = {}
    crowded = np.flatnonzero(np.bincount(photo, minlength=1)[photo] > 1) if count else photo
    for row in crowded.tolist():
        sets.setdefault(row, set()).add(int(photo[row]))
    for number, members in enumerate(exclusive, start=count):
        for row in members:
            sets.setdefault(int(row), set()).add(number)
    state = _Agglomeration(model, rows, sets)
    user = range(count, count + len(exclusive))
    _join(state, first, lambda a, b: _refuse(state, a, b, user))
    if count:
        _join(state, identical(torch.from_numpy(rows)).numpy(), state.allowed)
    return state


def _refuse(state: _Agglomeration, a: int, b: int, user: range) -> bool:
    """True; InputError if a user's set has a row of each of two groups that are to be one."""
    both = state.exclusive.get(a, set()) & state.exclusive.get(b, set())
    if any(number in user for number in both):
        raise InputError(f"Faces {a} and {b} are said to be one person and two: remove one of the decisions.")
    return True


def _join(state: _Agglomeration, numbers: Rows, allowed: Callable[[int, int], bool]) -> None:
    """Merge the rows of equal numbers with the first of them, where it is allowed."""
    order = np.argsort(numbers, kind="stable")
    begins = np.flatnonzero(np.append(True, np.diff(numbers[order]) != 0))
    ends = np.append(begins[1:], len(order))
    several = ends - begins > 1
    for begin, end in zip(begins[several], ends[several], strict=True):
        first = state.find_one(int(order[begin]))
        for row in order[begin + 1 : end].tolist():
            other = state.find_one(row)
            if other != first and allowed(first, other):
                first, _ = state.merge(first, other)


def _finished(rows: NDArray[np.float32], state: _Agglomeration, cut: float, expected: float, merges: int) -> Grouping:
    group = state.find(np.arange(len(rows)))
    _, firsts, inverse = np.unique(group, return_index=True, return_inverse=True)
    number = np.argsort(np.argsort(firsts, kind="stable"), kind="stable")[inverse] if len(rows) else group
    scores = np.full(len(rows), np.nan)
    for begin in range(0, len(rows), BLOCK):
        part = slice(begin, begin + BLOCK)
        size = state.size[group[part]]
        own = np.einsum("nd,nd->n", rows[part], rows[part], dtype=np.float64)
        total = np.einsum("nd,nd->n", rows[part], state.sums[group[part]], dtype=np.float64)
        scores[part] = np.where(size > 1, (total - own) / np.maximum(size - 1, 1), np.nan)
    return Grouping(number.astype(np.int64), scores, cut, expected, merges)
