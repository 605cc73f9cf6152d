"""Error responses: an HTTP status, a reason for programs and a sentence for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from siamese_verify.errors import InputError

CLIENT_CLOSED = 499  # nginx's status for a client that did not wait for the answer

REASONS = {
    "malformed_request": "the body is no form or JSON object, or a part is missing, unknown, repeated or in the query",
    "unreadable_photo": "a file is not a photo that can be read, or it is damaged",
    "wrong_host": "the name in `Host` is not one that this server answers to",
    "no_key": "the API key is missing or unknown",
    "expired_key": "the API key has expired",
    "missing_scope": "the API key lacks the scope that `scope` names",
    "wrong_origin": "a web page of another origin sent the request",
    "not_found": "there is no such address, or nobody of this name is enrolled",
    "wrong_method": "this address does not support the method",
    "slow_upload": "the body did not arrive in time",
    "too_large": "the body or a photo has too many bytes",
    "too_many_pixels": "a photo has too many pixels",
    "wrong_type": "the body is neither `multipart/form-data` nor `application/json`, or a photo is not an image",
    "no_face": "no face was found on a photo",
    "multiple_faces": "multiple faces were found on a photo, and which one is meant is open",
    "refused": "the liveness hook refused a photo",
    "no_decision": "a photo does not allow a decision for another reason",
    "invalid_field": "a field has an invalid value",
    "too_many_requests": "this client exceeds its rate limit",
    "internal": "a bug in the server, which its log describes",
    "busy": "the server handles as many requests as it may",
    "not_ready": "all workers of the server are stuck",
    "timeout": "the answer took too long",
}


class Problem(Exception):
    """Exception that becomes the error response to a request.

    Args:
        status: HTTP status.
        reason: one of `REASONS`.
        detail: one sentence.
        photo: name of the photo that caused it.
        scope: scope that the API key lacks.
        retry: seconds after which to try again.
        headers: further headers of the response.
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
        """Members of the JSON response."""
        members = {"detail": self.detail, "reason": self.reason, "photo": self.photo, "scope": self.scope}
        return {name: value for name, value in members.items() if value is not None}

    def body(self) -> bytes:
        """JSON response."""
        return json.dumps(self.to_dict()).encode()


@contextmanager
def input_errors_as_problems() -> Iterator[None]:
    """Turn an InputError about values of a request into a response with status 422."""
    try:
        yield
    except InputError as error:
        raise Problem(422, "invalid_field", str(error)) from None


def busy() -> Problem:
    """More requests are in progress than the server handles."""
    return Problem(503, "busy", "The server handles as many requests as it may: try again in a second.", retry=1)


def shutting_down() -> Problem:
    """The server ends before the request was answered."""
    return Problem(503, "busy", "The server is shutting down: try again in a moment.", retry=5)


def not_ready() -> Problem:
    """All workers are stuck."""
    detail = "All workers of the server have worked on one photo for too long: try again later, or restart it."
    return Problem(503, "not_ready", detail, retry=30)


def client_closed() -> Problem:
    """The client disconnected: counted, but not sent to anybody."""
    return Problem(CLIENT_CLOSED, "client_closed", "The client has disconnected.")
