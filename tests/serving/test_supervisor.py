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


def serving_processes(server: Running) -> set[int]:
    pid = server.process.pid
    found = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return {child for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()}


def wait_until(condition: Callable[[], bool], message: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.05)


def test_processes_share_a_socket_a_gallery_and_metrics_and_are_restarted(
    start: Callable[..., Running], tmp_path: Path
) -> None:
    pytest.importorskip("sqlcipher3", reason="needs sqlcipher3: pip install 'siamese-verify[gallery]'")
    from siamese_verify import gallery

    gallery.new_key(tmp_path / "key")
    server = start(processes=2, gallery=tmp_path)
    first = serving_processes(server)
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
    wait_until(lambda: len(serving_processes(server) - {min(first)}) == 2, "it was not restarted")
    wait_until(lambda: "Ada" in names(), "the gallery was lost")
    assert server.stop() == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url + "healthz")


def test_process_with_stuck_workers_is_restarted(start: Callable[..., Running]) -> None:
    server = start(processes=1, workers=1, answer_seconds=0.5, shutdown_seconds=0.5)
    stuck = serving_processes(server)
    assert httpx.post(server.url + "v1/verify", timeout=20, **pair(photo(1, SLOW))).status_code == 503

    def answered() -> bool:
        try:
            return httpx.post(server.url + "v1/verify", timeout=20, **pair()).status_code == 200
        except httpx.TransportError:
            return False

    wait_until(answered, "nothing was answered any more")
    assert not serving_processes(server) & stuck
    assert server.stop() == 0


def test_processes_end_with_the_supervisor(start: Callable[..., Running]) -> None:
    server = start(processes=1)
    server.stop(signal.SIGKILL)

    def refused() -> bool:
        try:
            return httpx.get(server.url + "healthz").status_code != 200
        except httpx.TransportError:
            return True

    wait_until(refused, "it still serves")
