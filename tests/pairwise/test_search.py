"""The search for the nearest impostor: whatever the tiles round to, exact distances decide."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from siamese_verify.miners import BatchHard, HardPairs, SemiHard
from siamese_verify.pairwise import blocks as tiles
from siamese_verify.pairwise import nearest as search
from siamese_verify.pairwise.nearest import Sets, check_sets, impostor_tiles, nearest_impostor

hard_pairs = importlib.import_module("siamese_verify.miners.hard_pairs")  # the package shows the function
GRID = 1 / 1024  # differences of such numbers, and sums of their squares, are exact in float32: ties are ties
DIMENSIONS = 8


def tight(kind: str, count: int, seed: int) -> Tensor:
    """Embeddings that differ by a thousandth of their length; `cross` has two centres, so that no shift helps."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.randint(-9, 10, (count, DIMENSIONS), generator=generator) * GRID
    side = torch.randint(2, (count, 1), generator=generator) * 2 - 1 if kind == "cross" else 1
    return small + 8.0 * side


def people(count: int, seed: int, identities: int = 4) -> Tensor:
    return torch.randint(identities, (count,), generator=torch.Generator().manual_seed(seed + 100))


def measured(row: list[float], column: list[float], squared: bool) -> float:
    distance = sum((a - b) ** 2 for a, b in zip(row, column, strict=True)) if squared else math.dist(row, column)
    return float(np.float32(distance))


def naive(
    sets: Sets, anchor: Tensor, inner: Tensor | None = None, outer: Tensor | None = None, squared: bool = False
) -> list[int]:
    rows, labels = sets.rows.tolist(), sets.labels.tolist()
    columns, others = sets.columns.tolist(), sets.column_labels.tolist()
    above = [-math.inf] * len(anchor) if inner is None else inner.tolist()
    below = [math.inf] * len(anchor) if outer is None else outer.tolist()
    chosen = []
    for a, low, high in zip(anchor.tolist(), above, below, strict=True):
        distance = {c: measured(rows[a], columns[c], squared) for c in range(len(columns)) if others[c] != labels[a]}
        within = {c: d for c, d in distance.items() if low < d < high}
        chosen.append(min(within, key=lambda c: within[c], default=-1))  # the first of equals
    return chosen


def naive_pairs(sets: Sets, ratio: float) -> list[list[int]]:
    """The impostors of HardPairs."""
    genuine, impostors = 0, []
    for i, row in enumerate(sets.rows.tolist()):
        for j in range(i + 1 if sets.itself else 0, len(sets.columns)):
            if sets.labels[i] == sets.column_labels[j]:
                genuine += 1
            else:
                impostors.append((math.dist(row, sets.columns[j].tolist()), i, j))
    return [[i, j] for _, i, j in sorted(impostors)[: math.ceil(ratio * genuine)]]


def mined_impostors(sets: Sets, ratio: float) -> list[list[int]]:
    references = {} if sets.itself else {"references": sets.columns, "reference_labels": sets.column_labels}
    pairs = HardPairs(ratio)(sets.rows, sets.labels, **references)
    return torch.stack(list(pairs[:2]), dim=1)[~pairs.same].tolist()


def sets_of(kind: str, references: bool) -> Sets:
    if references:
        return check_sets(tight(kind, 21, 0), people(21, 0), tight(kind, 34, 1), people(34, 1))
    return check_sets(tight(kind, 40, 2), people(40, 2), None, None)


def crowd(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tiles be measured at once from this share of candidates on, and little wait; below 0 they always are."""
    monkeypatch.setattr(search, "OFTEN", 1 if share < 0 else 8)
    monkeypatch.setattr(search, "CROWDED", share)
    monkeypatch.setattr(hard_pairs, "CROWDED", share)
    monkeypatch.setattr(hard_pairs, "WAITING", 0)


@pytest.mark.parametrize("expands", [True, False])
@pytest.mark.parametrize(("pending", "crowded"), [(1, 1.0), (1 << 20, 1.0), (1 << 20, -2.0)])
@pytest.mark.parametrize("side", [4, 16, 512])
@pytest.mark.parametrize("references", [False, True])
@pytest.mark.parametrize("kind", ["far", "cross"])
def test_what_the_tiles_cannot_tell_apart_exact_distances_decide(
    kind: str,
    references: bool,
    side: int,
    pending: int,
    crowded: float,
    expands: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sets = sets_of(kind, references)
    crowd(crowded, monkeypatch)
    anchor = torch.arange(len(sets.rows))
    monkeypatch.setattr(tiles, "SIDE", side)
    monkeypatch.setattr(search, "PENDING", pending)
    if not expands:
        monkeypatch.setattr(search, "expands", lambda rows: False)
    assert nearest_impostor(sets, anchor).tolist() == naive(sets, anchor)
    assert mined_impostors(sets, 0.5) == naive_pairs(sets, 0.5)
    rows = anchor[1::2].repeat_interleave(3)  # some ask not at all, some thrice
    inner = torch.arange(len(rows)) % 13 * 4 * GRID
    for squared in (False, True):
        width = (40 * GRID) ** 2 if squared else 8 * GRID
        low = inner.square() if squared else inner
        expected = naive(sets, rows, low, low + width, squared)
        assert nearest_impostor(sets, rows, low, low + width, squared).tolist() == expected
        assert -1 in expected and max(expected) > 0


@pytest.mark.parametrize("references", [False, True])
@pytest.mark.parametrize("kind", ["far", "cross"])
def test_a_matrix_product_alone_would_choose_wrongly(kind: str, references: bool) -> None:
    """Else the test above proves little."""
    sets = sets_of(kind, references)
    centre = sets.columns.mean(dim=0) if kind == "cross" else 0
    distance = torch.cdist(sets.rows - centre, sets.columns - centre, compute_mode="use_mm_for_euclid_dist")
    chosen = distance.masked_fill(sets.labels[:, None] == sets.column_labels, torch.inf).argmin(dim=1)
    nearest = sets.columns[naive(sets, torch.arange(len(sets.rows)))]
    assert int(((sets.rows - sets.columns[chosen]).norm(dim=1) > (sets.rows - nearest).norm(dim=1)).sum()) > 3


def test_bounds_are_open_and_hit_exactly() -> None:
    rows = torch.tensor([[0.0], [3.0], [-3.0], [4.0], [5.0]]) + 4096
    sets = check_sets(rows, torch.tensor([0, 1, 1, 1, 1]), None, None)
    for low, high, expected in [
        (None, None, 1),
        (2.5, 3.5, 1),
        (3.0, 5.0, 3),
        (3.0, 4.0, -1),
        (4.0, 5.5, 4),
        (5.0, 9.0, -1),
        (0.0, 3.0, -1),
    ]:
        inner, outer = (None if bound is None else torch.tensor([bound]) for bound in (low, high))
        assert nearest_impostor(sets, torch.tensor([0]), inner, outer).tolist() == [expected]
        inner, outer = (None if bound is None else bound.square() for bound in (inner, outer))
        assert nearest_impostor(sets, torch.tensor([0]), inner, outer, squared=True).tolist() == [expected]


@pytest.mark.parametrize("references", [False, True])
@pytest.mark.parametrize("kind", ["far", "cross"])
def test_tiles_hold_every_impostor_once_and_within_their_slack(
    kind: str, references: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "SIDE", 8)
    sets = sets_of(kind, references)
    seen = torch.zeros(len(sets.rows), len(sets.columns), dtype=torch.int64)
    exact = torch.cdist(sets.rows.double(), sets.columns.double(), compute_mode="donot_use_mm_for_euclid_dist") ** 2
    same = sets.labels[:, None] == sets.column_labels
    for tile in impostor_tiles(sets):
        place = (tile.rows, tile.columns)
        seen[place] += 1
        assert tile.squared.shape == exact[place].shape and max(tile.squared.shape) <= 8
        assert torch.equal(tile.squared == torch.inf, same[place])
        assert float((tile.squared - exact[place])[~same[place]].abs().max()) <= tile.slack
    expected = torch.ones_like(seen)
    assert torch.equal(seen if references else seen.triu(), expected if references else expected.triu())


@pytest.mark.parametrize("pending", [1, 1 << 20])
@pytest.mark.parametrize("side", [1, 4, 512])
def test_among_identical_embeddings_the_lowest_impostor_is_nearest(
    side: int, pending: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "SIDE", side)
    monkeypatch.setattr(search, "PENDING", pending)
    labels = torch.tensor([6, 6, 2, 6, 9, 2, 2, 9, 9, 6])
    sets = check_sets(torch.full((10, 5), 0.1), labels, None, None)
    assert nearest_impostor(sets, torch.arange(10)).tolist() == [2, 2, 0, 2, 0, 0, 0, 0, 0, 2]
    nothing = torch.zeros(10)
    assert nearest_impostor(sets, torch.arange(10), nothing, nothing + 1).tolist() == [-1] * 10  # 0 < distance


@pytest.mark.parametrize("miner", [BatchHard(), SemiHard(0.5), HardPairs(2)])
def test_the_layout_in_memory_does_not_matter(miner: BatchHard | SemiHard | HardPairs) -> None:
    wide = torch.randn(12, 40, generator=torch.Generator().manual_seed(0))
    for rows in (wide.T, wide.T.flip(0)[:, ::3], wide.T[1::2], wide[:, :1].expand(12, 6)):
        labels = people(len(rows), 0)
        strided, packed = (miner(each, labels) for each in (rows, rows.clone(memory_format=torch.contiguous_format)))
        assert [field.tolist() for field in strided] == [field.tolist() for field in packed] != [[], [], []]
        strided, packed = (
            miner(each, labels, each[3:], labels[3:])
            for each in (rows, rows.clone(memory_format=torch.contiguous_format))
        )
        assert [field.tolist() for field in strided] == [field.tolist() for field in packed]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_decided_as_exactly(dtype: torch.dtype) -> None:
    rows = (torch.randint(-9, 10, (30, 4), generator=torch.Generator().manual_seed(0)) / 8 + 8).to(dtype)
    sets = check_sets(rows, people(30, 0), None, None)
    anchor = torch.arange(30)
    assert nearest_impostor(sets, anchor).tolist() == naive(sets._replace(rows=rows.double()), anchor)
    assert mined_impostors(sets, 1.0) == naive_pairs(sets._replace(rows=rows.double()), 1.0)
    between = check_sets(rows[:9], people(9, 0), rows[9:].float(), people(21, 1))  # references of another type
    assert nearest_impostor(between, anchor[:9]).tolist() == naive(between, anchor[:9])


@pytest.mark.parametrize("seed", range(40))
def test_batches_of_any_shape_agree_with_a_naive_loop(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(seed)
    monkeypatch.setattr(tiles, "SIDE", int(random.choice([1, 3, 8, 512])))
    monkeypatch.setattr(search, "PENDING", int(random.choice([1, 20, 1 << 20])))
    crowd(float(random.choice([-20, 1 / 64])), monkeypatch)
    dimensions, scale, offset = int(random.integers(1, 7)), int(random.choice([1, 6, 40])), int(random.integers(0, 64))

    def draw(count: int) -> tuple[Tensor, Tensor]:
        rows = random.integers(-scale, scale + 1, (count, dimensions)) / 32 + offset
        labels = {
            "long tail": random.zipf(1.5, count) % 50,
            "all different": random.permutation(count) - 3,
            "one": np.full(count, 4),
            "few": random.integers(0, 3, count),
        }[str(random.choice(["long tail", "all different", "one", "few"]))]
        return torch.tensor(rows, dtype=torch.float32), torch.tensor(labels, dtype=torch.int64)

    rows, labels = draw(int(random.integers(1, 26)))
    references = draw(int(random.integers(1, 26))) if seed % 2 else (None, None)
    sets = check_sets(rows, labels, *references)
    anchor = torch.tensor(np.sort(random.integers(0, len(rows), int(random.integers(0, 30)))), dtype=torch.int64)
    assert nearest_impostor(sets, anchor).tolist() == naive(sets, anchor)
    inner = torch.tensor(random.integers(0, 2 * scale, len(anchor)) / 32, dtype=torch.float32)
    outer = inner + float(random.integers(1, scale + 1)) / 32
    for squared in (False, True):
        low, high = (inner.square(), outer.square()) if squared else (inner, outer)
        assert nearest_impostor(sets, anchor, low, high, squared).tolist() == naive(sets, anchor, low, high, squared)
    assert mined_impostors(sets, 0.5) == naive_pairs(sets, 0.5)
