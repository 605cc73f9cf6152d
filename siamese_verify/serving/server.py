"""The application on a socket, until it is told to end."""

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

from siamese_verify.errors import InputError
from siamese_verify.serving.http_protocol import Connections, timed_protocol
from siamese_verify.serving.settings import Settings, bracketed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fastapi import FastAPI

    from siamese_verify.serving.batching import FaceEngine

HEAD_BYTES = 16 * 1024  # of a request
OTHER_FILES = 128  # that are open besides: the model, a gallery, libraries
BACKLOG = 512
log = logging.getLogger("siamese_verify.serving")


class Server(uvicorn.Server):
    """Ends in order on SIGTERM and on Ctrl-C: requests in flight are finished, and the exit status is 0.

    Args:
        config: of uvicorn.
        ready: called once connections are taken.
        lost: says whether nothing can be answered any more; then the server ends by itself.
    """

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], lost: Callable[[], bool]) -> None:
        super().__init__(config)
        self._ready, self._lost = ready, lost
        self.gave_up = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take connections."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def on_tick(self, counter: int) -> bool:
        """Say, ten times a second, whether to end."""
        if counter % 10 == 0 and self._lost():
            log.error("The workers of process %d are stuck: it ends.", os.getpid())
            self.should_exit = self.gave_up = True
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; a second Ctrl-C ends at once. Unlike uvicorn's, the signal is not raised again afterwards."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True


def is_no_cancellation(record: logging.LogRecord) -> bool:
    """Whether a record of a log tells of anything but a request that was cancelled."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def listen(settings: Settings) -> socket.socket:
    """Bind and listen, so that a port in use is said before a model is loaded.

    Raises:
        InputError: the address or the port cannot be had.
    """
    host = settings.host.strip("[]")
    try:
        family = socket.getaddrinfo(host, settings.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, settings.port), family=family, backlog=BACKLOG)
    except OSError as error:
        way = "choose another with --port, or end the program that has it"
        raise InputError(f"Port {settings.port} of {settings.host} cannot be had ({error.strerror}): {way}.") from None


def run(
    app: FastAPI,
    settings: Settings,
    place: socket.socket,
    *,
    certificate: Path | None = None,
    certificate_key: Path | None = None,
    ready: Callable[[str], None] = lambda url: None,
    replaced: bool = False,
) -> int:
    """Serve until SIGTERM or Ctrl-C; work that does not end in time is left where it is, and the process ends.

    Args:
        app: of `create_app`.
        settings: likewise.
        place: that `listen` gave.
        certificate: PEM file, for HTTPS.
        certificate_key: likewise.
        ready: is told the address once connections are taken.
        replaced: the process is started anew when it ends, so it does when its workers are stuck.

    Returns:
        Exit status: 0, or 1 when the workers were stuck.
    """
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it quotes bytes of what is sent
    logging.getLogger("uvicorn.error").addFilter(is_no_cancellation)  # which was answered, and is no failure
    config = uvicorn.Config(
        app,
        http=timed_protocol(settings.header_seconds, Connections(most_connections(settings.connections))),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # it would hold paths, which hold names
        server_header=False,
        proxy_headers=False,  # `Guard` knows which proxies may be believed
        h11_max_incomplete_event_size=HEAD_BYTES,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_seconds)),
        ssl_certfile=certificate,
        ssl_keyfile=certificate_key,
    )
    scheme, port = "https" if certificate else "http", place.getsockname()[1]
    address = f"{scheme}://{bracketed(settings.host)}:{port}{settings.root_path}/"
    engine: FaceEngine = app.state.service.engine
    server = Server(config, lambda: ready(address), lambda: replaced and engine.stuck)
    server.run(sockets=[place])
    status = 1 if server.gave_up else 0
    if not engine.close(0 if server.force_exit else 1):
        log.error("Work that took too long was cut off.")
        logging.shutdown()
        sys.stdout.flush()
        os._exit(status)  # Python's own end is not safe while threads are in libraries
    return status


def most_connections(asked: int) -> int:
    """As many as are asked for, or fewer where this process may not open so many files."""
    try:
        import resource
    except ImportError:  # on Windows
        return asked
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return asked if allowed == resource.RLIM_INFINITY else max(1, min(asked, allowed - OTHER_FILES))
