"""API keys: printed once, stored as hashes, each with a name, scopes and an optional expiry date."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from siamese_verify.errors import InputError

PREFIX = "sv_"  # for people and secret scanners
RANDOM_BYTES = 32
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SCOPES = {
    "verify": "compare photos, list their faces and embed them",
    "identify": "search the gallery for the person on a photo",
    "enroll": "enroll people",
    "read": "list enrolled people, and read metrics",
    "delete": "delete people",
    "scores": "see scores of people below the threshold",
}
LINE_FORMAT = "SHA256 NAME SCOPE,SCOPE,... DATE-or-never"


@dataclass(frozen=True)
class Key:
    """What a server stores of an API key.

    Attributes:
        sha256: SHA-256 of the key in lower-case hexadecimal.
        name: name in the log, unique in its file.
        scopes: what it may do, of `SCOPES`.
        expires: first day in UTC on which it is invalid; None for never.
    """

    sha256: str
    name: str
    scopes: frozenset[str]
    expires: date | None = None

    @classmethod
    def create(cls, sha256: str, name: str, scopes: str, expires: str) -> Key:
        """Key from text, as in a line of a key file.

        Raises:
            InputError: if a value is invalid.
        """
        if not NAME.fullmatch(name):
            raise InputError("The name of a key must be 1 to 64 letters, digits, dots, dashes or underscores.")
        given = frozenset(scope.strip() for scope in scopes.split(","))
        if not given <= SCOPES.keys():
            raise InputError(f"The scopes of a key must be some of {', '.join(SCOPES)}, separated by commas.")
        try:
            return cls(sha256, name, given, None if expires == "never" else date.fromisoformat(expires))
        except ValueError:
            raise InputError("The expiry date of a key must be like 2030-12-31, or never.") from None

    @classmethod
    def parse(cls, line: str) -> Key:
        """Read a line of a key file; its errors do not quote the line, which may hold a key.

        Raises:
            InputError: if it has another form.
        """
        words = line.split()
        if len(words) != 4 or not re.fullmatch("[0-9a-f]{64}", words[0]):
            raise InputError(f"A line of a key file must be `{LINE_FORMAT}`.")
        return cls.create(*words)

    def line(self) -> str:
        """Line of a key file."""
        scopes = ",".join(scope for scope in SCOPES if scope in self.scopes)
        return f"{self.sha256} {self.name} {scopes} {self.expires or 'never'}"

    def expired(self) -> bool:
        """Whether the key has expired."""
        return self.expires is not None and datetime.now(UTC).date() >= self.expires


class KeyFile:
    """API keys that a server accepts.

    A slow hash as for passwords would add nothing: a key is 256 random bits, which nobody can guess however fast the
    hash. It would let clients without a key keep the server busy.
    """

    def __init__(self, keys: Sequence[Key]) -> None:
        self.keys = tuple(keys)

    @classmethod
    def read(cls, path: Path) -> KeyFile:
        """Read a file that `add_key` wrote; lines that start with # are comments.

        Raises:
            InputError: if there is no such file, it has no keys, a line that is not a key, or a name twice.
        """
        create = f"`siamese-verify serve --new-key {shlex.quote(str(path))}` adds one"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"The key file {path} cannot be read ({type(error).__name__}): {create}.") from None
        keys: list[Key] = []
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            try:
                keys.append(Key.parse(line))
            except InputError as error:
                raise InputError(f"{str(error).rstrip('.')} (line {number} of {path}).") from None
            if keys[-1].name in {key.name for key in keys[:-1]}:
                raise InputError(f"Two keys of {path} are named {keys[-1].name}: rename or delete one.")
        if not keys:
            raise InputError(f"The key file {path} has no keys: {create}.")
        return cls(keys)

    def find(self, key: str) -> Key | None:
        """Return the stored key that matches, or None; all hashes are compared, each in constant time."""
        digest = hash_key(key)
        found = None
        for known in self.keys:
            if hmac.compare_digest(known.sha256, digest):
                found = known
        return found


def hash_key(key: str) -> str:
    """SHA-256 of a key in lower-case hexadecimal."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def add_key(path: Path, name: str | None = None, scopes: str = "verify", expires: str = "never") -> str:
    """Create a key and append its hash to a file that only its owner can read.

    Args:
        path: key file, created if missing.
        name: name in the log; by default `key-` and the first digits of the hash.
        scopes: of `SCOPES`, separated by commas.
        expires: first day on which it is invalid, as YYYY-MM-DD, or `never`.

    Returns:
        The key, which is stored nowhere.

    Raises:
        InputError: if a value is invalid, or the file is not a key file or cannot be written.
    """
    secret = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    digest = hash_key(secret)
    key = Key.create(digest, name or f"key-{digest[:8]}", scopes, expires)
    if key.expired():
        raise InputError(f"A key cannot expire in the past ({key.expires}): choose a later day.")
    separator = ""
    if path.exists() and path.stat().st_size:
        known = KeyFile.read(path)  # never append to a file of something else
        if key.name in {other.name for other in known.keys}:
            raise InputError(f"The key file {path} has a key named {key.name} already: choose another name.")
        separator = "" if path.read_bytes().endswith(b"\n") else "\n"
    try:
        # One write in append mode, so that two commands at once both leave their line.
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, f"{separator}{key.line()}\n".encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise InputError(f"The key file {path} cannot be written ({error.strerror}): choose another path.") from None
    return secret
