"""Random draws of pairs and of triplets: whom they draw, how often, and what cannot be drawn from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from siamese_verify.errors import InputError
from siamese_verify.samplers.tuples import Draw, PairSampler, TripletSampler

COUNTS = np.array([4, 1, 2, 7, 1, 3])
IDENTITIES = np.random.default_rng(0).permutation(np.repeat(np.arange(len(COUNTS)) * 5 - 7, COUNTS))
KINDS = pytest.mark.parametrize("kind", [PairSampler, TripletSampler])
WEIGHTS = pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
DRAWS = 20_000


def shares(rows: np.ndarray) -> np.ndarray:
    """How often each person was drawn."""
    return np.bincount((IDENTITIES[rows] + 7) // 5, minlength=len(COUNTS)) / len(rows)


def within(measured: np.ndarray, expected: np.ndarray) -> bool:
    """Whether shares are those expected within five standard deviations; what is impossible never comes."""
    return bool((np.abs(measured - expected) <= 5 * np.sqrt(expected * (1 - expected) / DRAWS)).all())


@KINDS
def test_an_epoch_reads_as_many_photos_as_there_are_unless_told_otherwise(kind: Any) -> None:
    identities, rows = np.repeat(np.arange(50), 4), {PairSampler: 2, TripletSampler: 3}[kind]
    assert len(kind(identities, 10)) == 200 // (10 * rows)
    assert len(kind(identities, 10, world_size=4)) == -(-(200 // (10 * rows)) // 4)
    assert len(kind(identities, 1000)) == 1
    assert len(kind(identities, 10, batches=3)) == 3


@KINDS
def test_a_draw_is_told_apart_from_a_plain_list_of_rows(kind: Any) -> None:
    assert all(isinstance(draw, Draw) for draw in kind(IDENTITIES, 4))


@WEIGHTS
def test_people_with_two_photos_are_drawn_by_their_weight_and_their_photos_evenly(weight: float) -> None:
    sampler = PairSampler(IDENTITIES, weight=weight)
    person, first, second = sampler.genuine(np.random.default_rng(0), DRAWS)
    assert (first != second).all()
    assert (IDENTITIES[first] == person * 5 - 7).all()
    assert (IDENTITIES[second] == person * 5 - 7).all()
    expected = np.where(COUNTS > 1, COUNTS**weight, 0)
    assert within(shares(first), expected / expected.sum())
    for rows in (first, second):
        photos = np.bincount(rows, minlength=len(IDENTITIES)) / DRAWS
        assert within(photos, (expected / expected.sum() / COUNTS)[(IDENTITIES + 7) // 5])


@WEIGHTS
@pytest.mark.parametrize("person", range(len(COUNTS)))
def test_strangers_are_drawn_by_their_weight_from_all_other_people(person: int, weight: float) -> None:
    sampler = PairSampler(IDENTITIES, weight=weight)
    rows = sampler.other(np.random.default_rng(0), np.full(DRAWS, person))
    expected = np.where(np.arange(len(COUNTS)) == person, 0, COUNTS**weight)
    assert within(shares(rows), expected / expected.sum())
    photos = np.bincount(rows, minlength=len(IDENTITIES)) / DRAWS
    assert within(photos, (expected / expected.sum() / COUNTS)[(IDENTITIES + 7) // 5])


def test_full_weight_draws_photos_evenly() -> None:
    sampler = PairSampler(np.repeat([0, 1], [98, 2]), weight=1.0)
    person, _, _ = sampler.genuine(np.random.default_rng(0), 1000)
    assert 5 < (person == 1).sum() < 40  # 20
    assert (sampler.other(np.random.default_rng(0), person) < 98).sum() == (person == 1).sum()


class Edge:
    """A generator that draws the same number again and again."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self, count: int) -> np.ndarray:
        return np.full(count, self.value)

    def integers(self, high: np.ndarray) -> np.ndarray:
        return high - 1


@pytest.mark.parametrize("value", [0.0, 0.5, 1 - 2**-53])
@pytest.mark.parametrize("weight", [0.0, 0.1, 0.3, 0.7, 1.0])
def test_nobody_is_his_own_stranger_whatever_is_drawn(value: float, weight: float) -> None:
    counts = np.random.default_rng(0).integers(1, 50, 300)
    sampler = PairSampler(np.repeat(np.arange(300), counts), weight=weight)
    edge: Any = Edge(value)
    everyone = np.arange(300)
    assert (np.repeat(everyone, counts)[sampler.other(edge, everyone)] != everyone).all()
    person, first, second = sampler.genuine(edge, 5)
    assert (counts[person] > 1).all()
    assert (first != second).all()


@KINDS
@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_that_is_no_share_is_refused(kind: Any, weight: float) -> None:
    with pytest.raises(InputError, match=f"weight is {weight}, but must be in 0"):
        kind(IDENTITIES, weight=weight)


@KINDS
@pytest.mark.parametrize(
    ("identities", "reason"),
    [
        ([5, 5, 5], "3 photos of 1 people give no impostors"),
        ([1, 2, 3, 4], "4 photos of 4 people give no genuine pair"),
        ([], "0 photos of 0 people give no impostors"),
    ],
)
def test_people_without_pairs_are_refused(kind: Any, identities: list[int], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        kind(np.array(identities, dtype=np.int64))
