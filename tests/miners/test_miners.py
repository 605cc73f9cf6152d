"""Every miner against naive loops, among the rows of a batch, among references, and among both."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.miners import AllPairs, AllTriplets, BatchHard, DistanceWeighted, HardPairs, SemiHard
from siamese_verify.pairwise import blocks
from siamese_verify.structures import Pairs, Triplets

REFERENCE = Path(__file__).resolve().parents[2].parent / "shared" / "reference" / "objectives.json"
Set = tuple[Tensor, Tensor]
Matrix = list[list[Any]]
Oracle = Callable[[Matrix, Matrix, bool], list[tuple[Any, ...]]]  # distances, same identity, rows are columns too
NUMBERS = [1, 40, 1 << 20]  # distances held at once: one row, a few, all


@pytest.fixture(autouse=True, params=[0, blocks.SMALL], ids=["bands", "matrix"])
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Rows up to which a batch counts as small."""
    monkeypatch.setattr(blocks, "SMALL", request.param)
    return int(request.param)


def all_pairs(distance: Matrix, same: Matrix, itself: bool) -> list[tuple[Any, ...]]:
    return [(i, j, same[i][j]) for i in range(len(same)) for j in range(len(same[i])) if not itself or i < j]


def all_triplets(distance: Matrix, same: Matrix, itself: bool) -> list[tuple[Any, ...]]:
    return [
        (a, p, n)
        for a, row in enumerate(same)
        for p in range(len(row))
        for n in range(len(row))
        if row[p] and not row[n] and not (itself and a == p)
    ]


def batch_hard(distance: Matrix, same: Matrix, itself: bool) -> list[tuple[Any, ...]]:
    chosen = []
    for a in range(len(same)):
        of_anchor = [triplet for triplet in all_triplets(distance, same, itself) if triplet[0] == a]
        if of_anchor:  # max and min return the first of equals
            p = max((triplet[1] for triplet in of_anchor), key=lambda column: distance[a][column])
            n = min((triplet[2] for triplet in of_anchor), key=lambda column: distance[a][column])
            chosen.append((a, p, n))
    return chosen


def semi_hard(margin: float, squared: bool = False) -> Oracle:
    def oracle(distance: Matrix, same: Matrix, itself: bool) -> list[tuple[Any, ...]]:
        measured = [[d**2 if squared else d for d in row] for row in distance]
        chosen: dict[tuple[int, int], int] = {}
        for a, p, n in all_triplets(distance, same, itself):
            row = measured[a]
            if row[p] < row[n] < row[p] + margin and ((a, p) not in chosen or row[n] < row[chosen[a, p]]):
                chosen[a, p] = n
        return [(a, p, n) for (a, p), n in chosen.items()]

    return oracle


def hard_pairs(ratio: float) -> Oracle:
    def oracle(distance: Matrix, same: Matrix, itself: bool) -> list[tuple[Any, ...]]:
        pairs = all_pairs(distance, same, itself)
        genuine = [pair for pair in pairs if pair[2]]
        impostors = sorted((pair for pair in pairs if not pair[2]), key=lambda pair: distance[pair[0]][pair[1]])
        return genuine + impostors[: math.ceil(ratio * len(genuine))]

    return oracle


MINERS: list[tuple[Any, Oracle]] = [
    (AllPairs(), all_pairs),
    (AllTriplets(), all_triplets),
    (BatchHard(), batch_hard),
    *((SemiHard(margin), semi_hard(margin)) for margin in (0.05, 0.7, 1.0, 100.0)),
    *((SemiHard(margin, squared=True), semi_hard(margin, squared=True)) for margin in (0.05, 1.0)),
    *((HardPairs(ratio), hard_pairs(ratio)) for ratio in (0.01, 0.5, 1.0, 1.5, 1000.0)),
]
EACH = pytest.mark.parametrize(("miner", "oracle"), MINERS, ids=lambda value: type(value).__name__)


def listed(tuples: Pairs | Triplets) -> list[tuple[Any, ...]]:
    return list(zip(*(field.tolist() for field in tuples), strict=True))


def batch(seed: int, count: int, identities: int = 5, first: int = 0) -> Set:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, 3, dtype=torch.float64, generator=generator)
    return rows, torch.randint(first, first + identities, (count,), generator=generator)


def expected(oracle: Oracle, rows: Set, columns: Set | None = None) -> list[tuple[Any, ...]]:
    others, labels = rows if columns is None else columns
    distance = [[math.dist(row, column) for column in others.tolist()] for row in rows[0].tolist()]
    return oracle(distance, [[a == b for b in labels.tolist()] for a in rows[1].tolist()], columns is None)


BATCHES: list[tuple[Set, Set | None]] = [
    *((batch(seed, 19), None) for seed in range(3)),
    (batch(0, 9), batch(1, 14)),
    (batch(2, 14), batch(3, 9)),
    (batch(4, 1), batch(5, 12)),
    (batch(6, 12), batch(7, 1)),
    (batch(8, 6), batch(9, 6, first=2)),  # some of the identities are in one set only
    (batch(10, 6), batch(11, 6, first=90)),  # all are
    (batch(12, 5, identities=1), batch(13, 7, identities=1)),
]


@pytest.mark.parametrize("numbers", NUMBERS)
@EACH
def test_a_naive_loop_chooses_the_same(miner: Any, oracle: Oracle, numbers: int) -> None:
    found = 0
    miner.numbers = numbers
    for rows, columns in BATCHES:
        tuples = miner(*rows, *(columns or ()))
        assert listed(tuples) == expected(oracle, rows, columns)
        found += len(tuples.anchor)
    assert found > 0


@pytest.mark.parametrize("numbers", NUMBERS)
@EACH
def test_ties_take_the_lowest_row_and_bands_are_open(miner: Any, oracle: Oracle, numbers: int) -> None:
    miner.numbers = numbers
    for seed in range(3):
        (rows, labels), (columns, others) = batch(seed, 20, 4), batch(seed + 9, 15, 4)
        for values in (torch.sign, lambda part: part[:, :1].round()):  # corners of a cube; distances 0, 1, 2, ...
            first, second = (values(rows), labels), (values(columns), others)
            assert listed(miner(*first)) == expected(oracle, first)
            assert listed(miner(*first, *second)) == expected(oracle, first, second)


@pytest.mark.parametrize("spread", [1e-7, 1e-5, 1e-3])  # below, at and above what a product of float32 tells apart
@pytest.mark.parametrize("miner", [BatchHard(), SemiHard(1e-4), SemiHard(1e-4, squared=True)])
def test_what_rounding_cannot_tell_apart_is_decided_by_exact_distances(
    miner: Any, spread: float, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(3)
    corners = torch.eye(6).repeat(9, 1)  # most distances are equal
    rows = corners + spread * torch.randn(54, 6, generator=generator) * (torch.rand(54, 1, generator=generator) < 0.6)
    labels = torch.randint(12, (54,), generator=generator)
    found = miner(rows, labels)
    monkeypatch.setattr(blocks, "SMALL", 0 if small else 320)
    assert [field.tolist() for field in found] == [field.tolist() for field in miner(rows, labels)]
    assert len(found.anchor) > 20


@EACH
def test_rows_and_references_together_are_the_rows_among_all(miner: Any, oracle: Oracle) -> None:
    (rows, labels), (columns, others) = batch(0, 9), batch(1, 8)
    joined, everyone = torch.cat([rows, columns]), torch.cat([labels, others])
    among = [item for item in expected(oracle, (joined, everyone)) if item[0] < len(rows)]
    found = listed(miner.together(rows, labels, columns, others))
    if not isinstance(miner, HardPairs):  # whose number depends on the batch
        assert found == among
    else:
        assert [pair for pair in found if pair[2]] == [pair for pair in among if pair[2]]


@pytest.mark.parametrize("name", ["batch_hard", "semi_hard margin=1.0"])
def test_reference_triplets_are_chosen(name: str) -> None:
    if not REFERENCE.exists():
        pytest.skip(f"reference values are missing: {REFERENCE}")
    reference = json.loads(REFERENCE.read_text())
    miner = BatchHard() if name == "batch_hard" else SemiHard(margin=1.0)
    embeddings = torch.tensor(reference["embeddings"], dtype=torch.float64)
    triplets = miner(embeddings, torch.tensor(reference["labels_many"]))
    assert torch.stack(list(triplets), dim=1).tolist() == reference["mining (raw embeddings, labels_many)"][name]


@pytest.mark.parametrize("labels_type", [torch.uint8, torch.int8, torch.int32])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@EACH
def test_other_types_are_compared_in_float32(
    miner: Any, oracle: Oracle, dtype: torch.dtype, labels_type: torch.dtype
) -> None:
    embeddings, labels = batch(3, 15)
    embeddings = embeddings.to(dtype).requires_grad_()
    tuples = miner(embeddings, labels.to(labels_type))
    assert listed(tuples) == expected(oracle, (embeddings.detach().double(), labels))
    last = torch.bool if isinstance(tuples, Pairs) else torch.int64
    assert [field.dtype for field in tuples] == [torch.int64, torch.int64, last]
    assert not any(field.requires_grad for field in tuples)


@pytest.mark.parametrize("labels", [[], [3], [3, 3, 3], [1, 2, 3]], ids=["none", "one", "no negative", "no positive"])
@EACH
def test_a_batch_without_pairs_or_triplets_gives_none(miner: Any, oracle: Oracle, labels: list[int]) -> None:
    given = torch.arange(2.0 * len(labels)).reshape(-1, 2), torch.tensor(labels, dtype=torch.int64)
    tuples = miner(*given)
    assert listed(tuples) == expected(oracle, given)
    for empty in ((0, 5), (5, 0), (0, 0)):
        nothing = miner(*batch(0, empty[0]), *batch(1, empty[1]))
        assert [field.tolist() for field in nothing] == [[], [], []]
        assert [field.dtype for field in nothing] == [field.dtype for field in tuples]


@EACH
def test_identical_embeddings_are_all_ties(miner: Any, oracle: Oracle) -> None:
    given = torch.full((9, 3), 0.1), torch.arange(9) % 3
    assert listed(miner(*given)) == expected(oracle, given)


@EACH
def test_the_layout_in_memory_does_not_matter(miner: Any, oracle: Oracle) -> None:
    wide = torch.randn(12, 40, generator=torch.Generator().manual_seed(0))
    for rows in (wide.T, wide.T.flip(0)[:, ::3], wide.T[1::2], wide[:, :1].expand(12, 6)):
        labels = torch.arange(len(rows)) % 4
        packed = rows.clone(memory_format=torch.contiguous_format)
        assert listed(miner(rows, labels)) == listed(miner(packed, labels))
        assert listed(miner(rows, labels, rows[3:], labels[3:])) == listed(
            miner(packed, labels, packed[3:], labels[3:])
        )


@pytest.mark.parametrize(
    ("miner", "tuples"),
    [
        (AllPairs(), [(0, 0, True), (0, 1, False), (0, 2, False), (1, 0, False), (1, 1, False), (1, 2, True)]),
        (AllTriplets(), [(0, 0, 1), (0, 0, 2), (1, 2, 0), (1, 2, 1)]),
        (BatchHard(), [(0, 0, 1), (1, 2, 1)]),
        (SemiHard(4.0), [(0, 0, 1), (1, 2, 1)]),
        (SemiHard(3.0), [(1, 2, 1)]),  # the band above distance 0 is open on both sides
        (HardPairs(), [(0, 0, True), (1, 2, True), (1, 1, False), (0, 1, False)]),
    ],
)
def test_a_row_that_is_a_reference_too_is_its_own_positive(miner: Any, tuples: list[tuple[Any, ...]]) -> None:
    rows, columns = torch.tensor([[4.0, 0.0], [4.0, 5.0]]), torch.tensor([[4.0, 0.0], [4.0, 3.0], [4.0, 5.0]])
    assert listed(miner(rows, torch.tensor([1, 2]), columns, torch.tensor([1, 3, 2]))) == tuples


@pytest.mark.parametrize("miner", [*(miner for miner, _ in MINERS[:4]), HardPairs(), DistanceWeighted()])
def test_with_offset_finds_the_same_rows_behind_the_embeddings(miner: Any) -> None:
    (rows, labels), (columns, others) = batch(0, 7), batch(1, 11)
    tuples = miner(rows, labels, columns, others)
    moved = tuples.with_offset(len(rows))
    assert type(moved) is type(tuples) and len(moved.anchor) > 0
    joined = torch.cat([rows, columns])
    assert torch.equal(joined[moved.anchor], rows[tuples.anchor])
    for theirs, place in list(zip(moved, tuples, strict=True))[1:]:
        if theirs.dtype == torch.int64:
            assert torch.equal(joined[theirs], columns[place])


@pytest.mark.parametrize(("ratio", "impostors"), [(0.01, 1), (0.5, 2), (0.75, 3), (1.0, 3), (1.01, 4), (100.0, 12)])
def test_the_number_of_impostors_is_rounded_up_and_at_most_all(ratio: float, impostors: int) -> None:
    pairs = HardPairs(ratio)(batch(0, 6)[0], torch.tensor([1, 2, 3, 1, 2, 3]))  # 3 genuine pairs, 12 of impostors
    assert pairs.same.tolist() == [True] * 3 + [False] * impostors


@pytest.mark.parametrize(
    ("make", "message"),
    [
        *((lambda ratio=ratio: HardPairs(ratio), f"ratio is {ratio},") for ratio in (0, -1.0, math.nan, math.inf)),
        *((lambda margin=margin: SemiHard(margin), f"margin is {margin},") for margin in (0.0, -0.5, math.nan)),
        *(
            (lambda kind=kind: kind("x"), "must be a number, got 'x'")
            for kind in (HardPairs, SemiHard, DistanceWeighted)
        ),
    ],
)
def test_settings_that_choose_nothing_are_refused_in_one_sentence(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        make()
    assert str(refusal.value).endswith(".") and ". " not in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("miner", [AllPairs(), BatchHard(), DistanceWeighted()])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((torch.zeros(3), torch.zeros(3).long()), r"shape \(3,\)"),
        ((torch.zeros(3, 2).long(), torch.zeros(3).long()), r"type torch\.int64"),
        ((torch.zeros(3, 2), torch.zeros(3)), r"type torch\.float32"),
        ((torch.zeros(3, 2), torch.zeros(2).long()), "3 embeddings came with 2 labels"),
        ((torch.full((3, 2), torch.nan), torch.zeros(3).long()), "NaN"),
        ((torch.zeros(3, 2), torch.tensor([0, 0, 1]), torch.zeros(2, 2)), "2 references came without reference_labels"),
    ],
)
def test_invalid_batches_are_refused(miner: Any, given: tuple[Tensor, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        miner(*given)
