"""What a person may be called."""

from __future__ import annotations

import unicodedata

from siamese_verify.errors import JOINERS, InputError

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
