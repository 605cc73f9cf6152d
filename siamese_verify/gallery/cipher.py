"""Encryption of what a gallery keeps: AES-256-GCM, with a key of its own for each kind of content."""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from typing import TYPE_CHECKING

from siamese_verify.errors import InputError

if TYPE_CHECKING:
    from siamese_verify.gallery.key import GalleryKey

KINDS = ("person", "template", "photo", "log", "state")
NONCE = 12  # bytes, random: two of 2**32 are alike with a chance of 2**-33, NIST SP 800-38D's limit for one key
TAG = 16  # bytes
MODULUS = 2**256


class Cipher:
    """Seals and opens what a gallery keeps.

    The keys are derived from the gallery's key and its salt (HKDF-SHA256, RFC 5869), so that one key serves several
    galleries and nothing of one can be put into another.

    Args:
        key: of the gallery.
        salt: of the gallery, 16 random bytes.
        where: the gallery is, for errors.

    Raises:
        InputError: the package `cryptography` is missing.
    """

    def __init__(self, key: GalleryKey, salt: bytes, where: str) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError:
            raise InputError(
                "A gallery is encrypted by the package cryptography, which is not installed: "
                "pip install 'siamese-verify[gallery]'."
            ) from None
        self._invalid = InvalidTag
        self._where = where
        extracted = hmac.digest(salt, key.content, "sha256")
        self._ciphers = {kind: AESGCM(_expanded(extracted, kind)) for kind in KINDS}
        self._marking = _expanded(extracted, "mark")
        self.check = _expanded(extracted, "check")[:16]  # tells another key from damage, and nothing else

    def seal(self, kind: str, content: bytes, *bound: bytes) -> bytes:
        """Encrypt under a fresh nonce.

        Args:
            kind: one of `KINDS`.
            content: what nobody may read.
            bound: what it belongs to; it opens with the same only.

        Returns:
            Nonce, ciphertext and tag.
        """
        nonce = os.urandom(NONCE)
        return nonce + self._ciphers[kind].encrypt(nonce, content, together(bound))

    def open(self, kind: str, sealed: object, *bound: bytes) -> bytes:
        """Decrypt what `seal` returned.

        Raises:
            InputError: it was changed, sealed with another key, or belongs to something else.
        """
        if isinstance(sealed, bytes) and len(sealed) >= NONCE + TAG:
            try:
                return self._ciphers[kind].decrypt(sealed[:NONCE], sealed[NONCE:], together(bound))
            except self._invalid:
                pass
        raise damaged(self._where, f"a {kind} in it was changed or belongs elsewhere")

    def mark(self, *parts: bytes) -> int:
        """Return a number below 2**256 that only this key gives to this row; a row is known by its nonce and tag."""
        return int.from_bytes(hmac.digest(self._marking, together(parts), "sha256"), "big")


def damaged(where: str, what: str) -> InputError:
    """What is wrong with a gallery that cannot be trusted."""
    return InputError(f"The gallery {where} is damaged ({what}): restore it from a backup.")


def seal_of(sealed: bytes) -> bytes:
    """Nonce and tag, which stand for the whole."""
    return sealed[:NONCE] + sealed[-TAG:]


def together(parts: tuple[bytes, ...]) -> bytes:
    """Join parts, their lengths first, so that no other parts give the same bytes."""
    return struct.pack(f">{len(parts)}Q", *map(len, parts)) + b"".join(parts)


def _expanded(extracted: bytes, purpose: str) -> bytes:
    return hmac.new(extracted, b"siamese-verify gallery " + purpose.encode() + b"\x01", hashlib.sha256).digest()
