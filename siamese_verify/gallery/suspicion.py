"""What is odd about somebody who is being enrolled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from siamese_verify.gallery.person import Person
from siamese_verify.gallery.search_threshold import search_threshold

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from siamese_verify.evaluation import Strangers
    from siamese_verify.gallery.templates import Templates

FAR = 1e-2  # of a search for the same face under other names, and of a pair of photos of one person
IDENTICAL = 1 - 1e-5  # cosine of one photo with itself, with room for float32 and another engine


def suspicions(
    rows: NDArray[np.float32],
    called: Sequence[str],
    held: Templates,
    people: Mapping[int, Person],
    own: int | None,
    strangers: Strangers | None,
) -> list[str]:
    """Compare new templates with all that are there, and with one another.

    Args:
        rows: (N,D) new templates, of unit length.
        called: N, what to call them.
        held: templates that are there.
        people: whose they are.
        own: number of the person who is being enrolled; None for somebody new.
        strangers: how impostors score; None where it was not measured: identical photos alone are noticed then.

    Returns:
        Sentences: a face that is enrolled under another name, a photo that is there already, photos that do not seem to
        show one person.
    """
    elsewhere = search_threshold(strangers, FAR, max(1, len(held))).threshold if strangers else IDENTICAL
    apart = strangers.threshold(FAR)[0] if strangers else -1.0
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
            found.append(f"{name}: this face is unlike the others of this name.")  # a score could be climbed
    return found
