"""What the API answers, for its description; each is written from what the verifier says."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from siamese_verify.serving.problems import REASONS

QUALITY = {"sharpness": 214.8, "size": 118.2, "turn": 6.4, "light": 0.47, "contrast": 0.21, "noise": 0.31, "roll": 1.8}
FACE: dict[str, Any] = {
    "name": "photo a",
    "box": [76.1, 70.4, 171.9, 194.3],
    "landmarks": [[102.5, 117.2], [146.3, 115.9], [125.1, 141.0], [106.6, 164.4], [145.2, 163.1]],
    "probability": 0.9998,
    "rotated_by": 0,
    "faces": 1,
    "quality": QUALITY,
}
DECISION: dict[str, Any] = {
    "same": True,
    "sentence": "The same person: score 0.713, threshold 0.508.",
    "reason": None,
    "detail": None,
    "score": 0.713,
    "threshold": 0.508,
    "threshold_interval": [0.489, 0.527],
    "far": 0.001,
    "one_in": 1141359,
    "log_likelihood_ratio": 7.88,
    "prior": 0.5,
    "probability": 0.9996,
    "impostors": 6848158,
    "insufficient": False,
    "measured_on": "all pairs of LFW View 1's test people",
    "model": "casia-webface",
    "impostor_tail": "1 in 1,141,359 pairs of different people would score this high.",
    "likelihood": "A score like this is about 2,600 times as frequent among pairs of one person as among pairs of two "
    "people.",
    "faces": [FACE, {**FACE, "name": "photo b"}],
    "reasons": [],
    "warnings": [],
    "milliseconds": {"read": 3.1, "detect": 41.0, "embed": 55.2},
}


class FailedAnswer(BaseModel):
    """Why there is no answer."""

    detail: str = Field(description="One sentence for people.", examples=["No face was found on photo a."])
    reason: str = Field(description="A word for programs.", json_schema_extra={"enum": [*sorted(REASONS)]})
    photo: str | None = Field(None, description="Name of the part that is at fault.")
    scope: str | None = Field(None, description="With `missing_scope`: what the key would need.")


class FaceAnswer(BaseModel):
    """A face of a photo."""

    name: str
    box: list[float] | None = Field(description="Left, top, right, bottom in pixels of the photo once it is rotated.")
    landmarks: list[list[float]] | None = Field(description="Eyes, nose, corners of the mouth, likewise.")
    probability: float | None = Field(description="Of being a face.")
    rotated_by: float = Field(
        description="Degrees counter-clockwise by which the photo was rotated for it, about its centre."
    )
    faces: int = Field(description="How many the photo shows.")
    quality: dict[str, float | None]
    crop: str | None = Field(None, description="With `crops`: the face as the model sees it, a PNG as a data URI.")
    explanation: str | None = Field(
        None, description="With `explain`: where the similarity comes from, a PNG as a data URI."
    )


class VerifyAnswer(BaseModel):
    """A decision about two photos."""

    model_config = ConfigDict(json_schema_extra={"examples": [DECISION]})

    same: bool | None = Field(description="null is inconclusive, for `reasons`.")
    sentence: str = Field(description="The decision in plain words.")
    reason: str | None = Field(None, description="`inconclusive` where `same` is null.")
    detail: str | None = Field(None, description="`reasons` as one text, likewise.")
    score: float = Field(description="Cosine similarity, -1 to 1.")
    threshold: float | None = Field(description="Accepted at this score and above; null is unreachable.")
    threshold_interval: list[float | None] | None = Field(
        description="95 %, over people; an end is null where the data set none."
    )
    far: float | None = Field(description="Share of strangers that reach the threshold.")
    one_in: int | None = Field(
        description="A stranger scores this high at most once in so many: upper end of the 95 % interval."
    )
    log_likelihood_ratio: float | None = Field(
        description="Natural logarithm of how many times as frequent the score is among pairs of one person as among "
        "pairs of two; it does not depend on the threshold."
    )
    prior: float | None = Field(description="As stated in the request.")
    probability: float | None = Field(description="Of one person, for that prior; null without one.")
    impostors: int
    insufficient: bool
    measured_on: str
    model: str
    impostor_tail: str = ""
    likelihood: str = Field("", description="The likelihood ratio in words.")
    faces: list[FaceAnswer]
    reasons: list[str] = Field(description="Why it is inconclusive.")
    warnings: list[str]
    milliseconds: dict[str, float]


class PairAnswer(BaseModel):
    """A decision about one pair of a batch, or why there is none."""

    decision: VerifyAnswer | None = None
    error: FailedAnswer | None = None


class VerifyBatchAnswer(BaseModel):
    """Decisions about pairs, in the order sent."""

    results: list[PairAnswer]


class FacesAnswer(BaseModel):
    """All faces of a photo, the most probable first."""

    found: int = Field(description="How many the photo shows.")
    faces: list[FaceAnswer]


class EmbedAnswer(BaseModel):
    """Embeddings of the photos' faces, in the order sent."""

    model: str
    fingerprint: str = Field(description="Embeddings compare only under one fingerprint.")
    embedding_size: int
    embeddings: list[list[float]] = Field(description="Of unit length; the cosine of two is their score.")
    faces: list[FaceAnswer]


class ModelAnswer(BaseModel):
    """What the model is and what its thresholds rest on."""

    name: str
    fingerprint: str
    license: str
    embedding_size: int
    input: dict[str, Any]
    operating_points: list[dict[str, Any]]
    measured_on: str
    calibration: dict[str, Any] | None
    scale: dict[str, Any] | None = Field(description="To draw a score on: bell curves through the measured rates.")
    quality: dict[str, Any]
    liveness: bool = Field(description="A hook looks for living persons; without one, nothing does.")
    gallery: bool
    key_needed: bool
    limits: dict[str, float]
    notice: str


class EnrollAnswer(BaseModel):
    """What enrolling somebody did."""

    name: str
    person: str = Field(description="Random word that names the person in the gallery's log.")
    added: int = Field(description="Templates.")
    templates: int = Field(description="Of the person now.")
    warnings: list[str]


class CandidateAnswer(BaseModel):
    """Somebody who may be meant."""

    name: str
    score: float


class IdentifyAnswer(BaseModel):
    """Who is on a photo, if anybody who is enrolled."""

    found: bool | None = Field(description="Somebody was; null is inconclusive, for `reasons`.")
    name: str | None = Field(description="Of who was found; null where nobody was.")
    sentence: str
    reason: str | None = Field(None, description="`inconclusive` where `found` is null.")
    detail: str | None = Field(None, description="`reasons` as one text, likewise.")
    score: float | None = Field(description="Of who was found; null where nobody was, unless `scores` asks for it.")
    threshold: float | None = Field(description="Raised for the number of templates that were compared.")
    threshold_interval: list[float | None] | None = Field(
        description="95 %, over people; an end is null where the data set none."
    )
    far: float | None = Field(description="Share of searches for strangers that may name somebody.")
    candidates: list[CandidateAnswer] = Field(
        description="Those who were found, best first; with `scores` all who are most alike."
    )
    searched: int = Field(description="Templates that were compared.")
    people: int
    insufficient: bool
    reasons: list[str] = Field(description="Why it is inconclusive.")
    warnings: list[str]
    face: FaceAnswer | None
    model: str
    milliseconds: dict[str, float]


class PersonAnswer(BaseModel):
    """Somebody who is enrolled."""

    name: str
    enrolled: str = Field(examples=["2026-03-01T12:00:00Z"])
    templates: int


class PeopleAnswer(BaseModel):
    """Everybody who is enrolled."""

    people: list[PersonAnswer]


class ForgetAnswer(BaseModel):
    """Somebody was removed."""

    forgotten: bool


class HealthAnswer(BaseModel):
    """The server is up."""

    status: str = Field(examples=["ok"])
    model: str
