"""`/v1/enroll`, `/v1/identify` and `/v1/people`, where a gallery is configured."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request

from siamese_verify.serving import descriptions as description
from siamese_verify.serving.middleware import allows, missing, needs
from siamese_verify.serving.problems import Problem, said
from siamese_verify.serving.schemas import EnrollAnswer, ForgetAnswer, IdentifyAnswer, PeopleAnswer
from siamese_verify.serving.service import asking, number, truth

if TYPE_CHECKING:
    from siamese_verify.serving.admission import Held
    from siamese_verify.serving.people import People
    from siamese_verify.serving.service import Service
    from siamese_verify.serving.uploads import Form


def add_gallery(app: FastAPI, service: Service, gallery: People) -> None:
    """Add the routes of a gallery."""
    from siamese_verify.gallery.identification import RATES

    engine = service.engine

    async def enrolled(form: Form, held: Held) -> dict[str, Any]:
        name = checked_name(form.fields.get("name", ""))
        faces, _ = await service.faces(form, "photo", held)
        rows = await engine.embed(faces)
        qualities, sources = [face.quality for face in faces], [face.name for face in faces]
        work = partial(gallery.enroll_embeddings, name, rows, qualities, sources=sources)
        result = await engine.in_thread(partial(said, work))
        return {
            "name": result.name,
            "person": result.pseudonym,
            "added": result.added,
            "templates": result.templates,
            "warnings": list(result.warnings),
        }

    several = {"photo": service.settings.photos}
    sent = description.form(several, description.ENROLL, ("name",))

    @app.post(
        "/v1/enroll", response_model=EnrollAnswer, dependencies=needs("enroll"), summary="Remember a person", **sent
    )
    async def enroll(request: Request) -> Any:
        return await service.answer(request, several, description.ENROLL, enrolled)

    async def identified(request: Request, form: Form, held: Held) -> dict[str, Any]:
        far, scores, all_scores = number(form, "far"), truth(form, "scores"), allows(request, "scores")
        # A score that can be watched can be climbed, photo by photo, until a stranger passes for somebody; and by
        # bisecting the rate of a search it could be read off.
        if scores and not all_scores:
            raise missing(request, "scores", "may not see the scores of people who were not found")
        if far is not None and far > RATES[0] and not all_scores:
            raise missing(
                request, "scores", f"may not search at a far above {RATES[0]:g}, which would tell near misses"
            )
        faces, spent = await service.faces(form, "photo", held)
        rows = await engine.embed(faces)
        work = partial(gallery.identify_embedding, rows, far=far, scores=scores, face=faces[0], milliseconds=spent)
        result = await engine.in_thread(partial(said, work))
        return {**result.to_dict(), "sentence": result.sentence()}

    @app.post(
        "/v1/identify",
        response_model=IdentifyAnswer,
        dependencies=needs("identify"),
        summary="Who is this, if anybody?",
        **description.form({"photo": 1}, description.IDENTIFY),
    )
    async def identify(request: Request) -> Any:
        return await service.answer(request, {"photo": 1}, description.IDENTIFY, partial(identified, request))

    @app.get("/v1/people", response_model=PeopleAnswer, dependencies=needs("read"), summary="Who is enrolled?")
    async def people(request: Request) -> Any:
        with service.admission.answer(asking(request)):
            known = await engine.in_thread(partial(said, gallery.people))
        fields = ("name", "enrolled", "templates")
        return {"people": [{field: getattr(person, field) for field in fields} for person in known]}

    @app.delete(
        "/v1/people/{name:path}", response_model=ForgetAnswer, dependencies=needs("delete"), summary="Forget a person"
    )
    async def forget(request: Request, name: str) -> Any:
        known = checked_name(name)

        def work() -> None:
            if not any(person.name == known for person in gallery.people()):
                raise Problem(404, "not_found", "Nobody of this name is enrolled: /v1/people lists who is.")
            gallery.forget(known)

        with service.admission.answer(asking(request)):
            await engine.in_thread(partial(said, work))
        return {"forgotten": True}


def checked_name(name: str) -> str:
    """A name as the gallery keeps it.

    Raises:
        Problem: it is no name.
    """
    from siamese_verify.gallery import person_name

    return said(partial(person_name, name))
