"""Archives that nobody vouches for: unpacked whole, within one folder, or not at all."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PureWindowsPath
from typing import Any, BinaryIO, NamedTuple

from rich.markup import escape
from rich.progress import Progress

from siamese_verify.errors import InputError

MOST_BYTES = 64 * 2**30
MOST_ENTRIES = 30_000_000
MOST_HEADER = 2**20  # bytes that a tar may spend on describing one entry, or on padding at its end
MOST_DEPTH = 100  # folders within one another
CHUNK = 2**20

COMPRESSED: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}


class Entry(NamedTuple):
    """A file or folder of an archive. `content` has to be read before the next entry is asked for."""

    name: str
    is_folder: bool
    content: Iterator[bytes]


def unpack_once(archive: Path, folder: Path) -> int | None:
    """Unpack an archive, unless a run before has: the number of files, or None.

    What says so is a hidden file that comes into the folder with the last of the others.

    Raises:
        InputError: see `unpack`.
    """
    note = Path(f".{archive.name}.unpacked")
    state = archive.stat() if archive.is_file() else None
    told = f"{state.st_size} bytes, changed at {state.st_mtime_ns}\n".encode() if state else b""
    if told and (folder / note).is_file() and (folder / note).read_bytes() == told:
        return None
    return unpack(archive, folder, note=(note, told))


def unpack(
    archive: Path,
    folder: Path,
    *,
    most_bytes: int = MOST_BYTES,
    most_entries: int = MOST_ENTRIES,
    note: tuple[Path, bytes] | None = None,
) -> int:
    """Unpack the files and folders of an archive into a folder: all of them, or none.

    They are written into a hidden folder beside `folder` and moved by renaming when they are complete. Where a rename
    cannot lead from there, as with a mounted `folder`, the hidden folder stands within it. What a killed process left
    in such a folder is removed. Permissions and times are those of new files.

    Args:
        archive: .tar, .tgz, .tar.bz2, .tar.xz or .zip, told by its content.
        folder: made if it is missing.
        most_bytes: the files may have together, >= 0.
        most_entries: files and folders the archive may list, >= 0.
        note: name and content of a file to leave there with the last of the others.

    Returns:
        The number of files.

    Raises:
        InputError: no such archive; it is damaged or ends early; an entry is neither file nor folder, comes twice,
            may not be read without a password or has a name that leads elsewhere; more bytes or entries than allowed;
            what it holds at its top is in `folder` already; no room or no permission to write.
    """
    if not archive.is_file():
        raise InputError(f"There is no file {archive}: name an archive (.tar, .tgz, .tar.bz2, .tar.xz or .zip).")
    folder = folder.resolve()
    part: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = _part_of(folder)
        part.mkdir()
        files = _write(archive, part, folder, most_bytes, most_entries)
        if note:
            (part / note[0]).write_bytes(note[1])
        _move(part, folder, note[0] if note else None)
        return files
    except InputError as error:
        raise InputError(f"{archive} is not unpacked: {error}.") from None
    except OSError as error:
        if error.errno is None:  # the decompressors say so of what they cannot read
            raise _damaged(archive, error) from None
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(f"{archive} is not unpacked: the disk of {folder} is full, make room on it.") from None
        at = f" at {error.filename}" if error.filename else ""
        raise InputError(f"{archive} is not unpacked into {folder}: {error.strerror}{at}.") from None
    except Exception as error:  # a damaged archive can raise anything
        raise _damaged(archive, error) from None
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)


def _damaged(archive: Path, error: Exception) -> InputError:
    reason = f"{type(error).__name__}: {error}".rstrip(": .")
    return InputError(f"{archive} is damaged or no .tar, .tgz, .tar.bz2, .tar.xz or .zip ({reason}): get it again.")


def _part_of(folder: Path) -> Path:
    """Where this process unpacks to. Removes what dead ones left there."""
    within = folder.is_dir() and (os.path.ismount(folder) or not os.access(folder.parent, os.W_OK))
    place = folder if within else folder.parent
    for left in list(place.iterdir()):
        owner = re.fullmatch(re.escape(f".{folder.name}.") + r"(\d{1,9})\.part", left.name)
        if owner and not _runs(int(owner[1])):
            shutil.rmtree(left, ignore_errors=True)
    return place / f".{folder.name}.{os.getpid()}.part"


def _runs(process: int) -> bool:
    if process == os.getpid():  # within a container every run can have the same number
        return False
    if os.name != "posix":  # elsewhere the question below would end the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _write(archive: Path, part: Path, folder: Path, most_bytes: int, most_entries: int) -> int:
    entries, files, room, top = 0, 0, most_bytes, ""
    with archive.open("rb") as source, Progress() as progress:
        size = archive.stat().st_size
        bar = progress.add_task(f"unpacking {escape(archive.name)}", total=size)
        for entry in _entries(source):
            entries += 1
            if entries > most_entries:
                raise InputError(f"it holds more than {most_entries:,} entries")
            inside = _inside(entry.name)
            if inside.parts and inside.parts[0] != top:
                top = inside.parts[0]
                _refuse_present(folder / top)
            try:
                (part / inside if entry.is_folder else (part / inside).parent).mkdir(parents=True, exist_ok=True)
                if entry.is_folder:
                    continue
                with (part / inside).open("xb") as file:
                    for chunk in entry.content:
                        room -= len(chunk)
                        if room < 0:
                            raise InputError(f"it unpacks to more than {most_bytes:,} bytes at {entry.name!r}")
                        file.write(chunk)
                        progress.update(bar, completed=source.tell())
            except (FileExistsError, NotADirectoryError):  # also of names that the file system takes for the same
                raise InputError(f"its entry {entry.name!r} is in it twice, or is both file and folder") from None
            files += 1
        progress.update(bar, completed=size)
    return files


def _inside(name: str) -> Path:
    """The path of an entry, refused if any system could read it as one outside of the folder."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or PureWindowsPath(name).anchor or "\\" in name or "\0" in name:
        raise InputError(f"its entry {name!r} has an absolute path, a drive or a backslash in its name")
    if any(not part.strip(". ") for part in parts):  # Windows drops dots and blanks at the end of a name
        raise InputError(f"its entry {name!r} leads out of the folder")
    if len(parts) > MOST_DEPTH:
        raise InputError(f"its entry {name[:100]!r}... lies in more than {MOST_DEPTH} folders")
    return Path(*parts)


def _refuse_present(path: Path) -> None:
    if os.path.lexists(path):
        raise InputError(f"{path} is there already: move it away")


def _move(part: Path, folder: Path, last: Path | None) -> None:
    """Give all that is in `part` to `folder`, `last` after the others."""
    if not folder.exists():
        part.rename(folder)
        return
    found = sorted(part.iterdir(), key=lambda path: path == part / last if last else False)
    for path in found:
        _refuse_present(folder / path.name)
    for path in found:
        path.rename(folder / path.name)


def _entries(source: BinaryIO) -> Iterator[Entry]:
    start = source.read(6)
    source.seek(0)
    if start.startswith(b"PK"):
        return _of_zip(source)
    for magic, opened in COMPRESSED.items():
        if start.startswith(magic):
            return _of_tar(opened(source))
    return _of_tar(source)


def _of_zip(source: BinaryIO) -> Iterator[Entry]:
    with zipfile.ZipFile(source) as archive:
        for entry in archive.infolist():
            name = entry.orig_filename  # the other one has lost what follows a zero byte
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise InputError(f"its entry {name!r} is a link or a device, not a file or a folder")
            if entry.flag_bits & 1:
                raise InputError(f"its entry {name!r} is encrypted")
            yield Entry(name, name.endswith("/") or kind == stat.S_IFDIR, _content_of_zip(archive, entry))


def _content_of_zip(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    announced, got = entry.file_size, 0
    entry.file_size += 1  # the reader stops there: the byte too many shows in the count, or makes the sum wrong
    with archive.open(entry) as file:
        while chunk := file.read(CHUNK):
            got += len(chunk)
            yield chunk
    if got != announced:
        raise InputError(f"its entry {entry.orig_filename!r} holds more or less than the {announced:,} bytes announced")


def _of_tar(source: BinaryIO) -> Iterator[Entry]:
    tape = _Tape(source)
    archive = tarfile.TarFile(fileobj=tape, tarinfo=_Header, encoding="utf-8", errors="surrogateescape")
    while (entry := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined]  # or it remembers millions of them
        if entry.issparse() or not (entry.isfile() or entry.isdir()):
            raise InputError(f"its entry {entry.name!r} is a link, a device or sparse, not a plain file or folder")
        yield Entry(entry.name, entry.isdir(), tape.content(entry))
        tape.room = MOST_HEADER
    while tape.read(CHUNK // 16):  # to the end, where a compressed file has the sum of its content
        pass


class _Header(tarfile.TarInfo):
    """Describes an entry. A damaged one, or none, is an error: tarfile would take it for the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Header:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the mark that ends an archive
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None


class _Tape(io.RawIOBase):
    """The bytes of a tar in their order, of which `room` at most are read for the next header."""

    def __init__(self, source: BinaryIO) -> None:
        self.room = MOST_HEADER
        self._source, self._place = source, 0

    def read(self, size: int = -1) -> bytes:
        self.room -= size
        if size < 0 or self.room < 0:
            raise InputError(f"it spends more than {MOST_HEADER:,} bytes on the header of an entry, or on its end")
        return self._take(size)

    def tell(self) -> int:
        return self._place

    def seek(self, place: int, whence: int = 0) -> int:
        if whence or place < self._place:
            raise tarfile.ReadError("it leads backwards")
        self.read(place - self._place)
        return self._place

    def content(self, entry: tarfile.TarInfo) -> Iterator[bytes]:
        """The bytes of the entry whose header was read last."""
        left = entry.size
        if left < 0:
            raise tarfile.ReadError("a size is negative")
        while left:
            chunk = self._take(min(left, CHUNK))
            if not chunk:
                raise tarfile.ReadError(f"it ends within {entry.name!r}")
            left -= len(chunk)
            yield chunk

    def _take(self, size: int) -> bytes:
        content = self._source.read(size)
        self._place += len(content)
        return content
