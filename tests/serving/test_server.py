"""The server as a process of its own, on a real socket."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState

from siamese_verify.serving.server import listen
from siamese_verify.serving.settings import Settings
from tests.serving.conftest import Running, pair, photo
from tests.serving.stand_in import SLOW

HERE = Path(__file__).resolve().parent


def received(connection: socket.socket) -> bytes:
    """All that a server says until it closes."""
    content = b""
    while part := connection.recv(65536):
        content += part
    return content


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_in_flight_is_finished_when_the_server_is_told_to_end(
    number: signal.Signals, start: Callable[..., Running]
) -> None:
    server = start(seconds=1.5)
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(httpx.post(server.url + "v1/verify", timeout=20, **pair())))
    asking.start()
    time.sleep(0.7)
    assert server.stop(number) == 0
    asking.join()
    assert answers[0].status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url + "healthz")


def test_a_client_that_never_ends_its_head_is_cut_off(start: Callable[..., Running]) -> None:
    server = start(header_seconds=0.5)
    silent, dripping = server.connect(), server.connect()
    dripping.sendall(b"POST /v1/verify HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    ended = threading.Event()

    def drip() -> None:
        while not ended.is_set():
            try:
                dripping.sendall(b"X-A: 1\r\n")
            except OSError:
                return
            time.sleep(0.05)

    thread = threading.Thread(target=drip)
    thread.start()
    for connection in (silent, dripping):
        try:
            assert received(connection) == b""  # it ends, within the socket's own 20 s
        except ConnectionError:
            continue
    ended.set()
    thread.join()
    assert httpx.get(server.url + "healthz").status_code == 200


def test_a_body_that_drips_is_timed_out(start: Callable[..., Running]) -> None:
    server = start(body_seconds=0.4, header_seconds=0.4)
    with server.connect() as connection:
        connection.sendall(
            b"POST /v1/verify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n"
            b"Content-Type: multipart/form-data; boundary=X\r\n\r\n--X\r\n"
        )
        answer = received(connection)  # and the connection ends, whatever is still to come
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"reason": "slow_upload"' in answer


def test_an_upload_that_stalls_is_timed_out_long_before_its_end(start: Callable[..., Running]) -> None:
    server = start(body_seconds=60, stall_seconds=0.5, header_seconds=0.4)
    with server.connect() as connection:
        connection.sendall(
            b"POST /v1/verify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n"
            b"Content-Type: multipart/form-data; boundary=X\r\n\r\n--X\r\n"
        )
        assert received(connection).startswith(b"HTTP/1.1 408")  # within the socket's 20 s


def test_stalled_uploads_of_one_client_leave_room_for_another(start: Callable[..., Running]) -> None:
    server = start(uploads=8, trusted_proxies="127.0.0.1", body_seconds=60)
    head = (
        b"POST /v1/verify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\nX-Forwarded-For: 203.0.113.1\r\n"
        b"Content-Type: multipart/form-data; boundary=X\r\n\r\n--X\r\n"
    )
    stalled = [server.connect() for _ in range(12)]
    for connection in stalled:
        connection.sendall(head)
    refused = sum(b"503" in connection.recv(65536) for connection in stalled[4:])  # the last eight
    assert refused == 8
    assert httpx.post(server.url + "v1/verify", headers={"X-Forwarded-For": "203.0.113.2"}, **pair()).status_code == 200
    for connection in stalled:
        connection.close()


def test_half_sent_heads_keep_no_health_check_out(start: Callable[..., Running]) -> None:
    server = start(connections=20, header_seconds=60)
    halves = [server.connect() for _ in range(60)]
    for connection in halves:
        with suppress(ConnectionError):  # it was ended to make room
            connection.sendall(b"POST /v1/verify HTTP/1.1\r\nHost: 127.0")
    for _ in range(3):
        assert httpx.get(server.url + "healthz").status_code == 200
        assert httpx.post(server.url + "v1/verify", **pair()).status_code == 200
    for connection in halves:
        connection.close()


def test_a_client_that_reads_no_answer_is_cut_off(start: Callable[..., Running]) -> None:
    server = start(header_seconds=0.5)
    with server.connect() as connection:
        connection.settimeout(20)
        with pytest.raises(ConnectionError):
            while True:  # ask again and again, read nothing
                connection.sendall(b"GET /page.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 100)
    assert httpx.get(server.url + "healthz").status_code == 200


def test_work_that_does_not_end_keeps_no_server_from_ending(start: Callable[..., Running]) -> None:
    server = start(workers=1, shutdown_seconds=1)
    answers: list[httpx.Response] = []
    ask = threading.Thread(
        target=lambda: answers.append(httpx.post(server.url + "v1/verify", timeout=20, **pair(photo(1, SLOW))))
    )
    ask.start()
    time.sleep(0.7)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(10) == 0  # its photo would take 20 s
    ask.join()
    assert (answers[0].status_code, answers[0].json()["reason"]) == (503, "busy")
    assert server.process.stderr is not None
    assert "Traceback" not in server.process.stderr.read()


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_photos_of_phones_are_read(kind: str, start: Callable[..., Running]) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif", reason="needs pillow-heif: pip install pillow-heif").register_heif_opener()
    server = start()
    sent = photo(1, 256, 256, kind)
    files = {"a": ("IMG_0001.HEIC", sent, "image/heic"), "b": ("IMG_0001.HEIC", sent, "image/heic")}
    answer = httpx.post(server.url + "v1/verify", files=files, timeout=20)
    assert (answer.status_code, answer.json().get("same")) == (200, True), answer.text


def test_a_large_body_is_refused_before_it_is_sent(start: Callable[..., Running]) -> None:
    server = start(header_seconds=0.4)
    with server.connect() as connection:
        connection.sendall(
            b"POST /v1/verify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999999\r\n"
            b"Content-Type: multipart/form-data; boundary=X\r\n\r\n"
        )
        answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST /v1/verify HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
        b"GET /healthz HTTP/1.1\r\n\r\n",
    ],
)
def test_a_head_that_breaks_the_rules_is_refused(head: bytes, start: Callable[..., Running]) -> None:
    server = start(header_seconds=0.5)
    with server.connect() as connection:
        try:
            connection.sendall(head)
            answer = received(connection)
        except ConnectionError:  # it was closed while we were still talking
            answer = b""
    assert not answer or answer.startswith(b"HTTP/1.1 4")
    assert httpx.get(server.url + "healthz").status_code == 200


def test_a_client_that_goes_away_costs_nothing_afterwards(start: Callable[..., Running]) -> None:
    server = start(in_flight=2, workers=1, seconds=0.3)
    request = httpx.Client().build_request("POST", server.url + "v1/verify", **pair(photo(1, SLOW)))
    content = request.read()
    head = f"POST /v1/verify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {request.headers['content-type']}\r\n"
    for _ in range(6):
        with server.connect() as connection:
            connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            time.sleep(0.1)
    deadline = time.monotonic() + 10
    while "in_flight 0.0" not in httpx.get(server.url + "metrics").text:
        assert time.monotonic() < deadline, "their places were never given back"
        time.sleep(0.1)


def test_nobody_can_pass_for_another_address(start: Callable[..., Running]) -> None:
    server = start(rate=0.01, burst=1)
    statuses = [
        httpx.get(server.url + "v1/model", headers={"X-Forwarded-For": f"10.0.0.{number}"}).status_code
        for number in range(3)
    ]
    assert statuses == [200, 429, 429]


def test_head_and_body_of_an_answer_leave_without_waiting_for_each_other() -> None:
    from siamese_verify.serving.http_protocol import Connections, timed_protocol

    chosen: list[int] = []

    async def look() -> None:
        loop = asyncio.get_running_loop()
        kind = timed_protocol(1.0, Connections(10))

        class Looking(kind):  # type: ignore[misc, valid-type]
            def connection_made(self, transport: asyncio.Transport) -> None:
                super().connection_made(transport)
                place = transport.get_extra_info("socket")
                chosen.append(place.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

        config = uvicorn.Config(app=lambda scope: None)
        config.load()
        with listen(Settings(port=0)) as place:
            port = place.getsockname()[1]
            server = await loop.create_server(lambda: Looking(config, ServerState(), {}), sock=place)
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            while not chosen:
                await asyncio.sleep(0.01)
            writer.close()
            server.close()

    asyncio.run(look())
    assert chosen == [1]


def test_no_file_is_written_while_a_large_photo_is_verified(start: Callable[..., Running], tmp_path: Path) -> None:
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(tmp_path)
    try:
        server = start()
    finally:
        os.environ.pop("TMPDIR") if before is None else os.environ.update(TMPDIR=before)
    seen: set[str] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            for link in list(Path(f"/proc/{server.process.pid}/fd").iterdir()):
                try:
                    seen.add(str(link.readlink()))
                except OSError:
                    continue

    thread = threading.Thread(target=watch)
    thread.start()
    large = photo(1, 1500, 1500, "BMP")  # 6.75 MB
    for _ in range(3):
        assert httpx.post(server.url + "v1/verify", timeout=20, **pair(large, large)).status_code == 200
    ended.set()
    thread.join()
    assert seen
    assert not [name for name in seen if name.startswith((str(tmp_path), "/tmp/tmp", "/var/tmp"))]
    assert not list(tmp_path.iterdir())


def test_importing_the_server_loads_no_torch() -> None:
    program = "import sys, siamese_verify.serving.app, siamese_verify.serving.server; print('torch' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=HERE.parents[1], timeout=60
    )
    assert run.stdout.strip() == "False", run.stderr
