"""Download a file whose SHA-256 is known: whole, or not at all."""

from __future__ import annotations

import errno
import os
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pooch

from siamese_verify.errors import InputError

pooch.get_logger().setLevel("WARNING")  # a failure is one sentence, not a line for each try


def download(
    url: str | Sequence[str], path: Path, sha256: str, *, tries: int = 3, timeout: float = 30.0, otherwise: str = ""
) -> Path:
    """Download a file with a progress bar unless it is there: whole and with the right hash, or not at all.

    Args:
        url: http or https; of several, the first that answers with the file.
        path: of the file; its folder is made.
        sha256: of the file, 64 hexadecimal digits.
        tries: >= 1; one where there is no network or no server.
        timeout: seconds that the server may be silent.
        otherwise: how else to get the file, in words, for errors; by default it is to be put at `path`.

    Raises:
        InputError: `path` holds something else, no connection, the server refuses, the file has another hash or cannot
            be written; the message explains how to get the file by other means.
    """
    sha256 = sha256.lower()
    by_hand = otherwise or f"get it by other means and put it at {path} (SHA-256 {sha256})"
    try:
        if path.exists():
            if (found := pooch.file_hash(str(path))) != sha256:
                raise InputError(f"{path} has the SHA-256 {found}, not {sha256}: delete it to download it.")
            return path
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}): {by_hand}.") from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, "Permission denied")
    except OSError as error:
        raise InputError(
            f"The folder {path.parent} cannot be written ({error.strerror}): make it writable, or use another."
        ) from None
    reasons = []
    for address in [url] if isinstance(url, str) else url:
        source = pooch.create(
            path.parent,
            base_url="",
            registry={path.name: f"sha256:{sha256}"},
            urls={path.name: address},
            retry_if_failed=tries - 1,
        )
        whole = {"Accept-Encoding": "identity"}  # so that the server's bytes are the file's
        try:
            source.fetch(path.name, downloader=Downloader(progressbar=True, timeout=timeout, headers=whole))
        except (OSError, ValueError) as error:  # of the network and of the disk; of the hash or an invalid address
            reasons.append(f"{address} cannot be downloaded ({_reason(error)})")
        else:
            return path
    raise InputError(f"{', and '.join(reasons)}: {by_hand}.")


class Downloader(pooch.HTTPDownloader):  # type: ignore[misc]
    """Pooch's, which waits and tries again, but not where nobody could be asked."""

    def __call__(self, url: str, output_file: Any, pooch: Any, check_only: bool = False) -> Any:
        """Download a file, see `pooch.HTTPDownloader`."""
        from requests import RequestException
        from urllib3.exceptions import NewConnectionError

        try:
            return super().__call__(url, output_file, pooch, check_only)
        except RequestException as error:
            if isinstance(getattr(next(iter(error.args), None), "reason", None), NewConnectionError):
                raise ConnectionError(str(error)) from None  # of another class than what is tried again
            raise


def _reason(error: Exception) -> str:
    """Why a download failed: what urllib3 names as the cause, without its objects, else the message's beginning."""
    message = " ".join(str(error).split())
    if caused := re.search(r"Caused by \w+\(['\"]?(?:<[^>]*>: |\w+\(.*?\): )?(.*?)['\"]?\)\)$", message):
        message = caused[1]
    return textwrap.shorten(message, 300).rstrip(".")
