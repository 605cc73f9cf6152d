"""Answers of the API, and the texts of its description."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from siamese_verify.serving.api_keys import SCOPES
from siamese_verify.serving.problems import REASONS

NOTICE = (
    "Comparing two photos does not detect presentation attacks: a printed photo, a screen or a mask before the camera "
    "passes for the person it shows. Where that matters, start the server with a --liveness hook or watch the camera."
)
DESCRIPTION = f"""Face verification: two photos in, a decision with its error rates out.

**{NOTICE}**

Photos are held in memory while a request is answered, and stored nowhere: not on disk, not in a log.

A decision may be inconclusive (`same` is null, with `reasons`): that is an answer, status 200. A photo without a face,
or with multiple faces, is status 422; a file that is not a photo is status 400. Every error is JSON with a sentence
(`detail`) and a word for programs (`reason`):

{chr(10).join(f"- `{reason}`: {meaning}" for reason, meaning in REASONS.items())}

Photos are sent as the files of a form (`multipart/form-data`), or in base64 as members of a JSON object
(`application/json`; data URIs too), with the same names and limits.

Where the server needs a key, send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`. A key has scopes:

{chr(10).join(f"- `{scope}`: {meaning}" for scope, meaning in SCOPES.items())}
"""
QUALITY = {"sharpness": 214.8, "size": 118.2, "turn": 6.4, "light": 0.47, "contrast": 0.21, "noise": 0.31, "roll": 1.8}
EXAMPLE_FACE: dict[str, Any] = {
    "name": "photo a",
    "box": [76.1, 70.4, 171.9, 194.3],
    "landmarks": [[102.5, 117.2], [146.3, 115.9], [125.1, 141.0], [106.6, 164.4], [145.2, 163.1]],
    "probability": 0.9998,
    "rotated_by": 0,
    "faces": 1,
    "quality": QUALITY,
}
EXAMPLE_DECISION: dict[str, Any] = {
    "same": True,
    "sentence": "The same person: score 0.813, threshold 0.355.",
    "reason": None,
    "detail": None,
    "score": 0.813,
    "threshold": 0.355,
    "threshold_interval": [0.352, 0.359],
    "far": 0.001,
    "one_in": 1327164,
    "log_likelihood_ratio": 14.1,
    "prior": 0.5,
    "probability": 0.999999,
    "impostors": 6848158,
    "insufficient": False,
    "measured_on": "all pairs of LFW View 1's test people",
    "model": "sface",
    "impostor_tail": "At most 1 in 1,327,164 pairs of different people would score this high (95 % confidence).",
    "likelihood": "A score like this is at least 1,300,000 times as frequent among pairs of one person as among pairs "
    "of two people: the data can show no more.",
    "faces": [EXAMPLE_FACE, {**EXAMPLE_FACE, "name": "photo b"}],
    "reasons": [],
    "warnings": [],
    "milliseconds": {"read": 3.1, "detect": 41.0, "embed": 55.2},
}


class ErrorAnswer(BaseModel):
    """Error response."""

    detail: str = Field(description="A sentence for people.", examples=["No face was found on photo a."])
    reason: str = Field(description="A word for programs.", json_schema_extra={"enum": [*sorted(REASONS)]})
    photo: str | None = Field(None, description="Name of the photo that caused it.")
    scope: str | None = Field(None, description="With `missing_scope`: the scope that the key needs.")


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": description}
    for status, description in {
        400: "The request or a photo cannot be read, or the name in Host is not one of the server's",
        401: "The API key is missing, unknown or expired",
        403: "The API key lacks a scope, or a web page of another origin sent the request",
        408: "The body did not arrive in time",
        413: "Too many bytes or pixels",
        415: "Neither multipart/form-data nor application/json, or a photo is not an image",
        422: "A photo allows no decision, or a field is invalid",
        429: "Rate limit exceeded; see Retry-After",
        503: "Too many requests in progress, or the answer took too long; see Retry-After",
    }.items()
}


class FaceAnswer(BaseModel):
    """A face on a photo."""

    name: str
    box: list[float] | None = Field(description="Left, top, right, bottom in pixels of the photo once it is rotated.")
    landmarks: list[list[float]] | None = Field(description="Eyes, nose, corners of the mouth, likewise.")
    probability: float | None = Field(description="Probability of being a face.")
    rotated_by: float = Field(
        description="Degrees counter-clockwise by which the photo was rotated about its center to find the face."
    )
    faces: int = Field(description="Number of faces on the photo.")
    quality: dict[str, float | None]
    crop: str | None = Field(None, description="With `crops`: the aligned face, a PNG as a data URI.")
    explanation: str | None = Field(
        None, description="With `explain`: where the similarity comes from, a PNG as a data URI."
    )


class DecisionAnswer(BaseModel):
    """Fields of every decision."""

    sentence: str = Field(description="The decision in plain words.")
    reason: str | None = Field(None, description="`inconclusive` where it is, else null.")
    detail: str | None = Field(None, description="`reasons` as one text, likewise.")
    threshold: float | None = Field(description="Accepted at this score and above; null is unreachable.")
    threshold_interval: list[float | None] | None = Field(
        description="95 % interval over people; an end is null where the data do not bound it."
    )
    far: float | None = Field(
        description="Share of impostor pairs, or of searches for people who are not enrolled, that reach the threshold."
    )
    insufficient: bool = Field(description="Whether fewer than ten impostors determine the threshold.")
    reasons: list[str] = Field(description="Why it is inconclusive.")
    warnings: list[str]
    model: str
    milliseconds: dict[str, float]


class VerifyAnswer(DecisionAnswer):
    """A decision about two photos."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_DECISION]})

    same: bool | None = Field(description="null if inconclusive, see `reasons`.")
    score: float = Field(description="Cosine similarity, -1 to 1.")
    one_in: int | None = Field(
        description="An impostor pair scores this high at most once in so many: upper end of the 95 % interval."
    )
    log_likelihood_ratio: float | None = Field(
        description="Natural logarithm of how many times as frequent the score is among pairs of one person as among "
        "pairs of two; independent of the threshold."
    )
    prior: float | None = Field(description="As stated in the request.")
    probability: float | None = Field(description="Probability of one person for that prior; null without one.")
    impostors: int = Field(description="Impostor pairs that the threshold was measured on.")
    measured_on: str
    impostor_tail: str = Field("", description="`one_in` in words.")
    likelihood: str = Field("", description="The likelihood ratio in words.")
    faces: list[FaceAnswer]


class PairAnswer(BaseModel):
    """A decision about one pair of a batch, or the error that it has alone."""

    decision: VerifyAnswer | None = None
    error: ErrorAnswer | None = None


class VerifyBatchAnswer(BaseModel):
    """Decisions about pairs, in the order sent."""

    results: list[PairAnswer]


class FacesAnswer(BaseModel):
    """All faces on a photo, the most probable first."""

    found: int = Field(description="Number of faces on the photo.")
    faces: list[FaceAnswer]


class EmbedAnswer(BaseModel):
    """Embeddings of the faces, in the order of the photos."""

    model: str
    fingerprint: str = Field(description="Embeddings of the same fingerprint are comparable.")
    embedding_size: int
    embeddings: list[list[float]] = Field(description="Unit vectors; the cosine of two is their score.")
    faces: list[FaceAnswer]


class ModelAnswer(BaseModel):
    """The model, what its thresholds were measured on, and the limits of the server."""

    name: str
    fingerprint: str
    license: str
    embedding_size: int
    input: dict[str, Any]
    operating_points: list[dict[str, Any]]
    measured_on: str
    calibration: dict[str, Any] | None
    histogram: dict[str, list[float]] | None = Field(
        description="Shares of genuine and of impostor pairs between edges of scores."
    )
    quality: dict[str, Any]
    liveness: bool = Field(description="Whether the server has a liveness hook.")
    gallery: bool
    key_needed: bool
    limits: dict[str, float]
    notice: str


class EnrollAnswer(BaseModel):
    """Templates added to a person."""

    name: str
    person: str = Field(description="Random word that names the person in the gallery's log.")
    added: int = Field(description="Templates added.")
    templates: int = Field(description="Templates of the person now.")
    warnings: list[str]


class CandidateAnswer(BaseModel):
    """A person who may be on the photo."""

    name: str
    score: float


class IdentifyAnswer(DecisionAnswer):
    """Which enrolled person a photo shows, if any."""

    found: bool | None = Field(description="Whether an enrolled person was found; null if inconclusive, see `reasons`.")
    name: str | None = Field(description="Name of the person found, else null.")
    score: float | None = Field(description="Score of the person found; null if no one was, unless with `scores`.")
    candidates: list[CandidateAnswer] = Field(
        description="People found, best first; with `scores` the nearest neighbors below the threshold too."
    )
    searched: int = Field(description="Templates that were compared; the threshold is raised for their number.")
    people: int
    face: FaceAnswer | None


class PersonAnswer(BaseModel):
    """An enrolled person."""

    name: str
    enrolled: str = Field(examples=["2026-03-01T12:00:00Z"])
    templates: int


class PeopleAnswer(BaseModel):
    """All enrolled people."""

    people: list[PersonAnswer]


class DeleteAnswer(BaseModel):
    """A person was deleted."""

    forgotten: bool


class HealthAnswer(BaseModel):
    """State of the server."""

    status: str = Field(examples=["ok"])
    model: str
