"""The loss of a batch that ranks share, of ours or of another library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.losses.base import taken_tuples
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
        loss: of ours, or of others, called as `loss(embeddings, labels)` if it takes no tuples.
        miner: chooses tuples where there are none; None leaves all of them to the loss.
        embeddings: (N,D) of this rank.
        labels: (N,) of them.
        tuples: of them.

    Raises:
        InputError: tuples for a loss that takes none; a loss of others that does not return one number with a gradient.
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
    return call_others(loss, embeddings, labels, tuples), None


def call_others(loss: Any, embeddings: Tensor, labels: Tensor, tuples: Pairs | Triplets | None) -> Tensor:
    """Loss of others of a batch, called with tuples if it takes some; errors as in `loss_over_ranks`."""
    name = type(loss).__name__
    if taken_tuples(loss) is None:
        value = loss(embeddings, labels, pml_tuples(tuples, len(labels)))
    elif tuples is None:
        value = loss(embeddings, labels)
    else:
        raise InputError(
            f"{name} takes no tuples, but was given {len(tuples[0])}: set miner=none and sampler=identity."
        )
    if not isinstance(value, Tensor) or value.numel() != 1:
        given = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise InputError(
            f"{name} returned {given}, but the loss must return one number: a tensor, such as .mean() gives."
        )
    if embeddings.requires_grad and not value.requires_grad:
        raise InputError(
            f"{name} returned a number without a gradient: compute it from the embeddings, without detach()."
        )
    return value


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
