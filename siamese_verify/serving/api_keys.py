"""API keys: shown once, kept as hashes."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from siamese_verify.errors import InputError

PREFIX = "sv_"  # so that people and secret scanners recognise a key
BYTES = 32


class KeyFile:
    """The keys that a server knows, as one SHA-256 a line.

    A slow hash as for passwords would protect nothing here: a key is 256 random bits, which nobody can guess through,
    however fast the hash; and a slow one would let strangers keep the server busy by wrong keys.

    Args:
        hashes: lower-case hexadecimal SHA-256 of keys.
    """

    def __init__(self, hashes: Sequence[str]) -> None:
        self.hashes = tuple(value.encode() for value in hashes)

    @classmethod
    def read(cls, path: Path) -> KeyFile:
        """Read a file that `add_key` wrote; lines that start with # are comments.

        Raises:
            InputError: there is no such file, it holds no key, or something else than hashes.
        """
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            way = f"`siamese-verify serve --new-key {path}` makes one"
            raise InputError(f"The key file {path} cannot be read ({type(error).__name__}): {way}.") from None
        hashes = [line for line in lines if line and not line.startswith("#")]
        for line in hashes:
            if not re.fullmatch("[0-9a-f]{64}", line):
                raise InputError(
                    f"The key file {path} holds a line that is no SHA-256: it keeps hashes, never keys themselves; "
                    f"make one with `siamese-verify serve --new-key {path}`."
                )
        if not hashes:
            raise InputError(f"The key file {path} holds no key: `siamese-verify serve --new-key {path}` makes one.")
        return cls(hashes)

    def find(self, key: str) -> str | None:
        """Name a key by the first digits of its hash; None for a key that is not known.

        All hashes are compared, each in constant time, so that the time tells nothing of where one differs.
        """
        given = hash_of(key).encode()
        known = False
        for kept in self.hashes:
            known |= hmac.compare_digest(kept, given)
        return given[:8].decode() if known else None


def hash_of(key: str) -> str:
    """SHA-256 of a key, in lower-case hexadecimal."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def add_key(path: Path) -> str:
    """Make a key and append its hash to a file that only its owner can read.

    Returns:
        The key, which is kept nowhere.

    Raises:
        InputError: the file holds something else, or cannot be written.
    """
    if path.exists() and path.stat().st_size:
        KeyFile.read(path)  # rather than append to somebody's letters
    key = PREFIX + secrets.token_urlsafe(BYTES)
    try:
        # One write in append mode: two commands at once both leave their line.
        place = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(place, f"{hash_of(key)}\n".encode())
        finally:
            os.close(place)
    except OSError as error:
        raise InputError(f"The key file {path} cannot be written: {error.strerror}.") from None
    return key
