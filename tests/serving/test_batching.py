from __future__ import annotations

import threading
from concurrent.futures import Future

import numpy as np
import pytest

from siamese_verify.serving.batching import Crops, Embeddings, MicroBatcher, QueueFull

BAD = 255


def embed(crops: Crops) -> Embeddings:
    """A projection of every pixel, which fails on a crop that starts with BAD."""
    if (crops[:, 0, 0, 0] == BAD).any():
        raise ValueError("a bad crop")
    flat = crops.reshape(len(crops), -1).astype(np.float32)
    rows: Embeddings = flat @ np.random.default_rng(0).standard_normal((flat.shape[1], 5)).astype(np.float32)
    return rows


def crops(number: int, seed: int = 0) -> Crops:
    return np.random.default_rng(seed).integers(0, 250, (number, 4, 4, 3)).astype(np.uint8)


class Gate:
    """An embedding that waits until it is opened, so that jobs queue behind the first."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.started, self.open = threading.Event(), threading.Event()

    def __call__(self, crops: Crops) -> Embeddings:
        self.started.set()
        assert self.open.wait(10)
        self.sizes.append(len(crops))
        return embed(crops)


def queue(
    gate: Gate, max_batch: int, jobs: list[Crops], max_jobs: int = 99
) -> tuple[MicroBatcher, list[Future[Embeddings]]]:
    """A batcher whose first job is in progress while the others wait."""
    batcher = MicroBatcher(gate, max_batch, 0.0, max_jobs)
    first = batcher.submit(jobs[0])
    assert gate.started.wait(10)
    return batcher, [first, *(batcher.submit(job) for job in jobs[1:])]


def test_embeddings_are_those_of_one_by_one() -> None:
    gate, jobs = Gate(), [crops(1 + seed % 3, seed) for seed in range(20)]
    batcher, futures = queue(gate, 7, jobs)
    gate.open.set()
    for job, future in zip(jobs, futures, strict=True):
        np.testing.assert_allclose(future.result(10), embed(job), rtol=1e-5)
    assert futures[5].result().base is None  # it does not keep the other embeddings of its batch
    batcher.close()


@pytest.mark.parametrize(
    ("jobs", "sizes"),
    [
        ([1, 2, 2, 2, 2, 1], [1, 4, 4, 1]),  # waiting jobs are batched, up to 4 crops
        ([1, 10, 1], [1, 4, 4, 2, 1]),  # a larger job makes several batches
        ([1, 3, 2], [1, 3, 2]),  # a job is not split to fill a batch
    ],
)
def test_jobs_are_batched_up_to_the_limit(jobs: list[int], sizes: list[int]) -> None:
    gate = Gate()
    batcher, futures = queue(gate, 4, [crops(size) for size in jobs])
    gate.open.set()
    assert [len(future.result(10)) for future in futures] == jobs
    batcher.close()
    assert gate.sizes == sizes


def test_batch_waits_for_others_for_a_limited_time_and_is_observed() -> None:
    observed: list[tuple[int, float]] = []
    batcher = MicroBatcher(embed, 32, 0.01, observe=lambda faces, seconds: observed.append((faces, seconds)))
    assert batcher.submit(crops(3)).result(10).shape == (3, 5)
    batcher.close()
    [(faces, seconds)] = observed
    assert faces == 3
    assert seconds >= 0


def test_failure_of_one_job_fails_no_other() -> None:
    bad = crops(1)
    bad[0, 0, 0, 0] = BAD
    jobs = [crops(1, 1), crops(2, 2), bad, crops(1, 3), np.zeros((1, 2, 2, 3), np.uint8)]
    gate = Gate()
    batcher, futures = queue(gate, 32, jobs)
    gate.open.set()
    with pytest.raises(ValueError, match="a bad crop"):
        futures[2].result(10)
    for row in (0, 1, 3, 4):
        np.testing.assert_allclose(futures[row].result(10), embed(jobs[row]), rtol=1e-5)
    batcher.close()


def test_cancelled_job_is_never_embedded() -> None:
    gate = Gate()
    batcher, futures = queue(gate, 5, [crops(1), crops(5), crops(2)])
    assert futures[1].cancel()
    gate.open.set()
    futures[2].result(10)
    batcher.close()
    assert gate.sizes == [1, 2]


def test_too_many_waiting_jobs_are_refused() -> None:
    gate = Gate()
    batcher, futures = queue(gate, 32, [crops(1), crops(1), crops(1)], max_jobs=2)
    with pytest.raises(QueueFull):
        batcher.submit(crops(1))
    gate.open.set()
    [future.result(10) for future in futures]
    batcher.close()


def test_closing_finishes_what_waits_and_accepts_no_more() -> None:
    gate = Gate()
    batcher, futures = queue(gate, 2, [crops(1), crops(2), crops(2)])
    threading.Timer(0.05, gate.open.set).start()
    assert batcher.close()
    assert [len(future.result(0)) for future in futures] == [1, 2, 2]
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit(crops(1))
    assert batcher.close()


def test_threads_get_their_own_embeddings() -> None:
    batcher = MicroBatcher(embed, 8, 0.001)
    wrong: list[int] = []

    def ask(seed: int) -> None:
        for turn in range(20):
            job = crops(1 + turn % 3, 100 * seed + turn)
            if not np.allclose(batcher.submit(job).result(10), embed(job), rtol=1e-4):
                wrong.append(seed)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    batcher.close()
    assert not wrong
