"""Deck: hands without a card twice, wishes granted, every copy dealt."""

from __future__ import annotations

import numpy as np
import pytest

from siamese_verify.samplers.deck import Deck, allotted


def deal(deck: Deck, hands: int, width: int, wishes: np.ndarray | None = None) -> list[list[int]]:
    dealt = []
    for _ in range(hands):
        hand = deck.begin()
        hand += deck.deal((width - len(hand)) // 2, hand, wishes)
        dealt.append(hand + deck.deal(width - len(hand), hand))
    return dealt


@pytest.mark.parametrize(
    "copies", [[1] * 12, [2] * 6, [3, 1, 2, 5, 1, 4, 1], [9, 9, 1, 1, 1, 1], [12, 1, 1, 1], [4, 4, 4, 4], [40, 1, 1, 1]]
)
@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("wishes", [None, [0, 1, 0, 2], [3]])
@pytest.mark.parametrize("seed", range(5))
def test_every_copy_is_dealt_and_no_hand_has_a_card_twice(
    copies: list[int], width: int, wishes: list[int] | None, seed: int
) -> None:
    hands = -(-sum(copies) // width)
    given = allotted(np.array(copies), hands, width, np.random.default_rng(seed))
    deck = Deck(given, hands, width, np.random.default_rng(seed))
    dealt = deal(deck, hands, width, None if wishes is None else np.array(wishes))
    assert all(len(hand) == width for hand in dealt)
    assert np.bincount(np.concatenate(dealt), minlength=len(copies)).tolist() == given.tolist()
    for card, times in enumerate(given.tolist()):
        most = max(hand.count(card) for hand in dealt)
        assert most <= 1 if times <= hands else most == -(-times // hands)


def test_a_card_of_many_copies_is_not_kept_for_the_end() -> None:
    copies = np.array([10] + [1] * 70)
    places = []
    for seed in range(40):
        dealt = deal(Deck(copies, 20, 4, np.random.default_rng(seed)), 20, 4)
        places += [number for number, hand in enumerate(dealt) if 0 in hand]
    assert 8.5 < np.mean(places) < 10.5  # the middle of 0 ... 19


def test_wishes_come_first_and_only_once() -> None:
    deck = Deck(np.ones(8, dtype=np.int64), 2, 4, np.random.default_rng(0))
    assert deck.begin() == []
    first = deck.deal(2, wishes=np.array([3, 3, 1, 0]))
    assert first == [3, 1]
    first += deck.deal(2, first, np.array([3, 5, 6]))
    assert first == [3, 1, 5, 6]
    second = deck.begin()
    assert sorted(second + deck.deal(4 - len(second), second, np.array([3, 5, 6]))) == [0, 2, 4, 7]


def test_a_card_in_the_hand_is_not_dealt_again_however_it_is_wished() -> None:
    deck = Deck(np.full(5, 3), 5, 3, np.random.default_rng(0))
    hand = deck.begin() + deck.deal(1, wishes=np.array([2]))
    assert hand == [2]
    assert 2 not in deck.deal(2, hand, np.array([2, 2]))


def test_a_deck_with_more_cards_than_places_leaves_some() -> None:
    dealt = deal(Deck(np.ones(9, dtype=np.int64), 2, 3, np.random.default_rng(0)), 2, 3)
    assert len({card for hand in dealt for card in hand}) == 6


def test_a_deck_of_nothing_deals_nothing() -> None:
    deck = Deck(np.zeros(0, dtype=np.int64), 3, 0, np.random.default_rng(0))
    assert deal(deck, 3, 0) == [[], [], []]
