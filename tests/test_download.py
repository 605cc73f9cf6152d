"""Downloads from a server on this machine that can be told to fail."""

from __future__ import annotations

import hashlib
import io
import random
import re
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import pytest

from siamese_verify.datasets import lfw as lfw_module
from siamese_verify.datasets.lfw import LFW_FILES, RemoteFile, fetch_lfw
from siamese_verify.download import download
from siamese_verify.errors import InputError

CONTENT = random.Random(1).randbytes(300_000)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `files`; each answer takes the next of `failures` first."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.failures: list[Callable[[Handler, bytes], None]] = []
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path[1:])
        content = self.server.files.get(self.path[1:])
        if self.server.failures:
            self.server.failures.pop(0)(self, content or b"")
        elif content is None:
            self.send_error(404)
        else:
            self.answer(content)

    def answer(self, content: bytes, status: int = 200, length: int | None = None, location: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Silent."""


def breaks_off(self: Handler, content: bytes) -> None:
    self.answer(content[:1000], length=len(content))


def hangs_up(self: Handler, _: bytes) -> None:
    self.connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("time.sleep", lambda _: None)  # between tries
    server = Server()
    server.files["photos.tgz"] = CONTENT
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def refusal(url: str, path: Path, content: bytes = CONTENT, **options: Any) -> str:
    """Message about a failed download, which leaves nothing; it says how to get the file by hand."""
    with pytest.raises(InputError) as raised:
        download(url, path, sha256(content), **options)
    message = str(raised.value)
    assert message.endswith(".") and "\n" not in message
    assert f"put it at {path} (SHA-256 {sha256(content)})" in message
    assert list(path.parent.iterdir()) == []
    return message


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_is_downloaded_once(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "new/deep/photos.tgz"
    for digest in (sha256(CONTENT), sha256(CONTENT).upper()):
        assert download(server.url + "photos.tgz", path, digest) == path
        assert path.read_bytes() == CONTENT
        assert names(path.parent) == {"photos.tgz"}
    assert server.requests == ["photos.tgz"]


def test_of_several_addresses_the_first_that_has_the_file_is_taken(server: Server, tmp_path: Path) -> None:
    server.files["other.tgz"] = b"another file"
    addresses = [server.url + name for name in ("missing.tgz", "other.tgz", "photos.tgz", "never.tgz")]
    assert download(addresses, tmp_path / "photos.tgz", sha256(CONTENT), tries=1).read_bytes() == CONTENT
    assert server.requests == ["missing.tgz", "other.tgz", "photos.tgz"]
    assert names(tmp_path) == {"photos.tgz"}


def test_an_existing_file_with_another_hash_is_kept(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"precious")
    with pytest.raises(InputError, match=f"has the SHA-256 {sha256(b'precious')}, not {sha256(CONTENT)}: delete it"):
        download(server.url + "photos.tgz", tmp_path / "a", sha256(CONTENT))
    assert (tmp_path / "a").read_bytes() == b"precious"
    assert not server.requests


@pytest.mark.parametrize("failure", [breaks_off, hangs_up, lambda self, _: self.answer(b"<html>", 503)])
def test_failures_are_retried(server: Server, tmp_path: Path, failure: Callable[[Handler, bytes], None]) -> None:
    server.failures = [failure, failure]
    download(server.url + "photos.tgz", tmp_path / "done/a", sha256(CONTENT))
    assert len(server.requests) == 3
    server.failures = [failure]
    (tmp_path / "failed").mkdir()
    assert "cannot be downloaded" in refusal(server.url + "photos.tgz", tmp_path / "failed/a", tries=1)


def test_wrong_content_is_deleted(server: Server, tmp_path: Path) -> None:
    assert sha256(CONTENT) in refusal(server.url + "photos.tgz", tmp_path / "a", b"something else")


def test_redirections_lead_to_the_web_only(server: Server, tmp_path: Path) -> None:
    server.failures = [lambda self, _: self.answer(b"", 302, location=server.url + "elsewhere")]
    server.files["elsewhere"] = CONTENT
    download(server.url + "photos.tgz", tmp_path / "photos", sha256(CONTENT))
    (tmp_path / "empty").mkdir()
    for url in ((tmp_path / "photos").as_uri(), "ftp://127.0.0.1:1/a"):
        server.failures = [lambda self, _, url=url: self.answer(b"", 302, location=url)]  # type: ignore[misc]
        refusal(server.url + "photos.tgz", tmp_path / "empty/b", tries=1)


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://127.0.0.1/a", "data:,a", "/etc/passwd", "", "http://[", "http://127.0.0.1:port/"],
)
def test_other_addresses_are_refused(tmp_path: Path, url: str) -> None:
    assert refusal(url, tmp_path / "a", tries=1).startswith(f"{url} cannot be downloaded")


def test_a_missing_file_and_a_silent_server_are_reported(server: Server, tmp_path: Path) -> None:
    assert "404" in refusal(server.url + "nothing", tmp_path / "a", tries=1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/photos.tgz"
        assert "timed out" in refusal(url, tmp_path / "a", tries=1, timeout=0.1)


def test_a_folder_in_the_way_is_reported(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Is a directory"):
        download(server.url + "photos.tgz", tmp_path, sha256(CONTENT))


def test_a_folder_that_cannot_be_written_is_no_failed_download(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"The folder .*file/cache cannot be written \(Not a directory\): make it"):
        download(server.url + "photos.tgz", tmp_path / "file/cache/a", sha256(CONTENT))
    assert not server.requests


def test_without_a_network_the_reason_is_short_and_the_way_out_that_of_the_caller(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it was tried again"))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/a"
    with pytest.raises(InputError) as raised:
        download(url, tmp_path / "a", sha256(CONTENT), otherwise="ask the librarian")
    assert re.fullmatch(
        rf"{url} cannot be downloaded \(.{{0,90}}Connection refused\): ask the librarian\.", str(raised.value)
    )
    assert capfd.readouterr().err == ""


# LFW

PEOPLE = {"people.txt", "peopleDevTrain.txt", "peopleDevTest.txt"}
PAIRS = {"pairs.txt", "pairsDevTrain.txt", "pairsDevTest.txt"}


@pytest.fixture
def lfw(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server with an LFW of five photos."""
    for file in LFW_FILES:
        server.files[file.name] = file.name.encode()
        if file.unpacks_to:
            archive = io.BytesIO()
            with tarfile.open(fileobj=archive, mode="w:gz") as tar:
                for number in range(5):
                    entry = tarfile.TarInfo(f"{file.unpacks_to}/Ann/Ann_{number:04d}.jpg")
                    entry.size = 1000
                    tar.addfile(entry, io.BytesIO(random.Random(number).randbytes(1000)))
            server.files[file.name] = archive.getvalue()
    files = [file._replace(url=server.url + file.name, sha256=sha256(server.files[file.name])) for file in LFW_FILES]
    monkeypatch.setattr(lfw_module, "LFW_FILES", files)
    return server


@pytest.mark.parametrize(("images", "folder"), [("funneled", "lfw_funneled"), ("original", "lfw")])
def test_lfw_is_downloaded_once(
    lfw: Server, tmp_path: Path, images: Literal["funneled", "original"], folder: str
) -> None:
    for _ in range(2):
        assert fetch_lfw(tmp_path / "data/lfw", images) == []
        assert names(tmp_path / "data/lfw") == {folder} | PEOPLE | PAIRS
        assert len(list((tmp_path / "data/lfw" / folder).rglob("*.jpg"))) == 5
    assert len(lfw.requests) == 7


def test_lfw_without_its_authors_server_names_the_missing_files(lfw: Server, tmp_path: Path) -> None:
    del lfw.files["peopleDevTrain.txt"], lfw.files["people.txt"]
    assert fetch_lfw(tmp_path) == ["peopleDevTrain.txt", "people.txt"]
    assert names(tmp_path) == {"lfw_funneled", "peopleDevTest.txt"} | PAIRS
    (tmp_path / "people.txt").write_bytes(b"people.txt")
    assert fetch_lfw(tmp_path) == ["peopleDevTrain.txt"]
    (tmp_path / "people.txt").write_bytes(b"with other line ends")
    with pytest.raises(InputError, match=r"people\.txt has the SHA-256"):
        fetch_lfw(tmp_path)


def test_lfw_continues_with_the_missing_files_and_takes_an_archive_brought_by_hand(lfw: Server, tmp_path: Path) -> None:
    pairs, archive = lfw.files.pop("pairs.txt"), lfw.files.pop("lfw-funneled.tgz")
    with pytest.raises(InputError, match=r"pairs\.txt cannot be downloaded"):
        fetch_lfw(tmp_path)
    lfw.files["pairs.txt"] = pairs
    (tmp_path / "lfw-funneled.tgz").write_bytes(archive)
    lfw.requests.clear()
    fetch_lfw(tmp_path)
    assert names(tmp_path) == {"lfw_funneled"} | PEOPLE | PAIRS
    assert "pairsDevTrain.txt" not in lfw.requests


def test_other_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="images must be one of funneled, original, got 'deepfunneled'"):
        fetch_lfw(tmp_path, "deepfunneled")  # type: ignore[arg-type]


def test_addresses_and_hashes_are_those_of_scikit_learn() -> None:
    theirs = pytest.importorskip("sklearn.datasets._lfw")
    files = [theirs.ARCHIVE, theirs.FUNNELED_ARCHIVE, *theirs.TARGETS]
    ours = {(file.name, file.url, file.sha256) for file in LFW_FILES if not file.optional}
    assert ours == {(file.filename, file.url, file.checksum) for file in files}
    assert {file.name for file in LFW_FILES if file.optional} == PEOPLE
    assert all(isinstance(file, RemoteFile) and len(bytes.fromhex(file.sha256)) == 32 for file in LFW_FILES)
