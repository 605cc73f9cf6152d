"""The application: routes, middleware and the files of the web page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from siamese_verify import __version__
from siamese_verify.serving.batching import FaceEngine
from siamese_verify.serving.fair_share import Admission, RateLimit
from siamese_verify.serving.gallery_routes import add_gallery_routes
from siamese_verify.serving.middleware import Guard
from siamese_verify.serving.page_files import VERIFY_PAGES, add_page_files
from siamese_verify.serving.problems import Problem
from siamese_verify.serving.schemas import DESCRIPTION, ERRORS
from siamese_verify.serving.server_routes import add_server_routes
from siamese_verify.serving.service import Metrics, Service
from siamese_verify.serving.settings import Settings
from siamese_verify.serving.verify_routes import add_verify_routes

if TYPE_CHECKING:
    from siamese_verify.gallery import Gallery
    from siamese_verify.serving.api_keys import KeyFile
    from siamese_verify.verification import Verifier


def create_app(
    verifier: Verifier,
    settings: Settings | None = None,
    *,
    keys: KeyFile | None = None,
    gallery: Gallery | None = None,
    liveness: bool = False,
) -> FastAPI:
    """Create the application.

    Args:
        verifier: verifier of one model.
        settings: hosts and limits.
        keys: accepted API keys; None if none is needed.
        gallery: enrolled people; None leaves `/v1/enroll`, `/v1/identify` and `/v1/people` out.
        liveness: whether the verifier has a liveness hook.

    Raises:
        InputError: if the model's files are damaged.
    """
    settings = settings or Settings()
    metrics = Metrics()
    engine = FaceEngine(verifier, settings, metrics)
    engine.warm_up()
    pixels = settings.pixels * settings.workers
    admission = Admission(settings.uploads, settings.in_flight, settings.body_bytes, pixels)
    service = Service(settings, engine, admission, metrics, gallery, keys is not None, liveness)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(engine.close)  # within a second

    app = FastAPI(
        title="Siamese Verify",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,  # these pages would load scripts from another host; ours is among the files of the page
        redoc_url=None,
        redirect_slashes=False,  # a redirect would go to whatever Host the client sent
        lifespan=lifespan,
        responses=ERRORS,
    )
    app.state.service = service
    add_verify_routes(app, service)
    if gallery is not None:
        add_gallery_routes(app, service, gallery)
    add_server_routes(app, service)
    add_page_files(app, VERIFY_PAGES)
    app.add_exception_handler(HTTPException, _router_error)
    rates = RateLimit(settings.rate, settings.burst)
    app.add_middleware(Guard, settings=settings, keys=keys, rates=rates, metrics=metrics)
    if settings.trusted_proxies:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=[*settings.trusted_proxies])
    return app


async def _router_error(request: Request, error: Exception) -> Response:
    """An error of Starlette's router as JSON."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    reason, detail = {
        404: ("not_found", "There is no such address: /openapi.json lists those there are."),
        405: ("wrong_method", "This address does not support the method: /openapi.json lists those it does."),
    }.get(status, ("malformed_request", "The request is malformed: /openapi.json describes the requests."))
    headers = getattr(error, "headers", None) or {}
    return Response(Problem(status, reason, detail).body(), status, headers, "application/json")
