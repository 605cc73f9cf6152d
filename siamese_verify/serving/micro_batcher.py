"""Faces of many requests, embedded together by one thread."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
Crops = NDArray[np.uint8]


class Full(Exception):
    """More faces wait than may."""


class Job(NamedTuple):
    """Faces of one request."""

    crops: Crops  # (n,S,S,3)
    done: Future[Rows]  # (n,D)
    since: float


class MicroBatcher:
    """Embeds the crops of all requests that wait, as one batch.

    A request's result does not depend on its neighbours, up to the rounding of sums in another order. If a batch fails,
    its requests are embedded one by one, so that only those fail that would have failed alone.

    Args:
        embed: (N,S,S,3) uint8 crops to (N,D) float32 rows; only one thread calls it.
        most: crops in a batch; a request with more of them makes several.
        seconds: that the first request waits for others.
        waiting: requests that may wait.
        observe: is told the number of crops and the seconds of each batch.
    """

    def __init__(
        self,
        embed: Callable[[Crops], Rows],
        most: int = 32,
        seconds: float = 0.002,
        waiting: int = 256,
        observe: Callable[[int, float], None] = lambda crops, seconds: None,
    ) -> None:
        self.embed, self.most, self.seconds, self.observe = embed, most, seconds, observe
        self._queue: queue.Queue[Job | None] = queue.Queue()
        self._waiting = waiting
        self._closed = False
        self._began: float | None = None  # the batch that is embedded now
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="embeds-faces", daemon=True)
        self._thread.start()

    def submit(self, crops: Crops) -> Future[Rows]:
        """Embed crops soon.

        Args:
            crops: (n,S,S,3) uint8.

        Returns:
            A future of (n,D) float32; one that is cancelled in time is never embedded.

        Raises:
            Full: too many wait already.
            RuntimeError: it is closed.
        """
        job = Job(crops, Future(), time.monotonic())
        with self._lock:
            if self._closed:
                raise RuntimeError("This MicroBatcher is closed.")
            if self._queue.qsize() >= self._waiting:
                raise Full
            self._queue.put(job)
        return job.done

    def stuck(self, seconds: float) -> bool:
        """Say whether one batch has been embedded for longer."""
        began = self._began
        return began is not None and time.monotonic() - began > seconds

    def close(self, seconds: float | None = None) -> bool:
        """Finish what waits, then end the thread; may be called again.

        Args:
            seconds: to wait for the end; None for as long as it takes.

        Returns:
            Whether it ended.
        """
        with self._lock:
            first, self._closed = not self._closed, True
            if first:
                self._queue.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        ahead: Job | None = None  # taken from the queue, too large for the batch it was taken for
        while True:
            first = ahead or self._queue.get()
            if first is None:
                return
            jobs, size, ahead = [first], len(first.crops), None
            end = False
            while size < self.most:
                try:
                    job = self._queue.get(timeout=max(0.0, first.since + self.seconds - time.monotonic()))
                except queue.Empty:
                    break
                if job is None:
                    end = True
                    break
                if size + len(job.crops) > self.most:
                    ahead = job
                    break
                jobs.append(job)
                size += len(job.crops)
            self._answer([job for job in jobs if job.done.set_running_or_notify_cancel()])
            if end:
                return

    def _answer(self, jobs: list[Job]) -> None:
        if not jobs:
            return
        try:
            rows = self._embedded(np.concatenate([job.crops for job in jobs]))
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].done.set_exception(error)
                return
            for job in jobs:
                self._answer([job])
            return
        start = 0
        for job in jobs:
            job.done.set_result(rows[start : start + len(job.crops)].copy())  # none keeps its neighbours' faces alive
            start += len(job.crops)

    def _embedded(self, crops: Crops) -> Rows:
        parts: list[Any] = []
        for start in range(0, len(crops), self.most):
            self._began = began = time.monotonic()
            part = crops[start : start + self.most]
            try:
                parts.append(self.embed(part))
            finally:
                self._began = None
            self.observe(len(part), time.monotonic() - began)
        return np.concatenate(parts) if parts else self.embed(crops)
