"""Files below a folder, on this machine or in object storage, by their names within it."""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from siamese_verify.errors import InputError

MOST_LINKS = 2  # to folders, one within the other
KEPT_OPEN = 16  # files of which parts were read, per process


class Storage:
    """Files below a folder.

    A name is a file's path within the folder, with forward slashes. Local files are read without detours. A connection
    to object storage is made when it is first needed, anew in each process. Workers may be forked, or be sent it.

    Every method that takes a name raises InputError if the name leads out of the folder (empty, "..", absolute, a drive
    letter), and every method does if the storage refuses or cannot be reached, or if the Python package that it needs
    is not installed.

    Args:
        root: a path, or an address such as `s3://bucket/faces`, `gs://bucket/faces` or `memory://faces`, of any kind
            that fsspec knows.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = str(root)
        self._remote = "://" in self.root and not self.root.startswith(("file://", "local://"))
        self._folder = "" if self._remote else self.root.removeprefix("file://").removeprefix("local://") or "."
        self._forget()

    def __getstate__(self) -> dict[str, str]:
        return {"root": self.root}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__init__(state["root"])  # type: ignore[misc]

    @property
    def remote(self) -> bool:
        """Every read is a request that takes milliseconds."""
        return self._remote

    def place(self, name: str) -> str:
        """The whole path or address of a file, for people to read."""
        return f"{self.root.rstrip('/')}/{name}"

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        """Read a file, or a part of it.

        Args:
            name: of the file.
            start: first byte, >= 0.
            end: the byte after the last; None = to the end. What lies beyond the end of the file is left out.

        Raises:
            InputError: no such file, or it may not be read.
        """
        path = self._inside(name)
        if end is not None and end <= start:
            return b""
        if not self._remote:
            try:
                return _whole(path) if not start and end is None else self._part(path, start, end)
            except (OSError, ValueError) as error:  # ValueError: letters that the system has no bytes for
                raise _refusal(path, error) from None
        with self._asking(name) as files:
            try:
                part = {"start": start, "end": end} if start or end is not None else {}
                return bytes(files.cat_file(path, **part))
            except FileNotFoundError:
                raise
            except Exception:
                if start and start >= _size(files.info(path)):  # some storages refuse what begins beyond the end
                    return b""
                raise

    def read_many(self, name: str, starts: Sequence[int], length: int) -> list[bytes]:
        """Read parts of one file; from object storage side by side.

        Args:
            name: of the file.
            starts: (N,) first bytes, each within the file.
            length: bytes of each; a part that the file's end cuts is shorter.

        Raises:
            InputError: no such file, or it may not be read.
        """
        path = self._inside(name)
        if not self._remote:
            try:
                if not hasattr(os, "pread"):
                    return [self._part(path, start, start + length) for start in starts]
                number, pread = self._descriptor(path).number, os.pread
                return [pread(number, length, start) for start in starts]
            except (OSError, ValueError) as error:
                raise _refusal(path, error) from None
        with self._asking(name) as files:
            size = _size(files.info(path))
            ends = [min(start + length, size) for start in starts]
            found = files.cat_ranges([path] * len(starts), list(starts), ends, on_error="return")
            for content in found:
                if isinstance(content, BaseException):
                    raise content
            return [bytes(content) for content in found]

    def size(self, name: str) -> int:
        """Bytes of a file.

        Raises:
            InputError: no such file.
        """
        path = self._inside(name)
        if not self._remote:
            try:
                found = Path(path).stat()
                if stat.S_ISDIR(found.st_mode):
                    raise IsADirectoryError
                return found.st_size
            except (OSError, ValueError) as error:
                raise _refusal(path, error) from None
        with self._asking(name) as files:
            return _size(files.info(path))

    def exists(self, name: str) -> bool:
        """Whether there is such a file; a folder is none."""
        path = self._inside(name)
        if not self._remote:
            return Path(path).is_file()
        return self._kind(path, name) == "file"

    def is_folder(self) -> bool:
        """Whether the root is a folder that exists; in object storage, whether anything lies below it."""
        if not self._remote:
            return Path(self._folder).is_dir()
        self._connect()
        return self._kind(self._folder, "") == "directory"

    def names(self) -> Iterator[str]:
        """The files at any depth, sorted by code points.

        Names of files and folders that begin with "." are left out with all that is in them. Links to files are
        followed, and so are links to folders, but for those that lead back to where they are in, and those in more
        than one linked folder. A local folder is listed when its turn comes, object storage all at once.

        Raises:
            InputError: no such folder.
        """
        if not self._remote:
            yield from self._walk()
            return
        if not self.is_folder():
            raise InputError(f"There is no folder {self.root}: name one that holds files.")
        with self._asking("") as files:
            found = files.find(self._folder)
        start = f"{self._folder}/" if self._folder else ""
        names = (path.removeprefix("/") if not start else path.removeprefix(start) for path in found)
        yield from sorted(name for name in names if not name.endswith("/") and not re.search(r"(?:^|/)\.", name))

    def _forget(self) -> None:
        self._open: dict[str, _Descriptor] = {}
        self._connection: Any = None
        self._process = 0

    def _inside(self, name: str) -> str:
        """The path of a file, refused if any system could read its name as one outside of the folder."""
        if not name or name[0] in "/\\" or name[1:2] == ":" or "\0" in name:
            raise InputError(f"{name!r} is no name of a file in {self.root}: give its path within that folder.")
        if ".." in name and ".." in re.split(r"[/\\]", name):
            raise InputError(f"{name!r} leads out of {self.root}: give a path within that folder.")
        if self._remote:
            self._connect()
        return f"{self._folder}/{name}" if self._folder else name

    def _part(self, path: str, start: int, end: int | None) -> bytes:
        if not hasattr(os, "pread"):
            with io.FileIO(path) as file:
                file.seek(start)
                return file.readall() if end is None else io.BufferedReader(file).read(end - start)
        number = self._descriptor(path).number
        if end is None:
            end = os.fstat(number).st_size
        content = os.pread(number, max(0, end - start), start)
        if len(content) == end - start or not content:
            return content
        parts = [content]  # the end of the file, or more than the system reads at once
        while parts[-1]:
            start += len(parts[-1])
            parts.append(os.pread(number, max(0, end - start), start))
        return b"".join(parts)

    def _descriptor(self, path: str) -> _Descriptor:
        found = self._open.get(path)
        if found is None:
            found = _Descriptor(path)
            for oldest in list(self._open)[: max(0, len(self._open) - KEPT_OPEN + 1)]:
                self._open.pop(oldest, None)  # closed as soon as no other thread reads from it
            self._open[path] = found
        return found

    def _walk(self) -> Iterator[str]:
        waiting = [""]
        while waiting:
            name = waiting.pop()
            if name and not name.endswith("/"):
                yield name
                continue
            try:
                with os.scandir(f"{self._folder}/{name}") as entries:
                    shown = [entry for entry in entries if not entry.name.startswith(".")]
                # A folder is sorted by its name with the slash that all names in it go on with.
                found = [f"{name}{entry.name}/" for entry in shown if self._is_to_list(entry, name)]
                found += [f"{name}{entry.name}" for entry in shown if _is_file(entry)]
            except (FileNotFoundError, NotADirectoryError):
                raise InputError(f"There is no folder {self.place(name)}: name one that holds files.") from None
            except OSError as error:
                raise _refusal(self.place(name), error) from None
            waiting += sorted(found, reverse=True)

    def _is_to_list(self, entry: os.DirEntry[str], name: str) -> bool:
        if not _is_folder(entry) or not entry.is_symlink():
            return _is_folder(entry)
        parts = name.split("/")[:-1]
        above = [Path(self._folder, *parts[:count]) for count in range(len(parts) + 1)]
        around = any(folder.samefile(entry.path) for folder in above)
        return not around and sum(folder.is_symlink() for folder in above[1:]) < MOST_LINKS

    def _connect(self) -> Any:
        if self._connection is None or self._process != os.getpid():  # a connection does not survive a fork
            self._connection, self._folder = _connected(self.root)
            self._process = os.getpid()
        return self._connection

    @contextmanager
    def _asking(self, name: str) -> Iterator[Any]:
        """Give the connection, and say what went wrong with it."""
        place = self.place(name) if name else self.root
        try:
            yield self._connect()
        except InputError:
            raise
        except Exception as error:  # each storage has exceptions of its own
            raise _refusal(place, error) from None

    def _kind(self, path: str, name: str) -> str | None:
        with self._asking(name) as files:
            try:
                return str(files.info(path)["type"])
            except FileNotFoundError:
                return None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # links that lead to one another
        return False


class _Descriptor:
    """An open file, closed when nobody holds it any more."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


def _whole(path: str) -> bytes:
    with io.FileIO(path) as file:
        return file.readall()


def _size(told: dict[str, Any]) -> int:
    if told["type"] == "directory":
        raise IsADirectoryError
    if told.get("size") is None:
        raise OSError("it does not say how large the file is")
    return int(told["size"])


def _refusal(place: str, error: Exception) -> InputError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return InputError(f"There is no file {place}.")
    if isinstance(error, IsADirectoryError):
        return InputError(f"{place} is a folder, not a file.")
    reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}".rstrip(": .")
    return InputError(f"{place} cannot be read ({reason}): check that it may be, and the connection to it.")


def _connected(root: str) -> tuple[Any, str]:
    """The file system of an address, and the path of the address in it."""
    from fsspec.core import url_to_fs

    try:
        files, path = url_to_fs(root)
    except ImportError as error:
        missing = getattr(error.__cause__, "name", None) or error
        raise InputError(f"{root} needs the Python package {missing}, which is not installed: install it.") from None
    except Exception as error:  # each storage has exceptions of its own
        raise InputError(f"{root} cannot be used as a folder ({error}): give a path, or another address.") from None
    return files, str(path).rstrip("/")
