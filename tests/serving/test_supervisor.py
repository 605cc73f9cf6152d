"""Several server processes behind one socket."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.serving.conftest import Running, pair, photo
from tests.serving.stand_in import SLOW


def children(server: Running) -> set[int]:
    """Processes that serve."""
    pid = server.process.pid
    found = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return {child for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()}


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_processes_share_a_socket_a_gallery_and_counters_and_one_that_dies_is_replaced(
    start: Callable[..., Running], tmp_path: Path
) -> None:
    pytest.importorskip("sqlcipher3", reason="needs sqlcipher3: pip install 'siamese-verify[gallery]'")
    from siamese_verify import gallery

    gallery.new_key(tmp_path / "key")
    server = start(processes=2, gallery=tmp_path)
    first = children(server)
    assert len(first) == 2

    def names() -> list[str]:
        answer = httpx.get(server.url + "v1/people")  # a connection of its own, which either process may take
        return [person["name"] for person in answer.json()["people"]]

    for name in ("Ada", "Grace"):
        sent = httpx.post(server.url + "v1/enroll", data={"name": name}, files=[("photo", photo(len(name)))])
        assert sent.status_code == 200
        assert all(name in names() for _ in range(12))
    counted = 'requests_total{route="/v1/people",status="200"} 24.0'
    assert all(counted in httpx.get(server.url + "metrics").text for _ in range(8))
    os.kill(min(first), signal.SIGKILL)
    until(lambda: len(children(server) - {min(first)}) == 2, "it was not replaced")
    until(lambda: "Ada" in names(), "the gallery was lost")
    assert server.stop() == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url + "healthz")


def test_a_process_whose_workers_are_stuck_is_replaced(start: Callable[..., Running]) -> None:
    server = start(processes=1, workers=1, answer_seconds=0.5, shutdown_seconds=0.5)
    stuck = children(server)
    assert httpx.post(server.url + "v1/verify", timeout=20, **pair(photo(1, SLOW))).status_code == 503

    def answered() -> bool:
        try:
            return httpx.post(server.url + "v1/verify", timeout=20, **pair()).status_code == 200
        except httpx.TransportError:
            return False

    until(answered, "nothing was answered any more")
    assert not children(server) & stuck
    assert server.stop() == 0


def test_processes_end_with_the_one_that_started_them(start: Callable[..., Running]) -> None:
    server = start(processes=1)
    server.stop(signal.SIGKILL)

    def refused() -> bool:
        try:
            return httpx.get(server.url + "healthz").status_code != 200
        except httpx.TransportError:
            return True

    until(refused, "it still serves")
