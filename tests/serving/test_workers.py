from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from siamese_verify.serving import batching as workers
from siamese_verify.serving.batching import CLIENT, Workers


def held(pool: Workers, gate: threading.Event) -> None:
    """Keep a thread busy until the gate opens."""
    began = threading.Event()

    def work() -> None:
        began.set()
        gate.wait(20)

    pool.submit(work, 0)
    assert began.wait(20)


class Watched:
    """One thread that is held until all is asked for, and the order in which it then worked."""

    def __init__(self) -> None:
        self.pool, self.order, self.gate = Workers(1, "test"), list[str](), threading.Event()
        held(self.pool, self.gate)

    def ask(self, client: str, name: str, weight: float = 1.0) -> Future[None]:
        CLIENT.set(client)
        return self.pool.submit(lambda: self.order.append(name), weight)


def test_who_asks_rarely_does_not_wait_for_who_asks_often() -> None:
    watched = Watched()
    futures = [watched.ask("a", f"a{number}", 10) for number in range(4)]
    futures += [watched.ask("b", f"b{number}", 1) for number in range(3)]
    watched.gate.set()
    [future.result(20) for future in futures]
    assert watched.order == ["a0", "b0", "b1", "b2", "a1", "a2", "a3"]
    futures = [watched.ask("c", "c0"), watched.ask("a", "a4"), watched.ask("b", "b3")]  # what is past gives no credit
    [future.result(20) for future in futures]
    assert sorted(watched.order[7:]) == ["a4", "b3", "c0"]


def test_what_is_cancelled_is_never_begun() -> None:
    watched = Watched()
    cancelled, kept = watched.ask("a", "no"), watched.ask("a", "yes")
    assert cancelled.cancel()
    watched.gate.set()
    kept.result(20)
    assert watched.order == ["yes"]


def test_an_error_is_that_of_its_work_alone() -> None:
    pool = Workers(1, "test")
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 // 0).result(20)
    assert pool.submit(lambda: 1).result(20) == 1
    assert pool.close(20)


def test_closing_waits_so_long_and_begins_nothing_more() -> None:
    watched = Watched()
    waiting = watched.ask("a", "no")
    assert not watched.pool.close(0.01)
    assert waiting.cancelled()
    with pytest.raises(RuntimeError, match="closed"):
        watched.ask("a", "no")
    watched.gate.set()
    assert watched.pool.close(20)
    assert watched.order == []


def test_it_is_stuck_only_when_all_threads_are() -> None:
    gate, pool = threading.Event(), Workers(2, "test")
    held(pool, gate)
    assert not pool.stuck(0)
    held(pool, gate)
    assert pool.stuck(0)
    assert not pool.stuck(1000)
    gate.set()
    assert pool.close(20)
    assert not pool.stuck(0)


def test_few_clients_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "MOST_CLIENTS", 10)
    pool = Workers(1, "test")
    for number in range(100):
        CLIENT.set(str(number))
        pool.submit(lambda: None).result(20)
    assert len(pool._ends) <= 12
