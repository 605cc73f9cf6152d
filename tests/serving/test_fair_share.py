from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Any

import pytest

from siamese_verify.serving.fair_share import CLIENT, Admission, BodyBytes, FairWorkers, RateLimit, Shares
from siamese_verify.serving.problems import Problem
from siamese_verify.serving.settings import Settings
from tests.serving.conftest import client_of, pair, photo, until
from tests.serving.stand_in import MULTIPLE, SLOW, StandIn

A, B = {"X-Forwarded-For": "203.0.113.1"}, {"X-Forwarded-For": "203.0.113.2"}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_burst_passes_then_one_request_per_interval() -> None:
    clock = Clock()
    limit = RateLimit(2.0, 3, clock=clock)
    assert [limit.take("a") for _ in range(4)] == [0, 0, 0, 1]
    clock.now += 0.5
    assert [limit.take("a") for _ in range(2)] == [0, 1]
    clock.now += 1e6  # a pause fills no more than the burst
    assert [limit.take("a") for _ in range(4)] == [0, 0, 0, 1]


def test_refused_requests_cost_nothing_and_are_told_when_to_come_back() -> None:
    clock = Clock()
    limit = RateLimit(0.1, 1, clock=clock)
    limit.take("a")
    assert [limit.take("a") for _ in range(50)] == [10] * 50
    clock.now += 10
    assert limit.take("a") == 0


def test_clients_do_not_share_a_rate_and_few_are_remembered() -> None:
    limit = RateLimit(1.0, 1, max_clients=3, clock=Clock())
    assert [limit.take(client) for client in "abacd"] == [0, 0, 1, 0, 0]
    assert [limit.take(client) for client in "db"] == [1, 0]  # b was silent for longest


def test_no_rate_is_no_limit() -> None:
    limit = RateLimit(0.0, 1, clock=Clock())
    assert not any(limit.take("a") for _ in range(1000))


def take_all(shares: Shares, client: str) -> int:
    """How much a client gets that takes one after another."""
    taken = 0
    while shares.available(client):
        shares.take(client, 1)
        taken += 1
    with pytest.raises(Problem, match="try again"):
        shares.take(client, 1)
    return taken


@pytest.mark.parametrize(("total", "shares"), [(64, [32, 16, 8, 4]), (3, [2, 1]), (2, [1, 1]), (1, [1])])
def test_no_client_takes_all(total: int, shares: list[int]) -> None:
    limited = Shares(total)
    assert [take_all(limited, client) for client, _ in zip("abcd", shares, strict=False)] == shares


def test_amount_that_is_given_back_is_available_again() -> None:
    shares = Shares(8)
    with shares.hold("a", 4):
        assert not shares.available("a")
        assert shares.available("b", 4)
    assert shares.held == 0
    assert take_all(shares, "a") == 4


def test_one_request_may_take_all_that_is_free() -> None:
    shares = Shares(100)
    first, second = BodyBytes(shares, "a"), BodyBytes(shares, "a")
    for _ in range(9):
        first.add(10)
    with pytest.raises(Problem):
        second.add(10)
    BodyBytes(shares, "b").add(10)
    first.release()
    second.add(40)


def test_request_with_more_pixels_than_the_limit_is_answered_alone() -> None:
    admission = Admission(1, 10, 1, pixels=100)
    with admission.answer("a", 1000):
        with pytest.raises(Problem), admission.answer("b", 1):
            pass
        assert admission.in_flight.held == 1
    with admission.answer("b", 1):
        pass


# ---- worker threads


def occupy(pool: FairWorkers, gate: threading.Event) -> None:
    """Keep a thread busy until the gate opens."""
    started = threading.Event()

    def work() -> None:
        started.set()
        gate.wait(20)

    pool.submit(work, 0)
    assert started.wait(20)


class Recorded:
    """One thread that is occupied until all work is submitted, and the order in which it then ran."""

    def __init__(self) -> None:
        self.pool, self.order, self.gate = FairWorkers(1, "test", max_clients=10), list[str](), threading.Event()
        occupy(self.pool, self.gate)

    def submit(self, client: str, name: str, weight: float = 1.0) -> Future[None]:
        CLIENT.set(client)
        return self.pool.submit(lambda: self.order.append(name), weight)


def test_client_that_asks_rarely_does_not_wait_for_one_that_asks_often() -> None:
    recorded = Recorded()
    futures = [recorded.submit("a", f"a{number}", 10) for number in range(4)]
    futures += [recorded.submit("b", f"b{number}", 1) for number in range(3)]
    recorded.gate.set()
    [future.result(20) for future in futures]
    assert recorded.order == ["a0", "b0", "b1", "b2", "a1", "a2", "a3"]


def test_tags_of_few_clients_are_remembered() -> None:
    recorded = Recorded()
    recorded.gate.set()
    for number in range(100):
        recorded.submit(str(number), "").result(20)
    assert len(recorded.pool.tags) <= 12


def test_cancelled_work_never_starts_and_failed_work_fails_alone() -> None:
    recorded = Recorded()
    cancelled, kept = recorded.submit("a", "no"), recorded.submit("a", "yes")
    failed = recorded.pool.submit(lambda: 1 // 0)
    assert cancelled.cancel()
    recorded.gate.set()
    kept.result(20)
    with pytest.raises(ZeroDivisionError):
        failed.result(20)
    assert recorded.pool.submit(lambda: 1).result(20) == 1
    assert recorded.order == ["yes"]


def test_closing_waits_for_started_work_and_starts_no_more() -> None:
    recorded = Recorded()
    waiting = recorded.submit("a", "no")
    assert not recorded.pool.close(0.01)
    assert waiting.cancelled()
    with pytest.raises(RuntimeError, match="closed"):
        recorded.submit("a", "no")
    recorded.gate.set()
    assert recorded.pool.close(20)
    assert recorded.order == []


def test_pool_is_stuck_only_when_all_threads_are() -> None:
    gate, pool = threading.Event(), FairWorkers(2, "test")
    occupy(pool, gate)
    assert not pool.stuck(0)
    occupy(pool, gate)
    assert pool.stuck(0)
    assert not pool.stuck(1000)
    gate.set()
    assert pool.close(20)
    assert not pool.stuck(0)


# ---- requests


def forwarded(**more: Any) -> Settings:
    return Settings(rate=0, trusted_proxies=("127.0.0.1",), **more)


@pytest.mark.anyio
async def test_large_photos_wait_for_each_other_and_small_ones_do_not() -> None:
    verifier = StandIn()
    async with client_of(verifier, forwarded(workers=2, pixels=100_000)) as client:
        slow, large = photo(1, SLOW), photo(2, 400, 300)
        waiting = asyncio.create_task(client.post("/v1/verify", headers=A, **pair(slow, large)))
        await until(lambda: verifier.photos >= 2)
        refused = await client.post("/v1/verify", headers=B, **pair(large, slow))
        small = await client.post("/v1/verify", headers=B, **pair())
        verifier.gate.set()
        assert (await waiting).status_code == 200
        assert (refused.status_code, refused.json()["reason"]) == (503, "busy")
        assert small.status_code == 200
        assert (await client.post("/v1/verify", headers=B, **pair(large))).status_code == 200


@pytest.mark.anyio
async def test_client_with_many_requests_leaves_room_for_another() -> None:
    verifier = StandIn()
    async with client_of(verifier, forwarded(in_flight=4, workers=3)) as client:
        many = [asyncio.create_task(client.post("/v1/verify", headers=A, **pair(photo(1, SLOW)))) for _ in range(9)]
        await until(lambda: verifier.photos >= 4)
        assert (await client.post("/v1/verify", headers=B, **pair())).status_code == 200
        verifier.gate.set()
        statuses = sorted([(await task).status_code for task in many])
    assert statuses == [200, 200, *[503] * 7]


@pytest.mark.anyio
async def test_bodies_together_have_a_limit() -> None:
    verifier = StandIn()
    large = photo(1, 1200, 1200, "BMP")  # four megabytes
    async with client_of(verifier, Settings(rate=0, body_bytes=6_000_000, workers=1)) as client:
        waiting = asyncio.create_task(client.post("/v1/verify", **pair(photo(1, SLOW), large)))
        await until(lambda: verifier.photos > 0)
        refused = await client.post("/v1/verify", **pair(large))
        verifier.gate.set()
        assert (await waiting).status_code == 200
        assert refused.status_code == 503
        assert (await client.post("/v1/verify", **pair(large))).status_code == 200


@pytest.mark.anyio
async def test_requests_are_refused_while_all_workers_are_stuck() -> None:
    verifier = StandIn()
    async with client_of(verifier, Settings(rate=0, answer_seconds=0.2, workers=1)) as client:
        assert (await client.get("/readyz")).json()["status"] == "ready"
        timeout = await client.post("/v1/verify", **pair(photo(1, SLOW)))
        assert (timeout.status_code, timeout.json()["reason"]) == (503, "timeout")
        assert "retry-after" in timeout.headers
        photos = verifier.photos
        while (await client.get("/readyz")).status_code == 200:
            await asyncio.sleep(0.01)
        for response in (await client.get("/readyz"), await client.post("/v1/verify", **pair())):
            assert (response.status_code, response.json()["reason"]) == (503, "not_ready")
        assert verifier.photos == photos
        assert (await client.get("/healthz")).status_code == 200
        verifier.gate.set()
        while (await client.get("/readyz")).status_code != 200:
            await asyncio.sleep(0.01)
        assert (await client.post("/v1/verify", **pair())).status_code == 200


@pytest.mark.anyio
async def test_compared_faces_have_a_limit() -> None:
    verifier = StandIn()
    async with client_of(verifier, Settings(rate=0, faces=3)) as client:
        multiple = photo(1, MULTIPLE)
        verifier.batches.clear()
        refused = await client.post("/v1/verify", **pair(multiple, multiple, on_multiple_faces="any"))
        assert (refused.status_code, refused.json()["reason"]) == (422, "multiple_faces")
        assert not verifier.batches
        assert (await client.post("/v1/verify", **pair(multiple, on_multiple_faces="any"))).status_code == 200


@pytest.mark.anyio
async def test_no_work_is_started_for_a_client_that_has_disconnected() -> None:
    verifier = StandIn()
    async with client_of(verifier, Settings(rate=0, workers=1)) as client:
        waiting = asyncio.create_task(client.post("/v1/verify", **pair(photo(1, SLOW))))
        await until(lambda: verifier.photos > 0)
        cancelled = asyncio.create_task(client.post("/v1/verify", **pair()))
        await asyncio.sleep(0.1)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        verifier.gate.set()
        assert (await waiting).status_code == 200
        assert verifier.photos == 2  # both photos of the first request, none of the second
