"""How far the metrics over all pairs would move with other people."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.all_pairs import ALL_PAIRS_TARGETS
from siamese_verify.evaluation.bootstrap import Interval, check_level, interval_of
from siamese_verify.evaluation.pair_scores import checked_threshold
from siamese_verify.evaluation.unit_rows import numbered, unit_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    from siamese_verify.evaluation.pair_blocks import PairBlocks

KEPT = 2**21  # impostors, the highest, that are counted anew


class Recount(NamedTuple):
    """One resample: how many pairs there are, and how many of them among the first."""

    true: NDArray[np.int64]  # (G+1,) genuine pairs among the highest 0, 1, ... G
    false: NDArray[np.int64]  # (K+1,) impostors among the highest 0, 1, ... K
    genuine: int
    impostors: int


class RecountedPairs:
    """The genuine pairs of a set and its highest impostors, counted again with other people.

    If people are drawn with replacement and a person is drawn m times, her genuine pairs are there m times, and her
    impostor pairs with somebody drawn n times m * n times, see `bootstrap.Resamples`. The number of all impostors
    follows from the sizes of the people, so that only those near or above a threshold must be looked at.

    Args:
        embeddings: (N, D) of any non-zero length.
        identities: (N,) one number or name per row.
        kept: how many impostors at most.

    Attributes:
        genuine: (G,) float64 scores, descending.
        impostors: (K,) float64 the highest scores, descending.
        lowest: a score from which on these are all impostors; -inf if they all are.
    """

    def __init__(self, embeddings: ArrayLike, identities: ArrayLike, kept: int = KEPT) -> None:
        from siamese_verify.evaluation.impostor_tally import count_cells
        from siamese_verify.evaluation.pair_blocks import PairBlocks
        from siamese_verify.evaluation.score_cells import SCALE, floors_of

        rows = unit_rows(embeddings)
        self.people = numbered(identities, len(rows))
        self.sizes = np.bincount(self.people)
        if len(self.sizes) < 2 or self.sizes.max() < 2:
            raise InputError(f"{len(rows)} photos of {len(self.sizes)} people: give two people, and two photos of one.")
        blocks = PairBlocks(rows, self.people)
        above = np.cumsum(count_cells(blocks)[::-1])[::-1]  # (C,) impostors in a cell or above
        # Where equal scores are more than may be kept, none is.
        self.lowest = -np.inf if above[0] <= kept else float(floors_of(np.flatnonzero(above <= kept)[:1])[0])
        self.genuine, self.genuine_people = self._ranked(
            [(scores.numpy(), self.people[pairs // len(rows)]) for scores, pairs in blocks.genuine()]
        )
        self.impostors, self.impostor_people = self._ranked(list(self._impostors(blocks, self.lowest * SCALE)))

    def _impostors(self, blocks: PairBlocks, lowest: float) -> Iterator[tuple[NDArray[np.floating], NDArray[np.int64]]]:
        for block in blocks.blocks:
            scores, mask = blocks.product(block), blocks.impostors(block)
            high = scores >= lowest
            rows, columns = np.nonzero((high if mask is None else high & mask).numpy())
            pairs = blocks.number(block.top + rows, block.left + columns)
            people = self.people[np.stack(np.divmod(pairs, len(self.people)))]
            yield scores.numpy()[rows, columns], people

    @staticmethod
    def _ranked(
        found: list[tuple[NDArray[np.floating], NDArray[np.int64]]],
    ) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
        from siamese_verify.evaluation.score_cells import SCALE

        scores = np.concatenate([scores for scores, _ in found]) / SCALE
        order = np.argsort(scores)[::-1]
        people = np.concatenate([people for _, people in found], axis=-1).astype(np.int32)
        return scores[order].astype(np.float64), np.ascontiguousarray(people[..., order])

    def recounts(self, resamples: int, seed: int, progress: bool = False) -> Iterator[Recount]:
        """Draw people anew; resamples that lost a kind of pairs are left out."""
        from rich.progress import track

        rng = np.random.default_rng(seed)
        turns = range(resamples)
        for _ in track(turns, "Confidence intervals") if progress else turns:
            times = np.bincount(rng.integers(0, len(self.sizes), len(self.sizes)), minlength=len(self.sizes))
            few = times.astype(np.int32)
            true = np.cumsum(few[self.genuine_people], dtype=np.int64)
            left, right = self.impostor_people
            false = np.cumsum(few[left] * few[right], dtype=np.int64)
            photos = times * self.sizes
            impostors = (int(photos.sum()) ** 2 - int(photos @ photos)) // 2
            if true[-1] and impostors:
                yield Recount(np.append(0, true), np.append(0, false), int(true[-1]), impostors)


class _Points:
    """Operating points down to the lowest score below which impostors were not kept."""

    def __init__(self, pairs: RecountedPairs) -> None:
        self.pairs = pairs
        scores = np.unique(np.concatenate([pairs.genuine, pairs.impostors]))[::-1]
        scores = scores[scores >= pairs.lowest]
        self.true = np.searchsorted(-pairs.genuine, -scores, side="right")
        self.false = np.searchsorted(-pairs.impostors, -scores, side="right")

    def at_rate(self, found: Recount, target: float) -> tuple[float, float] | None:
        """TAR and threshold at a false accept rate; None where it lies beyond the impostors that are known."""
        beyond = bisect_left(self.false, True, key=lambda place: found.false[place] / found.impostors > target)
        if beyond == len(self.false) and self.pairs.lowest > -np.inf:
            return None
        if not beyond:
            return 0.0, float("inf")
        true, false = found.true[self.true[beyond - 1]], found.false[self.false[beyond - 1]]
        lowest = [  # of the pairs that are there
            float(scores[np.searchsorted(counts, count) - 1])
            for scores, counts, count in (
                (self.pairs.genuine, found.true, true),
                (self.pairs.impostors, found.false, false),
            )
            if count
        ]
        return float(true / found.genuine), min(lowest, default=float("inf"))

    def crossing(self, found: Recount) -> float | None:
        """Equal error rate, see `crossing_of`; None where it lies beyond the impostors that are known."""

        def gap(place: int) -> int:
            true, false = int(found.true[self.true[place]]), int(found.false[self.false[place]])
            return (found.genuine - true) * found.impostors - false * found.genuine

        after = bisect_left(range(len(self.true)), True, key=lambda place: gap(place) <= 0)
        if after == len(self.true):
            return None
        before = gap(after - 1) if after else found.genuine * found.impostors
        strict = int(found.false[self.false[after - 1]]) if after else 0
        lenient, upper, lower = int(found.false[self.false[after]]), float(before), float(-gap(after))
        return (strict * lower + lenient * upper) / (found.impostors * (upper + lower))


def all_pairs_intervals(
    embeddings: ArrayLike,
    identities: ArrayLike,
    threshold: float | None = None,
    targets: Sequence[float] = ALL_PAIRS_TARGETS,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    *,
    progress: bool = False,
) -> dict[str, Interval]:
    """Return confidence intervals of metrics over all pairs of a set by drawing people anew, see `RecountedPairs`.

    They are those that `bootstrap_intervals` finds on the listed pairs. Metrics that more than the two million highest
    impostors would decide are left out, the AUC of large sets among them.

    Args:
        embeddings: (N, D) of any non-zero length.
        identities: (N,) one number or name per row.
        threshold: one that was chosen on other data.
        targets: false accept rates.
        resamples: how many.
        level: share of the resamples within an interval, in (0, 1).
        seed: of the draws.
        progress: draw a bar.

    Returns:
        Percentile intervals of `eer`, `tar_at_far_F` and `threshold_at_far_F`, with a threshold of `accuracy`, `far`
        and `frr`.

    Raises:
        InputError: shapes that do not fit, rows without a direction, fewer than two people, no genuine pair, a level
            outside of (0, 1).
    """
    check_level(level)
    fixed = None if threshold is None else checked_threshold(threshold)
    pairs = RecountedPairs(embeddings, identities)
    points = _Points(pairs)
    values: dict[str, list[float]] = {}
    unknown: set[str] = set()

    def note(name: str, value: float | None) -> None:
        if value is None:
            unknown.add(name)
        else:
            values.setdefault(name, []).append(value)

    known = fixed is not None and fixed >= pairs.lowest
    accepted = [
        int(np.searchsorted(-scores, -(fixed or 0.0), side="right")) for scores in (pairs.genuine, pairs.impostors)
    ]
    for found in pairs.recounts(resamples, seed, progress):
        note("eer", points.crossing(found))
        for target in targets:
            tar, at = points.at_rate(found, target) or (None, None)
            note(f"tar_at_far_{target:g}", tar)
            note(f"threshold_at_far_{target:g}", at)
        if known:
            rejects = found.genuine - int(found.true[accepted[0]])
            accepts = int(found.false[accepted[1]])
            note("frr", rejects / found.genuine)
            note("far", accepts / found.impostors)
            note("accuracy", 1 - (rejects + accepts) / (found.genuine + found.impostors))
    if not (values or unknown):
        raise InputError("No resample of the people has genuine and impostor pairs: there are too few people.")
    return {name: interval_of(np.array(found), level) for name, found in values.items() if name not in unknown}
