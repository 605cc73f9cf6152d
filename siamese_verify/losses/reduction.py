"""From the losses of single items to one number, with a defined value where there are no items."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from siamese_verify.errors import InputError

Reduction = Literal["mean", "mean_active", "sum", "none"]


def check_reduction(reduction: str) -> None:
    """Refuse a reduction that does not exist.

    Raises:
        InputError: naming the ones that do.
    """
    if reduction not in get_args(Reduction):
        raise InputError(f"reduction is {reduction!r}, but must be one of {', '.join(get_args(Reduction))}.")


def reduce_items(items: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Reduce the losses of single items.

    Args:
        items: (M,) losses, >= 0; M may be 0.
        reduction: `mean` over all items, `mean_active` over those above zero, `sum`, or `none`: the items themselves.

    Returns:
        A scalar, or (M,) for `none`. Without items, or without active ones, it is 0 with a gradient of 0 that is still
        connected to the embeddings: `backward()` and the hooks of distributed training run as on any other step.

    Raises:
        InputError: unknown reduction.
    """
    check_reduction(reduction)
    if reduction == "none":
        return items
    total = items.sum()
    if reduction == "mean":
        return total / max(items.numel(), 1)
    if reduction == "mean_active":
        return total / (items > 0).sum().clamp(min=1)
    return total


def active_share(items: Tensor) -> Tensor:
    """Share of the items that still teach something.

    Args:
        items: (M,) losses, >= 0.

    Returns:
        Scalar in [0, 1] without gradient: items above zero over all items; 0 without items. It stays on the device,
        so that logging it does not wait for a GPU.
    """
    return (items.detach() > 0).sum() / max(items.numel(), 1)
