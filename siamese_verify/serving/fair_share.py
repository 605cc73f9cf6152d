"""Limits on what one client may take: requests per second, places, bytes, pixels and time of the worker threads.

A client is an API key, or an address without keys."""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
import traceback
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from siamese_verify.serving.problems import busy

T = TypeVar("T")
CLIENT: ContextVar[str] = ContextVar("CLIENT", default="")  # whose request is handled


class RateLimit:
    """Token bucket per client.

    Args:
        rate: tokens per second; 0 for no limit.
        burst: tokens that a bucket holds.
        max_clients: buckets kept; the one unused for longest is dropped.
        clock: monotonic time in seconds.
    """

    def __init__(
        self, rate: float, burst: int, max_clients: int = 10_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rate, self.burst, self.max_clients, self.clock = rate, burst, max_clients, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client -> tokens, time

    def take(self, client: str) -> int:
        """Take one token of a client; returns 0, or the whole seconds until there is one."""
        if not self.rate:
            return 0
        now = self.clock()
        tokens, then = self._buckets.pop(client, (float(self.burst), now))
        tokens = min(self.burst, tokens + (now - then) * self.rate)
        allowed = tokens >= 1
        self._buckets[client] = (tokens - allowed, now)
        if len(self._buckets) > self.max_clients:
            self._buckets.popitem(last=False)
        return 0 if allowed else max(1, math.ceil((1 - tokens) / self.rate))


class Shares:
    """A limited resource of which no client can take all; for the thread of the event loop only.

    A client may take what leaves at least as much free as it then holds: half if alone, a third beside another client
    that takes all it can. So a new client always finds some.

    Args:
        total: amount that all clients hold together.
    """

    def __init__(self, total: int) -> None:
        self.total, self.held = total, 0
        self._by_client: Counter[str] = Counter()

    def available(self, client: str, amount: int = 1, in_request: int = 0) -> bool:
        """Whether a client may take an amount; see `take`."""
        return self._by_client[client] + amount <= self.total - self.held + in_request

    def take(self, client: str, amount: int, in_request: int = 0) -> None:
        """Take an amount.

        Args:
            client: who takes it.
            amount: how much.
            in_request: how much the same request holds already: a single request may take all that is free.

        Raises:
            Problem: 503 if less is available.
        """
        if not self.available(client, amount, in_request):
            raise busy()
        self.held += amount
        self._by_client[client] += amount

    def give_back(self, client: str, amount: int) -> None:
        """Give back an amount."""
        self.held -= amount
        self._by_client[client] -= amount
        if not self._by_client[client]:
            del self._by_client[client]

    @contextmanager
    def hold(self, client: str, amount: int = 1) -> Iterator[None]:
        """Hold an amount within a `with` block."""
        self.take(client, amount)
        try:
            yield
        finally:
            self.give_back(client, amount)


class BodyBytes:
    """Bytes held of the body of one request."""

    def __init__(self, shares: Shares, client: str) -> None:
        self.shares, self.client, self.bytes = shares, client, 0

    def add(self, size: int) -> None:
        """Count bytes that arrived; Problem 503 if the bodies of all requests together are too large."""
        self.shares.take(self.client, size, self.bytes)
        self.bytes += size

    def release(self) -> None:
        """Give the bytes back once the photos are decoded."""
        self.shares.give_back(self.client, self.bytes)
        self.bytes = 0


class Admission:
    """Requests in progress, limited by number, bytes and pixels.

    Uploads are counted apart from answers, so that slow clients do not take the places of fast ones. Pixels predict how
    long answers take, so limiting them bounds the wait.

    Args:
        uploads: bodies that are read at a time.
        in_flight: requests that are answered at a time.
        body_bytes: bytes of all bodies together.
        pixels: pixels of the photos of all requests that are answered.
    """

    def __init__(self, uploads: int, in_flight: int, body_bytes: int, pixels: int) -> None:
        self.uploads, self.in_flight = Shares(uploads), Shares(in_flight)
        self.bytes, self.pixels = Shares(body_bytes), Shares(pixels)

    @contextmanager
    def upload(self, client: str) -> Iterator[BodyBytes]:
        """Hold a place for a body that is read; Problem 503 if there is none."""
        if not self.in_flight.available(client):
            raise busy()  # before the body is sent in vain
        with self.uploads.hold(client):
            yield BodyBytes(self.bytes, client)

    @contextmanager
    def answer(self, client: str, pixels: int = 0) -> Iterator[None]:
        """Hold a place for a request that is answered; Problem 503 if there is none.

        A request with more pixels than the limit is answered alone.
        """
        with self.in_flight.hold(client), self.pixels.hold(client, min(pixels, self.pixels.total)):
            yield


class FairWorkers:
    """Thread pool that runs next the work of the client that had least.

    Start-time fair queueing (Goyal, Vin & Cheng, SIGCOMM 1996): work is tagged with the amount that its client was
    given before, and the smallest tag is next. A client that asks rarely does not wait behind one that asks often.

    Args:
        count: number of threads.
        name: prefix of their names.
        max_clients: tags kept, unless more clients wait.
    """

    def __init__(self, count: int, name: str, max_clients: int = 1000) -> None:
        self.count, self.max_clients = count, max_clients
        self.tags: dict[str, float] = {}  # client -> tag of its next work
        self._changed = threading.Condition()
        self._waiting: list[tuple[float, int, Future[Any], Callable[[], Any]]] = []  # heap by tag, then order
        self._order = itertools.count()
        self._now = 0.0  # tag of the work started last
        self._started: dict[int, float] = {}  # thread -> start of its work
        self._closed = False
        for number in range(count):
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True).start()

    def submit(self, work: Callable[[], T], weight: float = 1.0) -> Future[T]:
        """Run work for the client in `CLIENT`.

        Args:
            work: never started if its future is cancelled before.
            weight: how long it takes, in any unit.
        """
        future: Future[T] = Future()
        client = CLIENT.get()
        with self._changed:
            if self._closed:
                raise RuntimeError("These workers are closed.")
            if not self._waiting and not self._started:
                self.tags.clear()
            tag = max(self._now, self.tags.get(client, 0.0))
            if len(self.tags) > self.max_clients:
                self.tags = {known: end for known, end in self.tags.items() if end > self._now}
            self.tags[client] = tag + weight
            heapq.heappush(self._waiting, (tag, next(self._order), future, work))
            self._changed.notify()
        return future

    def stuck(self, seconds: float) -> bool:
        """Whether every thread has worked on one piece of work for longer than so many seconds."""
        with self._changed:
            return sum(time.monotonic() - start > seconds for start in self._started.values()) == self.count

    def close(self, seconds: float) -> bool:
        """Cancel what waits, wait at most so many seconds for what was started, and return whether it ended."""
        with self._changed:
            self._closed = True
            for _, _, future, _ in self._waiting:
                future.cancel()
            self._waiting.clear()
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._started, max(0.0, seconds))

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
                self._started[thread] = time.monotonic()
            try:
                result = work()
            except BaseException as error:
                _clear_frames(error)
                future.set_exception(error)
            else:
                future.set_result(result)
                del result
            finally:
                del future, work  # an idle thread holds no photo
                with self._changed:
                    del self._started[thread]
                    self._changed.notify_all()


def _clear_frames(error: BaseException) -> None:
    """Clear the local variables of an exception's frames, which hold photos until the garbage collector runs."""
    chain: BaseException | None = error
    while chain is not None:
        traceback.clear_frames(chain.__traceback__)
        chain = chain.__context__
