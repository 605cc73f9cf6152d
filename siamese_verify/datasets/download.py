"""A file from the network, wanted by its SHA-256: fetched whole, and continued where it stopped."""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from siamese_verify import __version__
from siamese_verify.atomic_write import without_links, write_whole
from siamese_verify.errors import InputError

CHUNK = 2**16
MOST_UNANNOUNCED = 2**30  # bytes taken from a server that does not say how many there are
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # answers that may be others the next time
HANDLERS = (  # urllib's own choice would follow a redirection to ftp
    urllib.request.ProxyHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPRedirectHandler,
    urllib.request.HTTPErrorProcessor,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.UnknownHandler,
)


def download(
    url: str,
    path: Path,
    sha256: str,
    title: str | None = None,
    *,
    tries: int = 3,
    pause: float = 2.0,
    timeout: float = 30.0,
) -> Path:
    """Fetch a file, unless it is there.

    What has come stays in `path` + ".part" (what it is the beginning of, in ".part.json") until the file is complete.
    So another try, or another run, continues there, unless the server cannot or has another file by now. One process
    at a time may fetch to a path.

    Args:
        url: http or https.
        path: of the file; its folder is made.
        sha256: of the whole file, 64 hexadecimal digits.
        title: what the progress bar says; by default the file's name.
        tries: >= 1, where connections fail or break off.
        pause: seconds before the second try; it doubles with each further one.
        timeout: seconds to wait for the server at each read.

    Returns:
        `path`.

    Raises:
        InputError: another kind of address; `path` holds something else; no connection, or it broke off `tries` times;
            the server refuses, or sends 1 GiB without having said how much it is; the file has another sum; it cannot
            be written. The message says how to do it by hand.
    """
    if not url.lower().startswith(("https://", "http://")):
        raise InputError(f"{url} is no address that starts with https:// or http://: give one that does.")
    by_hand = f"fetch it by other means and put it at {path} (SHA-256 {sha256})"
    part = _Part(path, url)
    try:
        if path.exists():
            if (found := _sum(path)) != sha256.lower():
                raise InputError(f"{path} has the SHA-256 {found}, not {sha256}: delete it to have it fetched.")
            part.forget()
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with _progress() as progress:
            bar = progress.add_task(escape(title or path.name), total=None)
            for attempt in range(1, tries + 1):
                try:
                    part.extend(timeout, lambda have, total: progress.update(bar, completed=have, total=total))
                    break
                except _FailedError as failed:
                    if attempt == tries or not failed.passing:
                        raise InputError(f"{url} cannot be had ({failed}): {by_hand}.") from None
                    time.sleep(pause * 2 ** (attempt - 1))
        found = _sum(part.path)
        if found != sha256.lower():
            part.forget()
            raise InputError(f"{url} gave a file with the SHA-256 {found}, not {sha256}: try again, or {by_hand}.")
        part.path.replace(path)
        part.forget()
        return path
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or error
        raise InputError(f"{path} cannot be written: {reason}.") from None


class _FailedError(Exception):
    """A transfer that ended early, and whether another try can help."""

    def __init__(self, reason: object, passing: bool = True) -> None:
        super().__init__(str(reason).rstrip("."))
        self.passing = passing


class _ChangedError(_FailedError):
    """What is there is no beginning of the server's file."""


class _Origin(NamedTuple):
    """What a part is the beginning of."""

    url: str
    length: int  # bytes of the whole
    tag: str  # by which the server tells versions of the file apart; empty if it does not


class _Part:
    """The beginning of a file, and a note of its origin."""

    def __init__(self, path: Path, url: str) -> None:
        self.path = path.with_name(f"{path.name}.part")
        self._note = path.with_name(f"{path.name}.part.json")
        self._url = url

    def forget(self) -> None:
        """Remove both files."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def extend(self, timeout: float, show: Callable[[int, int | None], None]) -> None:
        """Fetch what is missing.

        Args:
            timeout: seconds at each read.
            show: is called with the bytes that are there and the bytes of the whole, None if that is not known.

        Raises:
            _FailedError: less than the whole is there.
            OSError: it cannot be written.
        """
        origin = self._origin()
        have = self.path.stat().st_size if origin else 0
        if origin and have == origin.length:
            return  # the run before was killed just before the end
        headers = {"User-Agent": f"siamese-verify/{__version__}"}
        if have:
            headers["Range"] = f"bytes={have}-"
        if have and origin and origin.tag:
            headers["If-Range"] = origin.tag  # the server sends all of it if it has another file by now
        try:
            with _ask(self._url, headers, timeout) as answer:
                if answer.status == 200:
                    self._begin(answer)
                    self._take(answer, 0, answer.length, show)
                elif origin and _range(answer) == (have, origin.length):
                    self._take(answer, have, origin.length, show)
                else:
                    raise _ChangedError("the file there is another by now")
        except _ChangedError:
            self.forget()
            raise

    def _begin(self, answer: http.client.HTTPResponse) -> None:
        self.forget()
        if answer.length is not None:  # else nobody could tell how much is missing
            tag = answer.headers.get("ETag", "")
            strong = tag if tag.startswith('"') else ""  # a weak one, W/"...", does not promise the same bytes
            write_whole(self._note, json.dumps(_Origin(self._url, answer.length, strong)).encode())

    def _take(
        self,
        answer: http.client.HTTPResponse,
        have: int,
        length: int | None,
        show: Callable[[int, int | None], None],
    ) -> None:
        most = MOST_UNANNOUNCED if length is None else length
        show(have, length)
        with open(self.path, "ab", opener=without_links) as file:
            for chunk in _chunks(answer, most - have):
                file.write(chunk)
                have += len(chunk)
                show(have, length)
        if length is None and have == most:
            self.forget()
            raise _FailedError(f"it sends {most:,} bytes or more without having said how many", passing=False)
        if length is not None and have < length:
            raise _FailedError(f"it broke off after {have:,} of {length:,} bytes")

    def _origin(self) -> _Origin | None:
        """The note's, if the part can be continued from this address."""
        try:
            origin = _Origin(*json.loads(self._note.read_bytes()))
            fits = origin.url == self._url and self.path.stat().st_size <= origin.length
        except (OSError, ValueError, TypeError):
            return None
        return origin if fits else None


def _ask(url: str, headers: dict[str, str], timeout: float) -> http.client.HTTPResponse:
    opener = urllib.request.OpenerDirector()
    for handler in HANDLERS:
        opener.add_handler(handler())
    try:
        answer: http.client.HTTPResponse = opener.open(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            raise _ChangedError("the file there is shorter by now") from None
        raise _FailedError(f"the server answers {error.code} {error.reason}", error.code in PASSING) from None
    except urllib.error.URLError as error:
        raise _FailedError(error.reason) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _FailedError(error, not isinstance(error, ValueError | http.client.InvalidURL)) from None
    if answer.status not in (200, 206):
        answer.close()
        raise _FailedError(f"the server answers {answer.status} {answer.reason}", passing=False)
    return answer


def _chunks(answer: http.client.HTTPResponse, most: int) -> Iterator[bytes]:
    while most > 0:
        try:
            chunk = answer.read1(min(CHUNK, most))  # what is there, so that nothing is lost when the rest never comes
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _FailedError(error) from None
        if not chunk:
            return
        most -= len(chunk)
        yield chunk


def _range(answer: http.client.HTTPResponse) -> tuple[int, int] | None:
    """First byte of a partial answer, and bytes of the whole file."""
    found = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})", answer.headers.get("Content-Range", ""))
    return (int(found[1]), int(found[2])) if found else None


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _progress() -> Progress:
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), *columns)
