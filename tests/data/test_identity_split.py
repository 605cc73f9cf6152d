"""split_by_identity: no identity is in two parts, and large ones do not decide a validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from siamese_verify.data import split_by_identity
from siamese_verify.datasets import lfw_people
from siamese_verify.errors import InputError
from siamese_verify.protocols import HeldOutShare

LFW = Path(__file__).resolve().parents[2].parent / "shared/data/lfw"


def shuffled(counts: list[int]) -> np.ndarray:
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("most", [2, 5, 100])
def test_identities_are_in_one_part_only_and_their_samples_are_limited(share: float, most: int, seed: int) -> None:
    counts = [7, 1, 2, 3, 1, 12, 2, 4, 1, 1, 5, 2, 9, 1, 2, 2]
    identities = shuffled(counts)
    split = split_by_identity(identities, share, most, seed)
    train, held_out = set(identities[split.train].tolist()), set(identities[split.validation].tolist())
    assert train.isdisjoint(held_out)
    assert train | held_out == set(range(len(counts)))
    for identity, count in enumerate(counts):
        assert (identities[split.train] == identity).sum() == (count if identity in train else 0)
        assert (identities[split.validation] == identity).sum() == (min(count, most) if identity in held_out else 0)
    assert all((np.diff(rows) > 0).all() for rows in split)
    repeated = {identity for identity, count in enumerate(counts) if count > 1}
    assert len(held_out & repeated) == max(2, round(share * len(repeated)))
    assert len(held_out - repeated) == round(share * (len(counts) - len(repeated)))


def test_the_split_depends_on_the_seed_alone() -> None:
    identities = np.repeat(np.arange(40), 3)
    first, again, other = (split_by_identity(identities, 0.2, 2, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.validation, again.validation)
    np.testing.assert_array_equal(first.train, again.train)
    assert first.validation.tolist() != other.validation.tolist()


def test_people_of_lfw_are_in_one_part_only() -> None:
    if not (LFW / "peopleDevTrain.txt").is_file():
        pytest.skip(f"LFW is not in {LFW}: see data/README.md")
    photos = lfw_people(LFW)
    split = split_by_identity(photos.identities, 0.1, 5, seed=0)
    train, held_out = ({photos.names[row].split("/")[0] for row in rows} for rows in split[:2])
    assert train.isdisjoint(held_out)
    assert len(train) + len(held_out) == 4038
    assert len(held_out) == pytest.approx(404, abs=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(({"share": share}, f"between 0 and 1, got {share}") for share in (0, 1, -0.1, 1.5, float("nan"))),
        ({"max_samples_per_identity": 1}, "2 or more photos of a held-out person, got 1"),
        ({"max_identities": 1}, "2 or more people held out, got 1"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    identities, settings = np.repeat(np.arange(9), 3), {"share": 0.3, "max_samples_per_identity": 5, "seed": 0}
    with pytest.raises(InputError, match=message):
        split_by_identity(identities, **settings | arguments)


@pytest.mark.parametrize("counts", [[], [9], [1, 1, 1, 1, 1, 1], [2, 2, 2], [5, 5, 5, 1, 1, 1]])
def test_too_few_people_are_counted(counts: list[int]) -> None:
    repeated = sum(count > 1 for count in counts)
    told = f"{sum(counts)} photos of {len(counts)} people, {repeated} of them with two photos"
    with pytest.raises(InputError, match=told):
        split_by_identity(shuffled(counts), 0.5, 5, 0)
    with pytest.raises(InputError, match=f"hold {repeated} people with two photos or more, but training, validation"):
        split_by_identity(shuffled(counts), 0.5, 5, 0, test=HeldOutShare())


def test_four_people_with_two_photos_are_enough() -> None:
    split = split_by_identity(np.repeat(np.arange(4), 2), 0.1, 5, 0)
    assert [len(rows) for rows in split] == [4, 4, 0]
