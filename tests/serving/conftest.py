"""Photos, forms and a server in this process."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from siamese_verify.serving.app import create_app
from siamese_verify.serving.settings import Settings
from siamese_verify.verification import Verifier
from tests.serving.stand_in import StandIn


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def photo(seed: int = 0, width: int = 64, height: int = 64, kind: str = "PNG") -> bytes:
    """A picture of coarse noise, as a file."""
    cells = np.random.default_rng(seed).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(cells).resize((width, height), Image.Resampling.NEAREST).save(content, kind)
    return content.getvalue()


def pair(first: bytes | None = None, second: bytes | None = None, **fields: str) -> dict[str, Any]:
    """What httpx sends to /v1/verify."""
    a, b = photo(1) if first is None else first, photo(2) if second is None else second
    return {"files": {"a": ("a.png", a, "image/png"), "b": ("b.png", b, "image/png")}, "data": fields}


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
