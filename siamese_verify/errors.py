"""InputError, the exception for user errors, and text from outside as one printable line."""

from __future__ import annotations

import unicodedata

JOINERS = "\u200c\u200d"  # invisible, but Persian and Indian names are spelled with them


class InputError(ValueError):
    """Invalid input from the user. The message is one sentence: what was wrong, the value, the way out."""


def printable(text: object) -> str:
    """Return text as one line that changes nothing but its own place on a terminal.

    Control characters, escape sequences, line breaks, marks of direction and halves of surrogate pairs become visible
    escapes such as `\\x1b` and `\\u202e`: the name of a file must not be able to write an answer of its own.

    Args:
        text: such as a file name, a person's name or a library's error message.
    """
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in JOINERS
        else character
        for character in str(text)
    )
