"""Dealing hands from a shuffled deck in which a card may be several times, with wishes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from siamese_verify.mining.people import index_type


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
