"""The loss of a batch that ranks share, of ours or of another library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from siamese_verify.pairwise import both_directions
from siamese_verify.structures import Pairs, Triplets
from siamese_verify.training.distributed import gather_batch, gather_tuples

Miner = Callable[[Tensor, Tensor], Pairs | Triplets]


def loss_over_ranks(
    loss: Any, miner: Miner | None, embeddings: Tensor, labels: Tensor, tuples: Pairs | Triplets | None = None
) -> tuple[Tensor, Tensor | None]:
    """Loss of the rows of all ranks together, and the fraction of nonzero losses where the loss knows it.

    Rows that are compared with those of other ranks are gathered; not so tuples that the sampler chose, nor rows that
    are compared with identities. Losses and miners of ours compute a rank's share of the gathered rows, those of other
    libraries all on each rank.

    Args:
        loss: of ours, or of another library.
        miner: chooses tuples where there are none; None leaves all of them to the loss.
        embeddings: (N,D) of this rank.
        labels: (N,) of them.
        tuples: of them.
    """
    own = slice(0, len(labels))  # rows of this rank
    if getattr(loss, "compares_rows", True) and (tuples is None or not hasattr(loss, "measure")):
        embeddings, labels, own = gather_batch(embeddings, labels)
        tuples = tuples and gather_tuples(tuples, own)
    shared = {"own": own} if hasattr(loss, "measure") else {}
    if tuples is None and miner is not None:
        parts = shared if hasattr(miner, "together") else {}
        tuples = miner(embeddings.detach(), labels, **parts)
    if shared:
        value, fraction_nonzero = loss.measure(embeddings, labels, tuples, **shared)
        return value, fraction_nonzero
    return loss(embeddings, labels, pml_tuples(tuples, len(labels))), None


def pml_tuples(tuples: Pairs | Triplets | None, rows: int) -> tuple[Tensor, ...] | None:
    """Tuples as pytorch-metric-learning's losses take them: (a, p, n), or (a1, p, a2, n) of genuine and impostor pairs.

    Pairs are given in both directions, because there a pair counts for its anchor only.

    Args:
        tuples: of a batch; those of another library's miner are returned as they are.
        rows: of the batch.
    """
    if not isinstance(tuples, Pairs):
        return tuples
    anchor, other, same = both_directions(tuples, rows)
    return anchor[same], other[same], anchor[~same], other[~same]
