"""People of a gallery: names, enrollments, log entries, and the model that a gallery belongs to."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from siamese_verify.errors import JOINERS, InputError
from siamese_verify.gallery.identification import count_of, search_threshold

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from siamese_verify.evaluation import ImpostorTail
    from siamese_verify.gallery.template_search import Templates
    from siamese_verify.verification import Verifier


class Person(NamedTuple):
    """An enrolled person."""

    name: str
    pseudonym: str  # random; stands for the person in the log, also after the name is forgotten
    enrolled: str  # UTC, ISO 8601
    templates: int


@dataclass(frozen=True)
class Enrollment:
    """Result of enrolling a person.

    Attributes:
        name: as stored.
        pseudonym: of the person in the log.
        added: templates.
        templates: of the person now.
        warnings: sentences: the face is enrolled under another name, or the photos are unlike one another.
    """

    name: str
    pseudonym: str
    added: int
    templates: int
    warnings: tuple[str, ...] = ()

    def sentence(self) -> str:
        """The result in one sentence."""
        return f"{self.name} is enrolled: {count_of(self.added, 'template')} added, {self.templates} in all."


class LogEntry(NamedTuple):
    """An event in a gallery."""

    at: str  # UTC, ISO 8601
    event: str  # enrolled, matched or forgotten
    pseudonym: str  # of the person
    name: str | None  # None if the person was forgotten
    model: str
    details: dict[str, Any]  # templates; score, threshold and far of a match

    def sentence(self) -> str:
        """The entry in one line."""
        who = self.name or f"a person since forgotten ({self.pseudonym})"
        details = ", ".join(f"{key} {value:.4g}" for key, value in self.details.items() if value is not None)
        return f"{self.at}  {self.event:9}  {who}  {details}, model {self.model or 'without a name'}"


def now() -> str:
    """Current time in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


LONGEST = 200  # characters


def person_name(text: str) -> str:
    """Normalized name of a person.

    Args:
        text: composed or decomposed letters, which are composed (NFC); surrounding spaces are dropped.

    Raises:
        InputError: it is empty, longer than 200 characters, or has invisible characters: control characters, line ends,
            marks of direction, halves of surrogate pairs.
    """
    name = unicodedata.normalize("NFC", text).strip()
    if not name.strip(JOINERS):
        raise InputError(f"The name {text!r} is empty: give a visible one.")
    if len(name) > LONGEST:
        raise InputError(f"The name {name[:20]!r}... has {len(name)} characters: give {LONGEST} at most.")
    for character in name:
        # Two names that look alike must not be two people, and no name may rewrite the terminal that shows it.
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp") and character not in JOINERS:
            raise InputError(f"The name {name!a} has the invisible character {character!a}: remove it.")
    return name


FAR = 1e-2  # of a search for the same face under other names, and of a pair of photos of one person
IDENTICAL = 1 - 1e-5  # cosine of one photo with itself, with room for float32 and another engine


def enrollment_warnings(
    rows: NDArray[np.float32],
    sources: Sequence[str],
    held: Templates,
    names: Mapping[int, str],
    own: int | None,
    impostor_tail: ImpostorTail | None,
) -> list[str]:
    """Compare new templates with all others and with one another.

    Args:
        rows: (N,D) new templates, of unit length.
        sources: N names of them.
        held: templates of the gallery.
        names: of the people by id.
        own: id of the person being enrolled; None for a new one.
        impostor_tail: of the model; without one only identical photos are noticed.

    Returns:
        Sentences: a face that is enrolled under another name, a photo that is enrolled already, photos that do not seem
        to show one person.
    """
    elsewhere = search_threshold(impostor_tail, FAR, max(1, len(held))).threshold if impostor_tail else IDENTICAL
    apart = impostor_tail.threshold(FAR)[0] if impostor_tail else -1.0
    known = held.rows[held.people == own] if own is not None else held.rows[:0]
    found = []
    for place, (row, name) in enumerate(zip(rows, sources, strict=True)):
        hits = [hit for hit in held.best(row, 2) if hit.person != own]
        if hits and hits[0].score >= min(elsewhere, IDENTICAL):
            found.append(
                f"{name}: this face is enrolled already, as {names[hits[0].person]} (score {hits[0].score:.3f})."
            )
        others = np.concatenate([known, rows[:place]]) @ row
        if others.size and others.max() >= IDENTICAL:
            found.append(f"{name}: this photo is enrolled already.")
        elif others.size and others.max() < apart:
            # without the score, see `Identification`
            found.append(f"{name}: this face is unlike the others of this name.")
    return found


LARGEST = 65_536  # numbers in an embedding


class GalleryModel(NamedTuple):
    """Description of a model: enough to refuse the embeddings of any other."""

    fingerprint: str  # hex SHA-256 of weights and alignment
    embedding_size: int
    name: str = ""  # for people
    impostor_tail: ImpostorTail | None = None  # None if not measured
    quality: Mapping[str, tuple[float | None, float | None]] = {}  # measured ranges, by the names of `Quality`


def gallery_model(model: Verifier | GalleryModel) -> GalleryModel:
    """Description of a verifier's model.

    Raises:
        InputError: the model was never saved, or its fingerprint or embedding size is invalid.
    """
    if not isinstance(model, GalleryModel):
        metadata = model.metadata
        if not metadata.weights_sha256:  # all such models would share one fingerprint
            raise InputError(f"The weights of {metadata.name} were never saved: export them to a bundle first.")
        score_calibration = metadata.score_calibration
        model = GalleryModel(
            metadata.fingerprint,
            metadata.embedding_size,
            metadata.name,
            score_calibration and score_calibration.impostor_tail,
            metadata.quality,
        )
    if not model.fingerprint or not 0 < model.embedding_size <= LARGEST:
        raise InputError(
            f"A gallery's model has a fingerprint and an embedding size of 1 to {LARGEST:,}, got {model.fingerprint!r} "
            f"and {model.embedding_size}."
        )
    return model
