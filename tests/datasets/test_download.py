"""Fetching from a server on this machine that can be told to misbehave."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import random
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import pytest

from siamese_verify.datasets import download as module
from siamese_verify.datasets import lfw as lfw_files
from siamese_verify.datasets.download import download
from siamese_verify.datasets.lfw import LFW_FILES, RemoteFile, fetch_lfw
from siamese_verify.errors import InputError

CONTENT = random.Random(1).randbytes(300_000)
OTHER = random.Random(2).randbytes(300_000)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `files`. Each answer takes the next of `misbehaviour`, and behaves when there are none left."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.misbehaviour: list[Callable[[Handler, bytes], None]] = []
        self.asked: list[tuple[str, str | None, str | None]] = []  # path, Range, If-Range
        self.tags = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.server.asked.append((self.path, wanted, self.headers["If-Range"]))
        content = self.server.files.get(self.path[1:])
        if self.server.misbehaviour:
            self.server.misbehaviour.pop(0)(self, content or b"")
        elif content is None:
            self.send_error(404)
        elif wanted and self.headers["If-Range"] in (None, self.tag(content)):
            first = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if first >= len(content):
                self.send_error(416)
            else:
                self.answer(content[first:], 206, Content_Range=f"bytes {first}-{len(content) - 1}/{len(content)}")
        else:
            self.answer(content, 200, ETag=self.tag(content))

    def tag(self, content: bytes) -> str | None:
        return f'"{sha256(content)[:8]}"' if self.server.tags else None

    def answer(self, content: bytes, status: int, length: int | None = None, **fields: str | None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        for name, value in fields.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


def drops(after: int) -> Callable[[Handler, bytes], None]:
    """Announce everything, and close the connection early."""
    return lambda self, content: self.answer(content[:after], 200, len(content), ETag=self.tag(content))


def ignores_range(self: Handler, content: bytes) -> None:
    self.answer(content, 200, ETag=self.tag(content))


def hangs_up(self: Handler, _: bytes) -> None:
    self.connection.shutdown(socket.SHUT_RDWR)


def says(status: int) -> Callable[[Handler, bytes], None]:
    return lambda self, _: self.answer(b"<html>", status)


def redirects(url: str) -> Callable[[Handler, bytes], None]:
    return lambda self, _: self.answer(b"", 302, Location=url)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    server.files["photos.tgz"] = CONTENT
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(server: Server, path: Path, content: bytes = CONTENT, **options: Any) -> Path:
    return download(server.url + "photos.tgz", path, sha256(content), pause=0, timeout=10, **options)


def complaint(server: Server, path: Path, content: bytes = CONTENT, **options: Any) -> str:
    with pytest.raises(InputError) as raised:
        fetch(server, path, content, **options)
    message = str(raised.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert str(path) in message
    assert sha256(content) in message
    return message


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def ranges(server: Server) -> list[str | None]:
    return [wanted for _, wanted, _ in server.asked]


def test_a_file_is_fetched_once(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "new/deep/photos.tgz"
    for _ in range(2):
        assert fetch(server, path) == path
        assert path.read_bytes() == CONTENT
        assert names(path.parent) == {"photos.tgz"}
    assert ranges(server) == [None]


def test_the_sum_may_be_in_capitals(server: Server, tmp_path: Path) -> None:
    for _ in range(2):
        download(server.url + "photos.tgz", tmp_path / "a", sha256(CONTENT).upper())
    assert len(server.asked) == 1


def test_a_file_with_another_sum_is_not_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"precious")
    said = complaint(server, tmp_path / "a")
    assert f"has the SHA-256 {sha256(b'precious')}, not" in said
    assert "delete it" in said
    assert (tmp_path / "a").read_bytes() == b"precious"
    assert not server.asked


@pytest.mark.parametrize("tags", [True, False])
def test_a_dropped_connection_is_continued(server: Server, tmp_path: Path, tags: bool) -> None:
    server.tags = tags
    server.misbehaviour = [drops(100_000)]
    fetch(server, tmp_path / "a")
    tag = f'"{sha256(CONTENT)[:8]}"' if tags else None
    assert server.asked == [("/photos.tgz", None, None), ("/photos.tgz", "bytes=100000-", tag)]
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert names(tmp_path) == {"a"}


def test_another_run_continues(server: Server, tmp_path: Path) -> None:
    server.misbehaviour = [drops(100_000)]
    assert "it broke off after 100,000 of 300,000 bytes" in complaint(server, tmp_path / "a", tries=1)
    assert names(tmp_path) == {"a.part", "a.part.json"}
    fetch(server, tmp_path / "a")
    assert ranges(server) == [None, "bytes=100000-"]
    assert names(tmp_path) == {"a"}


def test_a_run_that_was_killed_before_the_last_step_asks_for_nothing(server: Server, tmp_path: Path) -> None:
    server.misbehaviour = [drops(100_000)]
    complaint(server, tmp_path / "a", tries=1)
    (tmp_path / "a.part").write_bytes(CONTENT)
    fetch(server, tmp_path / "a")
    assert ranges(server) == [None]
    assert names(tmp_path) == {"a"}


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'["a", 1]', b'{"a": 1}', b'[1, "2", 3]', b"\xff"])
def test_a_part_of_unknown_origin_is_not_continued(server: Server, tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "a.part").write_bytes(OTHER[:1000])
    (tmp_path / "a.part.json").write_bytes(damage)
    fetch(server, tmp_path / "a")
    assert ranges(server) == [None]


def test_a_part_of_another_address_or_longer_than_the_whole_is_not_continued(server: Server, tmp_path: Path) -> None:
    url = server.url + "photos.tgz"
    for origin, size in (((server.url + "other", 300_000, ""), 1000), ((url, 300_000, ""), 300_001)):
        (tmp_path / "a.part").write_bytes(bytes(size))
        (tmp_path / "a.part.json").write_text(json.dumps(origin))
        fetch(server, tmp_path / "a")
        (tmp_path / "a").unlink()
    assert ranges(server) == [None, None]


def test_a_server_that_ignores_ranges_sends_all_of_it_again(server: Server, tmp_path: Path) -> None:
    server.misbehaviour = [drops(100_000), ignores_range]
    fetch(server, tmp_path / "a")
    assert ranges(server) == [None, "bytes=100000-"]
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_file_that_changed_on_the_server_is_begun_anew(server: Server, tmp_path: Path) -> None:
    server.misbehaviour = [drops(100_000)]
    complaint(server, tmp_path / "a", tries=1)
    server.files["photos.tgz"] = OTHER
    fetch(server, tmp_path / "a", OTHER)
    assert len(server.asked) == 2  # the tag told
    assert (tmp_path / "a").read_bytes() == OTHER


@pytest.mark.parametrize("size", [250_000, 100_000, 50_000, 301_000])
def test_a_file_of_another_length_is_begun_anew_without_tags(server: Server, tmp_path: Path, size: int) -> None:
    server.tags = False
    server.misbehaviour = [drops(100_000)]
    complaint(server, tmp_path / "a", tries=1)
    server.files["photos.tgz"] = other = (OTHER + OTHER)[:size]
    fetch(server, tmp_path / "a", other)
    assert ranges(server) == [None, "bytes=100000-", None]
    assert (tmp_path / "a").read_bytes() == other


@pytest.mark.parametrize("answered", ["bytes 0-299999/300000", "bytes 100000-299999/*", "nonsense", None])
def test_an_answer_with_another_range_is_not_added(server: Server, tmp_path: Path, answered: str | None) -> None:
    server.misbehaviour = [
        drops(100_000),
        lambda self, content: self.answer(content, 206, Content_Range=answered),
    ]
    fetch(server, tmp_path / "a")
    assert ranges(server) == [None, "bytes=100000-", None]
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_weak_tag_is_not_relied_on(server: Server, tmp_path: Path) -> None:
    server.tags = False
    server.misbehaviour = [lambda self, content: self.answer(content[:1000], 200, 300_000, ETag='W/"1"')]
    fetch(server, tmp_path / "a")
    assert server.asked[1] == ("/photos.tgz", "bytes=1000-", None)


def test_three_tries_are_made(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    server.misbehaviour = [hangs_up, says(503)]
    download(server.url + "photos.tgz", tmp_path / "a", sha256(CONTENT), pause=5)
    assert pauses == [5, 10]
    (tmp_path / "a").unlink()
    server.misbehaviour = [hangs_up] * 3
    complaint(server, tmp_path / "a")
    assert len(server.asked) == 6
    assert names(tmp_path) == set()


def test_a_silent_server_is_given_up(server: Server, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/photos.tgz"
        with pytest.raises(InputError, match="timed out"):
            download(url, tmp_path / "a", sha256(CONTENT), tries=1, timeout=0.1)


@pytest.mark.parametrize("status", [404, 403, 202, 204])
def test_a_refusal_is_not_asked_again(server: Server, tmp_path: Path, status: int) -> None:
    server.misbehaviour = [says(status)]
    said = complaint(server, tmp_path / "a")
    assert f"{server.url}photos.tgz cannot be had (the server answers {status} " in said
    assert f"put it at {tmp_path / 'a'} (SHA-256 {sha256(CONTENT)})" in said
    assert len(server.asked) == 1
    assert names(tmp_path) == set()


def test_no_network_is_one_sentence_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(*_: Any, **__: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", without)
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(InputError) as raised:
        download("https://nowhere.invalid/a.tgz", tmp_path / "a.tgz", "ab" * 32, pause=0)
    assert str(raised.value) == (
        "https://nowhere.invalid/a.tgz cannot be had ([Errno -2] Name or service not known): fetch it by other means "
        f"and put it at {tmp_path / 'a.tgz'} (SHA-256 {'ab' * 32})."
    )


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/a", "data:,a", "/etc/passwd", "", "HTTPX://a"])
def test_other_addresses_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError, match="is no address that starts with https:// or http://"):
        download(url, tmp_path / "a", sha256(CONTENT))
    assert names(tmp_path) == set()


@pytest.mark.parametrize("url", ["http://127.0.0.1:port/", "http://127.0.0.1/a b", "http://[", "http://127.0.0.1/ü"])
def test_broken_addresses_are_said(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    with pytest.raises(InputError, match="cannot be had"):
        download(url, tmp_path / "a", sha256(CONTENT))
    assert not pauses  # another try would not mend them
    assert names(tmp_path) == set()


def test_redirections_are_followed_to_the_web_only(server: Server, tmp_path: Path) -> None:
    (tmp_path / "local").write_bytes(CONTENT)
    server.misbehaviour = [redirects(server.url + "elsewhere")]
    server.files["elsewhere"] = CONTENT
    fetch(server, tmp_path / "a")
    for url in ((tmp_path / "local").as_uri(), "ftp://127.0.0.1:1/a"):
        server.misbehaviour = [redirects(url)]
        complaint(server, tmp_path / "b", tries=1)
    assert names(tmp_path) == {"local", "a"}


def test_wrong_bytes_are_deleted_and_both_sums_given(server: Server, tmp_path: Path) -> None:
    said = complaint(server, tmp_path / "a", OTHER)
    assert f"SHA-256 {sha256(CONTENT)}, not {sha256(OTHER)}" in said
    assert names(tmp_path) == set()


def test_no_more_is_taken_than_announced(server: Server, tmp_path: Path) -> None:
    server.misbehaviour = [lambda self, content: self.answer(content, 200, 1000)]
    assert sha256(CONTENT[:1000]) in complaint(server, tmp_path / "a")
    server.misbehaviour = [
        drops(100_000),
        lambda self, content: self.answer(content, 206, Content_Range="bytes 100000-299999/300000"),
    ]
    assert sha256(CONTENT[:100_000] + CONTENT[:200_000]) in complaint(server, tmp_path / "a")


def test_a_server_that_does_not_say_how_much_is_limited(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unannounced(self: Handler, content: bytes) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(content)

    server.misbehaviour = [unannounced]
    fetch(server, tmp_path / "a")
    monkeypatch.setattr(module, "MOST_UNANNOUNCED", 200_000)
    server.misbehaviour = [unannounced]
    assert "it sends 200,000 bytes or more without having said how many" in complaint(server, tmp_path / "b")
    assert names(tmp_path) == {"a"}


def test_a_full_disk_or_a_folder_in_the_way_is_said(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="folder cannot be written: Is a directory"):
        fetch(server, tmp_path / "folder")

    def full(path: str, flags: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("siamese_verify.datasets.download.without_links", full)
    with pytest.raises(InputError, match="a cannot be written: the disk is full"):
        fetch(server, tmp_path / "a")


PEOPLE = {"peopleDevTrain.txt", "peopleDevTest.txt", "people.txt"}
PAIRS = {"pairs.txt", "pairsDevTrain.txt", "pairsDevTest.txt"}


def archive_of(folder: str, photos: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for number in range(photos):
            entry = tarfile.TarInfo(f"{folder}/Ann/Ann_{number:04d}.jpg")
            entry.size = len(CONTENT[:100])
            archive.addfile(entry, io.BytesIO(CONTENT[:100]))
        archive.addfile(tarfile.TarInfo(f"{folder}/pairs_01.txt"))
    return file.getvalue()


@pytest.fixture
def lfw(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """LFW's files on this machine, with five photos."""
    files = []
    for file in LFW_FILES:
        content = archive_of(file.unpacks_to, 5) if file.unpacks_to else file.name.encode()
        server.files[file.name] = content
        files.append(file._replace(url=server.url + file.name, sha256=sha256(content)))
    monkeypatch.setattr(lfw_files, "LFW_FILES", tuple(files))
    monkeypatch.setattr(lfw_files, "PHOTOS", 5)
    monkeypatch.setattr("time.sleep", lambda _: None)
    return server


@pytest.mark.parametrize(("images", "folder"), [("funneled", "lfw_funneled"), ("original", "lfw")])
def test_lfw_is_fetched_once(lfw: Server, tmp_path: Path, images: Literal["funneled", "original"], folder: str) -> None:
    root = tmp_path / "data/lfw"
    for _ in range(2):
        assert fetch_lfw(root, images) == []
        assert names(root) == {folder} | PEOPLE | PAIRS
        assert len(list((root / folder).rglob("*.jpg"))) == 5
    assert len(lfw.asked) == 7
    assert names(root.parent) == {"lfw"}


def test_lfw_without_its_authors_is_fetched_and_what_is_missing_named(lfw: Server, tmp_path: Path) -> None:
    del lfw.files["peopleDevTrain.txt"], lfw.files["people.txt"]
    assert fetch_lfw(tmp_path) == ["peopleDevTrain.txt", "people.txt"]
    assert names(tmp_path) == {"lfw_funneled", "peopleDevTest.txt"} | PAIRS
    (tmp_path / "people.txt").write_bytes(b"people.txt")
    assert fetch_lfw(tmp_path) == ["peopleDevTrain.txt"]


def test_lfw_is_continued_wherever_it_stopped(lfw: Server, tmp_path: Path) -> None:
    size = len(lfw.files["lfw-funneled.tgz"])
    del lfw.files["pairs.txt"]
    with pytest.raises(InputError, match=r"pairs\.txt cannot be had"):
        fetch_lfw(tmp_path)
    lfw.files["pairs.txt"] = b"pairs.txt"
    lfw.misbehaviour = [ignores_range, *[drops(size // 2)] * 3]
    with pytest.raises(InputError, match="it broke off after"):
        fetch_lfw(tmp_path)
    assert (tmp_path / "lfw-funneled.tgz.part").stat().st_size == size // 2
    lfw.asked.clear()
    assert fetch_lfw(tmp_path) == []
    assert lfw.asked[0][:2] == ("/lfw-funneled.tgz", f"bytes={size // 2}-")
    assert names(tmp_path) == {"lfw_funneled"} | PEOPLE | PAIRS


def test_an_archive_brought_by_hand_is_unpacked(lfw: Server, tmp_path: Path) -> None:
    (tmp_path / "lfw-funneled.tgz").write_bytes(lfw.files.pop("lfw-funneled.tgz"))
    fetch_lfw(tmp_path)
    assert names(tmp_path) == {"lfw_funneled"} | PEOPLE | PAIRS


def test_photos_that_are_not_whole_are_said(lfw: Server, tmp_path: Path) -> None:
    (tmp_path / "lfw_funneled/Ann").mkdir(parents=True)
    (tmp_path / "lfw_funneled/Ann/Ann_0001.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="lfw_funneled holds 1 of LFW's 5 photos: move it away"):
        fetch_lfw(tmp_path)
    assert not any("tgz" in path for path, _, _ in lfw.asked)


def test_an_optional_file_with_other_content_is_said(lfw: Server, tmp_path: Path) -> None:
    (tmp_path / "people.txt").write_bytes(b"with other line ends")
    with pytest.raises(InputError, match=r"people\.txt has the SHA-256"):
        fetch_lfw(tmp_path)


def test_other_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="images is 'deepfunneled', but LFW can be fetched as one of"):
        fetch_lfw(tmp_path, "deepfunneled")  # type: ignore[arg-type]
    assert names(tmp_path) == set()


def test_the_addresses_and_sums_are_scikit_learns() -> None:
    theirs = pytest.importorskip("sklearn.datasets._lfw")
    files = [theirs.ARCHIVE, theirs.FUNNELED_ARCHIVE, *theirs.TARGETS]
    ours = {(file.name, file.url, file.sha256) for file in LFW_FILES if not file.optional}
    assert ours == {(file.filename, file.url, file.checksum) for file in files}
    assert {file.name for file in LFW_FILES if file.optional} == PEOPLE
    assert all(isinstance(file, RemoteFile) and len(bytes.fromhex(file.sha256)) == 32 for file in LFW_FILES)
