"""Unpack tar and zip archives of unknown origin within one folder."""

from __future__ import annotations

import os
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

import rich.progress
from rich.markup import escape

from siamese_verify.atomic_write import atomic_write
from siamese_verify.errors import InputError

MAX_BYTES = 64 * 2**30
MAX_ENTRIES = 30_000_000
CHUNK = 2**20


def unpack_once(archive: Path, folder: Path) -> int | None:
    """Unpack an archive unless it has been unpacked into the folder before: the number of files, or None.

    A hidden file in the folder remembers the archive's size and time of change.

    Raises:
        InputError: see `unpack`.
    """
    marker = folder / f".{archive.name}.unpacked"
    state = archive.stat() if archive.is_file() else None
    content = f"{state.st_size} bytes, changed at {state.st_mtime_ns}\n".encode() if state else b""
    if content and marker.is_file() and marker.read_bytes() == content:
        return None
    files = unpack(archive, folder)
    atomic_write(marker, content)
    return files


def unpack(archive: Path, folder: Path, *, max_bytes: int = MAX_BYTES, max_entries: int = MAX_ENTRIES) -> int:
    """Unpack the files and folders of an archive into a folder: all of them, or none.

    They are written into a hidden folder within `folder` and renamed when they are complete.

    Args:
        archive: .tar, .tgz, .tar.bz2, .tar.xz or .zip, recognized by its content.
        folder: made if it is missing.
        max_bytes: that the files may have together.
        max_entries: files and folders that the archive may list.

    Returns:
        The number of files.

    Raises:
        InputError: no such archive; it is damaged, truncated or encrypted; an entry is neither a file nor a folder, or
            its name leads out of the folder; more bytes or entries than allowed; what it holds at its top exists in
            `folder`; it cannot be written.
    """
    if not archive.is_file():
        raise InputError(f"There is no file {archive}: name an archive (.tar, .tgz, .tar.bz2, .tar.xz or .zip).")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        description = f"unpacking {escape(archive.name)}"
        with (
            tempfile.TemporaryDirectory(prefix=".unpacking-", dir=folder) as place,
            rich.progress.open(archive, "rb", description=description) as file,
        ):
            is_zip = file.read(2) == b"PK"
            file.seek(0)
            part, entries, files, size = Path(place), 0, 0, 0
            for name, is_file, length in (_unpack_zip if is_zip else _unpack_tar)(file, part):
                _check_name(name, folder)
                entries, files, size = entries + 1, files + is_file, size + length
                if entries > max_entries:
                    raise InputError(f"it has more than {max_entries:,} entries")
                if size > max_bytes:
                    raise InputError(f"it unpacks to more than {max_bytes:,} bytes at {name!r}")
            for path in part.iterdir():
                path.rename(folder / path.name)
        return files
    except InputError as error:
        raise InputError(f"{archive} is not unpacked: {error}.") from None
    except OSError as error:
        if error.errno is None:  # raised by gzip, bz2 and lzma for damaged files
            raise _damaged(archive, error) from None
        raise InputError(f"{archive} is not unpacked into {folder}: {error.strerror}.") from None
    except Exception as error:  # a damaged archive can raise anything
        raise _damaged(archive, error) from None


def _damaged(archive: Path, error: Exception) -> InputError:
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200].rstrip(": .")
    return InputError(f"{archive} is damaged or no .tar, .tgz, .tar.bz2, .tar.xz or .zip ({reason}): get it again.")


def _check_name(name: str, folder: Path) -> None:
    """Check that no system could read a name as a path out of the folder, and that its first part is new there."""
    parts = PurePosixPath(name).parts
    # Windows drops dots and blanks at the end of a name.
    if PureWindowsPath(name).anchor or "\\" in name or any(not part.strip(". ") for part in parts):
        raise InputError(f"its entry {name!r} leads out of the folder")
    if parts and os.path.lexists(folder / parts[0]):
        raise InputError(f"{folder / parts[0]} exists: move it away")


def _unpack_tar(file: BinaryIO, part: Path) -> Iterator[tuple[str, bool, int]]:
    """Yield name, whether it is a file and size of each entry; each is unpacked into `part` after its turn."""
    with tarfile.open(fileobj=file, mode="r:*", tarinfo=_StrictHeader) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4 and newer
        while (entry := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # or it remembers millions of them
            if not (entry.isreg() or entry.isdir()):
                raise InputError(f"its entry {entry.name!r} is a link or a device, not a file or a folder")
            yield entry.name, entry.isreg(), entry.size
            tar.extract(entry, part, set_attrs=False)  # neither owner nor mode of the archive
        while tar.fileobj and tar.fileobj.read(CHUNK):
            pass  # to the end, where a compressed file has its checksum


def _unpack_zip(file: BinaryIO, part: Path) -> Iterator[tuple[str, bool, int]]:
    """The same for a zip; zipfile reads no more of an entry than its announced size."""
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise InputError(f"its entry {entry.filename!r} is a link or a device, not a file or a folder")
            yield entry.orig_filename, not entry.is_dir(), entry.file_size
            archive.extract(entry, part)


class _StrictHeader(tarfile.TarInfo):
    """Header of an entry; one that is damaged or missing raises, where tarfile would see the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> _StrictHeader:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the mark that ends an archive
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None
