"""DistanceWeighted against the density of distances on the sphere."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.miners import DistanceWeighted
from siamese_verify.miners.distance_weighted import log_density
from siamese_verify.structures import Triplets

COPIES = 120  # of one photo: 14,280 ordered genuine pairs draw from the same negatives
NEAR_AND_FAR = [0.1, 0.3, 0.55, 0.7, 0.9, 1.1, 1.3, 1.39, 1.41, 1.7]


def listed(triplets: Triplets) -> list[list[int]]:
    return torch.stack(list(triplets), dim=1).tolist()


def placed(distances: list[float], dimensions: int) -> Tensor:
    """Points of the sphere at given distances from its pole, the first axis."""
    angle = 2 * torch.tensor(distances, dtype=torch.float64).div(2).arcsin()
    points = torch.zeros(len(distances), dimensions, dtype=torch.float64)
    points[:, 0], points[:, 1] = angle.cos(), angle.sin()
    return points.float()


def draws(miner: DistanceWeighted, distances: list[float], dimensions: int, references: bool) -> np.ndarray:
    """How often each of the negatives at these distances was drawn by the pole."""
    people = placed([0.0] * COPIES + distances, dimensions)
    labels = torch.cat([torch.zeros(COPIES, dtype=torch.int64), torch.arange(len(distances)) + 1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        drawn = miner(people[:COPIES], labels[:COPIES], people, labels) if references else miner(people, labels)
    assert len(drawn.anchor) == COPIES * (COPIES - (not references))
    assert int(drawn.negative.min()) >= COPIES
    return np.bincount(drawn.negative.numpy() - COPIES, minlength=len(distances))


def density(distance: np.ndarray, dimensions: int) -> np.ndarray:
    """Of the distance between two random points: (1 + cosine) / 2 = 1 - d^2 / 4 has a symmetric beta distribution."""
    shape = (dimensions - 1) / 2
    return np.asarray(stats.beta.pdf(1 - distance**2 / 4, shape, shape) * distance / 2)


def batch(count: int = 24, dimensions: int = 6, identities: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(identities, (count,), generator=generator)
    return torch.randn(count, dimensions, generator=generator), labels


def genuine(labels: Tensor, columns: Tensor | None = None) -> list[list[int]]:
    others = labels if columns is None else columns
    return [
        [a, p]
        for a, mine in enumerate(labels.tolist())
        for p, theirs in enumerate(others.tolist())
        if mine == theirs and not (columns is None and a == p)
    ]


@pytest.mark.parametrize("dimensions", [2, 3, 4, 16, 512])
def test_the_density_is_that_of_the_sphere(dimensions: int) -> None:
    distance = np.linspace(0.05, 1.95, 20)
    shape = (dimensions - 1) / 2
    expected = stats.beta.logpdf(1 - distance**2 / 4, shape, shape) + np.log(distance)
    constant = log_density(torch.from_numpy(distance), dimensions).numpy() - expected
    np.testing.assert_allclose(constant, constant[0], rtol=1e-9)


@pytest.mark.parametrize("references", [False, True])
@pytest.mark.parametrize(
    ("dimensions", "distances", "cutoff", "farthest"),
    [
        (2, NEAR_AND_FAR, 0.5, 1.4),
        (3, NEAR_AND_FAR, 0.5, 1.4),
        (8, NEAR_AND_FAR, 0.5, 1.4),
        (5, NEAR_AND_FAR, 0.2, 1.2),
        (8, [0.5, 0.6, 1.2, 1.8, 1.9, 1.95], 0.5, math.inf),  # beyond sqrt(2) distances become rare again
        (2, [0.5, 1.2, 1.8, 1.95], 0.5, 3.0),  # but not on a circle
        (512, [1.3, 1.302, 1.304, 1.306, 1.308, 1.31, 1.5], 0.5, 1.4),
    ],
)
def test_negatives_are_drawn_inversely_to_the_density_of_their_distance(
    dimensions: int, distances: list[float], cutoff: float, farthest: float, references: bool
) -> None:
    observed = draws(DistanceWeighted(cutoff, farthest), distances, dimensions, references)
    within = np.array(distances) < farthest
    assert observed[~within].sum() == 0
    weight = 1 / density(np.maximum(np.array(distances)[within], cutoff), dimensions)
    expected = weight / weight.sum() * observed.sum()
    assert expected.min() > 5  # the chi-square test asks for it
    assert stats.chisquare(observed[within], expected).pvalue > 1e-3


def test_an_anchor_with_nobody_near_draws_any_evenly() -> None:
    observed = draws(DistanceWeighted(farthest=1.0), [1.0001, 1.2, 1.5, 1.9, 2.0], 8, False)
    assert stats.chisquare(observed).pvalue > 1e-3


def test_a_negative_at_the_border_is_not_drawn() -> None:
    assert draws(DistanceWeighted(farthest=2.0), [1.9, 2.0], 8, False).tolist() == [COPIES * (COPIES - 1), 0]


def test_in_512_dimensions_the_nearest_is_drawn_and_nothing_overflows() -> None:
    observed = draws(DistanceWeighted(), [0.6, 0.8, 1.0, 1.3], 512, False)  # e^140 times as likely as the second
    assert observed.tolist() == [COPIES * (COPIES - 1), 0, 0, 0]
    embeddings, labels = batch(40, 512)
    drawn = DistanceWeighted(cutoff=0.01, farthest=2.0)(embeddings, labels)
    assert torch.stack(drawn[:2], dim=1).tolist() == genuine(labels)
    assert not bool((labels[drawn.anchor] == labels[drawn.negative]).any())


@pytest.mark.parametrize("numbers", [1, 64, 1 << 20])  # distances held at once
def test_each_genuine_pair_draws_once_in_order(numbers: int) -> None:
    embeddings, labels = batch()
    whole = listed(DistanceWeighted(generator=torch.Generator().manual_seed(7))(embeddings, labels))
    generator = torch.Generator().manual_seed(7)
    miner = DistanceWeighted(generator=generator)
    miner.numbers = numbers
    drawn = miner(embeddings, labels)
    assert [triplet[:2] for triplet in listed(drawn)] == genuine(labels)
    assert listed(drawn) == whole
    after = torch.Generator().manual_seed(7)
    torch.rand(len(genuine(labels)), dtype=torch.float64, generator=after)  # one number a pair
    assert torch.equal(generator.get_state(), after.get_state())
    assert [field.dtype for field in drawn] == [torch.int64] * 3


@pytest.mark.parametrize("numbers", [1, 64, 1 << 20])  # distances held at once
def test_among_references_negatives_are_other_people_within_reach(numbers: int) -> None:
    (rows, labels), (columns, others) = batch(9), batch(31, seed=1)
    miner = DistanceWeighted(farthest=1.2)
    miner.numbers = numbers
    drawn = miner(rows, labels, columns, others)
    assert torch.stack(drawn[:2], dim=1).tolist() == genuine(labels, others)
    assert not bool((labels[drawn.anchor] == others[drawn.negative]).any())
    unit_rows, unit_columns = (torch.nn.functional.normalize(side) for side in (rows, columns))
    distance = torch.cdist(unit_rows.double(), unit_columns.double())
    reachable = ((distance < 1.2) & (labels[:, None] != others)).any(dim=1)[drawn.anchor]
    assert int(reachable.sum()) > 0
    assert float(distance[drawn.anchor, drawn.negative][reachable].max()) < 1.2


def test_a_seed_repeats_its_draw_and_another_draws_otherwise() -> None:
    drawn = []
    with torch.random.fork_rng(devices=[]):
        for seed in (3, 3, 4):
            torch.manual_seed(seed)
            drawn.append(listed(DistanceWeighted()(*batch())))
            if seed == 3 and len(drawn) == 1:
                assert listed(DistanceWeighted()(*batch())) != drawn[0]  # the generator has moved on
    assert drawn[0] == drawn[1] != drawn[2]


def test_lengths_of_embeddings_do_not_matter() -> None:
    embeddings, labels = batch()
    stretched = embeddings * 2.0 ** (torch.arange(len(labels)) % 7 - 3)[:, None]
    first, second = (
        DistanceWeighted(generator=torch.Generator().manual_seed(0))(rows, labels) for rows in (embeddings, stretched)
    )
    assert listed(first) == listed(second)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_draw_as_single_does(dtype: torch.dtype) -> None:
    embeddings, labels = batch()
    rounded = embeddings.bfloat16().to(dtype)  # bfloat16 has fewer digits than any
    first, second = (
        DistanceWeighted(generator=torch.Generator().manual_seed(0))(rows, labels)
        for rows in (rounded, rounded.float())
    )
    assert listed(first) == listed(second)


@pytest.mark.parametrize("labels", [[], [3], [3, 3, 3], [1, 2, 3]], ids=["none", "one", "no negative", "no positive"])
def test_a_batch_without_triplets_gives_none(labels: list[int]) -> None:
    triplets = DistanceWeighted()(torch.ones(len(labels), 2), torch.tensor(labels, dtype=torch.int64))
    assert [field.tolist() for field in triplets] == [[], [], []]
    assert [field.dtype for field in triplets] == [torch.int64] * 3


def test_identical_embeddings_draw_evenly() -> None:
    observed = draws(DistanceWeighted(), [0.0] * 6, 4, False)
    assert stats.chisquare(observed).pvalue > 1e-3


def test_without_references_nothing_is_drawn() -> None:
    drawn = DistanceWeighted()(*batch(), torch.zeros(0, 6), torch.zeros(0, dtype=torch.int64))
    assert listed(drawn) == []


def test_anchors_without_a_negative_are_left_out_and_no_one_else() -> None:
    rows, columns = torch.randn(3, 4), torch.randn(4, 4)
    alone = DistanceWeighted()(rows, torch.tensor([5, 6, 5]), columns, torch.tensor([5, 5, 5, 5]))
    assert len(alone.anchor) == 0
    some = DistanceWeighted()(rows, torch.tensor([5, 6, 7]), columns, torch.tensor([5, 6, 5, 5]))
    assert torch.stack(some[:2], dim=1).tolist() == [[0, 0], [0, 2], [0, 3], [1, 1]]


@pytest.mark.parametrize("dimensions", [0, 1])
def test_a_sphere_needs_two_dimensions(dimensions: int) -> None:
    with pytest.raises(InputError, match=f"embeddings have {dimensions} dimension"):
        DistanceWeighted()(torch.ones(4, dimensions), torch.arange(4) % 2)


@pytest.mark.parametrize(
    ("cutoff", "farthest", "message"),
    [
        (0.0, 1.4, "cutoff is 0.0"),
        (-0.5, 1.4, "cutoff is -0.5"),
        (2.0, 3.0, "cutoff is 2.0"),
        (math.nan, 1.4, "cutoff is nan"),
        (0.5, 0.5, "farthest is 0.5"),
        (0.5, 0.1, "farthest is 0.1"),
        (0.5, math.nan, "farthest is nan"),
    ],
)
def test_distances_that_leave_nothing_are_refused_in_one_sentence(cutoff: float, farthest: float, message: str) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        DistanceWeighted(cutoff, farthest)
    assert str(refusal.value).endswith(".") and ". " not in str(refusal.value)
