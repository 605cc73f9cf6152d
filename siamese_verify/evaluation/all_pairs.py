"""The report over all pairs of a set, exact, in memory that does not grow with the number of impostors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.operating_points import check_far
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

    from siamese_verify.pairwise.histogram import ImpostorCounts, ScoreCounts
    from siamese_verify.pairwise.pair_scores import PairScores

ALL_PAIRS_TARGETS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
SAMPLE_FROM = 2**24  # pairs from which a second pass takes longer than a sample of the first
SAMPLED = 8  # one row of so many is in the sample
# Where n rows are drawn a share p is wrong by some sqrt(p / n), as if each row were one observation: one face is like
# many others, another like none. 0.1 times that was enough for ordinary embeddings, 0.45 times for a few wolves.
DOUBTS = (1.0, 0.5)
KEPT = 2**25  # single scores that the sample may ask for: 128 MB


def all_pairs_report(
    embeddings: ArrayLike,
    identities: ArrayLike,
    gallery: ArrayLike | None = None,
    gallery_identities: ArrayLike | None = None,
    *,
    targets: Sequence[float] = ALL_PAIRS_TARGETS,
    threshold: float | None = None,
    rank: int = 0,
    world_size: int = 1,
    gather: Callable[[ImpostorCounts], Sequence[ImpostorCounts]] | None = None,
    progress: bool = False,
    sample_from: int = SAMPLE_FROM,
    device: str = "cpu",
) -> VerificationReport:
    """Report on all pairs i < j of a set by cosine similarity, or on all pairs of a probe with a row of a gallery.

    Counts and thresholds are those that `verification_report` finds on the listed scores. Products of embeddings are
    computed in blocks and forgotten: one pass over the pairs counts the impostors in 65,541 bins and ranks each among
    the genuine scores, which are held in memory. Single scores are kept only in the few bins that hold an operating
    point. A sample predicts which these are; what it missed takes a second pass.

    Args:
        embeddings: (N, D) of any non-zero length; float64 is compared in double precision, all else in float32.
        identities: (N,) one number or name per row.
        gallery: (M, D), or None for the set with itself.
        gallery_identities: (M,), with a gallery.
        targets: false accept rates in [0, 1] to report the true accept rate at.
        threshold: one that was chosen on other data; gives accuracy, FAR and FRR there.
        rank: of this process among those that share the work; all call this with the same data.
        world_size: number of these processes.
        gather: returns the counts of all ranks, in their order, to every rank.
        progress: draw a bar.
        sample_from: pairs from which a sample is taken.
        device: where impostors are compared: `cpu`, `cuda`, or `auto` for a GPU if there is one. Products are of full
            precision everywhere, but a GPU adds them up in another order: scores differ by rounding, and what is
            counted is exact for these scores.

    Returns:
        The report, the same for any number of ranks and threads. The rows of its hardest pairs are i * M + j. Its curve
        has every point in the bins that hold operating points, elsewhere one point for each bin.

    Raises:
        InputError: shapes that do not fit, rows without a direction, no genuine or no impostor pair, a target outside
            of [0, 1], NaN.
    """
    from siamese_verify.pairwise.histogram import NO_SCORES, ImpostorPass, bin_numbers, count_genuine
    from siamese_verify.pairwise.pair_scores import SCALE

    for target in targets:
        check_far(target)
    fixed = None if threshold is None else checked_threshold(threshold)
    scores = _pair_scores(embeddings, identities, gallery, gallery_identities, device)
    genuine = count_genuine(scores)
    if genuine.pairs in (0, scores.pairs):
        kind = "an impostor" if genuine.pairs else "genuine"
        raise InputError(f"None of the {scores.pairs:,} pairs is {kind}: give two people, and two photos of one.")
    genuine_bins = genuine.bins

    def needed(impostors: NDArray[np.int64], slack: float = 0.0) -> NDArray[np.bool_]:
        bins = bins_needed(genuine_bins, impostors, (*targets, 0.0), slack)
        if fixed is not None and abs(fixed) <= 1:
            bins[bin_numbers(np.array([fixed * SCALE]))] = True
        return bins

    def count(ranked: ScoreCounts, wanted: NDArray[np.bool_], title: str) -> ImpostorCounts:
        share = ImpostorPass(scores, ranked, wanted, genuine.center).run(rank, world_size, title if progress else "")
        first, *others = gather(share) if gather else [share]
        for other in others:
            first.add(other)
        return first

    predicted = _predict(scores, needed) if scores.pairs >= sample_from else np.zeros(len(genuine_bins), dtype=np.bool_)
    impostors = count(genuine.scores, predicted, "Comparing all pairs")
    wanted = needed(impostors.bins)
    if (wanted & ~predicted).any():
        impostors.single.add(count(NO_SCORES, wanted & ~predicted, "Second pass").single.merged())
    return report_from_curve(
        _curve((genuine_bins, impostors.bins), (genuine.scores, impostors.single.merged()), wanted),
        auc=impostors.doubled_rank / (2 * genuine.pairs * (scores.pairs - genuine.pairs)),
        d_prime=d_prime_from_moments(Moments(*genuine.moments()), Moments(*impostors.moments(genuine.center))),
        targets=targets,
        threshold=fixed,
        histogram=_histogram(genuine_bins, impostors.bins),
        hardest=HardestPairs(
            *(
                list_hard_pairs(hardest.pairs, hardest.scores.astype(np.float64) / SCALE, same)
                for hardest, same in ((impostors.hardest, False), (genuine.hardest, True))
            )
        ),
    )


def bins_needed(
    genuine: NDArray[np.int64], impostors: NDArray[np.int64], targets: Sequence[float], slack: float = 0.0
) -> NDArray[np.bool_]:
    """(B,) bool: bins where operating points lie, or may lie if the impostors are a sample.

    Args:
        genuine: (B,) genuine scores in each bin, by ascending score.
        impostors: (B,) likewise.
        targets: false accept rates; the equal error and the lowest genuine score are needed anyway.
        slack: a share p of the impostors may be wrong by `slack` sqrt(p), and by chance; 0 if they are exact.
    """
    total, count = int(impostors.sum()), int(genuine.sum())
    accepted = np.cumsum(impostors[::-1])[::-1]  # (B,) impostors in this bin or above
    rejected = np.cumsum(genuine) - genuine  # (B,) genuine below this bin
    doubt = (slack * total * np.sqrt(accepted / total) + np.where(slack, 6 * np.sqrt(accepted) + 10, 0)).astype(
        np.int64
    )
    filled = np.flatnonzero(genuine + impostors)
    needed = np.zeros(len(genuine), dtype=np.bool_)
    needed[np.flatnonzero(genuine)[0]] = True

    def between(surely: NDArray[np.bool_], perhaps: NDArray[np.bool_]) -> None:
        # Both hold up to some bin. The point lies in the last of them, or it is the lowest score of the next above.
        low, high = (int(np.flatnonzero(one)[-1]) if one.any() else int(filled[0]) for one in (surely, perhaps))
        above = filled[np.searchsorted(filled, high, side="right") :]
        needed[low : (int(above[0]) if len(above) else high) + 1] = True

    for target in targets:
        between((accepted - doubt) / total > target, (accepted + doubt) / total > target)
    between(rejected * total <= (accepted - doubt) * count, rejected * total <= (accepted + doubt) * count)
    return needed


def _pair_scores(
    embeddings: ArrayLike,
    identities: ArrayLike,
    gallery: ArrayLike | None,
    gallery_identities: ArrayLike | None,
    device: str,
) -> PairScores:
    from siamese_verify.pairwise.pair_scores import PairScores, torch_device

    place = torch_device(device)
    if gallery is None:
        rows = unit_rows(embeddings)
        return PairScores(rows, numbered(identities, len(rows)), device=place)
    probes, columns = checked_gallery(embeddings, identities, gallery, gallery_identities)
    return PairScores(*probes, *columns, device=place)


Side = tuple["NDArray[np.floating]", "NDArray[np.int64]"]


def checked_gallery(
    embeddings: ArrayLike, identities: ArrayLike, gallery: ArrayLike, gallery_identities: ArrayLike | None
) -> tuple[Side, Side]:
    """Return unit rows and numbers of the identities of probes and of a gallery, in one type and numbering.

    Raises:
        InputError: shapes that do not fit, rows without a direction.
    """
    rows, others = unit_rows(embeddings), unit_rows(gallery)
    names, other_names = as_array(identities), as_array(() if gallery_identities is None else gallery_identities)
    if others.shape[1] != rows.shape[1]:
        raise InputError(
            f"The embeddings have {rows.shape[1]} dimensions and the gallery's {others.shape[1]}: embed both alike."
        )
    for found, wanted in ((names, rows), (other_names, others)):
        numbered(found, len(wanted))
    numbers = numbered(np.concatenate([names, other_names]), len(rows) + len(others))
    kind = np.result_type(rows, others)
    return (rows.astype(kind, copy=False), numbers[: len(rows)]), (
        others.astype(kind, copy=False),
        numbers[len(rows) :],
    )


def _predict(scores: PairScores, needed: Callable[[NDArray[np.int64], float], NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """Predict from a sample of the rows which bins will be needed; none if that would keep too many scores."""
    from siamese_verify.pairwise.histogram import count_impostor_bins

    sample = scores.sample(SAMPLED)
    bins = count_impostor_bins(sample)
    for doubt in DOUBTS if bins.any() else ():  # the widest that memory allows
        predicted = needed(bins, doubt / len(sample.probes.rows) ** 0.5)
        if bins[predicted].sum() / bins.sum() * scores.pairs <= KEPT:
            return predicted
    return np.zeros(len(bins), dtype=np.bool_)


def _curve(
    bins: tuple[NDArray[np.int64], NDArray[np.int64]],
    scores: tuple[ScoreCounts, ScoreCounts],
    wanted: NDArray[np.bool_],
) -> RocCurve:
    """Curve with the points of single scores in the wanted bins, and one point for each other bin."""
    from siamese_verify.pairwise.histogram import bin_floors, bin_numbers
    from siamese_verify.pairwise.pair_scores import SCALE

    single = [kind.in_bins(wanted) for kind in scores]
    values = np.unique(np.concatenate([kind.values for kind in single]))
    whole = np.flatnonzero((bins[0] + bins[1] > 0) & ~wanted)
    thresholds = np.concatenate([bin_floors(whole), values.astype(np.float64) / SCALE])
    order = np.lexsort((thresholds, np.concatenate([whole, bin_numbers(values)])))[::-1]
    accepts = []
    for counts, kind in zip(bins, single, strict=True):
        each = np.zeros(len(values), dtype=np.int64)
        each[np.searchsorted(values, kind.values)] = kind.counts
        accepts.append(np.concatenate([counts[whole], each])[order].cumsum())
    return RocCurve(
        thresholds=np.append(np.inf, thresholds[order]),
        true_accepts=np.append(0, accepts[0]),
        false_accepts=np.append(0, accepts[1]),
        genuine=int(accepts[0][-1]),
        impostors=int(accepts[1][-1]),
    )


def _histogram(genuine: NDArray[np.int64], impostors: NDArray[np.int64]) -> ScoreHistogram:
    """Gather the fine bins in those of a report."""
    from siamese_verify.pairwise.histogram import bin_floors

    filled = np.flatnonzero(genuine + impostors)
    width = -(-(filled[-1] + 1 - filled[0]) // BINS)
    starts = np.arange(filled[0], filled[-1] + 1, width)
    ends = np.append(starts, min(starts[-1] + width, len(genuine)))
    return ScoreHistogram(
        bin_floors(ends), *(np.add.reduceat(counts[: ends[-1]], starts) for counts in (genuine, impostors))
    )
