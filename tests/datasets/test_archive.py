"""Good archives of every kind, and evil ones: those leave nothing behind, anywhere."""

from __future__ import annotations

import bz2
import errno
import io
import os
import random
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from siamese_verify.datasets import archive as module
from siamese_verify.datasets.archive import MOST_DEPTH, MOST_HEADER, unpack, unpack_once
from siamese_verify.errors import InputError

NOISE = random.Random(0).randbytes(2**20 + 17)  # more than a chunk, and no compression makes it shorter
FILES = {
    "Ann/Ann_0001.jpg": b"one",
    "Ann/Ann_0002.jpg": NOISE,
    "Борис/фото 1.jpg": b"",
    "村上/春樹/🙂.png": b"two" * 200_000,
    "list.txt": b"x" * 512,
}
TARS = {".tar": "w", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}
FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
Member = tuple[str, Any]  # name, and bytes of a file or fields of a header


def a_tar(path: Path, members: list[Member], mode: str = "w", kind: int = tarfile.PAX_FORMAT) -> Path:
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


def a_zip(path: Path, members: list[Member], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            entry = zipfile.ZipInfo("x")
            entry.filename = name  # as it is: the constructor would mend it
            entry.compress_type = method
            if isinstance(content, bytes):
                archive.writestr(entry, content)
            else:
                entry.external_attr = content["mode"] << 16
                archive.writestr(entry, content.get("linkname", ""))
    return path


def everything(folder: Path) -> dict[str, bytes | None]:
    """Content of all files, None for folders, hidden ones too."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {name: path.read_bytes() if path.is_file() else None for name, path in sorted(found.items())}


def unpacked(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in everything(folder).items() if content is not None}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Holds a folder to unpack into with somebody's files, and one beside it that has to stay as it is."""
    (tmp_path / "place/target").mkdir(parents=True)
    (tmp_path / "place/target/mine.txt").write_text("mine")
    (tmp_path / "place/secret.txt").write_text("secret")
    return tmp_path / "place"


def complaint(archive: Path, place: Path, **limits: Any) -> str:
    """What is said of an archive that is not unpacked; nothing at all has changed after that."""
    before = everything(place.parent)
    with pytest.raises(InputError) as raised:
        unpack(archive, place / "target", **limits)
    assert everything(place.parent) == before
    message = str(raised.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert str(archive) in message
    return message


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("mode", TARS.values())
def test_a_tar_is_unpacked_whatever_its_name(tmp_path: Path, mode: str, kind: int) -> None:
    archive = a_tar(tmp_path / "photos.dat", list(FILES.items()), mode, kind)
    assert unpack(archive, tmp_path / "new/deep/target") == len(FILES)
    assert unpacked(tmp_path / "new/deep/target") == FILES
    assert [path.name for path in (tmp_path / "new/deep").iterdir()] == ["target"]


@pytest.mark.parametrize("method", METHODS)
def test_a_zip_is_unpacked_whatever_its_name(tmp_path: Path, method: int) -> None:
    archive = a_zip(tmp_path / "photos.tgz", list(FILES.items()), method)
    assert unpack(archive, tmp_path / "target") == len(FILES)
    assert unpacked(tmp_path / "target") == FILES


def test_a_zip_with_names_in_code_page_437_is_unpacked(tmp_path: Path) -> None:
    archive = a_zip(tmp_path / "a.zip", [("Mxller/photo.jpg", b"1")])
    archive.write_bytes(archive.read_bytes().replace(b"Mxller", b"M\x81ller"))
    unpack(archive, tmp_path / "target")
    assert unpacked(tmp_path / "target") == {"Müller/photo.jpg": b"1"}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no names that are not text")
def test_a_tar_with_names_in_no_encoding_is_unpacked(tmp_path: Path) -> None:
    archive = a_tar(tmp_path / "a.tar", [("M\udcfcller.jpg", b"1")], kind=tarfile.GNU_FORMAT)
    unpack(archive, tmp_path / "target")
    assert [os.fsencode(path.name) for path in (tmp_path / "target").iterdir()] == [b"M\xfcller.jpg"]


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_unpacked(tmp_path: Path, kind: int) -> None:
    name = "/".join(["folder" * 20] * 5) + ".jpg"
    unpack(a_tar(tmp_path / "a.tar", [(name, b"1"), ("b", b"2")], kind=kind), tmp_path / "target")
    assert unpacked(tmp_path / "target") == {name: b"1", "b": b"2"}


@pytest.mark.parametrize("make", [a_tar, a_zip])
def test_folders_without_files_dots_and_double_slashes_are_unpacked(tmp_path: Path, make: Callable[..., Path]) -> None:
    folder: dict[str, Any] = {"type": tarfile.DIRTYPE, "mode": stat.S_IFDIR | 0o755}
    members = [("./", folder), ("./empty/", folder), ("./a//b/./c.jpg", b"1"), ("a/", folder)]
    assert unpack(make(tmp_path / "x", members), tmp_path / "target") == 1
    assert everything(tmp_path / "target") == {"a": None, "a/b": None, "a/b/c.jpg": b"1", "empty": None}


def test_a_folder_of_a_zip_is_known_by_its_slash_alone(tmp_path: Path) -> None:
    assert unpack(a_zip(tmp_path / "a.zip", [("empty/", {"mode": 0}), ("b", b"1")]), tmp_path / "target") == 1
    assert everything(tmp_path / "target") == {"b": b"1", "empty": None}


def test_headers_may_have_more_bytes_together_than_one_of_them(tmp_path: Path) -> None:
    folders: list[Member] = [(str(number), {"type": tarfile.DIRTYPE}) for number in range(MOST_HEADER // 512 + 1)]
    assert unpack(a_tar(tmp_path / "a.tar", [*folders, ("b", b"1")]), tmp_path / "target") == 1


@pytest.mark.parametrize("make", [a_tar, a_zip])
def test_an_archive_of_nothing_makes_an_empty_folder(tmp_path: Path, make: Callable[..., Path]) -> None:
    assert unpack(make(tmp_path / "x", []), tmp_path / "target") == 0
    assert everything(tmp_path / "target") == {}


def test_what_is_in_the_folder_stays(place: Path) -> None:
    assert unpack(a_zip(place.parent / "a.zip", list(FILES.items())), place / "target") == len(FILES)
    assert unpacked(place / "target") == FILES | {"mine.txt": b"mine"}


def test_permissions_are_those_of_new_files(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, mode in (("setuid", 0o6777), ("closed", 0o000)):
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size = mode, 1
            archive.addfile(entry, io.BytesIO(b"1"))
    unpack(tmp_path / "a.tar", tmp_path / "target")
    (tmp_path / "new").write_bytes(b"1")
    usual = (tmp_path / "new").stat().st_mode
    assert {path.stat().st_mode for path in (tmp_path / "target").iterdir()} == {usual}


@pytest.mark.parametrize(
    "name",
    [
        "../evil.jpg",
        "a/../../evil.jpg",
        "a/..",
        "..",
        ".. /evil.jpg",
        ".../evil.jpg",
        "/evil.jpg",
        "//server/share/evil.jpg",
        "C:/evil.jpg",
        "c:evil.jpg",
        "..\\..\\evil.jpg",
        "\\evil.jpg",
        "a\\b.jpg",
    ],
)
@pytest.mark.parametrize("make", [a_tar, a_zip])
def test_a_name_that_leads_elsewhere_refuses_the_whole_archive(
    place: Path, make: Callable[..., Path], name: str
) -> None:
    archive = make(place.parent / "x", [("good.jpg", b"1"), (name, b"evil"), ("other.jpg", b"2")])
    said = complaint(archive, place)
    assert f"its entry {name!r} " in said
    assert "leads out of the folder" in said or "absolute path, a drive or a backslash" in said


def test_a_zero_byte_in_a_name_is_refused(place: Path) -> None:
    archive = a_tar(place.parent / "a.tar", [("good.jpg", b"1"), ("zero", {"pax_headers": {"path": "a\0b.jpg"}})])
    assert r"'a\x00b.jpg'" in complaint(archive, place)
    archive = a_zip(place.parent / "a.zip", [("good.jpg", b"1"), ("aXb.jpg", b"2")])
    archive.write_bytes(archive.read_bytes().replace(b"aXb", b"a\0b"))
    assert r"'a\x00b.jpg'" in complaint(archive, place)


def test_a_name_that_lies_too_deep_is_refused(place: Path) -> None:
    deepest = "a/" * MOST_DEPTH + "b"
    archive = a_tar(place.parent / "a.tar", [("a/" * 1500 + "b", b"1")])
    assert f"more than {MOST_DEPTH} folders" in complaint(archive, place)
    archive = a_tar(place.parent / "a.tar", [(deepest, b"1")])
    assert f"more than {MOST_DEPTH} folders" in complaint(archive, place)
    assert unpack(a_tar(place.parent / "a.tar", [(deepest[2:], b"1")]), place / "target") == 1


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
        {"type": b"Z"},
    ],
)
def test_links_and_devices_in_a_tar_are_refused(place: Path, fields: dict[str, Any]) -> None:
    archive = a_tar(place.parent / "a.tar", [("good.jpg", b"1"), ("evil", fields)])
    assert "its entry 'evil' is a link, a device" in complaint(archive, place)


def test_a_file_below_a_link_is_refused(place: Path) -> None:
    link: dict[str, Any] = {"type": tarfile.SYMTYPE, "linkname": ".."}
    complaint(a_tar(place.parent / "a.tar", [("way", link), ("way/secret.txt", b"evil")]), place)
    link = {"mode": stat.S_IFLNK | 0o777, "linkname": ".."}
    complaint(a_zip(place.parent / "a.zip", [("way", link), ("way/secret.txt", b"evil")]), place)


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_in_a_zip_are_refused(place: Path, mode: int) -> None:
    archive = a_zip(place.parent / "a.zip", [("good.jpg", b"1"), ("evil", {"mode": mode, "linkname": "good.jpg"})])
    assert "its entry 'evil' is a link or a device" in complaint(archive, place)


def test_a_sparse_file_is_refused(place: Path) -> None:
    headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "0,1", "GNU.sparse.size": "9"}
    holes: Member = ("holes", {"pax_headers": headers})
    archive = a_tar(place.parent / "a.tar", [holes])
    assert "'holes' is a link, a device or sparse" in complaint(archive, place)


@pytest.mark.parametrize(
    "names",
    [["a.jpg", "a.jpg"], ["a.jpg", "./a.jpg"], ["a", "a/b.jpg"], ["a/b.jpg", "a"], ["a", "a/b/c.jpg"], ["."]],
)
@pytest.mark.parametrize("make", [a_tar, a_zip])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_comes_twice_is_refused(place: Path, make: Callable[..., Path], names: list[str]) -> None:
    archive = make(place.parent / "x", [(name, b"1") for name in names])
    assert f"its entry {names[-1]!r} is in it twice, or is both file and folder" in complaint(archive, place)


@pytest.mark.parametrize("make", [a_tar, a_zip])
def test_the_bytes_and_entries_are_limited(place: Path, make: Callable[..., Path]) -> None:
    archive = make(place.parent / "x", [("a", bytes(10_000_000)), ("b", bytes(10_000_000))])
    said = complaint(archive, place, most_bytes=19_999_999)
    assert "more than 19,999,999 bytes at 'b'" in said
    assert "more than 1 entries" in complaint(archive, place, most_entries=1)
    assert unpack(archive, place / "target", most_bytes=20_000_000, most_entries=2) == 2


def test_a_bomb_is_stopped_while_it_is_written(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    real = shutil.rmtree

    def watched(folder: Path, ignore_errors: bool = False) -> None:
        written.append(sum(len(content) for content in unpacked(folder).values()))
        real(folder, ignore_errors)

    archive = a_tar(place.parent / "a.tgz", [("a", bytes(50_000_000))], "w:gz")
    monkeypatch.setattr(shutil, "rmtree", watched)
    complaint(archive, place, most_bytes=5_000_000)
    assert 4_000_000 < written[-1] <= 5_000_000


def replaced(archive: Path, *numbers: tuple[int, int]) -> Path:
    """Let a zip with one entry lie, in both of its headers."""
    content = archive.read_bytes()
    for old, new in numbers:
        assert content.count(struct.pack("<I", old)) == 2
        content = content.replace(struct.pack("<I", old), struct.pack("<I", new))
    archive.write_bytes(content)
    return archive


@pytest.mark.parametrize("method", METHODS)
def test_a_zip_entry_with_more_or_less_than_it_announces_is_refused(place: Path, method: int) -> None:
    content = bytes(1_654_321) + b"end"
    size, checked = len(content), zlib.crc32(content)

    def lie(announced: int, checked_bytes: int) -> str:
        archive = a_zip(place.parent / "a.zip", [("a", content)], method)
        if method == zipfile.ZIP_STORED:  # where the same number is there for the compressed size too
            archive.write_bytes(archive.read_bytes().replace(struct.pack("<2I", size, size), b"12345678"))
            archive.write_bytes(archive.read_bytes().replace(b"12345678", struct.pack("<2I", size, announced)))
        else:
            replaced(archive, (size, announced))
        return complaint(replaced(archive, (checked, zlib.crc32(content[:checked_bytes]))), place)

    assert "Bad CRC-32" in lie(54_321, size)
    assert "Bad CRC-32" in lie(54_321, 54_321)
    assert "'a' holds more or less than the 54,321 bytes announced" in lie(54_321, 54_322)
    assert "'a' holds more or less than the 9,654,321 bytes announced" in lie(9_654_321, size)


def test_an_encrypted_zip_is_refused(place: Path) -> None:
    archive = a_zip(place.parent / "a.zip", [("a.jpg", b"1")])
    content = bytearray(archive.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\1\2") + 8] |= 1
    archive.write_bytes(content)
    assert "'a.jpg' is encrypted" in complaint(archive, place)


@pytest.mark.parametrize("mode", TARS.values())
def test_a_truncated_tar_is_damaged(place: Path, mode: str) -> None:
    archive = a_tar(place.parent / "a", list(FILES.items()), mode)
    content = archive.read_bytes().rstrip(b"\0")  # of a plain tar the mark of its end
    for part in (0.0, 0.01, 0.5, 0.9, 0.9999):
        archive.write_bytes(content[: int(part * len(content))])
        assert "is damaged or no .tar" in complaint(archive, place)


def test_a_tar_that_ends_between_two_entries_is_damaged(place: Path) -> None:
    archive = a_tar(place.parent / "a.tar", [("a", b"x" * 512), ("b", b"x" * 512)], kind=tarfile.USTAR_FORMAT)
    whole = archive.read_bytes()
    for blocks in (2, 4):
        archive.write_bytes(whole[: blocks * 512])
        assert "ReadError: empty header" in complaint(archive, place)
    archive.write_bytes(whole[:1500])
    assert "ReadError: truncated header" in complaint(archive, place)


def test_a_damaged_header_is_not_taken_for_the_end(place: Path) -> None:
    archive = a_tar(place.parent / "a.tar", [("a", b"x" * 512), ("b", b"x" * 512)], kind=tarfile.USTAR_FORMAT)
    content = bytearray(archive.read_bytes())
    content[1024] ^= 1
    archive.write_bytes(content)
    assert "bad checksum" in complaint(archive, place)


def test_a_flipped_bit_is_damage(place: Path) -> None:
    for archive in (
        a_tar(place.parent / "a.tgz", list(FILES.items()), "w:gz"),
        a_tar(place.parent / "a.bz2", list(FILES.items()), "w:bz2"),
        a_tar(place.parent / "a.xz", list(FILES.items()), "w:xz"),
        a_zip(place.parent / "a.zip", list(FILES.items())),
        a_zip(place.parent / "b.zip", list(FILES.items()), zipfile.ZIP_STORED),
    ):
        content = bytearray(archive.read_bytes())
        content[len(content) // 2] ^= 1
        archive.write_bytes(content)
        assert "is damaged or no .tar" in complaint(archive, place)


def test_the_sum_at_the_end_of_a_compressed_tar_is_checked(place: Path) -> None:
    archive = a_tar(place.parent / "a.tgz", [("a", b"1")], "w:gz")
    content = bytearray(archive.read_bytes())
    content[-8] ^= 1
    archive.write_bytes(content)
    assert "CRC check failed" in complaint(archive, place)


@pytest.mark.parametrize("content", [b"no archive", b"PK no zip", b"\x1f\x8b no gzip", NOISE, bz2.compress(b"no tar")])
def test_what_is_no_archive_is_said(place: Path, content: bytes) -> None:
    (place.parent / "a.tgz").write_bytes(content)
    assert "is damaged or no .tar" in complaint(place.parent / "a.tgz", place)
    with pytest.raises(InputError, match=r"There is no file .*b\.tgz"):
        unpack(place.parent / "b.tgz", place / "target")


def test_a_header_without_end_does_not_fill_the_memory(place: Path) -> None:
    entry = tarfile.TarInfo("long name")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 2**30
    (place.parent / "a.tar").write_bytes(entry.tobuf())
    assert f"more than {MOST_HEADER:,} bytes on the header" in complaint(place.parent / "a.tar", place)
    archive = a_tar(place.parent / "a.tar", [("a", b"1")])
    archive.write_bytes(archive.read_bytes() + bytes(2 * MOST_HEADER))
    assert "or on its end" in complaint(archive, place)


def test_a_negative_size_is_damage(place: Path) -> None:
    entry = tarfile.TarInfo("a")
    entry.size = -512
    (place.parent / "a.tar").write_bytes(entry.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    assert "a size is negative" in complaint(place.parent / "a.tar", place)


@pytest.mark.parametrize("make", [a_tar, a_zip])
@pytest.mark.parametrize("name", ["mine.txt", "mine.txt/photo.jpg", "dangling/photo.jpg"])
def test_what_is_there_already_is_not_replaced(place: Path, make: Callable[..., Path], name: str) -> None:
    (place / "target/dangling").symlink_to("nowhere")
    archive = make(place.parent / "x", [("good.jpg", b"1"), (name, b"evil")])
    assert f"{place / 'target' / name.split('/')[0]} is there already: move it away." in complaint(archive, place)


def test_what_is_there_already_is_said_before_the_rest_is_read(place: Path) -> None:
    archive = a_tar(place.parent / "a.tar", [("mine.txt", b"evil"), ("b", bytes(10_000))])
    archive.write_bytes(archive.read_bytes()[:5_000])
    assert "is there already" in complaint(archive, place)


def test_a_folder_that_is_a_file_is_said(place: Path) -> None:
    (place / "target/mine.txt").unlink()
    (place / "target").rmdir()
    (place / "target").write_text("a file")
    complaint(a_zip(place.parent / "a.zip", [("a", b"1")]), place)


def test_a_full_disk_is_said_and_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def limited(path: Path, mode: str = "r", *rest: Any) -> Any:
        if mode == "xb" and path.name == "b":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path, mode, *rest)

    archive = a_zip(place.parent / "a.zip", [("a", b"1"), ("b", b"2")])
    monkeypatch.setattr(Path, "open", limited)
    assert f"the disk of {place / 'target'} is full" in complaint(archive, place)


KILLED = """
import os, runpy, signal, sys
from pathlib import Path
unpack = runpy.run_path(sys.argv[1])["unpack"]  # the package would load torch first
Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
unpack(Path(sys.argv[2]), Path(sys.argv[3]))
"""


@pytest.mark.skipif(os.name != "posix", reason="asks whether a process runs")
def test_a_kill_leaves_no_half_set_and_the_next_run_cleans_up(place: Path) -> None:
    archive = a_tar(place.parent / "a.tgz", list(FILES.items()), "w:gz")
    program = [sys.executable, "-c", KILLED, str(module.__file__), str(archive), str(place / "target")]
    run = subprocess.run(program, capture_output=True, timeout=60)
    assert run.returncode == -signal.SIGKILL, run.stderr
    (left,) = place.glob(".target.*.part")
    assert unpacked(left) == FILES
    assert unpacked(place / "target") == {"mine.txt": b"mine"}
    running, others = place / f".target.{os.getppid()}.part", place / ".other.1.part"
    namesake = place / f".target.{os.getpid()}.part"  # of a process in another container, or before a restart
    for folder in (running, others, namesake):
        folder.mkdir()
    assert unpack(archive, place / "target") == len(FILES)
    assert not left.exists()
    assert running.is_dir() and others.is_dir()
    assert unpacked(place / "target") == FILES | {"mine.txt": b"mine"}


@pytest.mark.parametrize("mounted", [True, False])
def test_a_folder_that_is_mounted_or_in_a_closed_one_is_unpacked_into_from_within(
    place: Path, monkeypatch: pytest.MonkeyPatch, mounted: bool
) -> None:
    """As a rename from outside of it would fail."""
    real = Path.rename

    def across(path: Path, target: Path) -> Path:
        if path.is_relative_to(place / "target") != target.is_relative_to(place / "target"):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return real(path, target)

    archive = a_zip(place.parent / "a.zip", list(FILES.items()))
    monkeypatch.setattr(Path, "rename", across)
    assert "Invalid cross-device link" in complaint(archive, place)
    if mounted:
        monkeypatch.setattr(os.path, "ismount", lambda path: path == place / "target")
    else:
        monkeypatch.setattr(os, "access", lambda path, _: path != place)
    assert unpack(archive, place / "target") == len(FILES)
    assert unpacked(place / "target") == FILES | {"mine.txt": b"mine"}


def test_a_link_to_the_folder_is_followed(place: Path) -> None:
    (place / "way").symlink_to(place / "target")
    unpack(a_zip(place.parent / "a.zip", [("a", b"1")]), place / "way")
    assert unpacked(place / "target") == {"a": b"1", "mine.txt": b"mine"}
    (place / "way on").symlink_to(place / "later")
    unpack(place.parent / "a.zip", place / "way on")
    assert unpacked(place / "later") == {"a": b"1"}


@pytest.mark.parametrize("there", [True, False])
def test_an_archive_is_unpacked_once_and_anew_when_it_is_another(place: Path, there: bool) -> None:
    folder = place / ("target" if there else "new")
    archive = a_zip(place.parent / "a.zip", [("a", b"1"), ("b/c", b"2")])
    assert unpack_once(archive, folder) == 2
    assert unpack_once(archive, folder) is None
    assert (folder / "b/c").read_bytes() == b"2"
    a_zip(place.parent / "a.zip", [("a", b"1"), ("b/c", b"23")])
    with pytest.raises(InputError, match="is there already: move it away"):
        unpack_once(archive, folder)
    with pytest.raises(InputError, match=r"There is no file .*none\.zip"):
        unpack_once(place / "none.zip", folder)


def test_what_says_that_all_is_unpacked_comes_last(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []
    real = Path.rename

    def noting(path: Path, target: Path) -> Path:
        moved.append(target.name)
        return real(path, target)

    monkeypatch.setattr(Path, "rename", noting)
    unpack_once(a_zip(place.parent / "a.zip", [(name, b"1") for name in "gac"]), place / "target")
    assert moved[-1] == ".a.zip.unpacked"
    assert sorted(moved[:-1]) == ["a", "c", "g"]
