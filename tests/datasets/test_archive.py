"""Archives are unpacked completely; malicious and damaged ones leave nothing behind, anywhere."""

from __future__ import annotations

import io
import os
import random
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from siamese_verify.datasets.archive import unpack, unpack_once
from siamese_verify.errors import InputError

NOISE = random.Random(0).randbytes(2**20 + 17)  # incompressible
FILES = {
    "Ann/Ann_0001.jpg": b"one",
    "Ann/Ann_0002.jpg": NOISE,
    "Борис/фото 1.jpg": b"",
    "村上/春樹/🙂.png": b"two" * 200_000,
    "/".join(["folder" * 20] * 5) + ".jpg": b"long name",
    "list.txt": b"x" * 512,
}
Member = tuple[str, Any]  # name, and content of a file or fields of a header
FOLDER = {"type": tarfile.DIRTYPE, "mode": stat.S_IFDIR | 0o755}


def make_tar(path: Path, members: list[Member], mode: str = "w", kind: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, mode, format=kind) as archive:  # type: ignore[call-overload]
        for name, content in members:
            entry = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                entry.size = len(content)
            else:
                for field, value in content.items():
                    setattr(entry, field, value)
            archive.addfile(entry, io.BytesIO(content) if isinstance(content, bytes) else None)
    return path


def make_zip(path: Path, members: list[Member], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            entry = zipfile.ZipInfo("x")
            entry.filename = name  # the constructor would change it
            entry.compress_type = method
            if isinstance(content, bytes):
                archive.writestr(entry, content)
            else:
                entry.external_attr = content["mode"] << 16
                archive.writestr(entry, content.get("linkname", ""))
    return path


def tree(folder: Path) -> dict[str, bytes | None]:
    """Content of all files, None for folders."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {name: path.read_bytes() if path.is_file() else None for name, path in sorted(found.items())}


def files_in(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in tree(folder).items() if content is not None}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Holds a folder to unpack into, with a file in it and one beside it."""
    (tmp_path / "place/target").mkdir(parents=True)
    (tmp_path / "place/target/mine.txt").write_text("mine")
    (tmp_path / "place/secret.txt").write_text("secret")
    return tmp_path / "place"


def refusal(archive: Path, place: Path, **limits: Any) -> str:
    """Message about an archive that is not unpacked; nothing at all has changed after that."""
    before = tree(place.parent)
    with pytest.raises(InputError) as raised:
        unpack(archive, place / "target", **limits)
    assert tree(place.parent) == before
    message = str(raised.value)
    assert message.endswith(".") and "\n" not in message and str(archive) in message
    return message


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tars_are_unpacked_whatever_their_name(tmp_path: Path, mode: str, kind: int) -> None:
    archive = make_tar(tmp_path / "photos.dat", list(FILES.items()), mode, kind)
    assert unpack(archive, tmp_path / "new/deep/target") == len(FILES)
    assert files_in(tmp_path / "new/deep") == {f"target/{name}": content for name, content in FILES.items()}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zips_are_unpacked_beside_existing_files(place: Path, method: int) -> None:
    archive = make_zip(place.parent / "photos.tgz", list(FILES.items()), method)
    assert unpack(archive, place / "target") == len(FILES)
    assert files_in(place / "target") == FILES | {"mine.txt": b"mine"}


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_empty_folders_dots_and_double_slashes_are_unpacked(tmp_path: Path, make: Callable[..., Path]) -> None:
    members = [("./", FOLDER), ("./empty/", FOLDER), ("./a//b/./c.jpg", b"1"), ("a/", FOLDER)]
    assert unpack(make(tmp_path / "x", members), tmp_path / "target") == 1
    assert tree(tmp_path / "target") == {"a": None, "a/b": None, "a/b/c.jpg": b"1", "empty": None}
    assert unpack(make(tmp_path / "y", []), tmp_path / "other") == 0


def test_files_are_readable_and_not_setuid(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, mode in (("setuid", 0o6777), ("closed", 0o000)):
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size = mode, 1
            archive.addfile(entry, io.BytesIO(b"1"))
    unpack(tmp_path / "a.tar", tmp_path / "target")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "target").iterdir()}
    assert set(modes) == {"setuid", "closed"}
    assert all(mode & 0o600 == 0o600 and not mode & 0o7111 for mode in modes.values())


@pytest.mark.parametrize(
    "name",
    [
        *("../evil.jpg", "a/../../evil.jpg", "a/..", "..", ".. /evil.jpg", ".../evil.jpg", "/evil.jpg"),
        *("//server/share/evil.jpg", "C:/evil.jpg", "c:evil.jpg", "..\\..\\evil.jpg", "\\evil.jpg", "a\\b.jpg"),
    ],
)
@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_a_name_that_leads_out_of_the_folder_refuses_the_archive(
    place: Path, make: Callable[..., Path], name: str
) -> None:
    archive = make(place.parent / "x", [("good.jpg", b"1"), (name, b"evil"), ("other.jpg", b"2")])
    assert f"its entry {name!r} leads out of the folder" in refusal(archive, place)


@pytest.mark.parametrize(
    "fields",
    [
        {"type": tarfile.SYMTYPE, "linkname": "../secret.txt"},
        {"type": tarfile.SYMTYPE, "linkname": "good.jpg"},
        {"type": tarfile.LNKTYPE, "linkname": "good.jpg"},
        {"type": tarfile.LNKTYPE, "linkname": "../secret.txt"},
        {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3},
        {"type": tarfile.BLKTYPE, "devmajor": 8},
        {"type": tarfile.FIFOTYPE},
    ],
)
def test_links_and_devices_in_a_tar_are_refused(place: Path, fields: dict[str, Any]) -> None:
    members = [("good.jpg", b"1"), ("evil", fields), ("evil/secret.txt", b"evil")]
    assert "its entry 'evil' is a link or a device" in refusal(make_tar(place.parent / "a.tar", members), place)


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_in_a_zip_are_refused(place: Path, mode: int) -> None:
    members = [("good.jpg", b"1"), ("evil", {"mode": mode, "linkname": ".."}), ("evil/secret.txt", b"evil")]
    assert "its entry 'evil' is a link or a device" in refusal(make_zip(place.parent / "a.zip", members), place)


@pytest.mark.parametrize(("make", "options"), [(make_tar, ["w:gz"]), (make_zip, [])])
def test_bytes_and_entries_are_limited(place: Path, make: Callable[..., Path], options: list[str]) -> None:
    archive = make(place.parent / "x", [("a", bytes(10_000_000)), ("b", bytes(10_000_000))], *options)
    assert archive.stat().st_size < 100_000
    assert "more than 19,999,999 bytes at 'b'" in refusal(archive, place, max_bytes=19_999_999)
    assert "more than 1 entries" in refusal(archive, place, max_entries=1)
    assert unpack(archive, place / "target", max_bytes=20_000_000, max_entries=2) == 2


def test_a_zip_entry_larger_than_announced_is_refused(place: Path) -> None:
    archive = make_zip(place.parent / "a.zip", [("a", bytes(1_654_321))])
    content = archive.read_bytes()
    assert content.count(struct.pack("<I", 1_654_321)) == 2
    archive.write_bytes(content.replace(struct.pack("<I", 1_654_321), struct.pack("<I", 54_321)))
    assert "Bad CRC-32" in refusal(archive, place, max_bytes=100_000)


def test_an_encrypted_zip_is_refused(place: Path) -> None:
    archive = make_zip(place.parent / "a.zip", [("a.jpg", b"1")])
    content = bytearray(archive.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\1\2") + 8] |= 1
    archive.write_bytes(content)
    assert "is encrypted" in refusal(archive, place)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_truncated_tar_is_refused(place: Path, mode: str) -> None:
    archive = make_tar(place.parent / "a", list(FILES.items()), mode)
    content = archive.read_bytes().rstrip(b"\0")
    for part in (0.0, 0.01, 0.5, 0.9, 0.9999):
        archive.write_bytes(content[: int(part * len(content))])
        assert "is damaged or no .tar" in refusal(archive, place)


def test_a_missing_or_damaged_header_is_not_taken_for_the_end(place: Path) -> None:
    archive = make_tar(place.parent / "a.tar", [("a", b"x" * 512), ("b", b"x" * 512)], kind=tarfile.USTAR_FORMAT)
    content = archive.read_bytes()
    for damaged in (content[:1024], content[:1500], content[:2048], content[:1024] + b"?" + content[1025:]):
        archive.write_bytes(damaged)
        assert "ReadError" in refusal(archive, place)


@pytest.mark.parametrize(
    ("make", "option"), [(make_tar, "w:gz"), (make_tar, "w:bz2"), (make_tar, "w:xz"), (make_zip, zipfile.ZIP_STORED)]
)
def test_a_flipped_bit_is_found_by_checksums(place: Path, make: Callable[..., Path], option: Any) -> None:
    archive = make(place.parent / "x", [("a", NOISE)], option)
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    assert "is damaged or no .tar" in refusal(archive, place)


def test_the_checksum_at_the_end_of_a_tgz_is_compared(place: Path) -> None:
    archive = make_tar(place.parent / "a.tgz", [("a", b"1")], "w:gz")
    content = bytearray(archive.read_bytes())
    content[-8] ^= 1
    archive.write_bytes(content)
    assert "CRC check failed" in refusal(archive, place)


@pytest.mark.parametrize("content", [b"no archive", b"PK no zip", b"\x1f\x8b no gzip", NOISE])
def test_other_files_are_refused(place: Path, content: bytes) -> None:
    (place.parent / "a.tgz").write_bytes(content)
    assert "is damaged or no .tar" in refusal(place.parent / "a.tgz", place)
    with pytest.raises(InputError, match=r"There is no file .*b\.tgz"):
        unpack(place.parent / "b.tgz", place / "target")


@pytest.mark.parametrize("make", [make_tar, make_zip])
@pytest.mark.parametrize("name", ["mine.txt", "mine.txt/photo.jpg", "dangling/photo.jpg"])
def test_existing_files_are_not_replaced(place: Path, make: Callable[..., Path], name: str) -> None:
    (place / "target/dangling").symlink_to("nowhere")
    archive = make(place.parent / "x", [("good.jpg", b"1"), (name, b"evil")])
    assert f"{place / 'target' / name.split('/')[0]} exists: move it away." in refusal(archive, place)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="everyone may write here")
def test_a_folder_that_cannot_be_written_is_reported(place: Path) -> None:
    archive = make_zip(place.parent / "a.zip", [("a", b"1")])
    (place / "target").chmod(0o500)
    assert "Permission denied" in refusal(archive, place)


@pytest.mark.parametrize("folder", ["target", "new"])
def test_an_archive_is_unpacked_once_and_again_when_it_changes(place: Path, folder: str) -> None:
    archive = make_zip(place.parent / "a.zip", [("a", b"1"), ("b/c", b"2")])
    assert unpack_once(archive, place / folder) == 2
    assert unpack_once(archive, place / folder) is None
    assert (place / folder / "b/c").read_bytes() == b"2"
    make_zip(place.parent / "a.zip", [("a", b"1"), ("b/c", b"23")])
    with pytest.raises(InputError, match="exists: move it away"):
        unpack_once(archive, place / folder)
    with pytest.raises(InputError, match=r"There is no file .*none\.zip"):
        unpack_once(place / "none.zip", place / folder)
