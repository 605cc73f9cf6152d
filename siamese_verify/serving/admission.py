"""How much may be in flight: beyond it a request is refused at once, nothing waits in a queue without an end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from siamese_verify.serving.problems import busy


class Shares:
    """A limited amount of something, of which no client can take all; used on the event loop's thread only.

    A client may take what leaves at least as much free as it then holds. Alone it gets half, beside another one of the
    same hunger a third, and whoever holds nothing yet finds room.

    Args:
        most: that all clients hold together.
    """

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0
        self._by_client: Counter[str] = Counter()

    def room(self, client: str, amount: int = 1, had: int = 0) -> bool:
        """Say whether a client may take an amount; see `take`."""
        return self._by_client[client] + amount <= self.most - self.held + had

    def take(self, client: str, amount: int, had: int = 0) -> None:
        """Take an amount.

        Args:
            client: who takes it.
            amount: likewise.
            had: part of what the client holds that this request took before: one request may take all that is free.

        Raises:
            Problem: 503, there is not so much.
        """
        if not self.room(client, amount, had):
            raise busy()
        self.held += amount
        self._by_client[client] += amount

    def give_back(self, client: str, amount: int) -> None:
        """Give back what was taken."""
        self.held -= amount
        self._by_client[client] -= amount
        if not self._by_client[client]:
            del self._by_client[client]

    @contextmanager
    def taken(self, client: str, amount: int = 1) -> Iterator[None]:
        """Take an amount for a while."""
        self.take(client, amount)
        try:
            yield
        finally:
            self.give_back(client, amount)


class Admission:
    """What is in flight, by client: a key, or an address without keys.

    Uploads are counted apart from answers, so that slow clients cannot take the places of quick ones, and answers by
    the pixels of their photos too, which say how long they take: so the wait is bounded, not only the count.

    Args:
        uploads: bodies that are read at a time.
        in_flight: requests that are answered at a time.
        body_bytes: of all bodies together.
        pixels: of all photos of the requests that are answered.
    """

    def __init__(self, uploads: int, in_flight: int, body_bytes: int, pixels: int) -> None:
        self.uploads, self.in_flight = Shares(uploads), Shares(in_flight)
        self.bytes, self.pixels = Shares(body_bytes), Shares(pixels)

    @contextmanager
    def upload(self, client: str) -> Iterator[Held]:
        """Hold a place for a body that is read; gives the count of its bytes.

        Raises:
            Problem: 503, there is none.
        """
        if not self.in_flight.room(client):
            raise busy()  # before the body is sent in vain
        with self.uploads.taken(client):
            yield Held(self.bytes, client)

    @contextmanager
    def answer(self, client: str, pixels: int = 0) -> Iterator[None]:
        """Hold a place for a request that is answered, and its pixels; photos of more than all may be alone.

        Raises:
            Problem: 503, there is none.
        """
        with self.in_flight.taken(client), self.pixels.taken(client, min(pixels, self.pixels.most)):
            yield


class Held:
    """Bytes of one body, part of what all may hold together."""

    def __init__(self, shares: Shares, client: str) -> None:
        self.shares, self.client, self.bytes = shares, client, 0

    def add(self, size: int) -> None:
        """Count bytes that arrived.

        Raises:
            Problem: 503, all bodies together would be too large.
        """
        self.shares.take(self.client, size, self.bytes)
        self.bytes += size

    def release(self) -> None:
        """Forget them: the photos are decoded."""
        self.shares.give_back(self.client, self.bytes)
        self.bytes = 0
