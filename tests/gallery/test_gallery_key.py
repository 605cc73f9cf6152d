from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from siamese_verify.errors import InputError
from siamese_verify.gallery import GalleryKey, find_key, new_key


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SIAMESE_VERIFY_KEY", "SIAMESE_VERIFY_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)


def test_a_new_key_is_read_back_and_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "a" / "key"
    made = new_key(path)
    assert find_key(path).content == find_key(str(path)).content == made.content
    assert path.stat().st_mode & 0o777 == 0o600
    assert base64.b64decode(path.read_bytes()) == made.content


def test_two_new_keys_differ(tmp_path: Path) -> None:
    assert new_key(tmp_path / "a").content != new_key(tmp_path / "b").content


def test_a_file_that_is_there_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key"
    new_key(path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="never overwritten"):
        new_key(path)
    assert path.read_bytes() == before


def test_a_link_to_nowhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="never overwritten"):
        new_key(tmp_path / "key")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o601, 0o620, 0o666])
def test_a_key_file_that_others_can_get_at_is_refused(mode: int, tmp_path: Path) -> None:
    new_key(tmp_path / "key")
    (tmp_path / "key").chmod(mode)
    with pytest.raises(InputError, match=f"can be read by others .mode {mode:04o}.*chmod 600"):
        find_key(tmp_path / "key")


def test_a_key_file_that_its_group_can_read_is_taken(tmp_path: Path) -> None:
    made = new_key(tmp_path / "key")
    (tmp_path / "key").chmod(0o440)  # how secrets are mounted into containers
    assert find_key(tmp_path / "key").content == made.content


@pytest.mark.parametrize(
    "content", [b"", b"short", b"\xff" * 44, base64.b64encode(bytes(31)), base64.b64encode(bytes(33))]
)
def test_a_file_with_something_else_is_no_key(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(content)
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(InputError, match="is not a key of 32 bytes in base64"):
        find_key(tmp_path / "key")


@pytest.mark.parametrize("name", ["nowhere", ".", "a\x00b"])
def test_a_missing_key_file_says_how_to_make_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"key file"):
        find_key(tmp_path / name)


def test_the_environment_holds_a_key_or_the_path_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = new_key(tmp_path / "key")
    monkeypatch.setenv("SIAMESE_VERIFY_KEY_FILE", str(tmp_path / "key"))
    assert find_key().content == made.content
    monkeypatch.setenv("SIAMESE_VERIFY_KEY", base64.b64encode(bytes(32)).decode())
    assert find_key().content == bytes(32)
    assert find_key(tmp_path / "key").content == made.content, "what is given goes before the environment"


def test_without_a_key_the_sentence_says_exactly_what_to_do() -> None:
    with pytest.raises(InputError, match="`siamese-verify people --new-key FILE`, and give that file by --key"):
        find_key()


def test_a_wrong_key_in_the_environment_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIAMESE_VERIFY_KEY", "c2VjcmV0IGJ1dCBzaG9ydA==")
    with pytest.raises(InputError, match="SIAMESE_VERIFY_KEY is not a key") as error:
        find_key()
    assert "c2Vj" not in str(error.value)


def test_a_key_does_not_show_itself() -> None:
    key = GalleryKey(b"a secret of thirty-two bytes, ok")
    assert "secret" not in f"{key} {key!r}"


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(InputError, match=f"this one {length}"):
        find_key(bytes(length))


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot be written"):
        new_key(tmp_path / "key")
