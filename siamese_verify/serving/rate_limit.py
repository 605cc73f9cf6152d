"""How often one client may ask."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

MOST_CLIENTS = 10_000  # remembered at a time; who was silent longest is forgotten, and then starts with a full bucket


class RateLimit:
    """A token bucket for each client.

    Args:
        rate: tokens a second; 0 for no limit.
        burst: tokens that a bucket holds.
        clock: seconds that only grow.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.burst, self.clock = rate, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client -> tokens, when

    def wait(self, client: str) -> int:
        """Take one token of a client's.

        Returns:
            0 if there was one, else the whole seconds until there is.
        """
        if not self.rate:
            return 0
        now = self.clock()
        tokens, then = self._buckets.pop(client, (float(self.burst), now))
        tokens = min(self.burst, tokens + (now - then) * self.rate)
        allowed = tokens >= 1
        self._buckets[client] = (tokens - allowed, now)
        if len(self._buckets) > MOST_CLIENTS:
            self._buckets.popitem(last=False)
        return 0 if allowed else max(1, math.ceil((1 - tokens) / self.rate))
