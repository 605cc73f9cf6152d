"""The key of a gallery: 32 random bytes that lie elsewhere than the gallery does."""

from __future__ import annotations

import base64
import binascii
import os
import secrets
import stat
from pathlib import Path

from siamese_verify.errors import InputError

LENGTH = 32  # bytes: AES-256
VARIABLE = "SIAMESE_VERIFY_KEY"
FILE_VARIABLE = "SIAMESE_VERIFY_KEY_FILE"
MAKE = "`siamese-verify people --new-key FILE`"


class GalleryKey:
    """32 secret bytes, which no traceback and no log shows.

    Args:
        content: the bytes.

    Raises:
        InputError: more or fewer than 32.
    """

    __slots__ = ("content",)

    def __init__(self, content: bytes) -> None:
        if len(content) != LENGTH:
            raise InputError(f"A gallery's key has {LENGTH} bytes, this one {len(content)}: make one with {MAKE}.")
        self.content = content

    def __repr__(self) -> str:
        return "GalleryKey(...)"

    @classmethod
    def from_text(cls, text: str, where: str) -> GalleryKey:
        """Read base64.

        Args:
            text: 44 characters, spaces and line ends around them.
            where: it was found, for errors; the text itself is never said.

        Raises:
            InputError: it is something else.
        """
        try:
            content = base64.b64decode(text.strip().encode("ascii"), validate=True)
        except (binascii.Error, UnicodeEncodeError):
            content = b""
        if len(content) != LENGTH:
            raise InputError(f"{where} is no key of {LENGTH} bytes in base64: make one with {MAKE}.")
        return cls(content)

    @classmethod
    def from_file(cls, path: Path) -> GalleryKey:
        """Read a key file.

        Raises:
            InputError: there is none, it holds something else, or others than its owner and group can get at it.
        """
        try:
            if not path.is_file():
                raise InputError(
                    f"There is no key file {path}: make one with `siamese-verify people --new-key {path}`."
                )
            mode = path.stat().st_mode
            if os.name == "posix" and mode & (stat.S_IRWXO | stat.S_IWGRP):
                raise InputError(
                    f"The key file {path} is open to others (mode {stat.S_IMODE(mode):04o}): close it with "
                    f"`chmod 600 {path}`."
                )
            with path.open("rb") as file:
                content = file.read(1024)
        except (OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"The key file {path} cannot be read ({error}): look at its path and mode.") from None
        return cls.from_text(content.decode("ascii", errors="replace"), f"The key file {path}")


def find_key(source: GalleryKey | str | Path | bytes | None = None) -> GalleryKey:
    """Find the key of a gallery.

    Args:
        source: a key, its 32 bytes, or the path of its file; None looks into the environment: SIAMESE_VERIFY_KEY holds
            the key in base64, SIAMESE_VERIFY_KEY_FILE the path of its file.

    Raises:
        InputError: there is none, or it cannot be used.
    """
    if isinstance(source, GalleryKey):
        return source
    if isinstance(source, bytes):
        return GalleryKey(source)
    if source is not None:
        return GalleryKey.from_file(Path(source).expanduser())
    if text := os.environ.get(VARIABLE):
        return GalleryKey.from_text(text, VARIABLE)
    if path := os.environ.get(FILE_VARIABLE):
        return GalleryKey.from_file(Path(path).expanduser())
    raise InputError(
        f"A gallery is encrypted, and no key was given: make one, once, with {MAKE}, and name that file with --key or "
        f"in {FILE_VARIABLE}."
    )


def new_key(path: Path) -> GalleryKey:
    """Make a key and write its file, for its owner only; a file that is there is never overwritten.

    Raises:
        InputError: there is a file of that name, or it cannot be written.
    """
    key = GalleryKey(secrets.token_bytes(LENGTH))
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(base64.b64encode(key.content) + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise InputError(f"{path} is there already, and a key is never overwritten: choose another name.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"The key file {path} cannot be written ({error}): choose another place.") from None
    return key
