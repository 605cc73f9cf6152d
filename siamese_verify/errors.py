"""The one exception for what the user can mend."""

from __future__ import annotations


class InputError(ValueError):
    """What the user gave cannot be used. The message is one sentence: what was wrong, the value, the way out."""
