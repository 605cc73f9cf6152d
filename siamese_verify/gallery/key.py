"""Keys of galleries: 32 random bytes, stored elsewhere than the gallery."""

from __future__ import annotations

import base64
import binascii
import os
import secrets
import shlex
import stat
from pathlib import Path

from siamese_verify.errors import InputError

LENGTH = 32  # bytes: AES-256
VARIABLE = "SIAMESE_VERIFY_KEY"
FILE_VARIABLE = "SIAMESE_VERIFY_KEY_FILE"
MAKE = "`siamese-verify people --new-key FILE`"


class GalleryKey:
    """32 secret bytes; their repr does not show them.

    Args:
        content: the bytes.

    Raises:
        InputError: not 32 bytes.
    """

    __slots__ = ("content",)

    def __init__(self, content: bytes) -> None:
        if len(content) != LENGTH:
            raise InputError(f"A gallery's key has {LENGTH} bytes, this one {len(content)}: create one with {MAKE}.")
        self.content = content

    def __repr__(self) -> str:
        return "GalleryKey(...)"

    @classmethod
    def from_text(cls, text: str, where: str) -> GalleryKey:
        """Key from base64.

        Args:
            text: 44 characters; surrounding spaces are ignored.
            where: name of the source for errors, which never show the text.

        Raises:
            InputError: it is not base64 of 32 bytes.
        """
        try:
            content = base64.b64decode(text.strip().encode("ascii"), validate=True)
        except (binascii.Error, UnicodeEncodeError):
            content = b""
        if len(content) != LENGTH:
            raise InputError(f"{where} is not a key of {LENGTH} bytes in base64: create one with {MAKE}.")
        return cls(content)

    @classmethod
    def from_file(cls, path: Path) -> GalleryKey:
        """Key from a file.

        Raises:
            InputError: no file, no key in it, or a file that others than its owner and group can read.
        """
        try:
            if not path.is_file():
                raise InputError(
                    f"There is no key file {path}: create one with "
                    f"`siamese-verify people --new-key {shlex.quote(str(path))}`."
                )
            mode = path.stat().st_mode
            if os.name == "posix" and mode & (stat.S_IRWXO | stat.S_IWGRP):
                raise InputError(
                    f"The key file {path} can be read by others (mode {stat.S_IMODE(mode):04o}): restrict it with "
                    f"`chmod 600 {path}`."
                )
            with path.open("rb") as file:
                content = file.read(1024)
        except (OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"The key file {path} cannot be read ({error}): check its path and mode.") from None
        return cls.from_text(content.decode("ascii", errors="replace"), f"The key file {path}")


def find_key(source: GalleryKey | str | Path | bytes | None = None) -> GalleryKey:
    """Key of a gallery.

    Args:
        source: a key, its 32 bytes, or the path of its file; None reads the environment: SIAMESE_VERIFY_KEY holds
            the key in base64, SIAMESE_VERIFY_KEY_FILE the path of its file.

    Raises:
        InputError: no key, or an invalid one.
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
        f"A gallery is encrypted, and no key was given: create one, once, with {MAKE}, and give that file by --key or "
        f"{FILE_VARIABLE}."
    )


def new_key(path: str | Path) -> GalleryKey:
    """Create a key file, readable by its owner only; an existing file is never overwritten.

    Raises:
        InputError: the file exists or cannot be written.
    """
    key, path = GalleryKey(secrets.token_bytes(LENGTH)), Path(path).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(base64.b64encode(key.content) + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise InputError(f"{path} exists, and a key is never overwritten: choose another name.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"The key file {path} cannot be written ({error}): choose another path.") from None
    return key
