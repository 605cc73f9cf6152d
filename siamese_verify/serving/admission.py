"""How much may be in flight: beyond it a request is refused at once, nothing waits in a queue without an end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from siamese_verify.serving.problem import busy


class Admission:
    """Counts what is in flight, on the event loop's thread only.

    Uploads are counted apart from answers, so that slow clients cannot take the places of quick ones.

    Args:
        uploads: bodies that are read at a time.
        in_flight: requests that are answered at a time.
        body_bytes: of all bodies together.
    """

    def __init__(self, uploads: int, in_flight: int, body_bytes: int) -> None:
        self.most_uploads, self.most_in_flight, self.most_bytes = uploads, in_flight, body_bytes
        self.uploads = self.in_flight = self.held = 0

    @contextmanager
    def upload(self) -> Iterator[Held]:
        """Hold a place for a body that is read; gives the count of its bytes.

        Raises:
            Problem: 503, there is none.
        """
        if self.uploads >= self.most_uploads or self.in_flight >= self.most_in_flight:
            raise busy()
        self.uploads += 1
        try:
            yield Held(self)
        finally:
            self.uploads -= 1

    @contextmanager
    def answer(self) -> Iterator[None]:
        """Hold a place for a request that is answered.

        Raises:
            Problem: 503, there is none.
        """
        if self.in_flight >= self.most_in_flight:
            raise busy()
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1


class Held:
    """Bytes of one body, part of what all may hold together."""

    def __init__(self, admission: Admission) -> None:
        self.admission, self.bytes = admission, 0

    def add(self, size: int) -> None:
        """Count bytes that arrived.

        Raises:
            Problem: 503, all bodies together would be too large.
        """
        if self.admission.held + size > self.admission.most_bytes:
            raise busy()
        self.admission.held += size
        self.bytes += size

    def release(self) -> None:
        """Forget them: the photos are decoded."""
        self.admission.held -= self.bytes
        self.bytes = 0
