"""Processes that stay: ranks of one process group after another, so that a test does not wait for torch to start."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

PATIENCE = 100  # seconds that an idle machine needs a tenth of
MOST = 4


class RankPool:
    """Up to four processes with gloo; make it by `rank_pool`."""

    def __init__(self, ends: list[Connection], folder: Path) -> None:
        self.ends, self.folder, self.groups = ends, folder, 0

    def run(self, world_size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Call a function of a module on each rank of a new process group, as `function(rank, *arguments)`.

        Returns:
            What each rank returned.

        Raises:
            AssertionError: with the traceback of the first rank that raised or did not answer in time.
        """
        self.groups += 1
        for rank in range(world_size):
            self.ends[rank].send((f"{self.folder}/{self.groups}", rank, world_size, function, arguments))
        answers = [
            pickle.loads(end.recv_bytes()) if end.poll(PATIENCE) else (False, "no answer")
            for end in self.ends[:world_size]
        ]
        for succeeded, answer in answers:
            assert succeeded, answer
        return [answer for _, answer in answers]


@contextmanager
def rank_pool(folder: Path) -> Iterator[RankPool]:
    """Start the processes, and end them."""
    context = get_context("forkserver")
    context.set_forkserver_preload(
        ["siamese_verify.training", "pytorch_metric_learning.losses", "pytorch_metric_learning.miners"]
    )
    pipes = [context.Pipe() for _ in range(MOST)]
    processes = [context.Process(target=_serve, args=(end,), daemon=True) for _, end in pipes]
    for process in processes:
        process.start()
    try:
        yield RankPool([end for end, _ in pipes], folder)
    finally:
        for process in processes:
            process.kill()
            process.join()


def _serve(end: Connection) -> None:
    torch.set_num_threads(1)
    while True:
        meeting, rank, world_size, function, arguments = end.recv()
        try:
            timeout = timedelta(seconds=PATIENCE)
            dist.init_process_group(
                "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size, timeout=timeout
            )
            answer = True, function(rank, *arguments)
        except BaseException:
            answer = False, traceback.format_exc()
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
        end.send_bytes(pickle.dumps(answer))  # tensors by value: `send` keeps a file open for each
