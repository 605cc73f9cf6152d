"""Error rates within and across groups at one threshold, and how unequal they are (ISO/IEC 19795-10)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.bootstrap import BLOCK, Interval, check_level, numbered_people
from siamese_verify.evaluation.clustered_pairs import effective_size
from siamese_verify.evaluation.inequality import Inequality, inequalities
from siamese_verify.evaluation.rate_intervals import proportion_interval
from siamese_verify.evaluation.scores import as_array, checked_pairs, checked_threshold, numbered, unit_rows
from siamese_verify.tables import is_number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Whole = NDArray[np.int64]

MAX_GROUPS = 50
BINS, DISTINCT = 4, 8  # a column of more than 8 different numbers is divided into 4 parts at most
MAX_ERRORS = 2**23  # accepted impostors that are held in memory; more are counted, without intervals
MAX_WEIGHTS = 2**29  # errors times resamples


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


class _Kind(NamedTuple):
    """Pairs of one kind: functions of (R,n) weights of people that return (R,C) numbers of pairs of each cell."""

    wrong: Callable[[Whole], Floats]
    totals: Callable[[Whole], Floats]
    errors: int

    def rates(self, weights: Whole) -> tuple[Floats, Floats]:
        """(R,C) rates, NaN without pairs, and the numbers of pairs."""
        wrong, totals = self.wrong(weights), self.totals(weights)
        return np.divide(wrong, totals, out=np.full(totals.shape, np.nan), where=totals > 0), totals


def _counter(people: Whole, cells: Whole, count: int, genuine: bool) -> Callable[[Whole], Floats]:
    """Count listed pairs by cell; (2,K) people, (K,) cells. The person of a genuine pair counts once."""
    from scipy.sparse import csr_array

    gather = csr_array((np.ones(len(cells)), (cells, np.arange(len(cells)))), shape=(count**2, len(cells)))

    def count_pairs(weights: Whole) -> Floats:
        times = weights[:, people[0]]
        return np.asarray((gather @ (times if genuine else times * weights[:, people[1]]).T).T)

    return count_pairs


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
    resamples: int = 1000,
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
        resamples: number of bootstrap resamples of the people.
        level: of the intervals, in (0, 1).
        seed: of the resamples.

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
        own, places, failed = people[known][chosen].T, cells[chosen], wrong[known][chosen]
        count, genuine = len(found), kind is labels
        kinds.append(
            _Kind(
                _counter(own[:, failed], places[failed], count, genuine),
                _counter(own, places, count, genuine),
                len(places),
            )
        )
    own = np.unique(np.stack([numbers.reshape(-1), people[known].reshape(-1)]), axis=1)[0]
    members, size = np.bincount(own, minlength=len(found)), int(people.max()) + 1
    return _differentials(
        found, threshold, kinds, size, members, identities is not None, column, resamples, level, seed
    )


def all_pairs_differentials(
    embeddings: ArrayLike,
    identities: ArrayLike,
    groups: ArrayLike,
    threshold: float,
    *,
    column: str = "group",
    resamples: int = 1000,
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
        resamples: likewise.
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
    # Unordered pairs within one group are counted twice in a product of its photos with themselves.
    once = np.where(np.eye(count, dtype=np.bool_), 0.5, 1.0)

    def within(times: Floats) -> Floats:  # (R,G,G) pairs of photos of one person, and of a photo with itself
        return np.stack([(times * own) @ photos for own in photos.T], axis=1)

    def genuine_pairs(weights: Whole) -> Floats:
        times = weights.astype(np.float64)
        itself = np.eye(count) * (times @ photos)[:, None]
        return np.asarray(((within(times) - itself) * once).reshape(len(weights), -1))

    def impostor_pairs(weights: Whole) -> Floats:
        seen, times = weights @ photos, weights.astype(np.float64)
        return np.asarray(((seen[:, :, None] * seen[:, None, :] - within(times**2)) * once).reshape(len(weights), -1))

    def wrong(pairs: Whole, genuine: bool) -> Callable[[Whole], Floats]:
        return _counter(people[pairs], _cell(numbers[pairs].T, count), count, genuine)

    impostors = (lambda _: counts[None]) if accepted is None else wrong(accepted, False)
    kinds = [
        _Kind(impostors, impostor_pairs, 0 if accepted is None else accepted.shape[1]),
        _Kind(wrong(rejected, True), genuine_pairs, rejected.shape[1]),
    ]
    members = np.count_nonzero(photos, axis=0)
    return _differentials(found, threshold, kinds, size, members, accepted is not None, column, resamples, level, seed)


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
    kinds: list[_Kind],
    people: int,
    members: Whole,
    known: bool,
    column: str,
    resamples: int,
    level: float,
    seed: int,
) -> GroupDifferentials:
    count = len(found)
    if count < 2:
        raise InputError(f"The column {column} has {count} groups: a comparison of groups needs two.")
    rates, numbers = zip(*(kind.rates(np.ones((1, people), dtype=np.int64)) for kind in kinds), strict=True)
    own = np.arange(count) * (count + 1)
    both = own[np.isfinite(rates[0][0, own]) & np.isfinite(rates[1][0, own])]
    errors = sum(kind.errors for kind in kinds)
    times = min(resamples, max(100, MAX_WEIGHTS // max(errors, people, 1))) if known and resamples else 0
    drawn: list[list[Floats]] = [[np.empty((0, count**2))], [np.empty((0, count**2))]]
    for weights in _resampled(people, times, max(errors, people), seed):
        for kind, blocks in zip(kinds, drawn, strict=True):
            blocks.append(kind.rates(weights)[0])
    resampled = [np.concatenate(blocks) for blocks in drawn]

    trials = np.minimum.outer(members, members)
    # Trials where all pairs of people, or of a person, fail or none: disjoint pairs of people, and people.
    fewest = [np.where(np.eye(count, dtype=np.bool_), np.maximum(trials // 2, 1), trials).ravel(), trials.ravel()]
    sizes = np.full((2, count**2), np.nan)

    def interval(kind: int, at: int) -> Interval | None:
        rate, values = float(rates[kind][0, at]), resampled[kind][:, at]
        values = values[~np.isnan(values)]
        if not times or len(values) < times / 2:
            return None
        variance = float(values.var())
        most = fewest[kind][at]
        wrong = min(min(rate, 1 - rate) ** 2 / variance, most) if variance > 0 else 0.0  # people in error, if few are
        sizes[kind, at] = min(effective_size(rate, variance, wrong, np.ones(most)), numbers[kind][0, at])
        return proportion_interval(rate, float(sizes[kind, at]), level, wrong)

    cells = []
    for row in range(count):
        for place in range(row, count):
            at = row * count + place
            (fmr, fmr_interval), (fnmr, fnmr_interval) = (
                (None, None) if np.isnan(rate[0, at]) else (float(rate[0, at]), interval(kind, at))
                for kind, rate in enumerate(rates)
            )
            names = str(found[row]), str(found[place])
            pairs = [round(float(number[0, at])) for number in numbers]
            cells.append(GroupCell(names, pairs[0], fmr, fmr_interval, pairs[1], fnmr, fnmr_interval))
    found_inequalities: tuple[Inequality, ...] = ()
    if len(both) > 1:
        own_rates, own_sizes = np.concatenate(rates)[:, both], sizes[:, both]
        known = bool(np.isfinite(own_sizes).all())
        found_inequalities = inequalities(own_rates, own_sizes if known else None, level, seed)
    return GroupDifferentials(tuple(map(str, found)), float(threshold), tuple(cells), found_inequalities, column)


def _resampled(people: int, resamples: int, size: int, seed: int) -> Iterator[Whole]:
    """Yield (R,n) how often each person is in each resample, in blocks."""
    rng = np.random.default_rng(seed)
    step = max(1, 4 * BLOCK // max(size, 1))
    for start in range(0, resamples, step):
        yield rng.multinomial(people, np.full(people, 1 / people), min(step, resamples - start))
