"""Photos, forms and a server in this process or in its own."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image

from siamese_verify.serving.app import create_app
from siamese_verify.serving.settings import Settings
from siamese_verify.verification import Verifier
from tests.serving.stand_in import StandIn

HERE = Path(__file__).resolve().parent


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def photo(seed: int = 0, width: int = 64, height: int = 64, kind: str = "PNG") -> bytes:
    """A picture of coarse noise, as a file."""
    noise = np.random.default_rng(seed).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).resize((width, height), Image.Resampling.NEAREST).save(content, kind)
    return content.getvalue()


def pair(first: bytes | None = None, second: bytes | None = None, **fields: str) -> dict[str, Any]:
    """What httpx sends to /v1/verify."""
    a, b = photo(1) if first is None else first, photo(2) if second is None else second
    return {"files": {"a": ("a.png", a, "image/png"), "b": ("b.png", b, "image/png")}, "data": fields}


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


@asynccontextmanager
async def client_of(
    verifier: Verifier | None = None, settings: Settings | None = None, **more: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server in this process, without a socket."""
    app = create_app(verifier or StandIn(), settings or Settings(rate=0), **more)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client,
    ):
        yield client


class Running(NamedTuple):
    """A server in a process of its own."""

    url: str
    port: int
    process: subprocess.Popen[str]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    running: list[subprocess.Popen[str]] = []

    def run(environment: dict[str, str] | None = None, **settings: object) -> Running:
        arguments = [f"{name}={value}" for name, value in {"rate": 0, **settings}.items()]
        path = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
        process = subprocess.Popen(
            [sys.executable, str(HERE / "stand_in.py"), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, **(environment or {})},
        )
        running.append(process)
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        return Running(url, urlsplit(url).port or 0, process)

    yield run
    for process in running:
        process.kill()
        process.communicate()
