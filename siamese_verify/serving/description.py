"""The words of the API's description."""

from __future__ import annotations

from typing import Any

from siamese_verify.serving.answers import FailedAnswer
from siamese_verify.serving.problem import REASONS

NOTICE = (
    "Comparing two photos does not detect presentation attacks: a printed photo, a screen or a mask before the camera "
    "passes for the person it shows. Where that matters, start the server with a --liveness hook or watch the camera."
)
TEXT = f"""Is this the same person? Two photos in, a decision out that says what it is worth.

**{NOTICE}**

Photos are kept in memory while a request is answered, and nowhere else: not on disk, not in a log.

A decision may be inconclusive (`same` is null, with `reasons`): that is an answer, status 200. A photo without a face,
or with several, is status 422; a file that is no photo is status 400. Every failure is JSON with a sentence (`detail`)
and a word for programs (`reason`):

{chr(10).join(f"- `{reason}`: {meaning}" for reason, meaning in REASONS.items())}

Where the server needs a key, send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`.
"""
_WHEN = {
    400: "The request or a photo cannot be read, or Host is a stranger's",
    401: "An API key is needed",
    403: "Sent by a web page of another origin",
    408: "The body did not arrive in time",
    413: "Too many bytes or pixels",
    415: "No multipart/form-data, or a part that is no picture",
    422: "A photo allows no decision, or a value cannot be used",
    429: "Asked too often; see Retry-After",
    503: "Too many requests in flight, or the answer took too long; see Retry-After",
}
FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": FailedAnswer, "description": text} for status, text in _WHEN.items()
}
PHOTO = {"type": "string", "format": "binary", "description": "JPEG, PNG, WebP, AVIF, HEIC, GIF or BMP"}
PHOTOS = {"type": "array", "items": PHOTO}
SEVERAL = {
    "type": "string",
    "enum": ["refuse", "largest", "central", "any"],
    "description": "Of several faces: refuse, or compare the largest, the most central, or any",
}
ONE_OF = {**SEVERAL, "enum": ["refuse", "largest", "central"], "description": "Which of several faces"}
FAR = {"type": "number", "description": "Share of strangers that may pass", "example": 0.001}


def form(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    """Describe a form, which is read as it arrives and so not by FastAPI."""
    schema = {"type": "object", "properties": properties, "required": required}
    return {
        "openapi_extra": {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
    }


VERIFY = form(
    {
        "a": PHOTO,
        "b": PHOTO,
        "far": FAR,
        "threshold": {"type": "number", "description": "Accept at this score instead", "example": 0.5},
        "several": SEVERAL,
        "decide": {"type": "boolean", "description": "Decide even where it is inconclusive"},
        "crops": {"type": "boolean", "description": "Send the aligned faces back"},
        "explain": {"type": "boolean", "description": "Send pictures of where the similarity comes from"},
    },
    ["a", "b"],
)
EMBED = form({"photo": PHOTOS, "several": ONE_OF}, ["photo"])
NAME = {"type": "string", "example": "Ada Lovelace"}
ENROLL = form({"name": NAME, "photo": PHOTOS, "several": ONE_OF}, ["name", "photo"])
SEARCHES = {**FAR, "description": "Share of searches for strangers that may name somebody", "example": 0.01}
IDENTIFY = form({"photo": PHOTO, "far": SEARCHES, "several": ONE_OF}, ["photo"])
