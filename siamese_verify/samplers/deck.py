"""Any place of a random permutation, without making the permutation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from siamese_verify.samplers.epoch import index_type

ROUNDS = 32
STEP = np.uint64(0x9E3779B97F4A7C15)
HALF = np.uint64(1 << 63)


def shuffled(place: np.ndarray, size: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Send places through permutations of 0 ... size - 1, one for each key and size.

    The swap-or-not shuffle of Hoang, Morris & Rogaway, "An Enciphering Scheme Based on a Card Shuffle", CRYPTO 2012:
    each round pairs the places up at random and swaps each pair or not, by a bit that both compute alike. It serves to
    draw, not to encipher.

    Args:
        place: integers in [0, size).
        size: integers in [1, 2^31], of a shape that broadcasts with that of `place`.
        key: uint64, of the shape of `size`.

    Returns:
        int64 in [0, size), of the shape of `place`; different for different places of one permutation.
    """
    size, place = size.astype(np.uint64), place.astype(np.uint64)
    number = np.arange(1, 3 * ROUNDS + 1, dtype=np.uint64).reshape(-1, *[1] * key.ndim)
    salt = mixed(key + number * STEP)
    for pairing, factor, offset in zip(salt[::3] % size + size, salt[1::3], salt[2::3], strict=True):
        partner = pairing - place
        partner = np.minimum(partner, partner - size)  # of a partner below the size, the difference is huge
        swap = np.maximum(place, partner) * factor + offset >= HALF
        place = np.where(swap, partner, place)
    return place.astype(np.int64)


def mixed(value: np.ndarray) -> np.ndarray:
    """Scatter the bits of uint64 values, one to one (SplitMix64: Steele, Lea & Flood, OOPSLA 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixture: np.ndarray = value ^ (value >> np.uint64(31))
    return mixture


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


class Deck:
    """Cards 0 ... C - 1, in random order, dealt hand by hand.

    Where the copies just suffice for all hands, every copy is dealt: a card of which as many copies are left as hands
    to come is put into each of them. So no hand has a card twice, unless a card has more copies than there are hands.

    Args:
        copies: (C,) int64 of each card; `hands * width` or more in all. More only where each card has one.
        hands: how many will be dealt.
        width: cards in each.
        generator: source of the order.
    """

    def __init__(self, copies: np.ndarray, hands: int, width: int, generator: np.random.Generator) -> None:
        self._left = np.array(copies, dtype=np.int64)
        self._counts = self._left.data  # the same, much faster for single cards
        order = np.repeat(np.arange(len(copies), dtype=index_type(len(copies))), copies)
        generator.shuffle(order)
        self._order = order.data
        self._next = 0
        self._passed: dict[int, int] = {}  # cards whose turn came when they were in the hand already, and how often
        self._hands = hands
        self._exact = len(order) == hands * width
        self._most = int(self._left.max(initial=0))  # no card has more copies left
        self._generator = generator

    def begin(self) -> list[int]:
        """Begin a hand: deal the cards that have to be in it."""
        due: list[int] = []
        if self._exact and self._most >= self._hands:
            self._most = int(self._left.max(initial=0))
            copies = self._left // self._hands
            due = self._generator.permutation(np.repeat(np.arange(len(copies)), copies)).tolist()
            np.subtract(self._left, copies, out=self._left)
        self._hands -= 1
        return due

    def deal(self, count: int, hand: Sequence[int] = (), wishes: np.ndarray | None = None) -> list[int]:
        """Deal more cards into the hand that was begun.

        Args:
            count: how many; together with the hand no more than `width`.
            hand: what it holds.
            wishes: (W,) cards to deal first where they are still in the deck, best first. May hold repeats.

        Returns:
            `count` cards that are not in the hand: wishes as far as they last, then the next ones in turn.
        """
        dealt: list[int] = []
        held = set(hand)
        if wishes is not None:
            self._take(wishes[self._left[wishes] > 0].tolist(), count, dealt, held)
        if self._passed:
            known = len(dealt)
            self._take(list(self._passed), count, dealt, held)
            for card in dealt[known:]:
                self._passed[card] -= 1
            self._passed = {card: times for card, times in self._passed.items() if times and self._counts[card]}
        while len(dealt) < count and self._next < len(self._order):
            card = self._order[self._next]
            self._next += 1
            if card not in held:
                self._take((card,), count, dealt, held)
            elif self._counts[card]:
                self._passed[card] = self._passed.get(card, 0) + 1
        while len(dealt) < count:  # every card that is left is in the hand: some have more copies than there are hands
            dealt.append(int(self._left.argmax()))
            self._counts[dealt[-1]] -= 1
        return dealt

    def _take(self, cards: Iterable[int], count: int, dealt: list[int], held: set[int]) -> None:
        for card in cards:
            if len(dealt) == count:
                return
            if card not in held and self._counts[card]:
                self._counts[card] -= 1
                held.add(card)
                dealt.append(card)
