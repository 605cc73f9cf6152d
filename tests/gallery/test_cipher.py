from __future__ import annotations

import hashlib
import sys

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from siamese_verify.errors import InputError
from siamese_verify.gallery import GalleryKey
from siamese_verify.gallery.cipher import KINDS, Cipher, seal_of, together

SALT = bytes(16)


@pytest.fixture
def cipher(key: GalleryKey) -> Cipher:
    return Cipher(key, SALT, "here.db")


def test_what_was_sealed_opens(cipher: Cipher) -> None:
    assert cipher.open("log", cipher.seal("log", b"content", b"a", b"b"), b"a", b"b") == b"content"


def test_it_is_aes_gcm_under_a_key_of_hkdf(cipher: Cipher, key: GalleryKey) -> None:
    derived = HKDF(hashes.SHA256(), 32, SALT, b"siamese-verify gallery template").derive(key.content)
    sealed = cipher.seal("template", b"content", b"name")
    assert AESGCM(derived).decrypt(sealed[:12], sealed[12:], together((b"name",))) == b"content"


def test_no_nonce_is_used_twice(cipher: Cipher) -> None:
    assert len({cipher.seal("log", b"")[:12] for _ in range(1000)}) == 1000


def test_every_changed_byte_is_noticed(cipher: Cipher) -> None:
    sealed = cipher.seal("log", b"content")
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(InputError, match=r"here\.db is damaged .a log in it was changed"):
            cipher.open("log", bytes(changed))


@pytest.mark.parametrize("sealed", [b"", b"short", None, "text", 7, bytes(28)])
def test_what_is_nothing_sealed_is_refused(sealed: object, cipher: Cipher) -> None:
    with pytest.raises(InputError, match="damaged"):
        cipher.open("log", sealed)


def test_it_opens_only_with_what_it_is_bound_to(cipher: Cipher) -> None:
    sealed = cipher.seal("template", b"content", b"ab", b"c")
    for bound in ((b"a", b"bc"), (b"abc",), (b"ab", b"c", b""), ()):
        with pytest.raises(InputError):
            cipher.open("template", sealed, *bound)


def test_kinds_keys_and_salts_do_not_open_one_another(cipher: Cipher) -> None:
    sealed = cipher.seal("log", b"content")
    for kind in set(KINDS) - {"log"}:
        with pytest.raises(InputError):
            cipher.open(kind, sealed)
    for other in (Cipher(GalleryKey(bytes(32)), SALT, "b"), Cipher(GalleryKey(bytes(range(32))), b"1" * 16, "b")):
        with pytest.raises(InputError):
            other.open("log", sealed)
        assert other.check != cipher.check


def test_marks_belong_to_key_and_row(cipher: Cipher) -> None:
    marks = {
        cipher.mark(b"a", b"bc"),
        cipher.mark(b"ab", b"c"),
        Cipher(GalleryKey(bytes(32)), SALT, "").mark(b"a", b"bc"),
    }
    assert len(marks) == 3
    assert all(0 <= mark < 2**256 for mark in marks)


def test_a_seal_is_nonce_and_tag(cipher: Cipher) -> None:
    sealed = cipher.seal("log", hashlib.sha256().digest())
    assert seal_of(sealed) == sealed[:12] + sealed[-16:]


def test_without_the_package_the_sentence_says_how_to_get_it(key: GalleryKey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(InputError, match=r"pip install 'siamese-verify\[gallery\]'"):
        Cipher(key, SALT, "here.db")
