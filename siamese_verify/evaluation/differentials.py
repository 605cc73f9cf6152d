"""Error rates within and across groups at one threshold, and how unequal they are (ISO/IEC 19795-10)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.bootstrap import Interval, check_level, numbered_people
from siamese_verify.evaluation.clustered_pairs import FADING, effective_size, equal_people, genuine_size
from siamese_verify.evaluation.inequality import Inequality, inequalities
from siamese_verify.evaluation.rate_intervals import proportion_interval
from siamese_verify.evaluation.scores import as_array, checked_pairs, checked_threshold, numbered, unit_rows
from siamese_verify.tables import is_number

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Whole = NDArray[np.int64]

MAX_GROUPS = 50
BINS, DISTINCT = 4, 8  # a column of more than 8 different numbers is divided into 4 parts at most
MAX_ERRORS = 2**23  # accepted impostors that are held in memory; more are counted, without intervals


class GroupCell(NamedTuple):
    """Pairs of one group with itself or of two groups.

    Attributes:
        groups: of the two photos, in the order of their names.
        impostors: number of impostor pairs.
        fmr: false match rate, None without impostors.
        fmr_interval: 95 % confidence interval over people, one-sided without errors; None where people are unknown.
        genuine: number of genuine pairs.
        fnmr: false non-match rate, None without genuine pairs.
        fnmr_interval: likewise.
    """

    groups: tuple[str, str]
    impostors: int
    fmr: float | None
    fmr_interval: Interval | None
    genuine: int
    fnmr: float | None
    fnmr_interval: Interval | None


class GroupDifferentials(NamedTuple):
    """Error rates within and across groups.

    Attributes:
        groups: names.
        threshold: for all groups.
        cells: of each two groups and of each with itself, row by row of the upper triangle.
        inequalities: summaries over the groups that have both rates.
        column: what the groups are of.
    """

    groups: tuple[str, ...]
    threshold: float
    cells: tuple[GroupCell, ...]
    inequalities: tuple[Inequality, ...]
    column: str = "group"

    def matrix(self) -> Floats:
        """(G,G) false match rates, symmetric; NaN without impostors."""
        found = np.full((len(self.groups),) * 2, np.nan)
        for cell in self.cells:
            row, column = (self.groups.index(name) for name in cell.groups)
            found[row, column] = found[column, row] = np.nan if cell.fmr is None else cell.fmr
        return found


def labels_of(values: ArrayLike) -> NDArray[np.str_]:
    """Return the group of each of (...) values of a column; many different numbers become up to four parts.

    The parts are quarters by rank. Equal numbers are in the same part, by their mean rank, so that the parts are of
    equal size only where few are equal.

    Raises:
        InputError: more than 50 different values that are not all numbers.
    """
    texts = np.char.strip(as_array(values).astype(np.str_))
    known = np.unique(texts[texts != ""])
    if len(known) <= DISTINCT:
        return texts
    if all(is_number(text) and np.isfinite(float(text)) for text in known.tolist()):
        numbers = np.where(texts == "", "nan", texts).astype(np.float64)
        distinct, counts = np.unique(numbers[~np.isnan(numbers)], return_counts=True)
        parts = np.unique(BINS * (np.cumsum(counts) - counts / 2) // counts.sum(), return_inverse=True)[1]
        ends = [distinct[parts == part][[0, -1]].tolist() for part in range(int(parts[-1]) + 1)]
        names = [
            f"{number}: {low:g}" + (f" to {high:g}" if high > low else "") for number, (low, high) in enumerate(ends, 1)
        ]
        places = np.minimum(np.searchsorted(distinct, numbers), len(distinct) - 1)
        return np.where(np.isnan(numbers), "", np.array(names)[parts[places]])
    if len(known) > MAX_GROUPS:
        raise InputError(
            f"There are {len(known)} groups, such as {str(known[0])!r}: choose a column of {MAX_GROUPS} at most."
        )
    return texts


class _Pairs(NamedTuple):
    """Pairs of one kind: the errors among them, and what all of them are in a cell of groups g <= h.

    Attributes:
        people: (2,E) people on the pairs in error.
        cells: (E,) of these, ascending.
        totals: of g and h, gives (n,) pairs of each person.
        dyad_pairs: of g, h and (2,D) people, gives (D,) pairs of these two; None for genuine pairs.
        squares: of g and h, gives the sum over each two people of their squared number of pairs.
    """

    people: Whole
    cells: Whole
    totals: Callable[[int, int], Floats]
    dyad_pairs: Callable[[int, int, Whole], Floats] | None = None
    squares: Callable[[int, int], float] | None = None

    def measure(self, g: int, h: int, at: int, disjoint: int, spread: bool) -> _Measured:
        """Measure the rate of a cell, and with `spread` the effective number of trials."""
        totals = self.totals(g, h)
        people = self.people[:, slice(*np.searchsorted(self.cells, [at, at + 1]))]
        pairs = float(totals.sum()) / (1 if self.dyad_pairs is None else 2)
        if not pairs or not spread:
            return _Measured(people.shape[1] / pairs if pairs else np.nan, pairs)
        rate, sides = people.shape[1] / pairs, people[:1] if self.dyad_pairs is None else people
        errors = np.bincount(sides.ravel(), minlength=len(totals)).astype(np.float64)
        if self.dyad_pairs is None or self.squares is None:
            return _Measured(rate, pairs, *map(float, genuine_size(errors[totals > 0], totals[totals > 0])))
        off, count = errors - rate * totals, len(totals)
        codes, times = np.unique(people.min(axis=0) * count + people.max(axis=0), return_counts=True)
        both = np.stack(np.divmod(codes, count))
        within = float(times @ times - 2 * rate * (times @ self.dyad_pairs(g, h, both)))
        within += rate**2 * self.squares(g, h)
        variance = max(float(off @ off) - within, within) / pairs**2  # see `variance_over_people`
        wrong = min(float(equal_people(errors)), float(equal_people(totals - errors)), float(disjoint))
        size = float(effective_size(rate, variance, wrong, np.ones(disjoint)))
        return _Measured(rate, pairs, min(size, pairs), wrong, float(disjoint))


class _Measured(NamedTuple):
    rate: float  # NaN without pairs
    pairs: float
    size: float = np.nan
    people_in_error: float = np.nan
    disjoint: float | None = None  # pairs of people who are in one pair only; None for genuine pairs

    def interval(self, level: float) -> tuple[Interval, float]:
        """Return the interval, and the effective size at its high end.

        If the rate of false matches were as high as that, the design effect would be larger: by simulation it grows
        with a power of the rate, the one of `ClusteredRates` for lower rates.
        """
        found = proportion_interval(self.rate, self.size, level, self.people_in_error)
        if self.disjoint is None or self.rate in (0, 1):
            return found, self.size
        more = 1 + (self.pairs / self.size - 1) * (found.high / self.rate) ** FADING
        fewer = max(self.pairs / more, min(self.size, self.disjoint))
        return Interval(found.low, proportion_interval(self.rate, fewer, level, self.people_in_error).high), fewer


def _by_cell(people: Whole, cells: Whole) -> tuple[Whole, Whole]:
    order = np.argsort(cells.astype(np.int16), kind="stable")
    return people[:, order], cells[order]


def _listed(people: Whole, cells: Whole, wrong: NDArray[np.bool_], count: int, genuine: bool) -> _Pairs:
    """Pairs of (2,K) people that are listed, with (K,) cells."""
    size = int(people.max(initial=0)) + 1

    def totals(g: int, h: int) -> Floats:
        sides = people[:1] if genuine else people
        return np.bincount(sides[:, cells == g * count + h].ravel(), minlength=size).astype(np.float64)

    @lru_cache(maxsize=1)
    def dyads(g: int, h: int) -> tuple[Whole, Whole]:
        low, high = np.sort(people[:, cells == g * count + h], axis=0)
        return np.unique(low * size + high, return_counts=True)

    def dyad_pairs(g: int, h: int, both: Whole) -> Floats:
        codes, times = dyads(g, h)
        return np.asarray(times[np.searchsorted(codes, both[0] * size + both[1])].astype(np.float64))

    def squares(g: int, h: int) -> float:
        return float((dyads(g, h)[1] ** 2).sum())

    own = *_by_cell(people[:, wrong], cells[wrong]), totals
    return _Pairs(*own) if genuine else _Pairs(*own, dyad_pairs, squares)


def _all_pairs(photos: Floats, errors: Whole, cells: Whole, genuine: bool) -> _Pairs:
    """All pairs of (n,G) photos of each person in each group."""
    whole = photos.sum(axis=0)

    def totals(g: int, h: int) -> Floats:
        one, other = photos[:, g], photos[:, h]
        if genuine:
            return one * (one - 1) / 2 if g == h else one * other
        return np.asarray(one * (whole[h] - other) + (other * (whole[g] - one) if g != h else 0))

    def dyad_pairs(g: int, h: int, both: Whole) -> Floats:
        one, other = photos[both[0]], photos[both[1]]
        return np.asarray(one[:, g] * other[:, h] + (one[:, h] * other[:, g] if g != h else 0))

    def squares(g: int, h: int) -> float:
        one, other = photos[:, g], photos[:, h]
        ordered = float((one @ one) * (other @ other) - (one**2 @ other**2))
        return ordered / 2 if g == h else ordered + float((one @ other) ** 2 - (one**2 @ other**2))

    own = *_by_cell(errors, cells), totals
    return _Pairs(*own) if genuine else _Pairs(*own, dyad_pairs, squares)


def _cell(groups: Whole, count: int) -> Whole:
    """(K,) cells of (K,2) groups in any order: row by row of a square of which the upper triangle is used."""
    return np.asarray(groups.min(axis=1) * count + groups.max(axis=1))


def group_differentials(
    scores: ArrayLike,
    same: ArrayLike,
    groups: ArrayLike,
    threshold: float,
    identities: ArrayLike | None = None,
    *,
    column: str = "group",
    intervals: bool = True,
    level: float = 0.95,
    seed: int = 0,
) -> GroupDifferentials:
    """Return the error rates of listed pairs within and across groups of photos at one threshold.

    Args:
        scores: (N,) finite similarities.
        same: (N,) bool, True for a genuine pair.
        groups: (N,2) label of either photo; pairs with a photo labeled "" are left out.
        threshold: for all groups.
        identities: (N,2) number or name of the person on either photo; without, there are no intervals.
        column: what the groups are of.
        intervals: whether to compute them.
        level: of the intervals, in (0, 1).
        seed: of the rates drawn for the intervals of inequality.

    Raises:
        InputError: not two labels per pair, fewer than two groups, see also `checked_pairs` and `numbered_people`.

    ISO/IEC 19795-10; Grother, Ngan & Hanaoka, NIST IR 8280, 2019.
    """
    check_level(level)
    values, labels = checked_pairs(scores, same)
    names = as_array(groups).astype(np.str_)
    if names.shape != (len(labels), 2):
        raise InputError(f"The groups have the shape {names.shape} for {len(labels)} pairs: give two for each pair.")
    accepted = values >= checked_threshold(threshold)
    people = np.zeros((len(labels), 2), dtype=np.int64) if identities is None else numbered_people(labels, identities)
    known = (names != "").all(axis=1)
    found, numbers = np.unique(names[known], return_inverse=True)
    cells = _cell(numbers.reshape(-1, 2), len(found))
    kinds = []
    for kind, wrong in ((~labels, accepted), (labels, ~accepted)):
        chosen = kind[known]
        kinds.append(_listed(people[known][chosen].T, cells[chosen], wrong[known][chosen], len(found), kind is labels))
    own = np.unique(np.stack([numbers.reshape(-1), people[known].reshape(-1)]), axis=1)[0]
    members = np.bincount(own, minlength=len(found))
    return _differentials(found, threshold, kinds, members, intervals and identities is not None, column, level, seed)


def all_pairs_differentials(
    embeddings: ArrayLike,
    identities: ArrayLike,
    groups: ArrayLike,
    threshold: float,
    *,
    column: str = "group",
    intervals: bool = True,
    level: float = 0.95,
    seed: int = 0,
) -> GroupDifferentials:
    """Return the error rates of all pairs of a set within and across groups of photos at one threshold.

    Args:
        embeddings: (N, D) of any non-zero length.
        identities: (N,) one number or name per row.
        groups: (N,) label of each photo; photos labeled "" are left out.
        threshold: for all groups.
        column: see `group_differentials`, as the others.
        intervals: likewise.
        level: likewise.
        seed: likewise.

    Raises:
        InputError: not one label per photo, or fewer than two groups.

    With more than eight million accepted impostors there are no intervals.
    """
    check_level(level)
    labels = as_array(groups).astype(np.str_)
    rows = unit_rows(embeddings)
    if labels.shape != (len(rows),):
        raise InputError(f"The groups have the shape {labels.shape} for {len(rows)} photos: give one for each photo.")
    kept = np.flatnonzero(labels != "")
    rows, found, numbers = rows[kept], *np.unique(labels[kept], return_inverse=True)
    people = numbered(as_array(identities)[kept], len(kept))
    count, size = len(found), int(people.max(initial=0)) + 1
    accepted, counts, rejected = _error_rows(rows, people, numbers, count, checked_threshold(threshold))
    photos = np.zeros((size, count))
    np.add.at(photos, (people, numbers), 1)
    kinds = []
    for errors, genuine in ((accepted, False), (rejected, True)):
        pairs = np.empty((2, 0), dtype=np.int64) if errors is None else errors
        kinds.append(_all_pairs(photos, people[pairs], _cell(numbers[pairs].T, count), genuine))
    members = np.count_nonzero(photos, axis=0)
    known = counts if accepted is None else None
    return _differentials(found, threshold, kinds, members, intervals and known is None, column, level, seed, known)


def _error_rows(
    rows: NDArray[np.floating], people: Whole, groups: Whole, count: int, threshold: float
) -> tuple[Whole | None, Floats, Whole]:
    """(2,K) rows of accepted impostors, None if too many; their number by cell; (2,J) of rejected genuine pairs."""
    from siamese_verify.pairwise.pair_scores import SCALE, PairScores

    pairs, lowest = PairScores(rows, people), threshold * SCALE
    empty = np.empty((2, 0), dtype=np.int64)
    accepted, counts = [empty], np.zeros(count**2)
    for block in pairs.walk():
        values, mask = pairs.impostors(block)
        high = np.flatnonzero(values.numpy() >= lowest)
        numbers = pairs.numbers(block, high if mask is None else np.flatnonzero(mask)[high])
        found = np.stack(np.divmod(numbers, len(people)))
        counts += np.bincount(_cell(groups[found].T, count), minlength=count**2)
        accepted.append(found)
        if counts.sum() > MAX_ERRORS:
            accepted.clear()
    rejected = [np.stack(np.divmod(numbers[scores < lowest], len(people))) for scores, numbers in pairs.genuine()]
    return np.concatenate(accepted, axis=1) if accepted else None, counts, np.concatenate([empty, *rejected], axis=1)


def _differentials(
    found: NDArray[np.str_],
    threshold: float,
    kinds: list[_Pairs],
    members: Whole,
    known: bool,
    column: str,
    level: float,
    seed: int,
    counts: Floats | None = None,
) -> GroupDifferentials:
    """Return the rates of each cell; of (G * G,) counts of accepted impostors where these are not listed."""
    count = len(found)
    if count < 2:
        raise InputError(f"The column {column} has {count} groups: a comparison of groups needs two.")
    trials = np.minimum.outer(members, members)
    # Disjoint pairs of people: the trials where all pairs of two people fail or none.
    disjoint = np.where(np.eye(count, dtype=np.bool_), np.maximum(trials // 2, 1), trials).ravel()
    rates, numbers, sizes = (np.full((2, count**2), np.nan) for _ in range(3))
    measured: dict[tuple[int, int], _Measured] = {}
    for kind, pairs in enumerate(kinds):
        for row in range(count):
            for place in range(row, count):
                at = row * count + place
                measured[kind, at] = one = pairs.measure(row, place, at, int(disjoint[at]), known)
                rates[kind, at], numbers[kind, at] = one.rate, one.pairs
    if counts is not None:
        rates[0] = np.divide(counts, numbers[0], out=np.full(count**2, np.nan), where=numbers[0] > 0)
    own = np.arange(count) * (count + 1)
    both = own[np.isfinite(rates[:, own]).all(axis=0)]

    def interval(kind: int, at: int) -> Interval | None:
        if not known:
            return None
        found, sizes[kind, at] = measured[kind, at].interval(level)
        return found

    cells = []
    for row in range(count):
        for place in range(row, count):
            at = row * count + place
            (fmr, fmr_interval), (fnmr, fnmr_interval) = (
                (None, None) if np.isnan(rate[at]) else (float(rate[at]), interval(kind, at))
                for kind, rate in enumerate(rates)
            )
            names = str(found[row]), str(found[place])
            impostors, genuine = (round(float(number[at])) for number in numbers)
            cells.append(GroupCell(names, impostors, fmr, fmr_interval, genuine, fnmr, fnmr_interval))
    found_inequalities: tuple[Inequality, ...] = ()
    if len(both) > 1:
        own_sizes = sizes[:, both]
        known = bool(np.isfinite(own_sizes).all())
        found_inequalities = inequalities(rates[:, both], own_sizes if known else None, level, seed)
    return GroupDifferentials(tuple(map(str, found)), float(threshold), tuple(cells), found_inequalities, column)
