"""Every sampler: what an epoch is, how ranks share it, and where a stopped run continues."""

from __future__ import annotations

import io
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch

from siamese_verify.errors import InputError
from siamese_verify.samplers import (
    HardMiningSampler,
    IdentityBatchSampler,
    ImageSampler,
    PairSampler,
    TripletSampler,
    TupleBatch,
)
from siamese_verify.samplers.epoch import EpochSampler, IdentityIndex

COUNTS = [3, 1, 2, 5, 1, 6, 2, 1, 4, 1, 2, 1, 7, 3, 1, 2, 1, 4]
IDENTITIES = np.random.default_rng(0).permutation(np.repeat(np.arange(len(COUNTS)) * 10 - 40, COUNTS))

KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "identity": (IdentityBatchSampler, {"identities_per_batch": 3, "samples_per_identity": 2}),
    "identity, all samples": (
        IdentityBatchSampler,
        {"identities_per_batch": 3, "samples_per_identity": 2, "visits_per_epoch": None},
    ),
    "hard": (HardMiningSampler, {"identities_per_batch": 4, "samples_per_identity": 2}),
    "pairs": (PairSampler, {"pairs": 4}),
    "pairs, weighted": (PairSampler, {"pairs": 4, "weight": 0.5}),
    "triplets": (TripletSampler, {"triplets": 4}),
    "images": (ImageSampler, {"images": 5}),
    "images, limited": (ImageSampler, {"images": 5, "max_samples_per_identity": 2}),
}
EACH = pytest.mark.parametrize("kind", KINDS)


def make(kind: str, epoch: int = 0, start: int = 0, **arguments: Any) -> EpochSampler[Any]:
    cls, settings = KINDS[kind]
    sampler: EpochSampler[Any] = cls(IDENTITIES, **settings | arguments)
    if isinstance(sampler, HardMiningSampler):
        sampler.update(torch.randn(len(IDENTITIES), 6, generator=torch.Generator().manual_seed(1)))
    sampler.resume(epoch, start)
    return sampler


def batches_of(sampler: EpochSampler[Any]) -> list[list[int]]:
    batches = [batch.rows if isinstance(batch, TupleBatch) else batch for batch in sampler]
    assert all(type(row) is int for rows in batches for row in rows)
    return batches


@EACH
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batches", [None, 1, 12, 13])
def test_ranks_share_the_batches_of_one_process(kind: str, world_size: int, batches: int | None) -> None:
    samplers = [make(kind, 2, batches=batches, rank=rank, world_size=world_size) for rank in range(world_size)]
    each = -(-len(make(kind, batches=batches)) // world_size)
    ranks = [batches_of(sampler) for sampler in samplers]
    assert [len(rows) for rows in ranks] == [len(sampler) for sampler in samplers] == [each] * world_size
    alone = batches_of(make(kind, 2, batches=each * world_size))
    assert [batch for step in zip(*ranks, strict=True) for batch in step] == alone
    assert len({tuple(rows) for rows in alone}) == len(alone)


@EACH
def test_batches_depend_on_seed_and_epoch_alone(kind: str) -> None:
    sampler = make(kind, epoch=2, seed=3)
    first = batches_of(sampler)
    assert first == batches_of(sampler) == batches_of(make(kind, epoch=2, seed=3))
    for epoch, seed in [(2, 4), (3, 3), (3, 2)]:
        assert first != batches_of(make(kind, epoch=epoch, seed=seed))
    sampler.set_epoch(3)
    assert batches_of(sampler) == batches_of(make(kind, epoch=3, seed=3))


@EACH
@pytest.mark.parametrize("world_size", [1, 3])
def test_a_resumed_epoch_has_the_batches_that_are_left(kind: str, world_size: int) -> None:
    ranks = {"rank": world_size - 1, "world_size": world_size, "batches": 10}
    whole = batches_of(make(kind, 3, **ranks))
    for start in range(len(whole) + 1):
        resumed = make(kind, 3, start, **ranks)
        resumed.set_epoch(3)  # as a trainer does before each epoch
        assert batches_of(resumed) == whole[start:]
        assert len(resumed) == len(whole)
    resumed.set_epoch(4)
    assert batches_of(resumed) == batches_of(make(kind, 4, **ranks))


@EACH
def test_a_saved_sampler_continues_in_a_new_one(kind: str) -> None:
    cls, settings = KINDS[kind]
    saved, new = make(kind, 2, 1, seed=4), cls(IDENTITIES, **settings)
    file = io.BytesIO()
    torch.save(saved.state_dict(), file)
    file.seek(0)
    new.load_state_dict(torch.load(file, weights_only=True))
    assert batches_of(new) == batches_of(saved)
    for sampler in (new, saved):
        sampler.set_epoch(7)
    assert batches_of(new) == batches_of(saved)


@EACH
def test_a_state_of_other_rows_or_of_the_middle_of_another_epoch_is_refused(kind: str) -> None:
    cls, settings = KINDS[kind]
    with pytest.raises(InputError, match="chose among 48 rows, but there are 47 now: resume with the photos"):
        make(kind).load_state_dict(cls(np.append(IDENTITIES, 0), **settings).state_dict())
    two, one = make(kind, 1, 1, batches=4, world_size=2), make(kind, batches=4)
    with pytest.raises(InputError, match="an epoch of 4 batches on 2 ranks, but now there are 4 on 1: resume with"):
        one.load_state_dict(two.state_dict())
    two.resume(1, 0)
    one.load_state_dict(two.state_dict())
    assert batches_of(one) == batches_of(make(kind, 1, batches=4))


@EACH
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batches": 0}, "batches must be a whole number of 1 or more, got 0"),
        ({"batches": 1.5}, r"batches must be .*, got 1\.5"),
        ({"seed": -1}, "seed must be .*, got -1"),
        ({"rank": 2, "world_size": 2}, r"rank must be in 0 \.\.\. 1 for a world size of 2, got 2"),
        ({"rank": -1}, "rank must be .*, got -1"),
        ({"world_size": 0}, "world_size must be .*, got 0"),
        ({"identities": [0.5, 1.5]}, "identities must be one integer for each row, got .* float64"),
        ({"identities": [[0, 0], [1, 1]]}, r"shape \(2, 2\)"),
    ],
)
def test_arguments_out_of_range_are_refused(kind: str, arguments: dict[str, Any], message: str) -> None:
    cls, settings = KINDS[kind]
    with pytest.raises(InputError, match=message):
        cls(**{"identities": IDENTITIES} | settings | arguments)


@pytest.mark.parametrize(
    ("epoch", "start", "message"),
    [(-1, 0, "epoch must be .* -1"), (0, -1, "start must be .* -1"), (0, 5, "start must be at most 4, .* got 5")],
)
def test_an_epoch_or_start_out_of_range_is_refused(epoch: int, start: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make("pairs", batches=8, world_size=2).resume(epoch, start)


@EACH
def test_a_million_photos_take_tens_of_bytes_each(kind: str) -> None:
    cls, settings = KINDS[kind]
    counts = np.random.default_rng(0).zipf(1.7, 100_000).clip(max=2000)
    identities = np.random.default_rng(1).permutation(np.repeat(np.arange(100_000), counts))[:1_000_000]
    assert len(identities) > 700_000
    tracemalloc.start()
    sampler = cls(identities, **settings)
    built, _ = tracemalloc.get_traced_memory()
    batches = iter(sampler)
    for _ in range(10):
        next(batches)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert built < 12 * len(identities)
    assert peak < 60 * len(identities)


@pytest.mark.parametrize(
    "identities",
    [
        np.repeat([-40, -3, 0, 7, 2**40], [3, 1, 2, 5, 1]),
        np.random.default_rng(0).permutation(np.repeat([-40, -3, 0, 7, 2**40], [3, 1, 2, 5, 1])),
        np.array([200, 3, 200, 255], dtype=np.uint8),
        np.array([4, 4, 4]),
        np.zeros(0, dtype=np.int64),
    ],
    ids=["sorted", "unsorted", "unsigned", "one identity", "none"],
)
def test_an_index_knows_the_rows_of_each_identity(identities: np.ndarray) -> None:
    index = IdentityIndex(identities)
    assert index.identities.tolist() == sorted(set(identities.tolist()))
    assert index.identities[index.numbers()].tolist() == identities.tolist()
    for number, identity in enumerate(index.identities):
        rows = np.flatnonzero(identities == identity)
        assert index.counts[number] == len(rows)
        assert index.rows(number, np.arange(len(rows))).tolist() == rows.tolist()
