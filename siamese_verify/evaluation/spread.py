"""A look at all pairs, spread over threads, processes and ranks."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from threading import Lock
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from siamese_verify.evaluation.impostor_tally import ImpostorTally, Look
    from siamese_verify.evaluation.pair_blocks import Block, PairBlocks


def spread(
    blocks: PairBlocks,
    look: Look,
    processes: int,
    place: tuple[int, int],
    title: str,
) -> ImpostorTally:
    """Look at the blocks of one rank, in the threads of this process or of others.

    Args:
        blocks: of all pairs.
        look: what to count.
        processes: how many.
        place: rank, and the number of ranks.
        title: of a progress bar; empty for none.
    """
    rank, world_size = place
    mine = blocks.blocks[rank::world_size]
    if processes == 1:
        return _in_threads(look, blocks, _shown(mine, title))
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        shares = [
            pool.submit(_look_alone, look, blocks, mine[number::processes], processes) for number in range(processes)
        ]
        first, *others = [share.result() for share in shares]
    for other in others:
        first.add(other)
    return first


def _look_alone(look: Look, blocks: PairBlocks, which: list[Block], processes: int) -> ImpostorTally:
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    return _in_threads(look, blocks, which)


class _Turns:
    """Blocks that threads take in turn."""

    def __init__(self, blocks: Iterable[Block]) -> None:
        self.blocks = iter(blocks)
        self.lock = Lock()

    def __iter__(self) -> _Turns:
        return self

    def __next__(self) -> Block:
        with self.lock:
            return next(self.blocks)

    def stop(self) -> None:
        with self.lock:
            self.blocks = iter(())


def _in_threads(look: Look, blocks: PairBlocks, which: Iterable[Block]) -> ImpostorTally:
    """Look at each block in one of as many threads as torch has: a fifth faster than each step of a block in all."""
    turns = _Turns(which)
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:  # theirs alone
            shares = [pool.submit(look.at, blocks, turns) for _ in range(threads)]
            try:
                first, *others = [share.result() for share in shares]
            finally:
                turns.stop()  # if one fails or is interrupted, no other goes on
    finally:
        torch.set_num_threads(threads)  # what threads to come begin with
    for other in others:
        first.add(other)
    return first


def _shown(blocks: list[Block], title: str) -> Iterable[Block]:
    if not title:
        return blocks
    from rich.progress import track

    return track(blocks, title)
