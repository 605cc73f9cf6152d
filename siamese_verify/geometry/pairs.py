"""Pairs as a set of anchors with what each is compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from siamese_verify.types import Pairs


def both_ways(pairs: Pairs, anchors: int) -> Pairs:
    """Turn pairs into ordered ones: of each row with the other and of the other with the row, each once.

    Args:
        pairs: of any order; one may be named several times, in either order.
        anchors: B; an `other` from B on is a reference, which is never an anchor.

    Returns:
        The pairs in their order, then their reverse in the same order, without what was there before.
    """
    within = (pairs.other < anchors).nonzero().flatten()
    ordered = Pairs(
        torch.cat([pairs.anchor, pairs.other[within]]),
        torch.cat([pairs.other, pairs.anchor[within]]),
        torch.cat([pairs.same, pairs.same[within]]).bool(),
    )
    number = numbered(pairs)
    listed = (pairs.anchor < pairs.other).all() & (number[1:] > number[:-1]).all()  # each once, as by `AllPairs`
    return ordered if listed else each_once(ordered)


def each_once(pairs: Pairs) -> Pairs:
    """Leave out every ordered pair that was named before, in place of counting it again."""
    number, order = numbered(pairs).sort(stable=True)
    first = torch.ones_like(number, dtype=torch.bool)
    first[1:] = number[1:] != number[:-1]
    chosen = order[first].sort().values
    return Pairs(*(field[chosen] for field in pairs))


def numbered(pairs: Pairs) -> Tensor:
    """(M,) int64, a number for each ordered pair."""
    return pairs.anchor * (pairs.other.max() + 1) + pairs.other if len(pairs.other) else pairs.other
