"""The cores that a process may use, and jobs that processes share and that end at once with the one that gave them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

GO_ON = "run the same command again to go on"  # note of a KeyboardInterrupt
R = TypeVar("R")


def run_in_processes(
    processes: int, function: Callable[..., R], jobs: Iterable[tuple[Any, ...]], start: Callable[..., None], *given: Any
) -> Iterator[R]:
    """Run jobs in processes of their own; yields what they return as they finish.

    An iterator that is left before its end, as by Ctrl-C, kills the processes: jobs leave nothing torn behind.

    Args:
        processes: that share the jobs.
        function: called with the arguments of a job.
        jobs: their arguments.
        start: called with `given` in each process first.
        given: can be pickled.

    Raises:
        BrokenProcessPool: a process was killed, or could not start.
    """
    context = multiprocessing.get_context("spawn")  # threads of a library do not survive a fork
    rest, waiting = iter(jobs), set[Future[R]]()
    with ProcessPoolExecutor(processes, context, _start, (start, *given)) as pool:
        try:
            while True:
                with _without_ctrl_c():
                    waiting |= {pool.submit(function, *job) for job in islice(rest, 2 * processes - len(waiting))}
                if not waiting:
                    return
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        except BaseException:
            for process in [*pool._processes.values()]:  # Python 3.14 has terminate_workers
                process.terminate()
            raise


def usable_cores() -> int:
    """Number of cores that this process may use, at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Context manager: processes that start within never get Ctrl-C, and this one gets it afterwards."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if hasattr(signal, "pthread_sigmask") else None
    try:
        yield
    finally:
        if blocked is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _start(start: Callable[..., None], *given: Any) -> None:
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    start(*given)


def _leave_with_parent() -> None:
    """End a process when its parent ends, instead of waiting for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
