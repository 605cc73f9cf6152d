from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

import pytest

from siamese_verify.serving import batching as face_engine
from siamese_verify.serving.admission import Admission, Held, Shares
from siamese_verify.serving.problems import Problem
from siamese_verify.serving.settings import Settings
from siamese_verify.serving.uploads import decode_photo
from tests.serving.conftest import client_of, pair, photo
from tests.serving.stand_in import SEVERAL, SLOW, StandIn

A, B = {"X-Forwarded-For": "203.0.113.1"}, {"X-Forwarded-For": "203.0.113.2"}


def hungry(shares: Shares, client: str) -> int:
    """How much a client gets that takes one after another."""
    got = 0
    while shares.room(client):
        shares.take(client, 1)
        got += 1
    with pytest.raises(Problem, match="try again"):
        shares.take(client, 1)
    return got


def test_one_client_cannot_take_all() -> None:
    shares = Shares(64)
    assert [hungry(shares, client) for client in "abcd"] == [32, 16, 8, 4]


@pytest.mark.parametrize("most", [1, 2, 3])
def test_few_places_are_still_places(most: int) -> None:
    assert hungry(Shares(most), "a") == (most + 1) // 2


def test_what_is_given_back_can_be_taken_again() -> None:
    shares = Shares(8)
    with shares.taken("a", 4):
        assert not shares.room("a")
        assert shares.room("b", 4)
    assert shares.held == 0
    assert hungry(shares, "a") == 4


def test_one_request_may_take_all_that_is_free() -> None:
    shares = Shares(100)
    first = Held(shares, "a")
    for _ in range(9):
        first.add(10)
    second = Held(shares, "a")
    with pytest.raises(Problem):
        second.add(10)
    Held(shares, "b").add(10)
    first.release()
    second.add(40)


def test_photos_of_more_pixels_than_all_are_answered_alone() -> None:
    admission = Admission(1, 10, 1, pixels=100)
    with ExitStack() as held:
        held.enter_context(admission.answer("a", 1000))
        with pytest.raises(Problem):
            held.enter_context(admission.answer("b", 1))
        assert admission.in_flight.held == 1
    with admission.answer("b", 1):
        pass


def forwarded(**more: Any) -> Settings:
    return Settings(rate=0, trusted_proxies=("127.0.0.1",), **more)


async def looking(judge: StandIn, photos: int) -> None:
    while judge.looking < photos:
        await asyncio.sleep(0.01)


@pytest.mark.anyio
async def test_large_photos_wait_for_each_other_and_small_ones_do_not() -> None:
    judge = StandIn()
    settings = forwarded(workers=2, pixels=100_000)  # 200,000 together
    async with client_of(judge, settings) as client:
        slow, large = photo(1, SLOW), photo(2, 400, 300)
        waiting = asyncio.create_task(client.post("/v1/verify", headers=A, **pair(slow, large)))
        await looking(judge, 2)
        refused = await client.post("/v1/verify", headers=B, **pair(large, slow))
        small = await client.post("/v1/verify", headers=B, **pair())
        judge.gate.set()
        assert (await waiting).status_code == 200
        assert (refused.status_code, refused.json()["reason"]) == (503, "busy")
        assert small.status_code == 200
        assert (await client.post("/v1/verify", headers=B, **pair(large))).status_code == 200


@pytest.mark.anyio
async def test_a_greedy_client_leaves_room_for_another() -> None:
    judge = StandIn()
    async with client_of(judge, forwarded(in_flight=4, workers=3)) as client:
        greedy = [asyncio.create_task(client.post("/v1/verify", headers=A, **pair(photo(1, SLOW)))) for _ in range(9)]
        await looking(judge, 4)
        assert (await client.post("/v1/verify", headers=B, **pair())).status_code == 200
        judge.gate.set()
        statuses = sorted([(await task).status_code for task in greedy])
    assert statuses == [200, 200, *[503] * 7]


@pytest.mark.anyio
async def test_workers_that_are_stuck_are_said_and_nobody_waits_for_them() -> None:
    judge = StandIn()
    async with client_of(judge, Settings(rate=0, answer_seconds=0.2, workers=1)) as client:
        assert (await client.get("/readyz")).json()["status"] == "ready"
        assert (await client.post("/v1/verify", **pair(photo(1, SLOW)))).json()["reason"] == "timeout"
        seen = judge.looking
        while (await client.get("/readyz")).status_code == 200:
            await asyncio.sleep(0.01)
        for response in (await client.get("/readyz"), await client.post("/v1/verify", **pair())):
            assert (response.status_code, response.json()["reason"]) == (503, "not_ready")
        assert judge.looking == seen
        assert (await client.get("/healthz")).status_code == 200
        judge.gate.set()
        while (await client.get("/readyz")).status_code != 200:
            await asyncio.sleep(0.01)
        assert (await client.post("/v1/verify", **pair())).status_code == 200


@pytest.mark.anyio
async def test_faces_that_are_compared_have_a_limit() -> None:
    judge = StandIn()
    async with client_of(judge, Settings(rate=0, faces=3)) as client:
        several = photo(1, SEVERAL)
        judge.batches.clear()
        refused = await client.post("/v1/verify", **pair(several, several, on_multiple_faces="any"))
        assert (refused.status_code, refused.json()["reason"]) == (422, "multiple_faces")
        assert not judge.batches
        assert (await client.post("/v1/verify", **pair(several, on_multiple_faces="any"))).status_code == 200


@pytest.mark.anyio
async def test_nobody_looks_for_faces_for_a_client_that_left_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    judge, decoding = StandIn(), asyncio.Event()
    async with client_of(judge, Settings(rate=0, workers=1)) as client:
        loop, decode = asyncio.get_running_loop(), decode_photo

        def slowly(*given: Any) -> Any:
            loop.call_soon_threadsafe(decoding.set)
            judge.gate.wait(20)
            return decode(*given)

        monkeypatch.setattr(face_engine, "decode_photo", slowly)
        asking = asyncio.create_task(client.post("/v1/verify", **pair()))
        await decoding.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.sleep(0.1)  # until the tasks behind it have heard of it
        judge.gate.set()
        while (await client.get("/readyz")).status_code != 200:
            await asyncio.sleep(0.01)
        monkeypatch.undo()
        assert (await client.post("/v1/verify", **pair())).status_code == 200
        assert judge.looking == 2  # both photos of the second request, none of the first
