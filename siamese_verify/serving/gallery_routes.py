"""`/v1/enroll`, `/v1/identify` and `/v1/people`, where a gallery is configured."""

from __future__ import annotations

import dataclasses
import math
import unicodedata
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import FastAPI, Request

from siamese_verify.errors import InputError
from siamese_verify.serving import description
from siamese_verify.serving.answers import GalleryAnswer
from siamese_verify.serving.face_engine import no_decision
from siamese_verify.serving.problem import Problem
from siamese_verify.serving.service import number

if TYPE_CHECKING:
    from siamese_verify.serving.admission import Held
    from siamese_verify.serving.form import Form
    from siamese_verify.serving.people import People
    from siamese_verify.serving.service import Service

T = TypeVar("T")
MOST_LETTERS = 200


def add_gallery(app: FastAPI, service: Service, gallery: People) -> None:
    """Add the routes of a gallery."""
    engine = service.engine

    async def enrolled(form: Form, held: Held) -> Any:
        name = checked_name(form.fields.get("name", ""))
        sent = [(f"{row}", content) for row, content in enumerate(form.photos.pop("photo"), 1)]
        photos = await engine.decode(sent)
        sent.clear()
        held.release()
        return json_types(await engine.in_thread(partial(said, partial(gallery.enroll, name, photos))))

    @app.post("/v1/enroll", response_model=GalleryAnswer, summary="Remember a person", **description.ENROLL)
    async def enroll(request: Request) -> Any:
        return await service.answer(request, {"photo": service.settings.photos}, ("name",), enrolled)

    async def identified(form: Form, held: Held) -> Any:
        far = number(form, "far")
        (photo,) = await engine.decode([("photo", form.photos["photo"].pop())])
        held.release()
        return json_types(await engine.in_thread(partial(said, partial(gallery.identify, photo, far=far))))

    @app.post("/v1/identify", response_model=GalleryAnswer, summary="Who is this, if anybody?", **description.IDENTIFY)
    async def identify(request: Request) -> Any:
        return await service.answer(request, {"photo": 1}, ("far",), identified)

    @app.get("/v1/people", response_model=GalleryAnswer, summary="Who is enrolled?")
    async def people() -> Any:
        with service.admission.answer():
            return {"people": json_types(await engine.in_thread(partial(said, gallery.people)))}

    @app.delete("/v1/people/{name:path}", response_model=GalleryAnswer, summary="Forget a person")
    async def forget(name: str) -> Any:
        with service.admission.answer():
            answer = await engine.in_thread(partial(said, partial(gallery.forget, checked_name(name)), 404))
        if answer is False or answer == 0:
            raise Problem(404, "not_found", "Nobody of this name is enrolled.")
        return {"forgotten": True}


def said(work: Callable[[], T], status: int = 422) -> T:
    """Do something of a gallery's, and say in HTTP why it cannot be done."""
    from siamese_verify.verification import NoDecision

    try:
        return work()
    except NoDecision as error:
        raise no_decision(error, "photo") from None
    except InputError as error:
        raise Problem(status, "not_found" if status == 404 else "invalid_field", str(error)) from None


def checked_name(name: str) -> str:
    """A name as it is kept: composed Unicode without blanks around it.

    Raises:
        Problem: it is empty, too long, or holds control characters.
    """
    name = unicodedata.normalize("NFC", name).strip()
    if not name or len(name) > MOST_LETTERS:
        raise Problem(422, "invalid_field", f"A name has 1 to {MOST_LETTERS} letters: send it as the field name.")
    if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name):
        raise Problem(422, "invalid_field", "A name holds no control characters: send letters only.")
    return name


def json_types(value: Any) -> Any:
    """What a gallery returns, as JSON types: of records their fields, without pictures."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: json_types(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "_asdict"):
        return {name: json_types(one) for name, one in value._asdict().items()}
    if isinstance(value, dict):
        return {str(name): json_types(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [json_types(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)
