"""Routes of the server itself: `/v1/model`, `/healthz`, `/readyz` and `/metrics`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Response

from siamese_verify.serving import schemas
from siamese_verify.serving.middleware import requires
from siamese_verify.serving.problems import not_ready

if TYPE_CHECKING:
    from siamese_verify.models import ModelMetadata
    from siamese_verify.serving.service import Service


def add_server_routes(app: FastAPI, service: Service) -> None:
    """Add `/v1/model`, `/healthz`, `/readyz` and `/metrics`."""
    metadata = service.engine.verifier.metadata
    about = describe_model(metadata, service)

    @app.get(
        "/v1/model",
        response_model=schemas.ModelAnswer,
        dependencies=requires(),
        summary="Describe the model and what it was measured on",
    )
    async def model() -> Any:
        return about

    @app.get("/healthz", response_model=schemas.HealthAnswer, summary="Check that the server runs")
    async def healthz() -> Any:
        return {"status": "ok", "model": metadata.name}

    @app.get("/readyz", response_model=schemas.HealthAnswer, summary="Check that the server can answer")
    async def readyz() -> Any:
        if service.engine.stuck:
            raise not_ready()
        return {"status": "ready", "model": metadata.name}

    @app.get("/metrics", dependencies=requires("read"), summary="Metrics for Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.text(service.admission), media_type=service.metrics.content_type)


def describe_model(metadata: ModelMetadata, service: Service) -> dict[str, Any]:
    """The model and the limits of the server, as JSON types."""
    settings, histogram = service.settings, metadata.histogram
    return {
        "name": metadata.name,
        "fingerprint": metadata.fingerprint,
        "license": metadata.license,
        "embedding_size": metadata.embedding_size,
        "input": asdict(metadata.input_spec),
        "operating_points": [
            {**point._asdict(), "threshold": point.threshold if abs(point.threshold) <= 1 else None}
            for point in metadata.operating_points
        ],
        "measured_on": metadata.measured_on,
        "calibration": metadata.score_calibration.calibration.to_dict() if metadata.score_calibration else None,
        "histogram": {name: part.tolist() for name, part in histogram._asdict().items()} if histogram else None,
        "quality": {name: list(limits) for name, limits in metadata.quality.items()},
        "liveness": service.liveness,
        "gallery": service.gallery is not None,
        "key_needed": service.key_needed,
        "limits": {
            "photo_bytes": settings.photo_bytes,
            "photo_pixels": settings.photo_pixels,
            "photos": settings.photos,
            "requests_per_second": settings.rate,
        },
        "notice": schemas.NOTICE,
    }
