"""A liveness hook by its name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from siamese_verify.errors import InputError


def load_hook(name: str) -> Callable[..., str | None]:
    """Import `module:function`; the current folder is searched too.

    The function takes a photo and the face on it, and returns None for a living person or a sentence that refuses.

    Raises:
        InputError: there is none, or it is no function.
    """
    module, colon, function = name.partition(":")
    if not colon or not module or not function:
        raise InputError(f"A liveness hook is named as module:function, got {name!r}.")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for part in function.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise InputError(f"The liveness hook {name} cannot be imported ({error}): check its name.") from None
    if not callable(found):
        raise InputError(f"The liveness hook {name} is no function: name one that takes a photo and a face.")
    hook: Callable[..., str | None] = found
    return hook
