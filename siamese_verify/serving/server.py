"""The application on a socket, until it is told to end."""

from __future__ import annotations

import logging
import signal
import socket
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from siamese_verify.errors import InputError
from siamese_verify.serving.protocol import timed_protocol
from siamese_verify.serving.settings import Settings, bracketed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fastapi import FastAPI

HEAD_BYTES = 16 * 1024  # of a request
CONNECTIONS = 1024
BACKLOG = 512


class Server(uvicorn.Server):
    """Ends in order on SIGTERM and on Ctrl-C: requests in flight are finished, and the exit status is 0.

    Args:
        config: of uvicorn.
        ready: called once connections are taken.
    """

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take connections."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; a second Ctrl-C ends at once. Unlike uvicorn's, the signal is not raised again afterwards."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True


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
) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        app: of `create_app`.
        settings: likewise.
        place: that `listen` gave.
        certificate: PEM file, for HTTPS.
        certificate_key: likewise.
        ready: is told the address once connections are taken.
    """
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it quotes bytes of what is sent
    config = uvicorn.Config(
        app,
        http=timed_protocol(settings.header_seconds),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # it would hold paths, which hold names
        server_header=False,
        proxy_headers=False,  # whoever writes X-Forwarded-For would choose whose rate limit to use up
        h11_max_incomplete_event_size=HEAD_BYTES,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_seconds)),
        ssl_certfile=certificate,
        ssl_keyfile=certificate_key,
    )
    scheme, port = "https" if certificate else "http", place.getsockname()[1]
    address = f"{scheme}://{bracketed(settings.host)}:{port}/"
    Server(config, lambda: ready(address)).run(sockets=[place])
