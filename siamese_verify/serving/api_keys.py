"""API keys: shown once, kept as hashes, each with a name, scopes and perhaps a last day."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from siamese_verify.errors import InputError

PREFIX = "sv_"  # so that people and secret scanners recognise a key
BYTES = 32
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SCOPES = {
    "verify": "compare photos, list their faces and embed them",
    "identify": "search the gallery for the person on a photo",
    "enroll": "enrol people",
    "read": "list who is enrolled, and read the counters",
    "delete": "forget people",
    "scores": "see the scores of people who were not found, too",
}
LINE = "SHA256 NAME SCOPE,SCOPE,... DATE-or-never"


@dataclass(frozen=True)
class Key:
    """What a server knows of an API key.

    Attributes:
        sha256: of the key, lower-case hexadecimal.
        name: that stands in the log; unique in its file.
        scopes: of `SCOPES`, what it opens.
        expires: the first day, in UTC, on which it opens nothing any more; None for never.
    """

    sha256: str
    name: str
    scopes: frozenset[str]
    expires: date | None = None

    def expired(self) -> bool:
        """The key's time is over."""
        return self.expires is not None and datetime.now(UTC).date() >= self.expires

    def line(self) -> str:
        """Write it as a line of a key file."""
        scopes = ",".join(scope for scope in SCOPES if scope in self.scopes)
        return f"{self.sha256} {self.name} {scopes} {self.expires or 'never'}"

    @classmethod
    def parse(cls, line: str) -> Key:
        """Read what `line` wrote.

        Raises:
            InputError: it is something else; the line itself is never quoted, for it may hold a key.
        """
        words = line.split()
        if len(words) != 4 or not re.fullmatch("[0-9a-f]{64}", words[0]):
            raise InputError(f"it is not of the form `{LINE}`")
        return cls(words[0], checked_name(words[1]), checked_scopes(words[2]), checked_expiry(words[3]))


class KeyFile:
    """The keys that a server knows.

    They are kept as SHA-256. A slow hash as for passwords would protect nothing here: a key is 256 random bits, which
    nobody can guess through, however fast the hash; and a slow one would let strangers keep the server busy by wrong
    keys.

    Args:
        keys: to let in.
    """

    def __init__(self, keys: Sequence[Key]) -> None:
        self.keys = tuple(keys)

    @classmethod
    def read(cls, path: Path) -> KeyFile:
        """Read a file that `add_key` wrote; lines that start with # are comments.

        Raises:
            InputError: there is no such file, it holds no key, something else than keys, or a name twice.
        """
        way = f"`siamese-verify serve --new-key {path}` makes one"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"The key file {path} cannot be read ({type(error).__name__}): {way}.") from None
        keys: list[Key] = []
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            try:
                keys.append(Key.parse(line))
            except InputError as error:
                raise InputError(
                    f"Line {number} of the key file {path} cannot be used ({str(error).rstrip('.')}): a line has a "
                    f"key's hash, never the key itself; {way}."
                ) from None
            if keys[-1].name in {key.name for key in keys[:-1]}:
                raise InputError(f"Two keys of {path} are named {keys[-1].name}: rename or delete one.")
        if not keys:
            raise InputError(f"The key file {path} holds no key: {way}.")
        return cls(keys)

    def find(self, key: str) -> Key | None:
        """Return what is known of a key that was sent; None for one that is not known.

        All hashes are compared, each in constant time, so that the time tells nothing of where one differs.
        """
        given = hash_of(key)
        found = None
        for known in self.keys:
            if hmac.compare_digest(known.sha256, given):
                found = known
        return found


def hash_of(key: str) -> str:
    """SHA-256 of a key, in lower-case hexadecimal."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def add_key(path: Path, name: str | None = None, scopes: str = "verify", expires: str = "never") -> str:
    """Make a key and append its hash to a file that only its owner can read.

    Args:
        path: of the file; made if it is missing.
        name: for the log; by default `key-` and the first digits of the hash.
        scopes: of `SCOPES`, with commas between.
        expires: the first day on which it opens nothing, as YYYY-MM-DD, or `never`.

    Returns:
        The key, which is kept nowhere.

    Raises:
        InputError: the file holds something else or cannot be written, or a value cannot be used.
    """
    key = PREFIX + secrets.token_urlsafe(BYTES)
    sha256 = hash_of(key)
    known = Key(sha256, checked_name(name or f"key-{sha256[:8]}"), checked_scopes(scopes), checked_expiry(expires))
    if known.expired():
        raise InputError(f"A key that expires on {known.expires} would never open anything: give a day to come.")
    separator = ""
    if path.exists() and path.stat().st_size:
        held = KeyFile.read(path)  # rather than append to somebody's letters
        if known.name in {other.name for other in held.keys}:
            raise InputError(f"The key file {path} has a key named {known.name} already: choose another name.")
        separator = "" if path.read_bytes().endswith(b"\n") else "\n"
    try:
        # One write in append mode: two commands at once both leave their line.
        place = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(place, f"{separator}{known.line()}\n".encode())
        finally:
            os.close(place)
    except OSError as error:
        raise InputError(f"The key file {path} cannot be written: {error.strerror}.") from None
    return key


def checked_name(name: str) -> str:
    """Give back a key's name.

    Raises:
        InputError: it is none.
    """
    if not NAME.fullmatch(name):
        raise InputError("The name of a key is 1 to 64 letters, digits, dots, dashes or underscores.")
    return name


def checked_scopes(scopes: str) -> frozenset[str]:
    """Read scopes with commas between.

    Raises:
        InputError: one is unknown, or there is none.
    """
    given: Collection[str] = [scope.strip() for scope in scopes.split(",")]
    if not all(scope in SCOPES for scope in given):
        raise InputError(f"The scopes of a key are some of {', '.join(SCOPES)}, with commas between.")
    return frozenset(given)


def checked_expiry(expires: str) -> date | None:
    """Read a day, None for `never`.

    Raises:
        InputError: it is none.
    """
    if expires == "never":
        return None
    try:
        return date.fromisoformat(expires)
    except ValueError:
        raise InputError("A key expires on a day such as 2030-12-31, or never.") from None
