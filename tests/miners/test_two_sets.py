"""Every miner between embeddings and references, against naive loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from siamese_verify.miners import AllPairs, AllTriplets, BatchHard, DistanceWeighted, HardPairs, SemiHard
from siamese_verify.pairwise import blocks as tiles
from siamese_verify.structures import Pairs, Triplets

Miner = Callable[..., Pairs | Triplets]
Oracle = Callable[[list[list[float]], list[list[bool]]], list[tuple[int, ...]]]  # (n, m) distances, same identity

MARGIN = 0.7


def listed(tuples: Pairs | Triplets) -> list[tuple[int, ...]]:
    return list(zip(*(field.tolist() for field in tuples), strict=True))


def every_pair(distance: list[list[float]], same: list[list[bool]]) -> list[tuple[int, ...]]:
    return [(i, j, same[i][j]) for i in range(len(same)) for j in range(len(same[i]))]


def every_triplet(distance: list[list[float]], same: list[list[bool]]) -> list[tuple[int, ...]]:
    return [
        (a, p, n) for a in range(len(same)) for p, i in enumerate(same[a]) if i for n, j in enumerate(same[a]) if not j
    ]


def hardest(distance: list[list[float]], same: list[list[bool]]) -> list[tuple[int, ...]]:
    chosen: list[tuple[int, ...]] = []
    for a in range(len(same)):
        of_anchor = [triplet for triplet in every_triplet(distance, same) if triplet[0] == a]
        if of_anchor:  # max and min return the first of equals
            p = max((triplet[1] for triplet in of_anchor), key=lambda column: distance[a][column])
            n = min((triplet[2] for triplet in of_anchor), key=lambda column: distance[a][column])
            chosen.append((a, p, n))
    return chosen


def semi_hard(distance: list[list[float]], same: list[list[bool]]) -> list[tuple[int, ...]]:
    chosen: dict[tuple[int, int], int] = {}
    for a, p, n in every_triplet(distance, same):
        within = distance[a][p] < distance[a][n] < distance[a][p] + MARGIN
        if within and ((a, p) not in chosen or distance[a][n] < distance[a][chosen[a, p]]):
            chosen[a, p] = n
    return [(a, p, n) for (a, p), n in chosen.items()]


def hard_pairs(distance: list[list[float]], same: list[list[bool]]) -> list[tuple[int, ...]]:
    pairs = every_pair(distance, same)
    genuine = [pair for pair in pairs if pair[2]]
    impostors = sorted((pair for pair in pairs if not pair[2]), key=lambda pair: distance[pair[0]][pair[1]])
    return genuine + impostors[: len(genuine)]


MINERS = [
    pytest.param(AllPairs(), every_pair, id="AllPairs"),
    pytest.param(AllTriplets(), every_triplet, id="AllTriplets"),
    pytest.param(BatchHard(), hardest, id="BatchHard"),
    pytest.param(SemiHard(MARGIN), semi_hard, id="SemiHard"),
    pytest.param(HardPairs(), hard_pairs, id="HardPairs"),
]


def batch(seed: int, count: int, identities: int = 4, first: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(count, 3, dtype=torch.float64, generator=generator)
    return embeddings, torch.randint(first, first + identities, (count,), generator=generator)


def same_people(labels: Tensor, others: Tensor) -> list[list[bool]]:
    return [[mine == theirs for theirs in others.tolist()] for mine in labels.tolist()]


def distances(rows: Tensor, columns: Tensor) -> list[list[float]]:
    return [[math.dist(row, column) for column in columns.tolist()] for row in rows.tolist()]


@pytest.mark.parametrize("side", [1, 4, 512])
@pytest.mark.parametrize(("miner", "oracle"), MINERS)
def test_a_naive_loop_chooses_the_same(
    miner: Miner, oracle: Oracle, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "SIDE", side)
    chosen = 0
    for first, second in [
        (batch(0, 9), batch(1, 14)),
        (batch(2, 14), batch(3, 9)),
        (batch(4, 1), batch(5, 12)),
        (batch(6, 12), batch(7, 1)),
        (batch(8, 6), batch(9, 6, first=2)),  # some of the people are in one set only
        (batch(10, 6), batch(11, 6, first=90)),  # all are
        (batch(12, 5, identities=1), batch(13, 7, identities=1)),
    ]:
        tuples = miner(*first, *second)
        expected = oracle(distances(first[0], second[0]), same_people(first[1], second[1]))
        assert listed(tuples) == expected
        chosen += len(expected)
    assert chosen > 0


@pytest.mark.parametrize("side", [1, 4, 512])
@pytest.mark.parametrize(("miner", "oracle"), MINERS)
def test_ties_take_the_lowest_row(miner: Miner, oracle: Oracle, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "SIDE", side)
    (rows, labels), (columns, others) = batch(0, 12), batch(1, 15)
    rows, columns = rows.sign(), columns.sign()  # corners of a cube
    assert listed(miner(rows, labels, columns, others)) == oracle(distances(rows, columns), same_people(labels, others))


@pytest.mark.parametrize(("rows", "columns"), [(5, 0), (0, 5), (0, 0)])
@pytest.mark.parametrize("miner", [AllPairs(), AllTriplets(), BatchHard(), SemiHard(), HardPairs()])
def test_an_empty_set_has_no_partners(miner: Miner, rows: int, columns: int) -> None:
    tuples = miner(*batch(0, rows), *batch(1, columns))
    assert [field.tolist() for field in tuples] == [[], [], []]
    third = torch.bool if isinstance(tuples, Pairs) else torch.int64
    assert [field.dtype for field in tuples] == [torch.int64, torch.int64, third]


@pytest.mark.parametrize("miner", [AllPairs(), AllTriplets(), BatchHard(), SemiHard(MARGIN), HardPairs(1000)])
def test_a_set_as_its_own_references_gives_what_it_gives_alone_and_itself(miner: Miner) -> None:
    embeddings, labels = batch(0, 16)
    alone, beside = listed(miner(embeddings, labels)), listed(miner(embeddings, labels, embeddings, labels))
    if isinstance(miner, AllPairs | HardPairs):
        assert [pair for pair in beside if pair[0] < pair[1]] == alone
        assert [pair for pair in beside if pair[0] == pair[1]] == [(row, row, True) for row in range(16)]
    else:
        assert [triplet for triplet in beside if triplet[0] != triplet[1]] == alone


@pytest.mark.parametrize(
    ("miner", "expected"),
    [
        (AllPairs(), [(0, 0, True), (0, 1, False), (0, 2, False), (1, 0, False), (1, 1, False), (1, 2, True)]),
        (AllTriplets(), [(0, 0, 1), (0, 0, 2), (1, 2, 0), (1, 2, 1)]),
        (BatchHard(), [(0, 0, 1), (1, 2, 1)]),
        (SemiHard(4.0), [(0, 0, 1), (1, 2, 1)]),
        (SemiHard(3.0), [(1, 2, 1)]),  # the band above distance 0 is open on both sides
        (HardPairs(), [(0, 0, True), (1, 2, True), (1, 1, False), (0, 1, False)]),
    ],
)
def test_a_row_in_both_sets_is_a_partner_of_its_own(miner: Miner, expected: list[tuple[int, ...]]) -> None:
    rows, columns = torch.tensor([[4.0, 0.0], [4.0, 5.0]]), torch.tensor([[4.0, 0.0], [4.0, 3.0], [4.0, 5.0]])
    labels, others = torch.tensor([1, 2]), torch.tensor([1, 3, 2])
    assert listed(miner(rows, labels, columns, others)) == expected


@pytest.mark.parametrize(
    "miner", [AllPairs(), AllTriplets(), BatchHard(), SemiHard(MARGIN), HardPairs(), DistanceWeighted()]
)
def test_with_offset_finds_the_same_rows_behind_the_embeddings(miner: Miner) -> None:
    (rows, labels), (columns, others) = batch(0, 7), batch(1, 11)
    tuples = miner(rows, labels, columns, others)
    moved = tuples.with_offset(len(rows))
    assert type(moved) is type(tuples) and len(moved.anchor) > 0
    joined, people = torch.cat([rows, columns]), torch.cat([labels, others])
    assert torch.equal(joined[moved.anchor], rows[tuples.anchor])
    if isinstance(tuples, Pairs) and isinstance(moved, Pairs):
        assert torch.equal(joined[moved.other], columns[tuples.other])
        assert torch.equal(people[moved.anchor] == people[moved.other], moved.same)
    elif isinstance(tuples, Triplets) and isinstance(moved, Triplets):
        assert torch.equal(joined[moved.positive], columns[tuples.positive])
        assert torch.equal(joined[moved.negative], columns[tuples.negative])
        assert torch.equal(people[moved.anchor], people[moved.positive])
        assert not bool((people[moved.anchor] == people[moved.negative]).any())
