"""Who is in a gallery, and what enrolling somebody did."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from siamese_verify.errors import JOINERS, InputError
from siamese_verify.gallery.search_threshold import search_threshold

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from siamese_verify.evaluation import ImpostorTail
    from siamese_verify.gallery.template_search import Templates


class Person(NamedTuple):
    """Somebody who is enrolled."""

    name: str
    pseudonym: str  # random; names the person in the log, and nobody once the name is forgotten
    enrolled: str  # UTC, ISO 8601
    templates: int


@dataclass(frozen=True)
class Enrolment:
    """What enrolling somebody did.

    Attributes:
        name: as it is kept.
        pseudonym: that names the person in the log.
        added: templates.
        templates: of the person now.
        warnings: what to look at, sentences: the face is known under another name, or the photos do not fit together.
    """

    name: str
    pseudonym: str
    added: int
    templates: int
    warnings: tuple[str, ...] = ()

    def sentence(self) -> str:
        """Say it in words."""
        return f"{self.name} is enrolled: {counted(self.added, 'template')} added, {self.templates} in all."


class LogEntry(NamedTuple):
    """Something that happened in a gallery."""

    at: str  # UTC, ISO 8601
    event: str  # enrolled, matched or forgotten
    pseudonym: str  # of the person
    name: str | None  # None once the person was forgotten
    model: str
    details: dict[str, Any]  # templates; score, threshold and far of a match

    def sentence(self) -> str:
        """Say it in words."""
        who = self.name or f"somebody since forgotten ({self.pseudonym})"
        told = ", ".join(f"{key} {value:.4g}" for key, value in self.details.items() if value is not None)
        return f"{self.at}  {self.event:9}  {who}  {told}, model {self.model or 'without a name'}"


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def counted(number: int, noun: str) -> str:
    """`1 person`, `2 templates`."""
    plural = "people" if noun == "person" else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


LONGEST = 200  # characters


def person_name(text: str) -> str:
    """Bring a name into the one form that it is kept and looked for in.

    Args:
        text: as it was typed: composed or decomposed letters (NFC is made of them), spaces around it are dropped.

    Raises:
        InputError: it is empty, longer than 200 characters, or has characters that no one sees: control characters,
            line ends, marks of direction, halves of surrogate pairs.
    """
    name = unicodedata.normalize("NFC", text).strip()
    if not name.strip(JOINERS):
        raise InputError(f"The name {text!r} is empty: give one that can be read.")
    if len(name) > LONGEST:
        raise InputError(f"The name {name[:20]!r}... has {len(name)} characters: give one of {LONGEST} at most.")
    for character in name:
        # Two names that look alike must not be two people, and no name may rewrite the terminal that shows it.
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp") and character not in JOINERS:
            raise InputError(f"The name {name!a} has the invisible character {character!a}: leave it out.")
    return name


FAR = 1e-2  # of a search for the same face under other names, and of a pair of photos of one person
IDENTICAL = 1 - 1e-5  # cosine of one photo with itself, with room for float32 and another engine


def suspicions(
    rows: NDArray[np.float32],
    called: Sequence[str],
    held: Templates,
    people: Mapping[int, Person],
    own: int | None,
    impostor_tail: ImpostorTail | None,
) -> list[str]:
    """Compare new templates with all that are there, and with one another.

    Args:
        rows: (N,D) new templates, of unit length.
        called: N, what to call them.
        held: templates that are there.
        people: whose they are.
        own: number of the person who is being enrolled; None for somebody new.
        impostor_tail: how impostors score; None where it was not measured: identical photos alone are noticed then.

    Returns:
        Sentences: a face that is enrolled under another name, a photo that is there already, photos that do not seem to
        show one person.
    """
    elsewhere = search_threshold(impostor_tail, FAR, max(1, len(held))).threshold if impostor_tail else IDENTICAL
    apart = impostor_tail.threshold(FAR)[0] if impostor_tail else -1.0
    known = held.rows[held.people == own] if own is not None else held.rows[:0]
    found = []
    for place, (row, name) in enumerate(zip(rows, called, strict=True)):
        hits = [hit for hit in held.best(row, 2) if hit.person != own]
        if hits and hits[0].score >= min(elsewhere, IDENTICAL):
            found.append(
                f"{name}: this face is enrolled already, as {people[hits[0].person].name} (score {hits[0].score:.3f})."
            )
        company = np.concatenate([known, rows[:place]]) @ row
        if company.size and company.max() >= IDENTICAL:
            found.append(f"{name}: this photo is enrolled already, and a second time is of no use.")
        elif company.size and company.max() < apart:
            # How unlike, it does not say: see `Identification`.
            found.append(f"{name}: this face is unlike the others of this name.")
    return found


LARGEST = 65_536  # dimensions of an embedding


class GalleryModel(NamedTuple):
    """A model without its weights: enough to keep its embeddings apart from those of any other."""

    fingerprint: str  # hex SHA-256 that names weights and alignment
    dimension: int
    name: str = ""  # for people
    impostor_tail: ImpostorTail | None = None  # how impostors score; None where it was not measured
    quality: Mapping[
        str, tuple[float | None, float | None]
    ] = {}  # ranges that it was measured on, by `Quality`'s names


class FaceVerifier(Protocol):
    """What a gallery asks of a `Verifier`."""

    @property
    def metadata(self) -> Any:
        """Name, fingerprint, dimension, score_calibration and quality of the model."""

    def find(self, photo: Any, name: str | None = None, on_multiple_faces: Any = None) -> Sequence[Any]:
        """Find the faces that are meant."""

    def embed_faces(self, faces: Sequence[Any]) -> NDArray[np.float32]:
        """Embed them, (N,D) of unit length."""


def gallery_model(model: FaceVerifier | GalleryModel) -> GalleryModel:
    """Read off a verifier what a gallery has to know.

    Raises:
        InputError: the model's weights have no digest yet, or its dimension is none.
    """
    if not isinstance(model, GalleryModel):
        metadata = model.metadata
        if not metadata.weights_sha256:  # all such would seem to be one model
            raise InputError(f"The weights of {metadata.name} were never saved: export them to a bundle first.")
        score_calibration = metadata.score_calibration
        model = GalleryModel(
            metadata.fingerprint,
            metadata.embedding_size,
            metadata.name,
            score_calibration and score_calibration.impostor_tail,
            metadata.quality,
        )
    if not model.fingerprint or not 0 < model.dimension <= LARGEST:
        raise InputError(
            f"A gallery's model has a fingerprint and 1 to {LARGEST:,} dimensions, got {model.fingerprint!r} and "
            f"{model.dimension}."
        )
    return model
