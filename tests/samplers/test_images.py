"""ImageSampler: each image once in an epoch, or a few of each person."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from siamese_verify.errors import InputError
from siamese_verify.samplers import images as images_module
from siamese_verify.samplers.images import ImageSampler

COUNTS = [4, 1, 2, 17, 1, 3]
IDENTITIES = np.random.default_rng(0).permutation(np.repeat(np.arange(len(COUNTS)) * 5 - 7, COUNTS))


def epoch_of(sampler: ImageSampler, epoch: int = 0) -> list[list[int]]:
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize("images", [2, 4, 5, 9, 27, 28])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("epoch", range(3))
def test_an_epoch_covers_each_image_once_and_fills_up_the_last_batches(
    images: int, world_size: int, epoch: int
) -> None:
    samplers = [ImageSampler(IDENTITIES, images, rank=rank, world_size=world_size) for rank in range(world_size)]
    batches = [batch for step in zip(*(epoch_of(one, epoch) for one in samplers), strict=True) for batch in step]
    assert len(batches) == math.ceil(math.ceil(28 / images) / world_size) * world_size
    assert all(len(rows) == len(set(rows)) == images for rows in batches)
    rows = [row for batch in batches for row in batch]
    assert sorted(rows[:28]) == list(range(28))
    times = Counter(rows).values()
    assert max(times) - min(times) <= 1


@pytest.mark.parametrize("block", [1, 5, 1000])
@pytest.mark.parametrize("cap", [1, 2, 3, 16, 17, 100])
@pytest.mark.parametrize("ordered", [False, True])
def test_a_cap_takes_a_few_images_of_each_person(
    cap: int, block: int, ordered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images_module, "BLOCK", block)
    identities = np.sort(IDENTITIES) if ordered else IDENTITIES
    size = sum(min(count, cap) for count in COUNTS)
    for epoch in range(3):
        rows = [row for batch in epoch_of(ImageSampler(identities, 2, cap), epoch) for row in batch]
        assert len(rows) == -(-size // 2) * 2
        assert len(set(rows)) == len(set(rows[:size])) == size
        drawn = Counter(identities[rows[:size]].tolist())
        assert drawn == {number * 5 - 7: min(count, cap) for number, count in enumerate(COUNTS)}


def test_a_cap_draws_evenly_and_anew_in_each_epoch() -> None:
    sampler = ImageSampler(IDENTITIES, 2, cap=4)
    largest = np.flatnonzero(IDENTITIES == 3 * 5 - 7).tolist()
    drawn: Counter[int] = Counter()
    for epoch in range(400):
        drawn.update({row for rows in epoch_of(sampler, epoch) for row in rows} & set(largest))
    assert drawn.total() == 4 * 400
    assert min(drawn[row] for row in largest) > 60  # of 94 each
    assert max(drawn.values()) < 130


def test_the_order_is_shuffled() -> None:
    sampler = ImageSampler(np.repeat(np.arange(100), 5), 10)
    first = np.array([epoch_of(sampler, epoch)[0] for epoch in range(60)])
    assert 210 < first.mean() < 290  # 249.5, and more than 6 standard deviations
    assert len(np.unique(first)) > 250


@pytest.mark.parametrize("batches", [1, 3, 20])
def test_as_many_batches_as_are_asked_for(batches: int) -> None:
    rows = [row for batch in ImageSampler(IDENTITIES, 5, batches=batches) for row in batch]
    assert len(rows) == 5 * batches
    times = [Counter(rows)[row] for row in range(28)]
    assert max(times) - min(times) <= 1


def test_one_person_is_enough() -> None:
    (rows,) = list(ImageSampler([7, 7, 7], 3))
    assert sorted(rows) == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 29}, "images is 29, but there are only 28 images: lower images"),
        ({"images": 10, "cap": 1}, "images is 10, but there are only 28 images, 6 with at most 1 of a person: lower"),
        ({"images": 1}, "images is 1, but must be a whole number of 2 or more"),
        ({"images": 5, "cap": 0}, "cap is 0"),
        ({"images": 2.5}, r"images is 2\.5"),
    ],
)
def test_batches_that_cannot_be_filled_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImageSampler(IDENTITIES, **arguments)
