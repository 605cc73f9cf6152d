"""Threads for work that may take too long: it cannot be ended, but it is known, and nobody waits for it for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Workers:
    """A pool of threads that knows how long each of them has been at one piece of work.

    Args:
        count: of threads.
        name: of the threads.
    """

    def __init__(self, count: int, name: str) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count, name)
        self._began: dict[int, float] = {}  # thread -> when it began what it does
        self._idle = threading.Condition()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Do something in one of the threads; a future that is cancelled in time is never begun."""
        return self._pool.submit(self._watched, work)

    def stuck(self, seconds: float) -> bool:
        """Say whether every thread has been at one piece of work for longer."""
        with self._idle:
            return sum(time.monotonic() - began > seconds for began in self._began.values()) == self.count

    def close(self, seconds: float) -> bool:
        """Begin nothing more.

        Args:
            seconds: to wait for what was begun.

        Returns:
            Whether that ended.
        """
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._idle:
            return self._idle.wait_for(lambda: not self._began, max(0.0, seconds))

    def _watched(self, work: Callable[[], T]) -> T:
        thread = threading.get_ident()
        with self._idle:
            self._began[thread] = time.monotonic()
        try:
            return work()
        finally:
            with self._idle:
                del self._began[thread]
                self._idle.notify_all()
