"""Genuine pairs, triplets and directions of pairs against naive loops."""

from __future__ import annotations

import pytest
import torch

from siamese_verify.pairwise import Identities, both_directions, every_triplet
from siamese_verify.structures import Pairs


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("itself", [False, True])
def test_genuine_pairs_are_those_of_a_naive_loop(seed: int, itself: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    columns = torch.randint(-3, 3, (15,), generator=generator)
    rows = columns[:6] if itself else torch.randint(-3, 5, (6,), generator=generator)
    pairs = Identities(columns).pairs(rows, start=4 if not itself else 0, itself=itself)
    shift = 0 if itself else 4
    expected = [
        [i + shift, j] for i in range(6) for j in range(15) if rows[i] == columns[j] and not (itself and i == j)
    ]
    assert torch.stack(list(pairs), dim=1).tolist() == expected


def test_a_span_numbers_the_identities_and_counts_them() -> None:
    first, last = Identities(torch.tensor([7, -2, 7, 9])).span(torch.tensor([7, 9, -2, 8]))
    assert (last - first).tolist() == [2, 1, 1, 0]
    assert first[:3].tolist() == [1, 3, 0]


@pytest.mark.parametrize("numbers", [1, 20, 1 << 20])
@pytest.mark.parametrize("itself", [False, True])
def test_triplets_are_those_of_a_naive_loop(itself: bool, numbers: int) -> None:
    columns = torch.randint(3, (9,), generator=torch.Generator().manual_seed(0))
    rows = columns[:5] if itself else torch.tensor([0, 2, 5])
    expected = [
        [a, p, n]
        for a in range(len(rows))
        for p in range(9)
        for n in range(9)
        if rows[a] == columns[p] != columns[n] and not (itself and a == p)
    ]
    assert torch.stack(list(every_triplet(rows, columns, itself, numbers)), dim=1).tolist() == expected


def test_pairs_are_turned_into_both_directions_each_once() -> None:
    same = torch.tensor([True, True, True, False, False])
    pairs = Pairs(torch.tensor([0, 1, 0, 2, 3]), torch.tensor([1, 0, 1, 3, 6]), same)
    anchor, other, genuine = both_directions(pairs, anchors=4)  # 6 is a reference: no anchor
    assert list(zip(anchor.tolist(), other.tolist(), genuine.tolist(), strict=True)) == [
        *[(0, 1, True), (1, 0, True)],
        *[(2, 3, False), (3, 2, False), (3, 6, False)],
    ]
