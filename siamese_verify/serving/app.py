"""The application: routes to answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from siamese_verify import __version__
from siamese_verify.serving import descriptions as description
from siamese_verify.serving.admission import Admission
from siamese_verify.serving.batching import FaceEngine
from siamese_verify.serving.gallery_routes import add_gallery
from siamese_verify.serving.metrics import Metrics
from siamese_verify.serving.middleware import Guard, HeadRequests, Proxies, RateLimit
from siamese_verify.serving.page_files import add_page
from siamese_verify.serving.problems import Problem
from siamese_verify.serving.service import Service
from siamese_verify.serving.settings import Settings
from siamese_verify.serving.verify_routes import add_verify

if TYPE_CHECKING:
    from siamese_verify.serving.api_keys import KeyFile
    from siamese_verify.serving.people import People
    from siamese_verify.verification import Verifier

STATUSES = {404: "not_found", 405: "wrong_method"}


def create_app(
    verifier: Verifier,
    settings: Settings | None = None,
    *,
    keys: KeyFile | None = None,
    gallery: People | None = None,
    liveness: bool = False,
) -> FastAPI:
    """Make the application.

    Args:
        verifier: that decides.
        settings: limits.
        keys: that open the API; None for an open one.
        gallery: of people; None leaves `/v1/enroll`, `/v1/identify` and `/v1/people` out.
        liveness: the verifier has a hook that looks for living persons.

    Raises:
        InputError: the model's weights are damaged.
    """
    settings = settings or Settings()
    metrics = Metrics()
    engine = FaceEngine(verifier, settings, metrics)
    engine.warm()
    service = Service(
        settings=settings,
        engine=engine,
        admission=Admission(
            settings.uploads, settings.in_flight, settings.body_bytes, settings.pixels * settings.workers
        ),
        metrics=metrics,
        gallery=gallery,
        key_needed=keys is not None,
        liveness=liveness,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(engine.close)  # within a second

    app = FastAPI(
        title="Siamese Verify",
        version=__version__,
        description=description.TEXT,
        docs_url=None,  # these pages would load scripts from another host; ours is among the files of the page
        redoc_url=None,
        redirect_slashes=False,  # a redirect would be written from what the client says its Host is
        lifespan=lifespan,
        responses=description.FAILURES,
    )
    app.state.service = service
    add_verify(app, service)
    if gallery is not None:
        add_gallery(app, service, gallery)
    add_page(app)
    app.add_exception_handler(HTTPException, _said)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_middleware(HeadRequests)
    app.add_middleware(
        Guard,
        hosts=settings.allowed_hosts,
        keys=keys,
        rates=RateLimit(settings.rate, settings.burst),
        metrics=metrics,
        proxies=Proxies(settings.trusted_proxies, settings.proxy_header),
        root_path=settings.root_path,
    )
    return app


async def _said(request: Request, error: Exception) -> Response:
    """Say in our form what the router says in its own."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    reason = STATUSES.get(status, "malformed_request")
    detail = {
        "not_found": "There is nothing at this address: /openapi.json lists what there is.",
        "wrong_method": "This address takes other methods: /openapi.json lists them.",
    }.get(reason, "The request cannot be understood: /openapi.json describes how to ask.")
    headers = getattr(error, "headers", None) or {}
    return Response(Problem(status, reason, detail).body(), status, headers, "application/json")


async def _invalid(request: Request, error: Exception) -> Response:
    return Response(
        Problem(422, "invalid_field", "A value cannot be used: see /openapi.json.").body(),
        422,
        None,
        "application/json",
    )
