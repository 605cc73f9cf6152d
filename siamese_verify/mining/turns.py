"""Who has how many turns in an epoch, and in which of its batches."""

from __future__ import annotations

import numpy as np

from siamese_verify.mining.people import index_type


def rounds(size: int, hands: int, width: int, generator: np.random.Generator) -> np.ndarray:
    """Deal to hands in turn from a shuffled deck; a used-up deck is shuffled anew.

    Args:
        size: cards in the deck, numbered from 0; no fewer than `width`.
        hands: how many.
        width: cards in each.
        generator: source of the order.

    Returns:
        (hands, width) cards. Each is dealt once before any is dealt again, and none is in a hand twice.
    """
    dealt = np.empty(hands * width, dtype=index_type(size))
    for start in range(0, len(dealt), max(size, 1)):
        piece = dealt[start : start + size]
        held = dealt[start - start % width : start]  # in the hand that the last deck left unfinished
        if len(piece) + len(held) < size // 50:  # a few of many: no need to shuffle them all
            order = generator.choice(size, len(piece) + len(held), replace=False)
        else:
            order = np.arange(size, dtype=dealt.dtype)
            generator.shuffle(order)
        if len(held):  # to the bottom, where this hand can't meet them again
            again = np.isin(order, held)
            order = np.concatenate([order[~again], order[again]])
        piece[:] = order[: len(piece)]
    return dealt.reshape(hands, width)


def allotted(turns: np.ndarray, hands: int, width: int, generator: np.random.Generator) -> np.ndarray:
    """Give out the places of all hands: to everyone his turns, as many times over as there is room for.

    Args:
        turns: (E,) int64, >= 1, that each is due; E >= `width`.
        hands: how many.
        width: places in each.
        generator: source of who gets the places that are left over, or of whose turns are left out.

    Returns:
        (E,) int64, `hands * width` in all. Left-over places go to nobody more often than there are hands.
    """
    given = hands * width // int(turns.sum()) * turns
    left = hands * width - int(given.sum())
    while left:
        most = turns if left >= width else 1  # the last hand is filled up with different people
        room = np.minimum(most, np.maximum(hands - given, 0))
        more = generator.multivariate_hypergeometric(room, min(left, int(room.sum())), method="marginals")
        given += more
        left -= int(more.sum())
    return given


def spread(turns: np.ndarray, hands: int, generator: np.random.Generator) -> np.ndarray:
    """Put everyone's turns into hands at random, but no two of one person into one hand if that can be.

    Args:
        turns: (E,) int64, a multiple of `hands` in all.
        hands: how many.
        generator: source of the order.

    Returns:
        (hands, width) people. Who has no more turns than there are hands is in no hand twice; who has more is in all
        of them, in some once more than in others.
    """
    people = generator.permutation(len(turns)).astype(index_type(len(turns)))
    columns = np.repeat(people, turns[people]).reshape(-1, hands)
    dealt = np.empty_like(columns)
    # Within a column a person's turns go to different hands by themselves; care is for who reaches into the next.
    last, load = -1, np.zeros(hands, dtype=np.int64)  # the last person of the column before, and her turns in each hand
    for column, row in zip(columns, dealt, strict=True):
        places = generator.permutation(hands)
        if column[0] == last:
            places = places[np.argsort(load[places], kind="stable")]
            begun = np.count_nonzero(column == last)
            places[begun:] = generator.permutation(places[begun:])
        row[places] = column
        if column[-1] != last:
            last = column[-1]
            load[:] = 0
        load[places[column == last]] += 1
    return np.ascontiguousarray(dealt.T)


def numbered(people: np.ndarray) -> np.ndarray:
    """Count, for each turn in (hands, width) people, those that the person had before it, in the order of hands."""
    flat = people.ravel()
    order = np.argsort(flat, kind="stable")
    ordered = flat[order]
    first = np.append(True, ordered[1:] != ordered[:-1])[: len(flat)]
    place = np.arange(len(flat), dtype=index_type(len(flat)))
    number = np.empty_like(place)
    number[order] = place - np.maximum.accumulate(np.where(first, place, 0))
    return number.reshape(people.shape)
