"""`/v1/verify`, `/v1/embed`, `/v1/model`, `/healthz` and `/metrics`."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response

from siamese_verify.serving import description
from siamese_verify.serving.answers import EmbedAnswer, HealthAnswer, ModelAnswer, VerifyAnswer
from siamese_verify.serving.problem import not_ready
from siamese_verify.serving.score_scale import score_scale
from siamese_verify.serving.service import Service, data_uri, number, policy, truth

if TYPE_CHECKING:
    from siamese_verify.serving.admission import Held
    from siamese_verify.serving.form import Form
    from siamese_verify.verification import ModelRecord

PAIR = {"a": 1, "b": 1}


def add_verify(app: FastAPI, service: Service) -> None:
    """Add the routes that need no gallery."""
    engine, record = service.engine, service.engine.verifier.record
    about = describe(record, service)

    async def decided(form: Form, held: Held) -> dict[str, Any]:
        crops, explain = truth(form, "crops"), truth(form, "explain")
        result = await engine.verify(
            [(name, form.photos[name].pop()) for name in PAIR],
            far=number(form, "far"),
            threshold=number(form, "threshold"),
            decide=truth(form, "decide"),
            several=policy(form),
            decoded=held.release,
        )
        answer = {**result.to_dict(), "sentence": result.sentence()}
        if crops:
            for face, seen in zip(answer["faces"], result.faces, strict=True):
                face["crop"] = await engine.in_thread(partial(data_uri, seen.crop))
        if explain:
            for face, picture in zip(answer["faces"], await engine.explain(*result.faces), strict=True):
                face["explanation"] = await engine.in_thread(partial(data_uri, picture))
        service.metrics.decision(result.same, result.milliseconds)
        return answer

    @app.post(
        "/v1/verify", response_model=VerifyAnswer, summary="Do two photos show the same person?", **description.VERIFY
    )
    async def verify(request: Request) -> Any:
        fields = ("far", "threshold", "several", "decide", "crops", "explain")
        return await service.answer(request, PAIR, fields, decided)

    async def embedded(form: Form, held: Held) -> dict[str, Any]:
        faces, _ = await service.faces(form, "photo", held)
        rows = await engine.embed(faces)
        return {
            "model": record.name,
            "fingerprint": record.fingerprint,
            "dimension": rows.shape[1],
            "embeddings": rows.tolist(),
            "faces": [face.to_dict() for face in faces],
        }

    @app.post("/v1/embed", response_model=EmbedAnswer, summary="Embed the face of each photo", **description.EMBED)
    async def embed(request: Request) -> Any:
        return await service.answer(request, {"photo": service.settings.photos}, ("several",), embedded)

    @app.get("/v1/model", response_model=ModelAnswer, summary="What the model is, and what it was measured on")
    async def model() -> Any:
        return about

    @app.get("/healthz", response_model=HealthAnswer, summary="Is the server up?")
    async def healthz() -> Any:
        return {"status": "ok", "model": record.name}

    @app.get("/readyz", response_model=HealthAnswer, summary="Can it answer now?")
    async def readyz() -> Any:
        if engine.stuck:
            raise not_ready()
        return {"status": "ready", "model": record.name}

    @app.get("/metrics", summary="Counters for Prometheus", response_class=Response)
    async def metrics() -> Response:
        service.measure()
        return Response(service.metrics.text(), media_type=service.metrics.content_type)


def describe(record: ModelRecord, service: Service) -> dict[str, Any]:
    """Say what the model is, as JSON types."""
    settings = service.settings
    return {
        "name": record.name,
        "fingerprint": record.fingerprint,
        "licence": record.licence,
        "dimension": record.dimension,
        "input": asdict(record.input_spec),
        "operating_points": [
            {**point._asdict(), "threshold": point.threshold if abs(point.threshold) <= 1 else None}
            for point in record.operating_points
        ],
        "measured_on": record.measured_on,
        "calibration": record.meaning.calibration.to_dict() if record.meaning else None,
        "scale": score_scale(record),
        "quality": {name: list(limits) for name, limits in record.quality.items()},
        "liveness": service.liveness,
        "gallery": service.gallery is not None,
        "key_needed": service.key_needed,
        "limits": {
            "photo_bytes": settings.photo_bytes,
            "photo_pixels": settings.photo_pixels,
            "photos": settings.photos,
            "requests_per_second": settings.rate,
        },
        "notice": description.NOTICE,
    }
