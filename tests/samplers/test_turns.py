"""Turns: how many everyone has, and into which hands they go."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from siamese_verify.samplers.deck import allotted, numbered, rounds, spread


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("size", "hands", "width"), [(5, 50, 3), (5, 7, 5), (5, 3, 1), (400, 2, 3), (400, 170, 7)])
@pytest.mark.parametrize("seed", range(5))
def test_rounds_deal_every_card_before_any_again(size: int, hands: int, width: int, seed: int) -> None:
    dealt = rounds(size, hands, width, generator(seed))
    assert dealt.shape == (hands, width)
    assert all(len(set(hand)) == width for hand in dealt.tolist())
    cards = dealt.ravel().tolist()
    for start in range(0, len(cards), size):
        piece = cards[start : start + size]
        assert len(set(piece)) == len(piece)
        assert set(piece) <= set(range(size))


def test_rounds_deal_at_random() -> None:
    for hands in (1, 100):  # a few of many, and nearly all
        assert not np.array_equal(rounds(600, hands, 5, generator(0)), rounds(600, hands, 5, generator(1)))
        drawn = Counter(int(rounds(600, hands, 5, generator(seed))[0, 0]) // 200 for seed in range(300))
        assert min(drawn.values()) > 60  # of 100 each


def test_no_places_take_no_cards() -> None:
    assert rounds(0, 4, 0, generator()).shape == (4, 0)


TURNS = [
    [1, 1, 1, 1, 1, 1, 1],
    [3, 1, 2, 9, 1, 4, 2],
    [50, 1, 1, 1],
    [6, 6, 6, 6],
    [30, 30, 1, 1, 1, 1],
    [1, 2],
]
CASES = [(turns, width) for turns in TURNS for width in range(1, 5) if width <= len(turns)]


@pytest.mark.parametrize(("turns", "width"), CASES)
@pytest.mark.parametrize("hands", [1, 2, 5, 11, 40])
def test_all_places_are_given_out_in_proportion_to_the_turns(turns: list[int], width: int, hands: int) -> None:
    due = np.array(turns)
    given = allotted(due, hands, width, generator())
    assert given.sum() == hands * width
    times = hands * width // due.sum()
    assert (given >= times * due).all()
    if times == 0 and np.minimum(due, hands).sum() >= hands * width:
        assert (given <= due).all()
    assert ((given <= hands) | (given == times * due)).all()


@pytest.mark.parametrize(("turns", "width"), CASES)
@pytest.mark.parametrize("seed", range(5))
def test_turns_are_spread_so_that_nobody_meets_himself(turns: list[int], width: int, seed: int) -> None:
    hands = -(-sum(turns) // width)
    given = allotted(np.array(turns), hands, width, generator(seed))
    dealt = spread(given, hands, generator(seed))
    assert dealt.shape == (hands, width)
    assert np.bincount(dealt.ravel(), minlength=len(turns)).tolist() == given.tolist()
    for person, times in enumerate(given.tolist()):
        in_hand = (dealt == person).sum(axis=1)
        if times <= hands:
            assert in_hand.max() <= 1
        else:
            assert in_hand.min() >= 1
            assert in_hand.max() == -(-times // hands)


def test_turns_are_spread_evenly_over_the_hands() -> None:
    """Someone who reaches from one column of hands into the next must not prefer some of them."""
    turns = np.array([5, 5, 5, 5, 4])
    first = Counter(int(hand) for seed in range(600) for hand in np.flatnonzero(spread_of(turns, seed, 4)))
    assert min(first.values()) > 0.8 * 600 * 4 / 8
    together = [np.count_nonzero(spread_of(turns, seed, 0) & spread_of(turns, seed, 1)) for seed in range(600)]
    assert 2.5 < np.mean(together) < 2.85  # 24 pairs in 8 hands of 3, 4 * 2 with the last: 16 for 6 pairs of people


def spread_of(turns: np.ndarray, seed: int, person: int) -> np.ndarray:
    dealt = spread(turns, 8, generator(seed))
    return np.asarray((dealt == person).any(axis=1))


def test_turns_are_counted_in_the_order_of_hands() -> None:
    assert numbered(np.array([[4, 1], [1, 2], [4, 4]])).tolist() == [[0, 0], [1, 0], [1, 2]]
    assert numbered(np.zeros((0, 3), dtype=np.int32)).shape == (0, 3)
