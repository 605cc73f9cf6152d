"""Who is in a gallery, and what enrolling somebody did."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple


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
