"""Files below a folder on this machine or, through fsspec, in object storage."""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from siamese_verify.errors import InputError

MAX_LINKS = 2  # linked folders within one another that are followed


class Storage:
    """Files below a folder, named by their path within it with forward slashes.

    Methods raise InputError for a name that leads out of the folder, for a storage that refuses or cannot be reached,
    and for one whose Python package is not installed.

    Args:
        root: path, or an address that fsspec knows such as `s3://bucket/faces`, `gs://bucket/faces` or `memory://faces`.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = str(root)
        self._folder = re.sub("^(file|local)://", "", self.root) or "."
        self.remote = "://" in self._folder

    def location(self, name: str) -> str:
        """Full path or address of a file, for messages."""
        return f"{self.root.rstrip('/')}/{name}"

    def name_of(self, path: str) -> str:
        """Name of a file, given its absolute path or its address; one that is not below the root stays as it is."""
        given, root = _plain(path), _plain(self._folder).rstrip("/")
        if not given.startswith("/") and "://" not in given:
            return path
        if given.startswith(f"{root}/") and "/../" not in given:
            return given[len(root) + 1 :] or path
        if given.startswith("/") and not self.remote:
            folder, _, name = given.rpartition("/")
            root, resolved = (_resolved(one or "/").rstrip("/") for one in (root, folder))
            if f"{resolved}/".startswith(f"{root}/"):
                with suppress(UnicodeEncodeError):
                    return f"{resolved}/{name}"[len(root) + 1 :].encode().decode()
        return path

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        """Read a file, or its bytes from `start` up to `end`; what lies beyond its end is left out."""
        if end is not None and end <= start:
            return b""
        with _NamedErrors(self.location(name)):
            if self.remote:
                part = {"start": start, "end": end} if start or end is not None else {}
                files, path = self._remote_path(name)
                return bytes(files.cat_file(path, **part))
            with io.FileIO(self._local_path(name)) as file:
                file.seek(start)
                return file.readall() if end is None else file.read(end - start)

    def read_many(self, name: str, starts: Sequence[int], length: int) -> list[bytes]:
        """Read `length` bytes from each of `starts`, concurrently in object storage; the file's end cuts a part."""
        with _NamedErrors(self.location(name)):
            if self.remote:
                files, path = self._remote_path(name)
                size = self.size(name)
                ends = [min(start + length, size) for start in starts]
                found = files.cat_ranges([path] * len(starts), list(starts), ends)
                for error in (part for part in found if isinstance(part, BaseException)):
                    raise error
                return [bytes(part) for part in found]
            with io.FileIO(self._local_path(name)) as file:
                parts = []
                for start in starts:
                    file.seek(start)
                    parts.append(file.read(length))
                return parts

    def size(self, name: str) -> int:
        """Bytes of a file."""
        with _NamedErrors(self.location(name)):
            if not self.remote:
                state = Path(self._local_path(name)).stat()
                if stat.S_ISDIR(state.st_mode):
                    raise IsADirectoryError
                return state.st_size
            files, path = self._remote_path(name)
            info = files.info(path)
            if info["type"] == "directory":
                raise IsADirectoryError
            if info.get("size") is None:
                raise OSError("its size is unknown")
            return int(info["size"])

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""
        with _NamedErrors(self.location(name)):
            if not self.remote:
                return Path(self._local_path(name)).is_file()
            return self._kind(*self._remote_path(name)) == "file"

    def is_folder(self) -> bool:
        """Whether the root is a folder; in object storage, whether it holds anything."""
        if not self.remote:
            return Path(self._folder).is_dir()
        with _NamedErrors(self.root):
            return self._kind(*self._remote_path()) == "directory"

    def names(self) -> Iterator[str]:
        """Files at any depth, sorted by code points, without hidden files and folders.

        Links are followed, but not folders that contain the link, nor more than two linked folders in one path. Local
        folders are listed one at a time, object storage at once.

        Raises:
            InputError: no such folder.
        """
        if not self.is_folder():
            raise InputError(f"There is no folder {self.root}: name one that holds files.")
        if not self.remote:
            return _local_names((self._folder,))
        with _NamedErrors(self.root):
            files, folder = self._remote_path()
            names = (path.removeprefix(folder).lstrip("/") for path in files.find(folder))
            return iter(sorted(name for name in names if not name.endswith("/") and not re.search(r"(^|/)\.", name)))

    def _local_path(self, name: str) -> str:
        self._check(name)
        return f"{self._folder}/{name}"

    def _remote_path(self, name: str | None = None) -> tuple[Any, str]:
        """The file system, which fsspec makes once for each process, and the path of a file in it, or of the root."""
        from fsspec.core import url_to_fs

        if name is not None:
            self._check(name)
        files, folder = url_to_fs(self.root)
        folder = folder.rstrip("/")
        return files, folder if name is None else f"{folder}/{name}"

    def _check(self, name: str) -> None:
        """Check that no system could read a name as a path outside of the folder."""
        if not name or name[0] in "/\\" or name[1:2] == ":" or "\0" in name:
            raise InputError(f"{name!r} does not name a file in {self.root}: give its path within that folder.")
        if ".." in name and ".." in re.split(r"[/\\]", name):
            raise InputError(f"{name!r} leads out of {self.root}: give a path within that folder.")

    @staticmethod
    def _kind(files: Any, path: str) -> str | None:
        try:
            return str(files.info(path)["type"])
        except FileNotFoundError:
            return None


def _plain(place: str) -> str:
    """A local path without its scheme and repeated slashes, or an address as it is."""
    local = re.sub("^(file|local)://", "", place)
    return local if "://" in local else re.sub("/+", "/", local)


@lru_cache(maxsize=2**12)
def _resolved(folder: str) -> str:
    try:
        return os.path.realpath(folder)
    except ValueError:  # a zero byte
        return folder


class _NamedErrors:
    """Context that turns what a storage raises into an InputError; each storage has exceptions of its own."""

    def __init__(self, location: str) -> None:
        self.location = location

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, InputError):
            return
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise InputError(f"There is no file {self.location}.") from None
        if isinstance(error, IsADirectoryError):
            raise InputError(f"{self.location} is a folder, not a file.") from None
        if isinstance(error, ImportError):
            package = getattr(error.__cause__, "name", None) or error
            raise InputError(f"{self.location} needs the Python package {package}: install it.") from None
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}".rstrip(": .")
        raise InputError(f"{self.location} cannot be read ({reason}): check permissions and connection.") from None


def _local_names(folders: tuple[str, ...], prefix: str = "", links: int = 0) -> Iterator[str]:
    """Names below the last of `folders`, each of which holds the next; `links` of them are linked."""
    try:
        with os.scandir(folders[-1]) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folders[-1]} cannot be read ({error.strerror}): check permissions.") from None
    # A folder is sorted by its name with a slash, as the paths below it are.
    named = [(f"{entry.name}/" if _succeeds(entry.is_dir) else entry.name, entry) for entry in shown]
    for name, entry in sorted(named, key=lambda item: item[0]):
        linked = entry.is_symlink()
        if not name.endswith("/"):
            if _succeeds(entry.is_file):
                yield f"{prefix}{name}"
        elif not linked or (links < MAX_LINKS and os.path.realpath(entry) not in map(os.path.realpath, folders)):
            yield from _local_names((*folders, entry.path), f"{prefix}{name}", links + linked)


def _succeeds(is_kind: Callable[[], bool]) -> bool:
    try:
        return is_kind()
    except OSError:  # links that lead to one another
        return False
