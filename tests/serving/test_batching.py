from __future__ import annotations

import threading
from concurrent.futures import Future

import numpy as np
import pytest

from siamese_verify.serving.batching import Crops, Full, MicroBatcher, Rows

POISON = 255


def embed(crops: Crops) -> Rows:
    """Something that mixes every pixel of a crop, and fails on a crop that begins with POISON."""
    if (crops[:, 0, 0, 0] == POISON).any():
        raise ValueError("a bad crop")
    flat = crops.reshape(len(crops), -1).astype(np.float32)
    rows: Rows = flat @ np.random.default_rng(0).standard_normal((flat.shape[1], 5)).astype(np.float32)
    return rows


def crops(number: int, seed: int = 0) -> Crops:
    found = np.random.default_rng(seed).integers(0, 250, (number, 4, 4, 3))
    return found.astype(np.uint8)


class Gate:
    """An embedding that waits to be let through, so that jobs pile up behind the first."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.began, self.open = threading.Event(), threading.Event()

    def __call__(self, crops: Crops) -> Rows:
        self.began.set()
        assert self.open.wait(10)
        self.sizes.append(len(crops))
        return embed(crops)


def piled(gate: Gate, most: int, jobs: list[Crops], waiting: int = 99) -> tuple[MicroBatcher, list[Future[Rows]]]:
    """A batcher whose first job is under way while the others wait."""
    batcher = MicroBatcher(gate, most, 0.0, waiting)
    first = batcher.submit(jobs[0])
    assert gate.began.wait(10)
    return batcher, [first, *(batcher.submit(job) for job in jobs[1:])]


def test_results_are_those_of_one_by_one() -> None:
    gate, jobs = Gate(), [crops(1 + seed % 3, seed) for seed in range(20)]
    batcher, futures = piled(gate, 7, jobs)
    gate.open.set()
    for job, future in zip(jobs, futures, strict=True):
        np.testing.assert_allclose(future.result(10), embed(job), rtol=1e-5)
    batcher.close()


def test_waiting_requests_are_embedded_together_and_never_more_than_the_most() -> None:
    gate = Gate()
    batcher, futures = piled(gate, 4, [crops(1), *[crops(2)] * 4, crops(1)])
    gate.open.set()
    [future.result(10) for future in futures]
    batcher.close()
    assert gate.sizes == [1, 4, 4, 1]


def test_a_request_of_more_crops_than_a_batch_is_split() -> None:
    gate = Gate()
    gate.open.set()
    batcher = MicroBatcher(gate, 4)
    np.testing.assert_allclose(batcher.submit(crops(10)).result(10), embed(crops(10)), rtol=1e-5)
    batcher.close()
    assert gate.sizes == [4, 4, 2]


def test_a_request_waits_for_others_only_so_long() -> None:
    batcher = MicroBatcher(embed, 32, 0.01)
    assert batcher.submit(crops(1)).result(10).shape == (1, 5)
    batcher.close()


def test_an_error_of_one_request_fails_no_neighbour() -> None:
    bad = crops(1)
    bad[0, 0, 0, 0] = POISON
    gate = Gate()
    batcher, futures = piled(gate, 32, [crops(1, 1), crops(2, 2), bad, crops(1, 3)])
    gate.open.set()
    with pytest.raises(ValueError, match="a bad crop"):
        futures[2].result(10)
    for future, job in zip(futures[:2] + futures[3:], [crops(1, 1), crops(2, 2), crops(1, 3)], strict=True):
        np.testing.assert_allclose(future.result(10), embed(job), rtol=1e-5)
    batcher.close()


def test_a_request_of_another_size_fails_alone_or_not_at_all() -> None:
    gate = Gate()
    batcher, futures = piled(gate, 32, [crops(1), crops(1, 1), np.zeros((1, 2, 2, 3), np.uint8)])
    gate.open.set()
    assert futures[1].result(10).shape == futures[2].result(10).shape == (1, 5)
    batcher.close()


def test_a_cancelled_request_is_never_embedded() -> None:
    gate = Gate()
    batcher, futures = piled(gate, 32, [crops(1), crops(5), crops(2)])
    assert futures[1].cancel()
    gate.open.set()
    futures[2].result(10)
    batcher.close()
    assert gate.sizes == [1, 2]


def test_too_many_waiting_requests_are_refused() -> None:
    gate = Gate()
    batcher, futures = piled(gate, 32, [crops(1), crops(1), crops(1)], waiting=2)
    with pytest.raises(Full):
        batcher.submit(crops(1))
    gate.open.set()
    [future.result(10) for future in futures]
    batcher.close()


def test_closing_finishes_what_waits_and_takes_no_more() -> None:
    gate = Gate()
    batcher, futures = piled(gate, 2, [crops(1), crops(2), crops(2)])
    threading.Timer(0.05, gate.open.set).start()
    batcher.close()
    assert [len(future.result(0)) for future in futures] == [1, 2, 2]
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit(crops(1))
    batcher.close()


def test_many_threads_get_their_own_rows() -> None:
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


def test_batches_are_observed() -> None:
    seen: list[tuple[int, float]] = []
    batcher = MicroBatcher(embed, 4, observe=lambda faces, seconds: seen.append((faces, seconds)))
    batcher.submit(crops(3)).result(10)
    batcher.close()
    assert [faces for faces, _ in seen] == [3]
    assert seen[0][1] >= 0


def test_a_row_does_not_keep_the_batch_alive() -> None:
    gate = Gate()
    batcher, futures = piled(gate, 32, [crops(1), crops(1, 1), crops(1, 2)])
    gate.open.set()
    assert futures[1].result(10).base is None
    batcher.close()
