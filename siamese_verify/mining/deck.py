"""Dealing from a shuffled deck, so that everyone has his turn before anyone has a second."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np


class Deck:
    """Cards 0 ... size - 1, dealt in random order without repeats; a used-up deck is shuffled anew.

    Args:
        size: number of cards.
        generator: source of the order, consumed once per shuffle.
    """

    def __init__(self, size: int, generator: np.random.Generator) -> None:
        self._size = size
        self._generator = generator
        self._shuffle([])

    def deal(self, count: int, hand: Sequence[int] = (), wishes: Iterable[int] = ()) -> list[int]:
        """Deal cards that are not in the hand.

        Args:
            count: how many; together with the hand no more than there are cards.
            hand: cards the player holds since the deal of this hand began.
            wishes: cards to deal first where they are still in the deck, best first. May hold repeats.

        Returns:
            `count` distinct cards: wishes as far as they last, then the next ones of the shuffled order.
        """
        dealt: list[int] = []
        for card in wishes:
            if len(dealt) == count:
                return dealt
            if not self._gone[card] and card not in hand:
                self._gone[card] = True
                dealt.append(card)
        while len(dealt) < count:
            if self._next == self._size:
                self._shuffle([*hand, *dealt])
            card = self._order[self._next]
            self._next += 1
            if not self._gone[card]:
                self._gone[card] = True
                dealt.append(card)
        return dealt

    def _shuffle(self, last: list[int]) -> None:
        """Start over; cards of the unfinished hand go to the bottom, where this hand can't meet them again."""
        order = self._generator.permutation(self._size)
        held = np.isin(order, last)
        self._order: list[int] = np.concatenate([order[~held], order[held]]).tolist()
        self._gone = [False] * self._size
        self._next = 0
