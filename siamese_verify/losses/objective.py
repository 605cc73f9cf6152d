"""What every batch objective has in common: `loss(embeddings, labels, mined=None)`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from siamese_verify.errors import InputError
from siamese_verify.losses.reduction import Reduction, active_share, check_reduction, reduce_items
from siamese_verify.types import Pairs, Triplets


class BatchObjective(nn.Module):
    """An objective made of items (pairs, triplets), each with a loss of its own.

    `forward` is `reduce(items(...))`. Who also wants to log how many items were active calls the two by themselves and
    pays for one computation:

        items = loss.items(embeddings, labels, mined)
        value, active = loss.reduce(items), loss.active_share(items)

    A subclass defines `score_items`.

    Args:
        reduction: `mean` over all items, `mean_active` over those above zero, `sum`, or `none`.

    Raises:
        InputError: unknown reduction.
    """

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_reduction(reduction)
        self.reduction = reduction

    def forward(self, embeddings: Tensor, labels: Tensor, mined: Pairs | Triplets | None = None) -> Tensor:
        """Return the reduced loss, in the type of the embeddings; arguments and errors as in `items`."""
        return self.reduce(self.items(embeddings, labels, mined)).to(embeddings.dtype)

    def items(self, embeddings: Tensor, labels: Tensor, mined: Pairs | Triplets | None = None) -> Tensor:
        """Compute the loss of every item, unreduced.

        Args:
            embeddings: (B, D) floating point; half and bfloat16 are computed in float32, also under autocast.
            labels: (B,) identities, of any integer type.
            mined: rows of `embeddings` to compare; None compares everything the objective can.

        Returns:
            (M,) losses, >= 0, in the type they were computed in: float32, or float64 for float64 embeddings. M may be
            0.

        Raises:
            InputError: embeddings that are not (B, D) floating point; labels that are not (B,) integers; `mined` of a
                kind the objective can't use, or with lengths that differ; on a CPU also NaN or infinite embeddings (a
                GPU would have to be waited for).
        """
        check_batch(embeddings, labels)
        check_mined(mined)
        labels = labels.to(embeddings.device, torch.int64)
        with torch.autocast(embeddings.device.type, enabled=False):
            precise = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
            return self.score_items(precise, labels, mined)

    def score_items(self, embeddings: Tensor, labels: Tensor, mined: Pairs | Triplets | None) -> Tensor:
        """Compute (M,) losses from checked arguments: embeddings (B, D) float32 or float64, labels (B,) int64."""
        raise NotImplementedError

    def reduce(self, items: Tensor) -> Tensor:
        """Reduce (M,) items as `reduction` says; see `reduce_items`."""
        return reduce_items(items, self.reduction)

    def active_share(self, items: Tensor) -> Tensor:
        """Share of the (M,) items above zero, in [0, 1]; see `siamese_verify.losses.active_share`."""
        return active_share(items)


def check_batch(embeddings: Tensor, labels: Tensor) -> None:
    """Refuse what is not a batch of embeddings with a label each; see `BatchObjective.items`."""
    if embeddings.ndim != 2 or not embeddings.is_floating_point():
        raise InputError(
            f"embeddings must be a floating-point matrix of shape (batch, dimensions), but have shape "
            f"{tuple(embeddings.shape)} and type {embeddings.dtype}."
        )
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
        raise InputError(
            f"labels must be one integer for each embedding, but have shape {tuple(labels.shape)} and type "
            f"{labels.dtype}."
        )
    if len(embeddings) != len(labels):
        raise InputError(f"{len(embeddings)} embeddings came with {len(labels)} labels: give one label for each.")
    if embeddings.device.type == "cpu" and not bool(embeddings.isfinite().all()):
        broken = (~embeddings.isfinite()).any(dim=1).nonzero().flatten().tolist()
        raise InputError(
            f"{len(broken)} of {len(embeddings)} embeddings hold NaN or infinity, the first is row {broken[0]}: lower "
            f"the learning rate or look at that row's photo."
        )


def check_mined(mined: object) -> None:
    """Refuse what is neither Pairs, Triplets nor None, or has fields that do not go together."""
    if mined is None:
        return
    if not isinstance(mined, Pairs | Triplets):
        raise InputError(f"mined must be Pairs, Triplets or None, but is of type {type(mined).__name__}.")
    shapes = [tuple(field.shape) for field in mined]
    if len(shapes[0]) != 1 or len(set(shapes)) != 1:
        raise InputError(
            f"the fields of {type(mined).__name__} must be vectors of one length, but have shapes {shapes}."
        )
