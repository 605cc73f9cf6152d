"""What a client is told when it gets no answer: a status, a word for programs and a sentence for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TypeVar

from siamese_verify.errors import InputError

T = TypeVar("T")

GONE = 499  # as nginx counts it: the client did not wait for the answer

REASONS = {
    "malformed_request": "the body cannot be read as a form or as JSON, or a part is missing, unknown or given twice",
    "unreadable_photo": "a file is no photo that can be read, or it is damaged",
    "wrong_host": "the name in `Host` is not one that this server answers to",
    "no_key": "no API key was sent, or one that is not known",
    "expired_key": "the API key was known, and its time is over",
    "missing_scope": "the API key may not do this; `scope` is what it would need",
    "wrong_origin": "a web page of another origin sent the request",
    "not_found": "there is nothing at this address, or nobody of this name",
    "wrong_method": "this address takes other methods",
    "slow_upload": "the body did not arrive in time",
    "too_large": "the body or a photo has too many bytes",
    "too_many_pixels": "a photo has too many pixels",
    "wrong_type": "the body is neither `multipart/form-data` nor `application/json`, or a part is no picture",
    "no_face": "no face was found on a photo",
    "multiple_faces": "multiple faces were found on a photo, and which one is meant is open",
    "refused": "the liveness hook refused a photo",
    "no_decision": "a photo does not allow a decision for another reason",
    "invalid_field": "a field has a value that cannot be used",
    "too_many_requests": "this client asks more often than it may",
    "internal": "a mistake of the server's, which is in its log",
    "busy": "more requests are in flight than the server takes",
    "not_ready": "the server's workers are stuck, so that nothing can be answered",
    "timeout": "the answer took too long",
}


class Problem(Exception):
    """A request that gets no answer.

    Args:
        status: of HTTP.
        reason: one of `REASONS`.
        detail: one sentence.
        photo: name of the part that is at fault.
        scope: that an API key would need.
        retry: seconds after which to try again.
        headers: more of them.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        detail: str,
        *,
        photo: str | None = None,
        scope: str | None = None,
        retry: int | None = None,
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        super().__init__(detail)
        self.status, self.reason, self.detail, self.photo, self.scope = status, reason, detail, photo, scope
        self.headers = (*headers, *((("Retry-After", str(max(1, retry))),) if retry is not None else ()))

    def to_dict(self) -> dict[str, str]:
        """Return it as JSON types."""
        content = {"detail": self.detail, "reason": self.reason, "photo": self.photo, "scope": self.scope}
        return {name: value for name, value in content.items() if value is not None}

    def body(self) -> bytes:
        """Write it as JSON."""
        return json.dumps(self.to_dict()).encode()


def busy() -> Problem:
    """Say that there are more requests in flight than the server takes."""
    return Problem(503, "busy", "More requests are in flight than this server takes: try again in a second.", retry=1)


def said(work: Callable[[], T]) -> T:
    """Do something with values that a client sent, and say in HTTP why it cannot be done."""
    try:
        return work()
    except InputError as error:
        raise Problem(422, "invalid_field", str(error)) from None


def gone() -> Problem:
    """Say to nobody that the client has gone: it is counted, not answered."""
    return Problem(GONE, "gone", "The client has gone.")


def not_ready() -> Problem:
    """Say that no work gets done."""
    detail = "All of the server's workers have been at one photo for too long: try again later, or start it anew."
    return Problem(503, "not_ready", detail, retry=30)


def ending() -> Problem:
    """Say that the server was told to end before there was an answer."""
    return Problem(503, "busy", "The server is being stopped: try again in a moment.", retry=5)
