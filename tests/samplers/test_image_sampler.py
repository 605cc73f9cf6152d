"""ImageSampler: every image once in a pass, or a few of each identity."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from siamese_verify.errors import InputError
from siamese_verify.samplers import ImageSampler

COUNTS = [4, 1, 2, 17, 1, 3]
IDENTITIES = np.random.default_rng(0).permutation(np.repeat(np.arange(len(COUNTS)), COUNTS))


def epoch_of(sampler: ImageSampler, epoch: int = 0) -> list[list[int]]:
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize("images", [2, 5, 9, 27, 28])
@pytest.mark.parametrize("epoch", range(2))
def test_a_pass_shows_each_image_once_and_fills_its_last_batch(images: int, epoch: int) -> None:
    batches = epoch_of(ImageSampler(IDENTITIES, images), epoch)
    assert len(batches) == math.ceil(28 / images)
    assert all(len(rows) == len(set(rows)) == images for rows in batches)
    rows = [row for batch in batches for row in batch]
    assert sorted(rows[:28]) == list(range(28))
    assert max(Counter(rows).values()) <= 2


@pytest.mark.parametrize("limit", [1, 2, 3, 16, 17, 100])
def test_a_limit_takes_a_few_images_of_each_identity(limit: int) -> None:
    counts = {identity: min(count, limit) for identity, count in enumerate(COUNTS)}
    size = sum(counts.values())
    rows = [row for batch in epoch_of(ImageSampler(IDENTITIES, 2, limit)) for row in batch]
    assert len(rows) == -(-size // 2) * 2
    assert len(set(rows[:size])) == size
    assert Counter(IDENTITIES[rows[:size]].tolist()) == counts


def test_limited_images_are_drawn_evenly_and_anew_in_each_epoch() -> None:
    sampler = ImageSampler(IDENTITIES, 2, max_samples_per_identity=4)
    largest = np.flatnonzero(IDENTITIES == 3).tolist()
    drawn: Counter[int] = Counter()
    for epoch in range(400):
        drawn.update({row for rows in epoch_of(sampler, epoch) for row in rows} & set(largest))
    assert drawn.total() == 4 * 400
    assert min(drawn[row] for row in largest) > 60  # of 94 each
    assert max(drawn.values()) < 130


def test_the_order_is_shuffled_anew_in_each_pass() -> None:
    sampler = ImageSampler(np.repeat(np.arange(100), 5), 10, batches=100)
    batches = epoch_of(sampler)
    assert sorted(row for rows in batches[50:] for row in rows) == list(range(500))
    assert batches[:50] != batches[50:]
    first = np.array([epoch_of(sampler, epoch)[0] for epoch in range(60)])
    assert 210 < first.mean() < 290  # 249.5, and more than 6 standard deviations
    assert len(np.unique(first)) > 250


def test_images_of_one_identity_are_enough() -> None:
    (rows,) = list(ImageSampler([7, 7, 7], 3))
    assert sorted(rows) == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 29}, "images is 29, but there are only 28 images: lower it"),
        (
            {"images": 10, "max_samples_per_identity": 1},
            "images is 10, but there are only 28 images, 6 with at most 1 of an identity: lower it",
        ),
        ({"images": 1}, "images must be a whole number of 2 or more, got 1"),
        ({"images": 2.5}, r"images must be .*, got 2\.5"),
        ({"images": 5, "max_samples_per_identity": 0}, "max_samples_per_identity must be .*, got 0"),
    ],
)
def test_batches_that_cannot_be_filled_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImageSampler(IDENTITIES, **arguments)
