"""Confidence intervals of the metrics over all pairs of a set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.all_pairs import ALL_PAIRS_TARGETS
from siamese_verify.evaluation.bootstrap import Interval, check_level
from siamese_verify.evaluation.clustered_pairs import ClusteredPairs
from siamese_verify.evaluation.rate_intervals import clustered_intervals
from siamese_verify.evaluation.scores import checked_threshold, numbered, unit_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    from siamese_verify.pairwise.pair_scores import PairScores

KEPT = 2**21  # impostors, the highest, that are compared one by one


def clustered_rows(
    embeddings: ArrayLike, identities: ArrayLike, kept: int = KEPT, device: str = "cpu"
) -> ClusteredPairs:
    """Return the genuine pairs of a set and its highest impostors; how many there are in all follows from its people.

    Args:
        embeddings: (N, D) of any non-zero length.
        identities: (N,) one number or name per row.
        kept: how many impostors at most; none where more than these are equal and the highest.
        device: where pairs are compared, see `siamese_verify.pairwise.pair_scores.torch_device`.

    Raises:
        InputError: shapes that do not fit, rows without a direction, fewer than two people, no genuine pair.
    """
    from siamese_verify.pairwise.histogram import bin_floors, count_impostor_bins
    from siamese_verify.pairwise.pair_scores import SCALE, PairScores, full_precision, torch_device

    rows = unit_rows(embeddings)
    people = numbered(identities, len(rows))
    sizes = np.bincount(people)
    if len(sizes) < 2 or sizes.max() < 2:
        raise InputError(f"{len(rows)} photos of {len(sizes)} people: give two people, and two photos of one.")
    pairs = PairScores(rows, people, device=torch_device(device))
    above = np.cumsum(count_impostor_bins(pairs)[::-1])[::-1]  # (B,) impostors in a bin or above
    lowest = -np.inf if above[0] <= kept else float(bin_floors(np.flatnonzero(above <= kept)[:1])[0])
    genuine, own = _ranked([(scores, people[numbers // len(rows)]) for scores, numbers in pairs.genuine()])
    with full_precision():
        impostors, both = _ranked(list(_impostors(pairs, people, lowest * SCALE)))
    _, dyads = np.unique(np.sort(both, axis=0).T @ np.array([len(sizes), 1]), return_inverse=True)
    return ClusteredPairs(
        genuine=genuine,
        genuine_people=own,
        impostors=impostors,
        impostor_people=both,
        dyads=dyads,
        dyad_pairs=sizes[both[0]] * sizes[both[1]],
        totals=sizes * (len(rows) - sizes),
        squares=(int(sizes @ sizes) ** 2 - int((sizes**2) @ (sizes**2))) // 2,
        lowest=lowest,
    )


def _impostors(
    pairs: PairScores, people: NDArray[np.int64], lowest: float
) -> Iterator[tuple[NDArray[np.floating], NDArray[np.int64]]]:
    """Return scaled scores from `lowest` on, and both people of each, (2, K)."""
    for block in pairs.walk():
        if pairs.there:
            scores, others = pairs.masked(block)
            places = ((scores >= lowest) if others is None else (scores >= lowest) & ~others).nonzero().flatten()
            numbers = pairs.numbers(block, places.cpu().numpy())
            yield scores[places].cpu().numpy(), people[np.stack(np.divmod(numbers, len(people)))]
            continue
        values, mask = pairs.impostors(block)
        high = np.flatnonzero(values.numpy() >= lowest)
        numbers = pairs.numbers(block, high if mask is None else np.flatnonzero(mask)[high])
        yield values.numpy()[high], people[np.stack(np.divmod(numbers, len(people)))]


def _ranked(
    found: list[tuple[NDArray[np.floating], NDArray[np.int64]]],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    from siamese_verify.pairwise.pair_scores import SCALE

    scores = np.concatenate([scores for scores, _ in found]) / SCALE
    order = np.argsort(scores)[::-1]
    people = np.concatenate([people for _, people in found], axis=-1)
    return scores[order].astype(np.float64), np.ascontiguousarray(people[..., order])


def all_pairs_intervals(
    embeddings: ArrayLike,
    identities: ArrayLike,
    threshold: float | None = None,
    targets: Sequence[float] = ALL_PAIRS_TARGETS,
    level: float = 0.95,
    device: str = "cpu",
) -> dict[str, Interval]:
    """Return confidence intervals of metrics over all pairs of a set, with people as the independent units.

    They are those that `pair_intervals` finds on the listed pairs. Metrics that more than the two million highest
    impostors would decide are left out, the AUC among them.

    Args:
        embeddings: (N, D) of any non-zero length.
        identities: (N,) one number or name per row.
        threshold: one that was chosen on other data.
        targets: false accept rates.
        level: how often an interval holds the truth, in (0, 1).
        device: where pairs are compared, such as `cuda`, or `auto`.

    Returns:
        Intervals of `eer`, `tar_at_far_F` and `threshold_at_far_F`, with a threshold of `far` and `frr`.

    Raises:
        InputError: shapes that do not fit, rows without a direction, fewer than two people, no genuine pair, a level
            outside of (0, 1).
    """
    check_level(level)
    fixed = None if threshold is None else checked_threshold(threshold)
    return clustered_intervals(clustered_rows(embeddings, identities, device=device), targets, fixed, level)
