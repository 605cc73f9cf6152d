"""Identities to leave out of a data set, and why."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.types import Photos


def identity_name(photos: Photos, code: int) -> str:
    """Name of an identity; its number where it has none."""
    people = getattr(photos, "people", None)
    return str(people[code]) if people is not None else str(code)


def read_drop_list(path: str | Path, photos: Photos) -> dict[int, str]:
    """Whom to leave out, by their numbers in `photos`, and why.

    Raises:
        InputError: no such file, not UTF-8, or nobody in it is in the data set.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            lines = [line.strip() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The drop list {path} cannot be read: {error}.") from None
    reasons = {}
    for line in filter(None, lines):
        name, _, reason = line.partition("\t" if "\t" in line else ",")
        reasons[name.strip()] = reason.strip() or f"listed in {Path(path).name}"
    codes = np.unique(photos.identities).tolist()
    found = {code: reasons[name] for code in codes if (name := identity_name(photos, code)) in reasons}
    if not found:
        raise InputError(
            f"None of the {len(reasons):,} identities in {path} is in the data set, whose first is "
            f"{identity_name(photos, codes[0])!r}: list names or numbers as they are there."
        )
    return found
