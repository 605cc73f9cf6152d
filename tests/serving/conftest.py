"""Photos, forms and a server in this process."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
from PIL import Image
from stand_in import StandIn

from siamese_verify.serving.app import create_app
from siamese_verify.serving.settings import Settings


def photo(seed: int = 0, width: int = 64, height: int = 64, kind: str = "PNG") -> bytes:
    """A picture of coarse noise, as a file."""
    cells = np.random.default_rng(seed).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(cells).resize((width, height), Image.Resampling.NEAREST).save(content, kind)
    return content.getvalue()


def pair(first: bytes | None = None, second: bytes | None = None, **fields: str) -> dict[str, Any]:
    """What httpx sends to /v1/verify."""
    files = {"a": ("a.png", first or photo(1), "image/png"), "b": ("b.png", second or photo(2), "image/png")}
    return {"files": files, "data": fields}


@asynccontextmanager
async def client_of(
    verifier: Any = None, settings: Settings | None = None, **more: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server in this process, without a socket."""
    settings = settings or Settings(rate=0)
    app = create_app(verifier or StandIn(), settings, **more)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client,
    ):
        client.app = app  # type: ignore[attr-defined]
        yield client
