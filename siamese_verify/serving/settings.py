"""What a server is told once, when it starts."""

from __future__ import annotations

import importlib
import ipaddress
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from siamese_verify.errors import InputError

MEGABYTE = 2**20
BEYOND_PHOTOS = 64 * 1024  # bytes of a body that are not photos: boundaries, headers and fields
PROXY_HEADERS = ("x-forwarded", "forwarded")


@dataclass(frozen=True)
class Settings:
    """Where a server listens, and its limits.

    Attributes:
        host: address it binds to.
        port: likewise; 0 takes a free one.
        hosts: names in `Host` that it answers to; empty for those of this machine on loopback, any name elsewhere.
        photo_bytes: most of one photo.
        photo_pixels: most of one photo.
        photos: most in one request, of `/v1/embed` and `/v1/enroll`; pairs of `/v1/verify/batch`.
        faces: most that are compared in one request, of both photos together.
        body_bytes: of all bodies that are held at a time; more wait nowhere, they are refused.
        connections: open at a time; a new one takes the place of an idle one.
        uploads: requests that are being read at a time.
        in_flight: requests that are being answered at a time.
        workers: threads that decode photos and look for faces.
        pixels: of all photos that are answered at a time, for each worker.
        batch: most faces that are embedded together.
        batch_milliseconds: that the first face of a batch waits for others.
        rate: requests a second of one key, or of one address without keys; 0 for no limit.
        burst: requests that may come at once after a pause.
        header_seconds: for the head of a request.
        body_seconds: for the whole body of a request.
        stall_seconds: that a body may fall behind `body_rate`.
        body_rate: bytes a second.
        answer_seconds: for an answer once the body is there.
        shutdown_seconds: for requests in flight when the server is told to end.
        allow_scores: without keys, searches may ask for the scores of people who were not found.
        root_path: under which a proxy offers the server, such as `/faces`; empty for none.
        trusted_proxies: addresses and networks whose word is taken for who the client is.
        proxy_header: in which they say it: `x-forwarded` or `forwarded`.
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
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    pixels: int = 96_000_000
    batch: int = 32
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
    proxy_header: str = "x-forwarded"
    allow_scores: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise InputError(f"A port is a number from 0 to 65535, got {self.port}.")
        counts = (
            *("photo_bytes", "photo_pixels", "photos", "faces", "body_bytes", "body_rate"),
            *("connections", "uploads", "in_flight", "workers", "pixels", "batch"),
        )
        times = ("header_seconds", "body_seconds", "stall_seconds", "answer_seconds", "shutdown_seconds")
        for name in (*counts, "burst", *times):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is a limit above 0, got {getattr(self, name)}.")
        if not (self.rate >= 0 and self.batch_milliseconds >= 0):
            raise InputError(f"A rate or a wait is 0 or more, got {self.rate} and {self.batch_milliseconds}.")
        if self.root_path and (not re.fullmatch(r"(/[\w.~-]+)+", self.root_path, re.ASCII)):
            raise InputError(f"A root path looks like /faces, without a slash at its end, got {self.root_path!r}.")
        if self.proxy_header not in PROXY_HEADERS:
            raise InputError(f"proxy_header is one of {', '.join(PROXY_HEADERS)}, got {self.proxy_header!r}.")
        for proxy in self.trusted_proxies:
            try:
                ipaddress.ip_network(proxy)
            except ValueError:
                raise InputError(f"A proxy is an address or a network such as 10.0.0.0/8, got {proxy!r}.") from None

    @property
    def loopback(self) -> bool:
        """Nobody but this machine can reach it."""
        return is_loopback(self.host)

    @property
    def allowed_hosts(self) -> tuple[str, ...]:
        """Names in `Host` that it answers to, lower case and without ports; empty for any."""
        if self.hosts or not self.loopback:
            return tuple(name.lower() for name in self.hosts)
        return tuple(dict.fromkeys(("localhost", "127.0.0.1", "[::1]", bracketed(self.host))))

    def request_bytes(self, photos: int) -> int:
        """Most that a request with so many photos may send; a batch no more than other requests of many photos."""
        return min(photos, self.photos) * self.photo_bytes + BEYOND_PHOTOS


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach an address; a name other than `localhost` may lead anywhere."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def bracketed(host: str) -> str:
    """Write an address as it stands in a URL: `[::1]` for `::1`."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def load_hook(name: str) -> Callable[..., str | None]:
    """Import `module:function`; the current folder is searched too.

    The function takes a photo and the face on it, and returns None for a living person or a sentence that refuses.

    Raises:
        InputError: there is none, or it is no function.
    """
    module, colon, function = name.partition(":")
    if not colon or not module or not function:
        raise InputError(f"A liveness hook is named as module:function, got {name!r}.")
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
        raise InputError(f"The liveness hook {name} is no function: name one that takes a photo and a face.")
    hook: Callable[..., str | None] = found
    return hook
