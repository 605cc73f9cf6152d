"""Routes of verification: `/v1/verify`, `/v1/verify/batch`, `/v1/faces` and `/v1/embed`."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import FastAPI, Request

from siamese_verify.serving import schemas
from siamese_verify.serving.batching import PhotoFaces, gather
from siamese_verify.serving.form_fields import EmbedFields, FacesFields, FormFields, VerifyBatchFields, VerifyFields
from siamese_verify.serving.middleware import requires
from siamese_verify.serving.problems import CLIENT_CLOSED, Problem, input_errors_as_problems
from siamese_verify.serving.uploads import malformed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pydantic import BaseModel

    from siamese_verify.serving.fair_share import BodyBytes
    from siamese_verify.serving.service import Service
    from siamese_verify.serving.uploads import Form
    from siamese_verify.verification import Verification

# A coroutine of (request, form, fields, held bytes) that returns the answer.
Work = TypeVar("Work", bound=Callable[..., Coroutine[Any, Any, dict[str, Any]]])
PAIR = {"a": 1, "b": 1}


def form_route(
    app: FastAPI,
    service: Service,
    path: str,
    *,
    scope: str,
    photos: dict[str, int],
    fields: type[FormFields],
    answer: type[BaseModel],
    summary: str,
    description: str | None = None,
) -> Callable[[Work], Work]:
    """Decorator: add a route that takes a form with photos.

    Args:
        app: the application.
        service: what all routes share.
        path: path of the route.
        scope: scope that it needs.
        photos: names of its photos, and how many of each there may be.
        fields: its other fields.
        answer: its answer.
        summary: its summary in OpenAPI.
        description: longer text in OpenAPI.
    """

    def decorate(work: Work) -> Work:
        async def endpoint(request: Request) -> Any:
            return await service.answer(request, photos, fields, partial(work, request))

        app.add_api_route(
            path,
            endpoint,
            methods=["POST"],
            response_model=answer,
            dependencies=requires(scope),
            name=work.__name__,  # part of the operation id
            summary=summary,
            description=description,
            openapi_extra=fields.request_body(photos),
        )
        return work

    return decorate


def add_verify_routes(app: FastAPI, service: Service) -> None:
    """Add `/v1/verify`, `/v1/verify/batch`, `/v1/faces` and `/v1/embed`."""
    engine, metadata = service.engine, service.engine.verifier.metadata
    many = service.settings.photos
    route = partial(form_route, app, service, scope="verify")

    def comparison(fields: VerifyBatchFields) -> Callable[..., Verification]:
        """`Verifier.compare` with the threshold and prior of a request, checked before photos are decoded."""
        options = fields.model_dump(include={"far", "threshold", "prior", "decide"})
        with input_errors_as_problems():
            engine.verifier.check(**options)
        return partial(engine.verifier.compare, **options)

    def described(result: Verification) -> dict[str, Any]:
        service.metrics.observe_decision(result.same, result.milliseconds)
        return {**result.to_dict(), "sentence": result.sentence()}

    @route(
        "/v1/verify",
        photos=PAIR,
        fields=VerifyFields,
        answer=schemas.VerifyAnswer,
        summary="Verify whether two photos show the same person",
    )
    async def verify(request: Request, form: Form, fields: VerifyFields, held: BodyBytes) -> dict[str, Any]:
        compare = comparison(fields)
        first, second = await engine.find([(name, form.photos[name].pop()) for name in PAIR], fields.on_multiple_faces)
        held.release()
        [result] = await engine.verify([(first, second)], compare)
        answer = described(result)
        pictures: dict[str, list[NDArray[np.uint8]]] = {}
        if fields.crops:
            pictures["crop"] = [face.crop for face in result.faces]
        if fields.explain:
            pictures["explanation"] = await engine.explain(*result.faces)
        for member, drawn in pictures.items():
            for face, pixels in zip(answer["faces"], drawn, strict=True):
                face[member] = await engine.in_thread(partial(data_uri, pixels))
        return answer

    @route(
        "/v1/verify/batch",
        photos=dict.fromkeys(PAIR, many),
        fields=VerifyBatchFields,
        answer=schemas.VerifyBatchAnswer,
        summary="Verify many pairs, or one photo against many",
        description="As many photos `b` as photos `a`, compared in their order, or one photo `a` for all. A photo that "
        "allows no decision is an `error` of its pairs only.",
    )
    async def verify_batch(request: Request, form: Form, fields: VerifyBatchFields, held: BodyBytes) -> dict[str, Any]:
        compare = comparison(fields)
        firsts, seconds = (len(form.photos[name]) for name in PAIR)
        if firsts not in (1, seconds):
            raise malformed("send as many photos a as photos b, or one photo a for all of them")
        photos = [(name, content) for name in PAIR for content in form.photos.pop(name)]
        work = [found_or_problem(engine.find([photo], service.one_face(fields))) for photo in photos]
        photos.clear()
        found = await gather(work)
        held.release()
        rows = [(found[min(row, firsts - 1)], found[firsts + row]) for row in range(seconds)]
        pairs = [(a, b) for a, b in rows if isinstance(a, PhotoFaces) and isinstance(b, PhotoFaces)]
        decisions = iter(await engine.verify(pairs, compare))
        results: list[dict[str, Any]] = []
        for pair in rows:
            errors = [one.to_dict() for one in pair if isinstance(one, Problem)]
            results.append({"error": errors[0]} if errors else {"decision": described(next(decisions))})
        return {"results": results}

    @route(
        "/v1/faces",
        photos={"photo": 1},
        fields=FacesFields,
        answer=schemas.FacesAnswer,
        summary="List all faces on a photo",
    )
    async def list_faces(request: Request, form: Form, fields: FacesFields, held: BodyBytes) -> dict[str, Any]:
        try:
            [found] = await engine.find([("1", form.photos["photo"].pop())], "any")
        except Problem as problem:
            if problem.reason != "no_face":
                raise
            return {"found": 0, "faces": []}
        held.release()
        answers = [face.to_dict() for face in found.faces]
        if fields.crops:
            for answer, face in zip(answers, found.faces, strict=True):
                answer["crop"] = await engine.in_thread(partial(data_uri, face.crop))
        return {"found": len(answers), "faces": answers}

    @route(
        "/v1/embed",
        photos={"photo": many},
        fields=EmbedFields,
        answer=schemas.EmbedAnswer,
        summary="Embed the face on each photo",
    )
    async def embed(request: Request, form: Form, fields: EmbedFields, held: BodyBytes) -> dict[str, Any]:
        faces = [photo.faces[0] for photo in await service.find_faces(form, fields, held)]
        embeddings = await engine.embed(faces)
        return {
            "model": metadata.name,
            "fingerprint": metadata.fingerprint,
            "embedding_size": embeddings.shape[1],
            "embeddings": embeddings.tolist(),
            "faces": [face.to_dict() for face in faces],
        }


async def found_or_problem(work: Coroutine[Any, Any, list[PhotoFaces]]) -> PhotoFaces | Problem:
    """Faces of one photo or the problem with it; problems of the server itself are raised."""
    try:
        return (await work)[0]
    except Problem as problem:
        if problem.status >= CLIENT_CLOSED:
            raise
        return problem


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """(H,W,3) RGB pixels as a PNG in a data URI."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
