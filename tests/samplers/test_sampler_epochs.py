"""Every sampler: what an epoch is, how ranks share it, and where a run that stopped goes on."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from siamese_verify.errors import InputError
from siamese_verify.samplers import HardMiningSampler, IdentityBatchSampler
from siamese_verify.samplers.epoch import EpochSampler
from siamese_verify.samplers.images import ImageSampler
from siamese_verify.samplers.tuples import PairSampler, TripletSampler

COUNTS = [3, 1, 2, 5, 1, 6, 2, 1, 4, 1, 2, 1, 7, 3, 1, 2, 1, 4]
IDENTITIES = np.random.default_rng(0).permutation(np.repeat(np.arange(len(COUNTS)) * 10 - 40, COUNTS))

KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "identity": (IdentityBatchSampler, {"people": 3, "photos": 2, "singles": 2}),
    "identity, by photos": (IdentityBatchSampler, {"people": 3, "photos": 2, "turns": "photos", "cap": 4}),
    "hard": (HardMiningSampler, {"people": 3, "photos": 2, "singles": 1}),
    "hard, by photos": (HardMiningSampler, {"people": 3, "photos": 2, "turns": "photos"}),
    "pairs": (PairSampler, {"pairs": 4}),
    "pairs, weighted": (PairSampler, {"pairs": 4, "weight": 0.5}),
    "triplets": (TripletSampler, {"triplets": 4}),
    "images": (ImageSampler, {"images": 5}),
    "images, capped": (ImageSampler, {"images": 5, "cap": 2}),
}
EACH = pytest.mark.parametrize("kind", KINDS)


def make(kind: str, epoch: int = 0, start: int = 0, **arguments: Any) -> EpochSampler[Any]:
    cls, settings = KINDS[kind]
    sampler: EpochSampler[Any] = cls(IDENTITIES, **settings | arguments)
    if isinstance(sampler, HardMiningSampler):
        sampler.update(torch.randn(len(IDENTITIES), 6, generator=torch.Generator().manual_seed(1)))
    sampler.set_epoch(epoch, start)
    return sampler


def rows_of(sampler: EpochSampler[Any]) -> list[list[int]]:
    batches = [batch if isinstance(batch, list) else batch.rows for batch in sampler]
    assert all(type(row) is int for rows in batches for row in rows)
    return batches


@EACH
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("batches", [1, 12, 13, 30])
def test_ranks_share_out_what_one_process_would_draw(kind: str, world_size: int, batches: int) -> None:
    samplers = [make(kind, 2, batches=batches, rank=rank, world_size=world_size) for rank in range(world_size)]
    each = -(-batches // world_size)
    assert [len(sampler) for sampler in samplers] == [each] * world_size
    ranks = [rows_of(sampler) for sampler in samplers]
    assert [len(rows) for rows in ranks] == [each] * world_size
    alone = rows_of(make(kind, 2, batches=each * world_size))
    assert [batch for step in zip(*ranks, strict=True) for batch in step] == alone
    positions = [position for sampler in samplers for position in sampler.positions()]
    assert sorted(positions) == list(range(each * world_size))
    assert len({tuple(rows) for rows in alone}) == len(alone)


@EACH
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_an_epoch_of_its_own_length_is_shared_out_too(kind: str, world_size: int) -> None:
    one = len(make(kind))
    samplers = [make(kind, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert {len(sampler) for sampler in samplers} == {len(rows_of(sampler)) for sampler in samplers}
    assert {len(sampler) for sampler in samplers} == {-(-one // world_size)}


@EACH
def test_equal_seeds_and_epochs_draw_the_same_and_others_do_not(kind: str) -> None:
    sampler = make(kind, epoch=2, seed=3)
    first = rows_of(sampler)
    assert first == rows_of(sampler) == rows_of(make(kind, epoch=2, seed=3))
    for epoch, seed in [(2, 4), (3, 3), (3, 2)]:
        assert first != rows_of(make(kind, epoch=epoch, seed=seed))
    sampler.set_epoch(3)
    assert rows_of(sampler) == rows_of(make(kind, epoch=3, seed=3))
    sampler.set_epoch(2)
    assert rows_of(sampler) == first


@EACH
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_a_run_that_stopped_within_an_epoch_draws_the_rest(kind: str, world_size: int) -> None:
    ranks = {"rank": world_size - 1, "world_size": world_size, "batches": 10}
    whole = rows_of(make(kind, 3, **ranks))
    for start in range(len(whole) + 1):
        resumed = make(kind, 3, start, **ranks)
        assert rows_of(resumed) == whole[start:]
        assert len(resumed) == len(whole)
    resumed.set_epoch(3)
    assert rows_of(resumed) == whole


@EACH
def test_a_saved_sampler_goes_on_in_a_fresh_one(kind: str) -> None:
    cls, settings = KINDS[kind]
    saved, fresh = make(kind, 2, 1, seed=4), cls(IDENTITIES, **settings)
    file = io.BytesIO()
    torch.save(saved.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert rows_of(fresh) == rows_of(saved)
    fresh.set_epoch(7)
    saved.set_epoch(7)
    assert rows_of(fresh) == rows_of(saved)


@EACH
def test_a_state_of_other_photos_is_refused(kind: str) -> None:
    cls, settings = KINDS[kind]
    other = cls(np.append(IDENTITIES, 0), **settings)
    with pytest.raises(InputError, match="drew from 48 rows, but there are 47 now: resume on"):
        make(kind).load_state_dict(other.state_dict())


@EACH
def test_the_middle_of_an_epoch_cannot_be_found_on_another_number_of_ranks(kind: str) -> None:
    two = make(kind, 1, 1, batches=4, world_size=2)
    one = make(kind, batches=4)
    with pytest.raises(InputError, match="an epoch of 4 batches on 2 ranks, but now there are 4 on 1: resume with"):
        one.load_state_dict(two.state_dict())
    two.set_epoch(1)
    one.load_state_dict(two.state_dict())
    assert rows_of(one) == rows_of(make(kind, 1, batches=4))


@EACH
@pytest.mark.parametrize(
    ("epoch", "start", "message"),
    [(-1, 0, "epoch is -1"), (0, -1, "start is -1"), (0, 5, "start is 5, but an epoch has 4 batches on each rank")],
)
def test_an_epoch_that_is_none_is_refused(kind: str, epoch: int, start: int, message: str) -> None:
    sampler = make(kind, batches=8, world_size=2)
    with pytest.raises(InputError, match=message):
        sampler.set_epoch(epoch, start)


@EACH
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batches": 0}, "batches is 0, but must be a whole number of 1 or more"),
        ({"batches": 1.5}, r"batches is 1\.5"),
        ({"seed": -1}, "seed is -1"),
        ({"rank": 2, "world_size": 2}, r"rank is 2, but must be in 0 \.\.\. 1 for a world size of 2"),
        ({"rank": -1}, "rank is -1"),
        ({"world_size": 0}, "world_size is 0"),
        ({"identities": [0.5, 1.5]}, "identities must be one integer for each row, but have shape"),
        ({"identities": [[0, 0], [1, 1]]}, r"shape \(2, 2\)"),
    ],
)
def test_settings_that_make_no_epoch_are_refused(kind: str, arguments: dict[str, Any], message: str) -> None:
    cls, settings = KINDS[kind]
    with pytest.raises(InputError, match=message):
        cls(**{"identities": IDENTITIES} | settings | arguments)


@EACH
def test_rows_that_lie_together_are_sampled_by_the_same_rules(kind: str) -> None:
    """In order or not, an epoch shows each person as often: rows are numbered differently, that is all."""
    cls, settings = KINDS[kind]
    order = np.argsort(IDENTITIES, kind="stable")
    together, apart = cls(IDENTITIES[order], **settings), cls(IDENTITIES, **settings)
    renamed = [[int(order[row]) for row in rows] for rows in rows_of(together)]
    if kind == "images":  # drawn by row, whoever is on it
        assert Counter(row for rows in renamed for row in rows).keys() == set(range(len(IDENTITIES)))
    elif kind == "images, capped":
        assert Counter(map(len, renamed)) == Counter(map(len, rows_of(apart)))
    else:
        assert renamed == rows_of(apart)
