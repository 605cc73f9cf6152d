"""Routes of the gallery: `/v1/enroll`, `/v1/identify` and `/v1/people`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request

from siamese_verify.serving import schemas
from siamese_verify.serving.form_fields import EnrollFields, IdentifyFields
from siamese_verify.serving.middleware import has_scope, missing_scope, requires
from siamese_verify.serving.problems import Problem, input_errors_as_problems
from siamese_verify.serving.service import client_of
from siamese_verify.serving.verify_routes import form_route

if TYPE_CHECKING:
    from siamese_verify.gallery import Gallery
    from siamese_verify.serving.fair_share import BodyBytes
    from siamese_verify.serving.service import Service
    from siamese_verify.serving.uploads import Form


def add_gallery_routes(app: FastAPI, service: Service, gallery: Gallery) -> None:
    """Add `/v1/enroll`, `/v1/identify` and `/v1/people`."""
    from siamese_verify.gallery import person_name
    from siamese_verify.gallery.identification import RATES

    engine = service.engine

    @form_route(
        app,
        service,
        "/v1/enroll",
        scope="enroll",
        photos={"photo": service.settings.photos},
        fields=EnrollFields,
        answer=schemas.EnrollAnswer,
        summary="Enroll a person",
    )
    async def enroll(request: Request, form: Form, fields: EnrollFields, held: BodyBytes) -> dict[str, Any]:
        with input_errors_as_problems():
            name = person_name(fields.name)
        faces = [photo.faces[0] for photo in await service.find_faces(form, fields, held)]
        qualities, sources = [face.quality for face in faces], [face.name for face in faces]
        embeddings = await engine.embed(faces)
        with input_errors_as_problems():
            result = await engine.in_thread(
                partial(gallery.enroll_embeddings, name, embeddings, qualities, sources=sources)
            )
        return {
            "name": result.name,
            "person": result.pseudonym,
            "added": result.added,
            "templates": result.templates,
            "warnings": list(result.warnings),
        }

    @form_route(
        app,
        service,
        "/v1/identify",
        scope="identify",
        photos={"photo": 1},
        fields=IdentifyFields,
        answer=schemas.IdentifyAnswer,
        summary="Identify the person on a photo",
    )
    async def identify(request: Request, form: Form, fields: IdentifyFields, held: BodyBytes) -> dict[str, Any]:
        # A client that sees scores below the threshold can climb to it, photo by photo, until an impostor is accepted;
        # by bisecting `far` it can measure them.
        if not has_scope(request, "scores"):
            if fields.scores:
                raise missing_scope(request, "scores", "may not see scores below the threshold")
            if fields.far is not None and fields.far > RATES[0]:
                action = f"may not search at a far above {RATES[0]:g}, which would reveal near misses"
                raise missing_scope(request, "scores", action)
        [photo] = await service.find_faces(form, fields, held)
        embeddings = await engine.embed(photo.faces[:1])
        search = partial(
            gallery.identify_embedding,
            embeddings,
            far=fields.far,
            scores=fields.scores,
            face=photo.faces[0],
            milliseconds=photo.milliseconds,
        )
        with input_errors_as_problems():
            result = await engine.in_thread(search)
        return {**result.to_dict(), "sentence": result.sentence()}

    @app.get(
        "/v1/people",
        response_model=schemas.PeopleAnswer,
        dependencies=requires("read"),
        summary="List the enrolled people",
    )
    async def people(request: Request) -> Any:
        with service.admission.answer(client_of(request)), input_errors_as_problems():
            known = await engine.in_thread(gallery.people)
        return {"people": [{"name": one.name, "enrolled": one.enrolled, "templates": one.templates} for one in known]}

    @app.delete(
        "/v1/people/{name:path}",
        response_model=schemas.DeleteAnswer,
        dependencies=requires("delete"),
        summary="Delete a person",
    )
    async def delete(request: Request, name: str) -> Any:
        with input_errors_as_problems():
            known = person_name(name)

        def work() -> None:
            if not any(person.name == known for person in gallery.people()):
                raise Problem(404, "not_found", "Nobody of this name is enrolled: /v1/people lists who is.")
            gallery.forget(known)

        with service.admission.answer(client_of(request)), input_errors_as_problems():
            await engine.in_thread(work)
        return {"forgotten": True}
