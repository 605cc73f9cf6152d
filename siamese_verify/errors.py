"""InputError, the exception for user errors, and text from outside as one printable line."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Collection

JOINERS = "\u200c\u200d"  # invisible, but Persian and Indian names are spelled with them


class InputError(ValueError):
    """Invalid input from the user. The message is one sentence: what was wrong, the value, the way out."""


def check_numbers(*, finite: bool = True, **values: object) -> None:
    """Raise InputError for the first value that is no number, or an infinite one unless those are allowed, by its name.

    NaN is left to the check of a range.
    """
    for name, value in values.items():
        try:
            number = value.__float__()  # type: ignore[attr-defined]  # unlike float(value), not of text
        except OverflowError:
            number = math.inf
        except (AttributeError, TypeError, ValueError, RuntimeError):  # the last ones of tensors of more numbers
            number = None
        if number is None or (finite and abs(number) == math.inf):
            raise InputError(f"{name} must be a {'finite ' * (number is not None)}number, got {value!r:.80}.")


def did_you_mean(name: str, names: Collection[str], cutoff: float = 0.65, prefix: str = "") -> str:
    """Return the names most similar to `name`, as a question; empty if none is.

    Args:
        name: that there is not.
        names: that there are.
        cutoff: similarity from which on a name is given, see `difflib.get_close_matches`.
        prefix: of the names in the question.
    """
    import difflib

    close = difflib.get_close_matches(name, names, n=3, cutoff=cutoff)
    return f"did you mean {' or '.join(prefix + one for one in close)}?" if close else ""


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
