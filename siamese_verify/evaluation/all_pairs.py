"""The report over every pair of a set, exact, in memory that does not grow with the number of pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.report import VerificationReport, report_from_curve
from siamese_verify.evaluation.roc import RocCurve
from siamese_verify.evaluation.score_statistics import (
    BINS,
    HardestPairs,
    Moments,
    ScoreHistogram,
    d_prime_from_moments,
    list_hard_pairs,
)
from siamese_verify.evaluation.scores import as_array, checked_threshold, numbered, unit_rows

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from siamese_verify.pairwise.histogram import GenuineTally, ImpostorTally, PairBlocks, ScoreCounts

ALL_PAIRS_TARGETS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
SAMPLED = 8  # one row of so many makes the guess of where to look closer
WORTH = 2**24  # pairs for which guessing saves time
# Where n rows are drawn a share p is wrong by some sqrt(p / n), as if each row were one observation: one face is like
# many others, another like none. 0.1 times that was enough for ordinary embeddings, 0.45 times for a few wolves.
DOUBTS = (1.0, 0.5)
KEPT = 2**25  # exact scores that a guess may ask for: 128 MB


def all_pairs_report(
    embeddings: ArrayLike,
    identities: ArrayLike,
    gallery: ArrayLike | None = None,
    gallery_identities: ArrayLike | None = None,
    *,
    targets: Sequence[float] = ALL_PAIRS_TARGETS,
    threshold: float | None = None,
    processes: int = 1,
    rank: int = 0,
    world_size: int = 1,
    gather: Callable[[ImpostorTally], Sequence[ImpostorTally]] | None = None,
    progress: bool = False,
) -> VerificationReport:
    """Measure every pair i < j of a set by cosine similarity, or every probe with every row of a gallery.

    Counts and thresholds are those that `verification_report` finds on the listed scores. Products of embeddings are
    computed in blocks and forgotten: one look counts the impostors in 65,541 cells of the scale and ranks each among
    the genuine scores; only in the few cells that hold an operating point are single scores kept. Where these cells
    lie is guessed from a sample; a second look finds what the guess has missed.

    Args:
        embeddings: (N, D) of any non-zero length; float64 is compared in double precision, all else in float32.
        identities: (N,) one number or name per row.
        gallery: (M, D), or None for the set with itself.
        gallery_identities: (M,), with a gallery.
        targets: false accept rates in [0, 1] to report the true accept rate at.
        threshold: one that was chosen on other data; gives accuracy, FAR and FRR there.
        processes: to spread the work over, on this machine.
        rank: of this process among those that share the work; all call this with the same data.
        world_size: how many they are.
        gather: returns the tallies of all ranks, in their order, to every rank.
        progress: draw a bar.

    Returns:
        The report, the same for any number of ranks and processes. The rows of its hardest pairs are i * M + j. Its
        curve has every point in the cells that hold operating points, elsewhere one point for each cell.

    Raises:
        InputError: shapes that do not fit, rows without a direction, no genuine or no impostor pair, no rate, NaN.
    """
    from siamese_verify.pairwise.histogram import (
        CELLS,
        NO_SCORES,
        SCALE,
        GenuineTally,
        Look,
        cells_of,
        joined,
        spread,
    )

    for target in targets:
        if not 0 <= target <= 1:
            raise InputError(f"The false accept rate asked for is {target}: give one between 0 and 1.")
    fixed = None if threshold is None else checked_threshold(threshold)
    blocks = _blocks(embeddings, identities, gallery, gallery_identities)
    genuine = GenuineTally(blocks)
    if genuine.count in (0, blocks.pairs):
        kind = "an impostor" if genuine.count else "genuine"
        raise InputError(f"None of the {blocks.pairs:,} pairs is {kind}: give two people, and two photos of one.")

    def needed(impostors: NDArray[np.int64], slack: float = 0.0) -> NDArray[np.bool_]:
        cells = cells_needed(genuine.cells, impostors, (*targets, 0.0), slack)
        if fixed is not None and abs(fixed) <= 1:
            cells[cells_of(np.array([fixed * SCALE]))] = True
        return cells

    def look(scores: ScoreCounts, wanted: NDArray[np.bool_], title: str) -> ImpostorTally:
        ready = Look(scores, wanted, genuine.centre)
        share = spread(blocks, ready, processes, (rank, world_size), title if progress else "")
        first, *others = gather(share) if gather else [share]
        for other in others:
            first.add(other)
        return first

    nothing = np.zeros(CELLS, dtype=np.bool_)
    chunks = genuine.chunks()
    scores = next(chunks)
    guess = _guess(blocks, needed) if blocks.pairs >= WORTH else nothing
    tally = look(scores, guess, "Comparing all pairs")
    wanted = needed(tally.cells)
    if (wanted & ~guess).any():
        tally.single = joined([tally.single, look(NO_SCORES, wanted & ~guess, "Looking closer").single])
    for scores in chunks:
        tally.doubled_rank += look(scores, nothing, "Ranking more genuine pairs").doubled_rank
    return report_from_curve(
        _curve(genuine, tally, wanted),
        auc=tally.doubled_rank / (2 * genuine.count * (blocks.pairs - genuine.count)),
        d_prime=d_prime_from_moments(
            Moments(*genuine.sums.moments()), Moments(*tally.sums_about(genuine.centre).moments())
        ),
        targets=targets,
        threshold=fixed,
        histogram=_histogram(genuine.cells, tally.cells),
        hardest=HardestPairs(
            *(
                list_hard_pairs(kind.pairs, kind.scores.astype(np.float64) / SCALE, same)
                for kind, same in ((tally.hardest, False), (genuine.hardest, True))
            )
        ),
    )


def cells_needed(
    genuine: NDArray[np.int64], impostors: NDArray[np.int64], targets: Sequence[float], slack: float = 0.0
) -> NDArray[np.bool_]:
    """Say in which cells of the score the operating points lie, or may lie where the impostors are a sample.

    Args:
        genuine: (C,) how many genuine scores each cell holds, by ascending score.
        impostors: (C,) likewise.
        targets: false accept rates; the crossing of both errors and the lowest genuine score are needed anyway.
        slack: a share p of the impostors may be wrong by `slack` sqrt(p), and by chance; 0 if they are exact.
    """
    total, count = int(impostors.sum()), int(genuine.sum())
    accepted = np.cumsum(impostors[::-1])[::-1]  # (C,) impostors in this cell or above
    rejected = np.cumsum(genuine) - genuine  # (C,) genuine below this cell
    doubt = (slack * total * np.sqrt(accepted / total) + np.where(slack, 6 * np.sqrt(accepted) + 10, 0)).astype(
        np.int64
    )
    filled = np.flatnonzero(genuine + impostors)
    needed = np.zeros(len(genuine), dtype=np.bool_)
    needed[np.flatnonzero(genuine)[0]] = True

    def between(surely: NDArray[np.bool_], perhaps: NDArray[np.bool_]) -> None:
        # Both hold up to some cell. The point lies in the last of them, or it is the lowest score of the next above.
        low, high = (int(np.flatnonzero(one)[-1]) if one.any() else int(filled[0]) for one in (surely, perhaps))
        above = filled[np.searchsorted(filled, high, side="right") :]
        needed[low : (int(above[0]) if len(above) else high) + 1] = True

    for target in targets:
        between((accepted - doubt) / total > target, (accepted + doubt) / total > target)
    between(rejected * total <= (accepted - doubt) * count, rejected * total <= (accepted + doubt) * count)
    return needed


def _blocks(
    embeddings: ArrayLike,
    identities: ArrayLike,
    gallery: ArrayLike | None,
    gallery_identities: ArrayLike | None,
) -> PairBlocks:
    from siamese_verify.pairwise.histogram import PairBlocks

    rows = unit_rows(embeddings)
    names = as_array(identities)
    if gallery is None:
        return PairBlocks(rows, numbered(names, len(rows)))
    others, their_names = unit_rows(gallery), as_array(() if gallery_identities is None else gallery_identities)
    if others.shape[1] != rows.shape[1]:
        raise InputError(
            f"The embeddings have {rows.shape[1]} dimensions and the gallery's {others.shape[1]}: embed both alike."
        )
    for found, wanted in ((names, rows), (their_names, others)):
        numbered(found, len(wanted))
    people = numbered(np.concatenate([names, their_names]), len(rows) + len(others))
    kind = np.result_type(rows, others)
    return PairBlocks(rows.astype(kind), people[: len(rows)], others.astype(kind), people[len(rows) :])


def _guess(blocks: PairBlocks, needed: Callable[[NDArray[np.int64], float], NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """Guess from a sample of the rows which cells will be needed; none if that would keep too many scores."""
    from siamese_verify.pairwise.histogram import CELLS, count_cells

    sample = blocks.sample(SAMPLED)
    nothing = np.zeros(CELLS, dtype=np.bool_)
    cells = count_cells(sample)
    if not cells.any():
        return nothing
    for doubt in DOUBTS:  # the widest that memory allows
        guess = needed(cells, doubt / len(sample.probes.rows) ** 0.5)
        if cells[guess].sum() / cells.sum() * blocks.pairs <= KEPT:
            return guess
    return nothing


def _curve(genuine: GenuineTally, tally: ImpostorTally, wanted: NDArray[np.bool_]) -> RocCurve:
    """Put together the points of single scores, where they are known, and those of whole cells."""
    from siamese_verify.pairwise.histogram import SCALE, cells_of, floors_of

    kinds = [genuine.single(wanted), tally.single.chosen(wanted[cells_of(tally.single.values)])]
    values, place = np.unique(np.concatenate([kind.values for kind in kinds]), return_inverse=True)
    whole = np.flatnonzero((genuine.cells + tally.cells > 0) & ~wanted)
    cells = np.concatenate([whole, cells_of(values)])
    thresholds = np.concatenate([floors_of(whole), values.astype(np.float64) / SCALE])
    order = np.lexsort((thresholds, cells))[::-1]
    accepts = []
    for counts, kind, rows in zip(
        (genuine.cells, tally.cells), kinds, np.split(place, [len(kinds[0].values)]), strict=True
    ):
        each = np.zeros(len(values), dtype=np.int64)
        each[rows] = kind.counts
        accepts.append(np.concatenate([counts[whole], each])[order].cumsum())
    return RocCurve(
        thresholds=np.append(np.inf, thresholds[order]),
        true_accepts=np.append(0, accepts[0]),
        false_accepts=np.append(0, accepts[1]),
        genuine=int(accepts[0][-1]),
        impostors=int(accepts[1][-1]),
    )


def _histogram(genuine: NDArray[np.int64], impostors: NDArray[np.int64]) -> ScoreHistogram:
    """Gather cells in bins."""
    from siamese_verify.pairwise.histogram import CELLS, floors_of

    filled = np.flatnonzero(genuine + impostors)
    width = -(-(filled[-1] + 1 - filled[0]) // BINS)
    starts = np.arange(filled[0], filled[-1] + 1, width)
    ends = np.append(starts, min(starts[-1] + width, CELLS))
    return ScoreHistogram(
        floors_of(ends), *(np.add.reduceat(counts[: ends[-1]], starts) for counts in (genuine, impostors))
    )
