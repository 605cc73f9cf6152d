"""Settings of the server, and the import of a liveness hook."""

from __future__ import annotations

import importlib
import ipaddress
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from siamese_verify.errors import InputError
from siamese_verify.worker_pool import usable_cores

MEGABYTE = 2**20
FORM_OVERHEAD = 64 * 1024  # bytes of a body that are not photos: boundaries, headers and fields


@dataclass(frozen=True)
class Settings:
    """Address and limits of a server.

    Attributes:
        host: address to bind to.
        port: port to bind to; 0 for a free one.
        hosts: names in `Host` that are answered; empty for those of this machine on loopback, any name elsewhere.
        photo_bytes: bytes of a photo.
        photo_pixels: pixels of a photo.
        photos: photos of a request to `/v1/embed` or `/v1/enroll`, pairs of one to `/v1/verify/batch`.
        faces: faces compared in a request, of both photos together.
        body_bytes: bytes of all bodies held at a time.
        connections: connections open at a time; a new one replaces an idle one.
        uploads: requests read at a time.
        in_flight: requests answered at a time.
        workers: threads that decode photos and detect faces.
        pixels: pixels answered at a time, for each worker.
        batch: faces embedded together; None for 32, or what the engine takes on a GPU.
        batch_milliseconds: time that the first face of a batch waits for others.
        rate: requests per second of a client; 0 for no limit.
        burst: requests of a client at once after a pause.
        header_seconds: time for the head of a request.
        body_seconds: time for a body.
        stall_seconds: time that a body may be behind `body_rate`.
        body_rate: bytes per second of a body.
        answer_seconds: time for an answer once the body has arrived.
        shutdown_seconds: time for requests in progress on shutdown.
        root_path: path at which a proxy offers the server, such as `/faces`.
        trusted_proxies: addresses and networks whose X-Forwarded-For and -Proto are believed.
        allow_scores: without keys, searches may ask for scores below the threshold.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    hosts: tuple[str, ...] = ()
    photo_bytes: int = 10 * MEGABYTE
    photo_pixels: int = 24_000_000
    photos: int = 16
    faces: int = 64
    body_bytes: int = 256 * MEGABYTE
    connections: int = 1024
    uploads: int = 64
    in_flight: int = 32
    workers: int = field(default_factory=usable_cores)
    pixels: int = 96_000_000
    batch: int | None = None
    batch_milliseconds: float = 2.0
    rate: float = 20.0
    burst: int = 40
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    stall_seconds: float = 5.0
    body_rate: int = 16 * 1024
    answer_seconds: float = 30.0
    shutdown_seconds: float = 10.0
    root_path: str = ""
    trusted_proxies: tuple[str, ...] = ()
    allow_scores: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise InputError(f"port must be 0 to 65535, got {self.port}.")
        limits = (
            *("photo_bytes", "photo_pixels", "photos", "faces", "body_bytes", "body_rate", "connections", "uploads"),
            *("in_flight", "workers", "pixels", "batch", "burst", "header_seconds", "body_seconds", "stall_seconds"),
            *("answer_seconds", "shutdown_seconds"),
        )
        for name in limits:
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise InputError(f"{name} must be above 0, got {getattr(self, name)}.")
        for name in ("rate", "batch_milliseconds"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} must be 0 or more, got {getattr(self, name)}.")
        if self.root_path and not re.fullmatch(r"(/[\w.~-]+)+", self.root_path, re.ASCII):
            raise InputError(f"root_path must be like /faces, without a slash at its end, got {self.root_path!r}.")
        for proxy in self.trusted_proxies:
            try:
                ipaddress.ip_network(proxy)
            except ValueError:
                raise InputError(
                    f"A trusted proxy must be an address or a network such as 10.0.0.0/8, got {proxy!r}."
                ) from None

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)

    @property
    def allowed_hosts(self) -> tuple[str, ...]:
        """Names in `Host` that are answered, in lower case and without ports; empty for any."""
        if self.hosts or not self.loopback:
            return tuple(name.lower() for name in self.hosts)
        return tuple(dict.fromkeys(("localhost", "127.0.0.1", "[::1]", bracketed(self.host))))

    def request_bytes(self, photos: int) -> int:
        """Bytes of a request with so many photos, which are those of at most `self.photos`."""
        return min(photos, self.photos) * self.photo_bytes + FORM_OVERHEAD


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; names other than `localhost` may resolve to any."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def bracketed(host: str) -> str:
    """Host as in a URL: `[::1]` for `::1`."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def load_hook(name: str) -> Callable[..., str | None]:
    """Import a liveness hook by `module:function`, from the current folder too.

    It is called with a photo and the face on it, and returns None to accept or a sentence to refuse.

    Raises:
        InputError: if there is no such function.
    """
    module, colon, function = name.partition(":")
    if not colon or not module or not function:
        raise InputError(f"A liveness hook must be named as module:function, got {name!r}.")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for part in function.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise InputError(f"The liveness hook {name} cannot be imported ({error}): check its name.") from None
    if not callable(found):
        raise InputError(f"The liveness hook {name} is not a function: name one that takes a photo and a face.")
    hook: Callable[..., str | None] = found
    return hook
