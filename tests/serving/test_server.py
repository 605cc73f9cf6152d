"""The server as a process of its own, on a socket."""

from __future__ import annotations

import asyncio
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

from siamese_verify.serving.server import Connections, listen, timed_protocol
from siamese_verify.serving.settings import Settings
from tests.serving.conftest import HERE, Running, pair, photo
from tests.serving.stand_in import SLOW

FORM_HEAD = (
    "POST /v1/verify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n"
    "Content-Type: multipart/form-data; boundary=X\r\n\r\n"
)


def received(connection: socket.socket) -> bytes:
    """All that the server sends until it closes, within the socket's 20 s."""
    content = b""
    while part := connection.recv(65536):
        content += part
    return content


def start_request(server: Running, answers: list[httpx.Response], content: bytes | None = None) -> threading.Thread:
    """Ask for a verification in a thread, and wait until the server works on it."""

    def ask() -> None:
        answers.append(httpx.post(server.url + "v1/verify", timeout=20, **pair(content)))

    thread = threading.Thread(target=ask)
    thread.start()
    wait_for_metric(server, "in_flight 1.0")
    return thread


def wait_for_metric(server: Running, text: str) -> None:
    deadline = time.monotonic() + 20
    while text not in httpx.get(server.url + "metrics").text:
        assert time.monotonic() < deadline, text
        time.sleep(0.05)


# ---- shutdown


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_request_in_progress_is_finished_on_shutdown(number: signal.Signals, start: Callable[..., Running]) -> None:
    server, answers = start(seconds=1.5), list[httpx.Response]()
    thread = start_request(server, answers)
    assert server.stop(number) == 0
    thread.join()
    assert answers[0].status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url + "healthz")


def test_work_that_takes_too_long_is_cut_off_on_shutdown(start: Callable[..., Running]) -> None:
    server, answers = start(workers=1, shutdown_seconds=1), list[httpx.Response]()
    thread = start_request(server, answers, photo(1, SLOW))
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(10) == 0  # its photo would take 20 s
    thread.join()
    assert (answers[0].status_code, answers[0].json()["reason"]) == (503, "busy")
    assert server.process.stderr is not None
    assert "Traceback" not in server.process.stderr.read()


# ---- slow and greedy clients


def test_client_that_never_ends_its_head_is_disconnected(start: Callable[..., Running]) -> None:
    server = start(header_seconds=0.5)
    silent, slow = server.connect(), server.connect()
    slow.sendall(b"POST /v1/verify HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    ended = threading.Event()

    def send_slowly() -> None:
        with suppress(OSError):
            while not ended.is_set():
                slow.sendall(b"X-A: 1\r\n")
                time.sleep(0.05)

    thread = threading.Thread(target=send_slowly)
    thread.start()
    for connection in (silent, slow):
        with suppress(ConnectionError):
            assert received(connection) == b""
    ended.set()
    thread.join()
    assert httpx.get(server.url + "healthz").status_code == 200


@pytest.mark.parametrize("limits", [{"body_seconds": 0.4}, {"body_seconds": 60, "stall_seconds": 0.5}])
def test_body_that_stalls_times_out(limits: dict[str, float], start: Callable[..., Running]) -> None:
    server = start(header_seconds=0.4, **limits)
    with server.connect() as connection:
        connection.sendall(FORM_HEAD.format(1_000_000).encode() + b"--X\r\n")
        answer = received(connection)  # and the connection ends, whatever is still to come
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"reason": "slow_upload"' in answer


def test_stalled_uploads_of_one_client_leave_room_for_another(start: Callable[..., Running]) -> None:
    server = start(uploads=8, trusted_proxies="127.0.0.1", body_seconds=60)
    head = FORM_HEAD.replace("Host:", "X-Forwarded-For: 203.0.113.1\r\nHost:").format(1000).encode()
    stalled = [server.connect() for _ in range(12)]
    for connection in stalled:
        connection.sendall(head + b"--X\r\n")
    assert [b"503" in connection.recv(65536) for connection in stalled[4:]] == [True] * 8
    assert httpx.post(server.url + "v1/verify", headers={"X-Forwarded-For": "203.0.113.2"}, **pair()).status_code == 200
    for connection in stalled:
        connection.close()


def test_half_sent_heads_do_not_keep_others_out(start: Callable[..., Running]) -> None:
    server = start(connections=20, header_seconds=60)
    halves = [server.connect() for _ in range(60)]
    for connection in halves:
        with suppress(ConnectionError):  # it was closed for another
            connection.sendall(b"POST /v1/verify HTTP/1.1\r\nHost: 127.0")
    for _ in range(3):
        assert httpx.get(server.url + "healthz").status_code == 200
        assert httpx.post(server.url + "v1/verify", **pair()).status_code == 200
    for connection in halves:
        connection.close()


def test_client_that_reads_no_answer_is_disconnected(start: Callable[..., Running]) -> None:
    server = start(header_seconds=0.5)
    with server.connect() as connection, pytest.raises(ConnectionError):
        while True:
            connection.sendall(b"GET /page.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 100)
    assert httpx.get(server.url + "healthz").status_code == 200


def test_client_that_disconnects_gives_back_its_place(start: Callable[..., Running]) -> None:
    server = start(in_flight=2, workers=1, seconds=0.3)
    request = httpx.Client().build_request("POST", server.url + "v1/verify", **pair(photo(1, SLOW)))
    content = request.read()
    head = f"POST /v1/verify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {request.headers['content-type']}\r\n"
    for _ in range(6):
        with server.connect() as connection:
            connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            time.sleep(0.1)
    wait_for_metric(server, "in_flight 0.0")


def test_client_cannot_choose_the_address_that_is_counted(start: Callable[..., Running]) -> None:
    server = start(rate=0.01, burst=1)
    headers = [{"X-Forwarded-For": f"10.0.0.{number}"} for number in range(3)]
    assert [httpx.get(server.url + "v1/model", headers=one).status_code for one in headers] == [200, 429, 429]


# ---- HTTP


def test_invalid_requests_are_refused_and_the_server_goes_on(start: Callable[..., Running]) -> None:
    server = start(header_seconds=0.5)
    for head in (
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # TLS
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST /v1/verify HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        FORM_HEAD.format(99_999_999_999).encode(),  # refused before the body is sent
    ):
        answer = b""
        with server.connect() as connection, suppress(ConnectionError):  # it may be closed while we send
            connection.sendall(head)
            answer = received(connection)
        assert not answer or answer.startswith(b"HTTP/1.1 4"), head[:60]
        assert httpx.get(server.url + "healthz").status_code == 200
    assert answer.startswith(b"HTTP/1.1 413")


def test_head_has_no_body(start: Callable[..., Running]) -> None:
    server = start()
    with server.connect() as connection:
        connection.sendall(b"HEAD /page.js HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        head, _, content = received(connection).partition(b"\r\n\r\n")
    assert (head[:15], content) == (b"HTTP/1.1 200 OK", b"")
    assert b"content-length: " in head.lower()


def test_head_and_body_of_an_answer_are_sent_without_delay() -> None:
    delays: list[int] = []

    async def connect() -> None:
        loop = asyncio.get_running_loop()
        protocol = timed_protocol(1.0, Connections(10))

        class Observed(protocol):  # type: ignore[misc, valid-type]
            def connection_made(self, transport: asyncio.Transport) -> None:
                super().connection_made(transport)
                connection = transport.get_extra_info("socket")
                delays.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

        config = uvicorn.Config(app=lambda scope: None)
        config.load()
        with listen(Settings(port=0)) as listener:
            server = await loop.create_server(lambda: Observed(config, ServerState(), {}), sock=listener)
            _, writer = await asyncio.open_connection("127.0.0.1", listener.getsockname()[1])
            while not delays:
                await asyncio.sleep(0.01)
            writer.close()
            server.close()

    asyncio.run(connect())
    assert delays == [1]


# ---- photos


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_photos_of_phones_are_decoded(kind: str, start: Callable[..., Running]) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif", reason="needs pillow-heif: pip install pillow-heif").register_heif_opener()
    server = start()
    sent = photo(1, 256, 256, kind)
    files = {"a": ("IMG_0001.HEIC", sent, "image/heic"), "b": ("IMG_0001.HEIC", sent, "image/heic")}
    answer = httpx.post(server.url + "v1/verify", files=files, timeout=20)
    assert (answer.status_code, answer.json().get("same")) == (200, True), answer.text


def test_no_file_is_written_while_a_large_photo_is_verified(start: Callable[..., Running], tmp_path: Path) -> None:
    server = start({"TMPDIR": str(tmp_path)})
    seen: set[str] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            for link in list(Path(f"/proc/{server.process.pid}/fd").iterdir()):
                with suppress(OSError):
                    seen.add(str(link.readlink()))

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
