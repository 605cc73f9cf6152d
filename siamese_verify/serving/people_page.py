"""The page of `siamese-verify group --serve`: an album's people, and what their user decides about them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from siamese_verify.errors import InputError
from siamese_verify.serving.api_keys import Key, KeyFile, hash_key
from siamese_verify.serving.fair_share import RateLimit
from siamese_verify.serving.middleware import Guard
from siamese_verify.serving.page_files import PEOPLE_PAGE, add_page_files
from siamese_verify.serving.problems import Problem, client_closed, input_errors_as_problems
from siamese_verify.serving.service import Metrics
from siamese_verify.serving.settings import Settings
from siamese_verify.serving.uploads import too_large

BODY_BYTES = 32 * 1024  # of a decision
DIGITS = 15  # of a number
TEXT = 200  # characters of a name
PEOPLE, CHOSEN = 100, 1000  # people and faces of a decision
DECODED = 2  # photos decoded at a time


class ReviewedPeople(Protocol):
    """People of an album that a user decides about, such as `siamese_verify.albums.people_review.PeopleReview`."""

    def state(self) -> dict[str, Any]:
        """What the page says about all of it."""

    def people(self, page: int, text: str = "") -> dict[str, Any]:
        """A page of people."""

    def person(self, number: int, page: int = 0, least_first: bool = False) -> dict[str, Any]:
        """A page of the faces of a person."""

    def questions(self) -> dict[str, Any]:
        """Pairs of people that may be one."""

    def completions(self, start: str) -> list[str]:
        """Known names that begin like this."""

    def picture(self, row: int) -> bytes:
        """JPEG of a face."""

    def name(self, person: int, name: str) -> str:
        """Name a person."""

    def merge(self, people: Sequence[int]) -> str:
        """Say that people are one."""

    def apart(self, people: Sequence[int]) -> str:
        """Say that two people are not one."""

    def split(self, person: int, rows: Sequence[int], together: bool) -> str:
        """Say that faces are somebody else's."""

    def undo(self) -> str:
        """Take back the last decision."""


class PeopleDecision(BaseModel):
    """A decision, or that the last one is taken back."""

    model_config = ConfigDict(extra="forbid", strict=True)

    kind: Literal["name", "same", "different", "not_this_person", "new_person", "undo"]
    people: list[int] = Field(default_factory=list, max_length=PEOPLE)
    faces: list[int] = Field(default_factory=list, max_length=CHOSEN)
    name: str = Field("", max_length=TEXT)


def create_people_app(review: ReviewedPeople, token: str, settings: Settings) -> FastAPI:
    """Create the application: the page, and what it asks for, which needs the token as `Authorization: Bearer TOKEN`.

    Args:
        review: the people.
        token: that the address of the page ends with, behind #: browsers send that part to nobody.
        settings: address and limits.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    limiter = CapacityLimiter(DECODED)

    @app.get("/v1/state")
    def state() -> Any:
        return JSONResponse(review.state())

    @app.get("/v1/people")
    def people(request: Request) -> Any:
        text = request.query_params.get("text", "")[:TEXT]
        return JSONResponse(review.people(_number(request.query_params.get("page", "0")), text))

    @app.get("/v1/people/{number}")
    def person(number: str, request: Request) -> Any:
        page = _number(request.query_params.get("page", "0"))
        with input_errors_as_problems():
            return JSONResponse(review.person(_number(number), page, request.query_params.get("order") == "least"))

    @app.get("/v1/questions")
    def questions() -> Any:
        return JSONResponse(review.questions())

    @app.get("/v1/names")
    def names(request: Request) -> Any:
        return JSONResponse(review.completions(request.query_params.get("start", "")[:TEXT]))

    @app.get("/v1/faces/{row}")
    async def face(row: str) -> Response:
        number = _number(row)
        try:
            content = await anyio.to_thread.run_sync(review.picture, number, limiter=limiter)
        except InputError as error:
            raise Problem(404, "not_found", str(error)) from None
        return Response(content, media_type="image/jpeg")

    @app.post("/v1/decide")
    async def decide(request: Request) -> Any:
        decision = await read_decision(request, settings.body_seconds)
        with input_errors_as_problems():
            return {"said": await asyncio.to_thread(follow, review, decision)}

    add_page_files(app, PEOPLE_PAGE)
    app.add_exception_handler(HTTPException, _router_error)
    key = Key(hash_key(token), "page", frozenset())
    app.add_middleware(
        Guard,
        settings=settings,
        keys=KeyFile([key]),
        rates=RateLimit(settings.rate, settings.burst),
        metrics=Metrics(),
        open_paths=PEOPLE_PAGE,
    )
    return app


def follow(review: ReviewedPeople, decision: PeopleDecision) -> str:
    """Make a decision, and return what was decided.

    Raises:
        InputError: it is about nobody, or contradicts others.
    """
    if decision.kind == "undo":
        return review.undo()
    if decision.kind == "same":
        return review.merge(decision.people)
    if decision.kind == "different":
        return review.apart(decision.people)
    if len(decision.people) != 1:
        raise InputError(f"This is about one person, not {len(decision.people)}.")
    person = decision.people[0]
    if decision.kind == "name":
        return review.name(person, decision.name)
    return review.split(person, decision.faces, decision.kind == "new_person")


async def read_decision(request: Request, seconds: float) -> PeopleDecision:
    """Read the JSON of a decision.

    Raises:
        Problem: it is too large or too slow, no JSON, or has other fields; or the client has left.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Problem(415, "wrong_type", "A decision is sent as application/json.")
    content = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                content += chunk
                if len(content) > BODY_BYTES:
                    raise too_large("The decision", BODY_BYTES)
    except TimeoutError:
        raise Problem(408, "slow_upload", f"The decision did not arrive within {seconds:g} s: send it again.") from None
    except ClientDisconnect:
        raise client_closed() from None
    try:
        return PeopleDecision.model_validate_json(bytes(content))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        if first["type"] == "json_invalid":
            raise Problem(400, "malformed_request", "The decision cannot be read: it is no JSON.") from None
        place = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part in _FIELDS) or "a field"
        raise Problem(422, "invalid_field", f"{place} of the decision is invalid: {first['msg'].lower()}.") from None


_FIELDS = frozenset(PeopleDecision.model_fields)


def _number(text: str) -> int:
    """A whole number from 0 on; Problem 404 for other text."""
    if not (text.isascii() and text.isdigit() and len(text) <= DIGITS):
        raise Problem(404, "not_found", "There is nothing at this address: people, faces and pages have numbers.")
    return int(text)


async def _router_error(request: Request, error: Exception) -> Response:
    """An error of Starlette's router as JSON."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    reason = {404: "not_found", 405: "wrong_method"}.get(status, "malformed_request")
    detail = "There is nothing at this address for this method: open the page."
    return Response(Problem(status, reason, detail).body(), status, media_type="application/json")
