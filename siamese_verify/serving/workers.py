"""Threads that clients share fairly, for work that may take too long: it cannot be ended, but it is known."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")
CLIENT: ContextVar[str] = ContextVar("CLIENT", default="")  # whose request is answered
MOST_CLIENTS = 1000  # remembered, unless more of them wait


class Workers:
    """A pool of threads whose next piece of work is that of the client that had least.

    Start-time fair queueing (Goyal, Vin & Cheng, SIGCOMM 1996): each piece of work is tagged with the work that its
    client was given before, and the smallest tag is next. Whoever asks rarely waits for what runs, not for what waits.

    Args:
        count: of threads.
        name: of the threads.
    """

    def __init__(self, count: int, name: str) -> None:
        self.count = count
        self._changed = threading.Condition()
        self._waiting: list[tuple[float, int, Future[Any], Callable[[], Any]]] = []  # a heap: tag, order
        self._order = itertools.count()
        self._now = 0.0  # tag of what was begun last
        self._ends: dict[str, float] = {}  # client -> tag of what it asks for next
        self._began: dict[int, float] = {}  # thread -> when it began what it does
        self._closed = False
        for number in range(count):
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True).start()

    def submit(self, work: Callable[[], T], weight: float = 1.0) -> Future[T]:
        """Do something for `CLIENT` in one of the threads.

        Args:
            work: likewise; if its future is cancelled in time, it is never begun.
            weight: how long it takes, in any unit.

        Raises:
            RuntimeError: it is closed.
        """
        future: Future[T] = Future()
        client = CLIENT.get()
        with self._changed:
            if self._closed:
                raise RuntimeError("These Workers are closed.")
            if not self._waiting and not self._began:
                self._ends.clear()  # nobody is owed anything
            tag = max(self._now, self._ends.get(client, 0.0))
            if len(self._ends) > MOST_CLIENTS:
                self._ends = {known: end for known, end in self._ends.items() if end > self._now}
            self._ends[client] = tag + weight
            heapq.heappush(self._waiting, (tag, next(self._order), future, work))
            self._changed.notify()
        return future

    def stuck(self, seconds: float) -> bool:
        """Say whether every thread has been at one piece of work for longer."""
        with self._changed:
            return sum(time.monotonic() - began > seconds for began in self._began.values()) == self.count

    def close(self, seconds: float) -> bool:
        """Begin nothing more.

        Args:
            seconds: to wait for what was begun.

        Returns:
            Whether that ended.
        """
        with self._changed:
            self._closed = True
            for _, _, future, _ in self._waiting:
                future.cancel()
            self._waiting.clear()
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._began, max(0.0, seconds))

    def _run(self) -> None:
        thread = threading.get_ident()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                self._now, _, future, work = heapq.heappop(self._waiting)
                if not future.set_running_or_notify_cancel():
                    continue
                self._began[thread] = time.monotonic()
            try:
                result = work()
            except BaseException as error:
                release_locals(error)
                future.set_exception(error)
            else:
                future.set_result(result)
                del result
            finally:
                del future, work  # an idle thread keeps no photo
                with self._changed:
                    del self._began[thread]
                    self._changed.notify_all()


def release_locals(error: BaseException) -> None:
    """Clear the local variables of an exception's frames, which would keep photos until the garbage collector runs."""
    chain: BaseException | None = error
    while chain is not None:
        traceback.clear_frames(chain.__traceback__)
        chain = chain.__context__
