"""`/v1/enroll`, `/v1/identify` and `/v1/people`, where a gallery is configured."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import FastAPI, Request

from siamese_verify.errors import InputError
from siamese_verify.serving import description
from siamese_verify.serving.answers import EnrollAnswer, ForgetAnswer, IdentifyAnswer, PeopleAnswer
from siamese_verify.serving.problem import Problem
from siamese_verify.serving.service import asking, number

if TYPE_CHECKING:
    from siamese_verify.serving.admission import Held
    from siamese_verify.serving.form import Form
    from siamese_verify.serving.people import People
    from siamese_verify.serving.service import Service

T = TypeVar("T")


def add_gallery(app: FastAPI, service: Service, gallery: People) -> None:
    """Add the routes of a gallery."""
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

    @app.post("/v1/enroll", response_model=EnrollAnswer, summary="Remember a person", **description.ENROLL)
    async def enroll(request: Request) -> Any:
        return await service.answer(request, {"photo": service.settings.photos}, ("name", "several"), enrolled)

    async def identified(form: Form, held: Held) -> dict[str, Any]:
        far = number(form, "far")
        faces, spent = await service.faces(form, "photo", held)
        rows = await engine.embed(faces)
        work = partial(gallery.identify_embedding, rows, far=far, face=faces[0], milliseconds=spent)
        result = await engine.in_thread(partial(said, work))
        answer = result.to_dict()
        # Who was nearly meant is nobody's business: a search for a stranger must not list the people enrolled.
        answer["candidates"] = [one for one in answer["candidates"] if one["score"] >= result.threshold]
        return {**answer, "sentence": result.sentence()}

    @app.post("/v1/identify", response_model=IdentifyAnswer, summary="Who is this, if anybody?", **description.IDENTIFY)
    async def identify(request: Request) -> Any:
        return await service.answer(request, {"photo": 1}, ("far", "several"), identified)

    @app.get("/v1/people", response_model=PeopleAnswer, summary="Who is enrolled?")
    async def people(request: Request) -> Any:
        with service.admission.answer(asking(request)):
            known = await engine.in_thread(partial(said, gallery.people))
        fields = ("name", "enrolled", "templates")
        return {"people": [{field: getattr(person, field) for field in fields} for person in known]}

    @app.delete("/v1/people/{name:path}", response_model=ForgetAnswer, summary="Forget a person")
    async def forget(request: Request, name: str) -> Any:
        known = checked_name(name)

        def work() -> None:
            if not any(person.name == known for person in gallery.people()):
                raise Problem(404, "not_found", "Nobody of this name is enrolled: /v1/people lists who is.")
            gallery.forget(known)

        with service.admission.answer(asking(request)):
            await engine.in_thread(partial(said, work))
        return {"forgotten": True}


def said(work: Callable[[], T]) -> T:
    """Do something of a gallery's, and say in HTTP why it cannot be done."""
    try:
        return work()
    except InputError as error:
        raise Problem(422, "invalid_field", str(error)) from None


def checked_name(name: str) -> str:
    """A name as the gallery keeps it.

    Raises:
        Problem: it is no name.
    """
    from siamese_verify.gallery import person_name

    return said(partial(person_name, name))
