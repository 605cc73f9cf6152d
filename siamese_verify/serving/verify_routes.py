"""`/v1/verify` and its batches, `/v1/faces`, `/v1/embed`, `/v1/model`, `/healthz` and `/metrics`."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response

from siamese_verify.serving import descriptions as description
from siamese_verify.serving.batching import Seen, gathered
from siamese_verify.serving.middleware import needs
from siamese_verify.serving.page_files import score_scale
from siamese_verify.serving.problems import GONE, Problem, not_ready, said
from siamese_verify.serving.schemas import (
    EmbedAnswer,
    FacesAnswer,
    HealthAnswer,
    ModelAnswer,
    VerifyAnswer,
    VerifyBatchAnswer,
)
from siamese_verify.serving.service import Service, data_uri, number, one_face, policy, truth
from siamese_verify.serving.uploads import malformed

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from siamese_verify.models import ModelMetadata
    from siamese_verify.serving.admission import Held
    from siamese_verify.serving.uploads import Form

PAIR = {"a": 1, "b": 1}


def add_verify(app: FastAPI, service: Service) -> None:
    """Add the routes that need no gallery."""
    engine, metadata = service.engine, service.engine.verifier.metadata
    about = describe(metadata, service)

    async def decided(form: Form, held: Held) -> dict[str, Any]:
        crops, explain = truth(form, "crops"), truth(form, "explain")
        result = await engine.verify(
            [(name, form.photos[name].pop()) for name in PAIR],
            far=number(form, "far"),
            threshold=number(form, "threshold"),
            prior=number(form, "prior"),
            decide=truth(form, "decide"),
            on_multiple_faces=policy(form),
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
        "/v1/verify",
        response_model=VerifyAnswer,
        dependencies=needs("verify"),
        summary="Do two photos show the same person?",
        **description.form(PAIR, description.VERIFY),
    )
    async def verify(request: Request) -> Any:
        return await service.answer(request, PAIR, description.VERIFY, decided)

    async def decided_batch(form: Form, held: Held) -> dict[str, Any]:
        decide = partial(
            engine.verifier.decide,
            far=number(form, "far"),
            threshold=number(form, "threshold"),
            prior=number(form, "prior"),
            decide=truth(form, "decide"),
        )
        said(partial(decide, 0.0))  # a wrong value is said before any photo is decoded
        on_multiple_faces, (ones, others) = one_face(form), (len(form.photos[name]) for name in PAIR)
        if ones not in (1, others):
            raise malformed("give as many photos a as photos b, or one photo a for all of them")
        photos = [(name, content) for name in PAIR for content in form.photos.pop(name)]
        looks = [attempted(engine.see([photo], on_multiple_faces)) for photo in photos]
        photos.clear()
        found = dict(enumerate(await gathered(looks)))
        held.release()
        problems = {row: one.to_dict() for row, one in found.items() if isinstance(one, Problem)}
        seen = {row: one for row, one in found.items() if isinstance(one, Seen)}
        faces = [one.faces[0] for one in seen.values()]
        embeddings = dict(zip(seen, await engine.embed(faces), strict=True)) if faces else {}
        results: list[dict[str, Any]] = []
        for row in range(others):
            a, b = min(row, ones - 1), ones + row
            if error := problems.get(a) or problems.get(b):
                results.append({"error": error})
                continue
            spent = {stage: max(getattr(seen[a], stage), getattr(seen[b], stage)) for stage in ("read", "detect")}
            score, pair = float(embeddings[a] @ embeddings[b]), (seen[a].faces[0], seen[b].faces[0])
            result = said(partial(decide, score, pair, milliseconds=spent))
            service.metrics.decision(result.same, spent)
            results.append({"decision": {**result.to_dict(), "sentence": result.sentence()}})
        return {"results": results}

    batch = dict.fromkeys(PAIR, service.settings.photos)

    @app.post(
        "/v1/verify/batch",
        response_model=VerifyBatchAnswer,
        dependencies=needs("verify"),
        summary="The same for many pairs",
        description="The first photo `a` is compared with the first photo `b`, the second with the second, and so on; "
        "one photo `a` with every photo `b`. A photo that allows no decision is the error of its pairs alone.",
        **description.form(batch, description.VERIFY_BATCH),
    )
    async def verify_batch(request: Request) -> Any:
        return await service.answer(request, batch, description.VERIFY_BATCH, decided_batch)

    async def listed(form: Form, held: Held) -> dict[str, Any]:
        crops = truth(form, "crops")
        try:
            (seen,) = await engine.see([("1", form.photos["photo"].pop())], "any")
        except Problem as problem:
            if problem.reason != "no_face":
                raise
            return {"found": 0, "faces": []}
        held.release()
        answers = [face.to_dict() for face in seen.faces]
        if crops:
            for answer, face in zip(answers, seen.faces, strict=True):
                answer["crop"] = await engine.in_thread(partial(data_uri, face.crop))
        return {"found": len(answers), "faces": answers}

    @app.post(
        "/v1/faces",
        response_model=FacesAnswer,
        dependencies=needs("verify"),
        summary="List all faces of a photo",
        **description.form({"photo": 1}, description.FACES),
    )
    async def faces(request: Request) -> Any:
        return await service.answer(request, {"photo": 1}, description.FACES, listed)

    async def embedded(form: Form, held: Held) -> dict[str, Any]:
        faces, _ = await service.faces(form, "photo", held)
        rows = await engine.embed(faces)
        return {
            "model": metadata.name,
            "fingerprint": metadata.fingerprint,
            "embedding_size": rows.shape[1],
            "embeddings": rows.tolist(),
            "faces": [face.to_dict() for face in faces],
        }

    photos = {"photo": service.settings.photos}

    @app.post(
        "/v1/embed",
        response_model=EmbedAnswer,
        dependencies=needs("verify"),
        summary="Embed the face of each photo",
        **description.form(photos, description.EMBED),
    )
    async def embed(request: Request) -> Any:
        return await service.answer(request, photos, description.EMBED, embedded)

    @app.get(
        "/v1/model",
        response_model=ModelAnswer,
        dependencies=needs(),
        summary="What the model is, and what it was measured on",
    )
    async def model() -> Any:
        return about

    @app.get("/healthz", response_model=HealthAnswer, summary="Is the server up?")
    async def healthz() -> Any:
        return {"status": "ok", "model": metadata.name}

    @app.get("/readyz", response_model=HealthAnswer, summary="Can it answer now?")
    async def readyz() -> Any:
        if engine.stuck:
            raise not_ready()
        return {"status": "ready", "model": metadata.name}

    @app.get("/metrics", dependencies=needs("read"), summary="Counters for Prometheus", response_class=Response)
    async def metrics() -> Response:
        service.measure()
        return Response(service.metrics.text(), media_type=service.metrics.content_type)


async def attempted(work: Coroutine[Any, Any, list[Seen]]) -> Seen | Problem:
    """Return what was found on one photo, or what is wrong with it; the server's own problems are raised."""
    try:
        return (await work)[0]
    except Problem as problem:
        if problem.status >= GONE:
            raise
        return problem


def describe(metadata: ModelMetadata, service: Service) -> dict[str, Any]:
    """Say what the model is, as JSON types."""
    settings = service.settings
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
        "scale": score_scale(metadata),
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
        "notice": description.NOTICE,
    }
