"""From the losses of single items to one number, with a defined value where there are no items."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from siamese_verify.errors import InputError

Reduction = Literal["mean", "mean_active", "sum", "none"]


class Items(NamedTuple):
    """Losses of single items, and which of them are above zero, also where they round to it."""

    loss: Tensor  # (M,) >= 0
    active: Tensor  # (M,) bool

    @classmethod
    def of(cls, loss: Tensor) -> Items:
        """Items that are above zero wherever they are in floating point."""
        return cls(loss, loss.detach() > 0)


class Totals(NamedTuple):
    """What a reduction needs to know of the items, whether or not they were ever listed."""

    total: Tensor  # scalar, the sum of the items
    items: Tensor | int  # how many there are
    active: Tensor | int  # how many are above zero


def check_reduction(reduction: str) -> None:
    """Refuse a reduction that does not exist.

    Raises:
        InputError: naming the ones that do.
    """
    if reduction not in get_args(Reduction):
        raise InputError(f"reduction is {reduction!r}, but must be one of {', '.join(get_args(Reduction))}.")


def add_up(items: Items) -> Totals:
    """Sum and count losses; there may be none."""
    return Totals(items.loss.sum(), len(items.loss), torch.count_nonzero(items.active))


def reduce_totals(totals: Totals, reduction: Reduction) -> Tensor:
    """Reduce what was summed already; `none` has no meaning here. See `reduce_items`."""
    total, count, active = totals
    if reduction == "sum":
        return total
    divisor = count if reduction == "mean" else active
    return total / (divisor.clamp(min=1) if isinstance(divisor, Tensor) else max(divisor, 1))


def reduce_items(items: Tensor, reduction: Reduction = "mean", active: Tensor | None = None) -> Tensor:
    """Reduce the losses of single items.

    Args:
        items: (M,) losses, >= 0; M may be 0.
        reduction: `mean` over all items, `mean_active` over those above zero, `sum`, or `none`: the items themselves.
        active: (M,) bool, which are above zero before rounding; None asks the items themselves.

    Returns:
        A scalar, or (M,) for `none`. Without items, or without active ones, it is 0 with a gradient of 0 that is still
        connected to the embeddings: `backward()` and the hooks of distributed training run as on any other step.

    Raises:
        InputError: unknown reduction.
    """
    check_reduction(reduction)
    if reduction == "none":
        return items
    return reduce_totals(add_up(Items.of(items) if active is None else Items(items, active)), reduction)


def active_share(totals: Totals) -> Tensor:
    """Share of the items that still teach something.

    Returns:
        Scalar in [0, 1] without gradient: items above zero over all items; 0 without items. It stays on the device,
        so that logging it does not wait for a GPU.
    """
    total, count, active = totals
    share = torch.as_tensor(active, device=total.device) / torch.as_tensor(count, device=total.device).clamp(min=1)
    return share.detach()
