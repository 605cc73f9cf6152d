"""Serve the application on a socket until a signal ends it: uvicorn with time limits on slow clients."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from siamese_verify.errors import InputError
from siamese_verify.serving.settings import Settings, bracketed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fastapi import FastAPI

    from siamese_verify.serving.service import Service

HEAD_BYTES = 16 * 1024  # of a request
OTHER_FILES = 128  # open files that are not connections: the model, a gallery, libraries
BACKLOG = 512
log = logging.getLogger("siamese_verify.serving")


class Connections:
    """Open connections of a server by the address of the client.

    With too many, a new one replaces the one idle for longest of the address with most idle ones. So clients that open
    connections and ask nothing lose their own, and a health check is still answered.

    Args:
        limit: connections open at a time.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.open = limit, 0
        self._idle: dict[str, dict[H11Protocol, None]] = {}  # address -> connections, longest idle first

    def opened(self, connection: H11Protocol) -> None:
        """Count a new connection, and close another if there are too many."""
        self.open += 1
        if self.open > self.limit:
            address = max(self._idle, key=lambda one: len(self._idle[one]), default=None)
            closed = connection if address is None else next(iter(self._idle[address]))
            self.busy(closed)
            closed.transport.abort()

    def closed(self, connection: H11Protocol) -> None:
        """Forget a connection."""
        self.open -= 1
        self.busy(connection)

    def idle(self, connection: H11Protocol) -> None:
        """Note that the server waits for the client."""
        self._idle.setdefault(_address(connection), {})[connection] = None

    def busy(self, connection: H11Protocol) -> None:
        """Note that the client waits for the server."""
        address = _address(connection)
        connections = self._idle.get(address, {})
        connections.pop(connection, None)
        if not connections:
            self._idle.pop(address, None)


def _address(connection: H11Protocol) -> str:
    return connection.client[0] if connection.client else ""


def timed_protocol(seconds: float, connections: Connections) -> type[H11Protocol]:
    """HTTP protocol that closes connections of slow clients.

    uvicorn waits forever for the head of a request, for the rest of a body that was refused, and for a client that does
    not read its answer: some hundred connections that send a byte per minute would stop the server.

    Args:
        seconds: time for the head of a request, for the rest of a refused body, and to read an answer.
        connections: count of open connections.
    """

    class TimedProtocol(H11Protocol):
        _receive_timer: asyncio.TimerHandle | None = None  # while it is the client's turn to send
        _send_timer: asyncio.TimerHandle | None = None  # while the client does not read

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            connection = transport.get_extra_info("socket")
            if connection is not None:
                # Head and body are two writes: the second would wait 40 ms for the client to acknowledge the first.
                # asyncio sets this only for sockets that were created with an explicit protocol.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            super().connection_made(transport)
            connections.opened(self)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._send_timer = self.loop.call_later(seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._send_timer is not None:
                self._send_timer.cancel()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            if self._send_timer is not None:
                self._send_timer.cancel()
            connections.closed(self)
            super().connection_lost(exc)

        def _watch(self) -> None:
            """Start the timer when it is the client's turn, stop it when it is the server's; bytes do not reset it."""
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop()
            elif self._receive_timer is None:
                self._receive_timer = self.loop.call_later(seconds, self.transport.abort)
                connections.idle(self)

        def _stop(self) -> None:
            if self._receive_timer is not None:
                self._receive_timer.cancel()
                self._receive_timer = None
                connections.busy(self)

    return TimedProtocol


class Server(uvicorn.Server):
    """uvicorn's server that ends with status 0 on SIGTERM and Ctrl-C once requests in progress are finished.

    Args:
        config: uvicorn's.
        ready: called once connections are accepted.
        is_stuck: whether nothing can be answered any more; then the server ends by itself.
    """

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], is_stuck: Callable[[], bool]) -> None:
        super().__init__(config)
        self._ready, self._is_stuck = ready, is_stuck
        self.gave_up = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def on_tick(self, counter: int) -> bool:
        """Whether to end, ten times a second."""
        if counter % 10 == 0 and self._is_stuck():
            log.error("The workers of process %d are stuck: it ends.", os.getpid())
            self.should_exit = self.gave_up = True
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End; a second Ctrl-C ends at once. Unlike uvicorn's, it does not raise the signal again afterwards."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True


def listen(settings: Settings) -> socket.socket:
    """Bind and listen, so that a port in use is an error before a model is loaded.

    Raises:
        InputError: if the address or port cannot be used.
    """
    host = settings.host.strip("[]")
    try:
        family = socket.getaddrinfo(host, settings.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, settings.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise InputError(
            f"Port {settings.port} of {settings.host} cannot be used ({error.strerror}): choose another with --port."
        ) from None


def run(
    app: FastAPI,
    settings: Settings,
    listener: socket.socket,
    *,
    certificate: Path | None = None,
    certificate_key: Path | None = None,
    ready: Callable[[str], None] = lambda url: None,
    supervised: bool = False,
) -> int:
    """Serve until SIGTERM or Ctrl-C; work that does not end in time is cut off.

    Args:
        app: from `create_app`, or `create_people_app`.
        settings: of the app.
        listener: from `listen`.
        certificate: PEM file, for HTTPS.
        certificate_key: PEM file of its key.
        ready: called with the URL once connections are accepted.
        supervised: whether a supervisor restarts the process, so that it ends when its workers are stuck.

    Returns:
        Exit status: 0, or 1 if the workers were stuck.
    """
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it quotes bytes of the body
    logging.getLogger("uvicorn.error").addFilter(_is_not_cancellation)
    config = uvicorn.Config(
        app,
        http=timed_protocol(settings.header_seconds, Connections(connection_limit(settings.connections))),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # it contains paths, which contain names
        server_header=False,
        proxy_headers=False,  # the app knows the trusted proxies
        h11_max_incomplete_event_size=HEAD_BYTES,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_seconds)),
        ssl_certfile=certificate,
        ssl_keyfile=certificate_key,
    )
    scheme, port = "https" if certificate else "http", listener.getsockname()[1]
    url = f"{scheme}://{bracketed(settings.host)}:{port}{settings.root_path}/"
    service: Service | None = getattr(app.state, "service", None)
    server = Server(config, lambda: ready(url), lambda: supervised and service is not None and service.engine.stuck)
    server.run(sockets=[listener])
    status = 1 if server.gave_up else 0
    if service is not None and not service.engine.close(0 if server.force_exit else 1):
        log.error("Work that took too long was cut off.")
        logging.shutdown()
        sys.stdout.flush()
        os._exit(status)  # Python cannot end safely while threads are in libraries
    return status


def _is_not_cancellation(record: logging.LogRecord) -> bool:
    """Filter of the log: a request that is cancelled on shutdown was answered, and is not a failure."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def connection_limit(wanted: int) -> int:
    """Connections that this process may have, given its limit on open files."""
    try:
        import resource
    except ImportError:  # on Windows
        return wanted
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if allowed == resource.RLIM_INFINITY else max(1, min(wanted, allowed - OTHER_FILES))
