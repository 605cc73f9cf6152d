from __future__ import annotations

import hashlib
import hmac
import stat
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from siamese_verify.errors import InputError
from siamese_verify.serving.api_keys import SCOPES, Key, KeyFile, add_key, hash_key


def test_a_key_opens_and_another_does_not(tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys")
    keys = KeyFile.read(tmp_path / "keys")
    digits = hashlib.sha256(key.encode()).hexdigest()
    assert keys.find(key) == Key(digits, f"key-{digits[:8]}", frozenset({"verify"}))
    for wrong in ("", key[:-1], key + "a", key.upper(), "é\udc80", hash_key(key)):
        assert keys.find(wrong) is None


def test_the_file_keeps_no_key_and_is_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    keys = [add_key(path), add_key(path)]
    content = path.read_text()
    assert not any(key in content for key in keys)
    assert [line.split()[0] for line in content.splitlines()] == [hash_key(key) for key in keys]
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
    keys = KeyFile([Key(hash_key(str(number)), str(number), frozenset()) for number in range(9)])
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
    with pytest.raises(InputError, match=r"Line 1 .*not of the form") as error:
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


def test_a_name_scopes_and_a_last_day_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    kiosk = add_key(path, "kiosk", "verify,identify", "2999-12-31")
    admin = add_key(path, "admin", ",".join(SCOPES))
    path.write_text("# of the hall\n" + path.read_text().rstrip("\n"))  # as an editor may leave it
    third = add_key(path)
    keys = KeyFile.read(path)
    known = [keys.find(key) for key in (kiosk, admin, third)]
    assert known[0] == Key(hash_key(kiosk), "kiosk", frozenset({"verify", "identify"}), date(2999, 12, 31))
    assert known[1] == Key(hash_key(admin), "admin", frozenset(SCOPES))
    assert known[2] is not None
    assert path.read_text().splitlines()[1] == f"{hash_key(kiosk)} kiosk verify,identify 2999-12-31"


def test_a_key_expires_when_its_day_begins() -> None:
    today = datetime.now(UTC).date()
    for days, expired in ((-1, True), (0, True), (2, False)):
        assert Key("", "a", frozenset(), today + timedelta(days)).expired() is expired
    assert not Key("", "a", frozenset()).expired()


@pytest.mark.parametrize(
    ("name", "scopes", "expires", "message"),
    [
        ("a b", "verify", "never", "The name of a key"),
        ("a\n" + "0" * 64, "verify", "never", "The name of a key"),
        ("", "", "never", "The scopes of a key"),
        ("a", "verify,fly", "never", "The scopes of a key are some of verify, identify, enroll"),
        ("a", "verify", "soon", "on a day such as"),
        ("a", "verify", "2020-01-01", "expires on 2020-01-01 would never open"),
    ],
)
def test_what_a_key_cannot_be_is_said(name: str, scopes: str, expires: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        add_key(tmp_path / "keys", name, scopes, expires)
    assert not (tmp_path / "keys").exists()


def test_two_keys_cannot_have_one_name(tmp_path: Path) -> None:
    add_key(tmp_path / "keys", "kiosk")
    with pytest.raises(InputError, match="a key named kiosk already"):
        add_key(tmp_path / "keys", "kiosk")
    content = (tmp_path / "keys").read_text()
    (tmp_path / "keys").write_text(content * 2)
    with pytest.raises(InputError, match=r"Two keys of .* are named kiosk"):
        KeyFile.read(tmp_path / "keys")


@pytest.mark.parametrize(
    "line", ["", "kiosk verify", "kiosk verify never more", "kiosk all never", "kiosk verify 2030"]
)
def test_a_line_that_is_no_key_is_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"{'0' * 64} {line}\n")
    with pytest.raises(InputError, match=r"Line 1 of the key file .* cannot be used"):
        KeyFile.read(tmp_path / "keys")
