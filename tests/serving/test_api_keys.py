from __future__ import annotations

import hashlib
import hmac
import stat
from pathlib import Path

import pytest

from siamese_verify.errors import InputError
from siamese_verify.serving.api_keys import KeyFile, add_key, hash_of


def test_a_key_opens_and_another_does_not(tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys")
    keys = KeyFile.read(tmp_path / "keys")
    assert keys.find(key) == hashlib.sha256(key.encode()).hexdigest()[:8]
    for wrong in ("", key[:-1], key + "a", key.upper(), "é\udc80", hash_of(key)):
        assert keys.find(wrong) is None


def test_the_file_keeps_no_key_and_is_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    keys = [add_key(path), add_key(path)]
    content = path.read_text()
    assert not any(key in content for key in keys)
    assert content.split() == [hash_of(key) for key in keys]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert all(KeyFile.read(path).find(key) for key in keys)


def test_keys_have_256_random_bits() -> None:
    assert len({add_key(Path("/dev/null")) for _ in range(50)}) == 50
    assert len(add_key(Path("/dev/null"))) == len("sv_") + 43  # 32 bytes in base64


def test_every_hash_is_compared_in_constant_time_wherever_the_key_is(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[object] = []
    real = hmac.compare_digest

    def watched(a: bytes, b: bytes) -> bool:
        compared.append(a)
        return real(a, b)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    keys = KeyFile([hash_of(str(number)) for number in range(9)])
    for asked in ("0", "8", "none"):
        compared.clear()
        keys.find(asked)
        assert len(compared) == 9


@pytest.mark.parametrize("content", ["", "# only a comment\n", "\n\n"])
def test_a_file_without_keys_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(content)
    with pytest.raises(InputError, match=r"holds no key.*--new-key"):
        KeyFile.read(tmp_path / "keys")


def test_a_file_of_keys_instead_of_hashes_is_refused_without_saying_them(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("sv_secret\n")
    with pytest.raises(InputError, match="no SHA-256") as error:
        KeyFile.read(tmp_path / "keys")
    assert "sv_secret" not in str(error.value)


def test_nothing_is_appended_to_a_file_of_something_else(tmp_path: Path) -> None:
    letter = tmp_path / "letter.txt"
    letter.write_text("Dear Ada,\n")
    with pytest.raises(InputError):
        add_key(letter)
    assert letter.read_text() == "Dear Ada,\n"


def test_a_missing_file_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read.*--new-key"):
        KeyFile.read(tmp_path / "none")
    with pytest.raises(InputError, match="cannot be written"):
        add_key(tmp_path / "no folder" / "keys")
