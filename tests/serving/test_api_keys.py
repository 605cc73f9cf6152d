from __future__ import annotations

import hashlib
import hmac
import stat
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from siamese_verify.errors import InputError
from siamese_verify.serving.api_keys import SCOPES, Key, KeyFile, add_key, hash_key


def test_known_key_is_found_and_others_are_not(tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys")
    keys = KeyFile.read(tmp_path / "keys")
    digest = hashlib.sha256(key.encode()).hexdigest()
    assert keys.find(key) == Key(digest, f"key-{digest[:8]}", frozenset({"verify"}))
    for wrong in ("", key[:-1], key + "a", key.upper(), "é\udc80", hash_key(key)):
        assert keys.find(wrong) is None


def test_file_has_hashes_only_and_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    keys = [add_key(path), add_key(path)]
    content = path.read_text()
    assert not any(key in content for key in keys)
    assert [line.split()[0] for line in content.splitlines()] == [hash_key(key) for key in keys]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert all(KeyFile.read(path).find(key) for key in keys)


def test_keys_have_256_random_bits() -> None:
    keys = {add_key(Path("/dev/null")) for _ in range(50)}
    assert len(keys) == 50
    assert {len(key) for key in keys} == {len("sv_") + 43}  # 32 bytes in base64


def test_every_hash_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    def compare(a: str, b: str) -> bool:
        compared.append(a)
        return a == b

    monkeypatch.setattr(hmac, "compare_digest", compare)
    keys = KeyFile([Key(hash_key(str(number)), str(number), frozenset()) for number in range(9)])
    for key in ("0", "8", "none"):
        compared.clear()
        keys.find(key)
        assert len(compared) == 9


def test_name_scopes_and_expiry_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    kiosk = add_key(path, "kiosk", "verify,identify", "2999-12-31")
    admin = add_key(path, "admin", ",".join(SCOPES))
    path.write_text("# of the hall\n" + path.read_text().rstrip("\n"))  # as an editor may leave it
    third = add_key(path)
    keys = KeyFile.read(path)
    assert keys.find(kiosk) == Key(hash_key(kiosk), "kiosk", frozenset({"verify", "identify"}), date(2999, 12, 31))
    assert keys.find(admin) == Key(hash_key(admin), "admin", frozenset(SCOPES))
    assert keys.find(third) is not None
    assert path.read_text().splitlines()[1] == f"{hash_key(kiosk)} kiosk verify,identify 2999-12-31"


@pytest.mark.parametrize(("days", "expired"), [(-1, True), (0, True), (2, False), (None, False)])
def test_key_expires_at_the_start_of_its_day(days: int | None, expired: bool) -> None:
    day = None if days is None else datetime.now(UTC).date() + timedelta(days)
    assert Key("", "a", frozenset(), day).expired() is expired


@pytest.mark.parametrize(
    ("name", "scopes", "expires", "message"),
    [
        ("a b", "verify", "never", "The name of a key"),
        ("a\n" + "0" * 64, "verify", "never", "The name of a key"),
        ("", "", "never", "The scopes of a key"),
        ("a", "verify,fly", "never", "The scopes of a key must be some of verify, identify, enroll"),
        ("a", "verify", "soon", "must be like 2030-12-31, or never"),
        ("a", "verify", "2020-01-01", r"cannot expire in the past \(2020-01-01\)"),
    ],
)
def test_invalid_key_is_not_created(name: str, scopes: str, expires: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        add_key(tmp_path / "keys", name, scopes, expires)
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize("content", ["", "# only a comment\n", "\n\n"])
def test_file_without_keys_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(content)
    with pytest.raises(InputError, match=r"has no keys.*--new-key"):
        KeyFile.read(tmp_path / "keys")


@pytest.mark.parametrize(
    "line", ["kiosk verify", "kiosk verify never more", "kiosk all never", "kiosk verify 2030", ""]
)
def test_invalid_line_is_refused_by_its_number(line: str, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"# keys\n{'0' * 64} {line}\n")
    with pytest.raises(InputError, match=r"must be .* \(line 2 of .*keys\)\.$"):
        KeyFile.read(tmp_path / "keys")


def test_key_in_place_of_its_hash_is_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("sv_secret\n")
    with pytest.raises(InputError, match="A line of a key file must be") as error:
        KeyFile.read(tmp_path / "keys")
    assert "sv_secret" not in str(error.value)


def test_other_files_are_not_appended_to(tmp_path: Path) -> None:
    letter = tmp_path / "letter.txt"
    letter.write_text("Dear Ada,\n")
    with pytest.raises(InputError):
        add_key(letter)
    assert letter.read_text() == "Dear Ada,\n"


def test_missing_file_and_folder_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read.*--new-key"):
        KeyFile.read(tmp_path / "none")
    with pytest.raises(InputError, match="cannot be written"):
        add_key(tmp_path / "no folder" / "keys")


def test_names_of_keys_are_unique(tmp_path: Path) -> None:
    add_key(tmp_path / "keys", "kiosk")
    with pytest.raises(InputError, match="a key named kiosk already"):
        add_key(tmp_path / "keys", "kiosk")
    (tmp_path / "keys").write_text((tmp_path / "keys").read_text() * 2)
    with pytest.raises(InputError, match=r"Two keys of .* are named kiosk"):
        KeyFile.read(tmp_path / "keys")
