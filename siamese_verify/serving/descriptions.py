"""The words of the API's description."""

from __future__ import annotations

from typing import Any

from siamese_verify.serving.api_keys import SCOPES
from siamese_verify.serving.problems import REASONS
from siamese_verify.serving.schemas import FailedAnswer

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

Photos are sent as the files of a form (`multipart/form-data`), or in base64 as members of a JSON object
(`application/json`; data URIs too), with the same names and limits.

Where the server needs a key, send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`. A key has scopes:

{chr(10).join(f"- `{scope}`: {meaning}" for scope, meaning in SCOPES.items())}
"""
_WHEN = {
    400: "The request or a photo cannot be read, or Host is a stranger's",
    401: "An API key is needed, or its time is over",
    403: "The API key may not do this, or a web page of another origin sent it",
    408: "The body did not arrive in time",
    413: "Too many bytes or pixels",
    415: "Neither multipart/form-data nor application/json, or a part that is no picture",
    422: "A photo allows no decision, or a value cannot be used",
    429: "Asked too often; see Retry-After",
    503: "Too many requests in flight, or the answer took too long; see Retry-After",
}
FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": FailedAnswer, "description": text} for status, text in _WHEN.items()
}
FORMATS = "JPEG, PNG, WebP, AVIF, HEIC, GIF or BMP"
ON_MULTIPLE_FACES = {
    "type": "string",
    "enum": ["error", "largest", "central", "any"],
    "description": "With multiple faces: error, or compare the largest, the most central, or any",
}
ONE_OF = {**ON_MULTIPLE_FACES, "enum": ["error", "largest", "central"], "description": "Which of multiple faces"}
FAR = {"type": "number", "description": "Share of strangers that may pass", "example": 0.001}
LIMIT = {
    "far": FAR,
    "threshold": {"type": "number", "description": "Accept at this score instead", "example": 0.5},
    "prior": {
        "type": "number",
        "description": "Share of pairs of one person among those you ask about: adds a probability",
        "example": 0.5,
    },
}
DECIDE = {"type": "boolean", "description": "Decide even where it is inconclusive"}
CROPS = {"type": "boolean", "description": "Send the aligned faces back"}


def form(photos: dict[str, int], fields: dict[str, Any], required: tuple[str, ...] = ()) -> dict[str, Any]:
    """Describe a form, which is read as it arrives and so not by FastAPI.

    Args:
        photos: names of the photos, which are all required, and how many of each there may be.
        fields: schemas of the other members by name.
        required: those among them that are.
    """
    binary = {"type": "string", "format": "binary", "description": FORMATS}
    base64 = {"type": "string", "contentEncoding": "base64", "description": f"{FORMATS}, in base64; or a data URI"}

    def content(photo: dict[str, Any]) -> dict[str, Any]:
        parts = {
            name: photo if most == 1 else {"type": "array", "items": photo, "minItems": 1, "maxItems": most}
            for name, most in photos.items()
        }
        return {"schema": {"type": "object", "properties": {**parts, **fields}, "required": [*photos, *required]}}

    described = {"multipart/form-data": content(binary), "application/json": content(base64)}
    return {"openapi_extra": {"requestBody": {"required": True, "content": described}}}


VERIFY = {
    **LIMIT,
    "on_multiple_faces": ON_MULTIPLE_FACES,
    "decide": DECIDE,
    "crops": CROPS,
    "explain": {"type": "boolean", "description": "Send pictures of where the similarity comes from"},
}
VERIFY_BATCH = {**LIMIT, "on_multiple_faces": ONE_OF, "decide": DECIDE}
FACES = {"crops": CROPS}
EMBED = {"on_multiple_faces": ONE_OF}
ENROLL = {"name": {"type": "string", "example": "Ada Lovelace"}, "on_multiple_faces": ONE_OF}
IDENTIFY = {
    "far": {**FAR, "description": "Share of searches for strangers that may name somebody", "example": 0.01},
    "on_multiple_faces": ONE_OF,
    "scores": {"type": "boolean", "description": "Also of people who were not found; needs the scope scores"},
}
