from __future__ import annotations

import pytest

from siamese_verify.serving import middleware as rate_limit
from siamese_verify.serving.middleware import RateLimit


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_passes_then_one_for_each_moment() -> None:
    clock = Clock()
    limit = RateLimit(2.0, 3, clock)
    assert [limit.wait("a") for _ in range(4)] == [0, 0, 0, 1]
    clock.now += 0.5
    assert [limit.wait("a") for _ in range(2)] == [0, 1]


def test_whoever_asks_too_often_is_told_when_to_come_back() -> None:
    clock = Clock()
    limit = RateLimit(0.1, 1, clock)
    limit.wait("a")
    seconds = limit.wait("a")
    assert seconds == 10
    clock.now += seconds
    assert limit.wait("a") == 0


def test_asking_in_vain_costs_nothing() -> None:
    clock = Clock()
    limit = RateLimit(1.0, 1, clock)
    limit.wait("a")
    for _ in range(50):
        limit.wait("a")
    clock.now += 1
    assert limit.wait("a") == 0


def test_clients_do_not_share() -> None:
    limit = RateLimit(1.0, 1, Clock())
    assert [limit.wait(client) for client in ("a", "b", "a")] == [0, 0, 1]


def test_a_pause_fills_no_more_than_the_burst() -> None:
    clock = Clock()
    limit = RateLimit(1.0, 2, clock)
    clock.now += 1e6
    assert [limit.wait("a") for _ in range(3)] == [0, 0, 1]


def test_no_rate_is_no_limit() -> None:
    limit = RateLimit(0.0, 1, Clock())
    assert not any(limit.wait("a") for _ in range(1000))


def test_so_many_clients_are_remembered_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "MOST_CLIENTS", 3)
    limit = RateLimit(1.0, 1, Clock())
    for client in "abcd":
        limit.wait(client)
    assert [limit.wait(client) for client in "da"] == [1, 0]  # a was silent longest
