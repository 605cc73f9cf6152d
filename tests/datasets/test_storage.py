from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from fsspec.registry import known_implementations

from siamese_verify.datasets.storage import KEPT_OPEN, Storage
from siamese_verify.errors import InputError

CONTENT = bytes(range(256)) * 3
NAMES = [
    "Anna Müller/фото 1.jpg",
    "a%20b/#1?.png",
    "a-b.jpg",
    "a/b.jpg",
    "a/c/d.jpg",
    "ab/x.jpg",
    "村上/🙂.png",
]


@pytest.fixture(params=["path", "str", "file://", "memory://"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str | Path]:
    """A folder with NAMES and hidden files, of each kind."""
    if request.param == "memory://":
        folder: Any = f"memory://{uuid4()} %/# ü"
    else:
        folder = {"path": tmp_path, "str": str(tmp_path), "file://": f"file://{tmp_path}"}[request.param]
    files = fsspec.filesystem("memory")
    for name in [*reversed(NAMES), ".hidden.jpg", ".git/x.jpg", "a/.c/x.jpg", "a/.x"]:
        if request.param == "memory://":
            files.pipe_file(f"{folder}/{name}", CONTENT)
        else:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(CONTENT)
    yield folder
    if request.param == "memory://":
        files.rm(folder, recursive=True)


def test_files_are_read_whole_and_in_parts(root: str | Path) -> None:
    storage = Storage(root)
    for name in NAMES:
        assert storage.read(name) == CONTENT
        assert storage.size(name) == len(CONTENT)
        assert storage.exists(name)
    for start, end in [
        (0, 5),
        (250, 260),
        (700, None),
        (0, None),
        (700, 9999),
        (5, 5),
        (9, 3),
        (768, None),
        (800, 900),
    ]:
        assert storage.read("a/b.jpg", start, end) == CONTENT[start:end]
    assert storage.read_many("a/b.jpg", [300, 0, 766], 4) == [CONTENT[300:304], CONTENT[:4], CONTENT[766:]]
    assert storage.place("a/b.jpg") == f"{root}/a/b.jpg"


def test_names_are_sorted_by_code_points_without_what_is_hidden(root: str | Path) -> None:
    assert list(Storage(root).names()) == NAMES == sorted(NAMES)


def test_a_file_or_folder_that_is_not_there_is_said(root: str | Path) -> None:
    storage = Storage(root)
    assert storage.is_folder()
    assert not storage.exists("a/nothing.jpg")
    assert not storage.exists("a")
    for ask in (
        storage.read,
        storage.size,
        lambda name: storage.read(name, 1, 2),
        lambda name: storage.read_many(name, [0], 1),
    ):
        with pytest.raises(InputError, match=r"There is no file .*a/nothing\.jpg\."):
            ask("a/nothing.jpg")
    for place in (f"{root}/nowhere", f"{root}/a-b.jpg"):
        assert not Storage(place).is_folder()
        with pytest.raises(InputError, match="There is no folder"):
            list(Storage(place).names())


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "..", "/etc/passwd", "C:\\x", "c:x", "\\x", "a\\..\\..\\x", "", "a\0b"]
)
def test_a_name_that_leads_out_is_refused(root: str | Path, name: str) -> None:
    storage = Storage(root)
    for ask in (storage.read, storage.size, storage.exists):
        with pytest.raises(InputError, match=r"leads out of|is no name of a file in"):
            ask(name)


def test_dots_within_a_name_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "a..b.jpg").write_bytes(b"x")
    assert Storage(tmp_path).read("a..b.jpg") == b"x"


def test_a_folder_is_no_file(root: str | Path) -> None:
    storage = Storage(root)
    for ask in (storage.size, storage.read, lambda name: storage.read(name, 1, 2)):
        with pytest.raises(InputError, match=r"is a folder, not a file|There is no file"):
            ask("a")


def test_linked_folders_are_listed_but_not_in_circles(tmp_path: Path) -> None:
    for name in ("elsewhere/anna", "elsewhere/berta/2020", "here"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "elsewhere/anna/1.jpg").write_bytes(b"1")
    (tmp_path / "elsewhere/berta/2020/2.jpg").write_bytes(b"2")
    here = tmp_path / "here"
    (here / "anna").symlink_to(tmp_path / "elsewhere" / "anna")
    (here / "berta").symlink_to(tmp_path / "elsewhere" / "berta")
    assert list(Storage(here).names()) == ["anna/1.jpg", "berta/2020/2.jpg"]
    linked = tmp_path / "linked"
    linked.symlink_to(here)
    assert list(Storage(linked).names()) == ["anna/1.jpg", "berta/2020/2.jpg"]
    # Folders that all link to one another: without limits as many paths as there are orders of them.
    (tmp_path / "elsewhere/anna/sister").symlink_to(tmp_path / "elsewhere" / "berta")
    (tmp_path / "elsewhere/berta/sister").symlink_to(tmp_path / "elsewhere" / "anna")
    assert list(Storage(here).names()) == [
        "anna/1.jpg",
        "anna/sister/2020/2.jpg",
        "berta/2020/2.jpg",
        "berta/sister/1.jpg",
    ]


def test_links_that_lead_back_or_nowhere_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jpg").write_bytes(b"x")
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "b.jpg").symlink_to(tmp_path / "a" / "x.jpg")
    (tmp_path / "dead.jpg").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert list(Storage(tmp_path).names()) == ["a/x.jpg", "b.jpg"]


def test_more_files_are_read_in_parts_than_are_kept_open(tmp_path: Path) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("this system does not list descriptors")
    storage = Storage(tmp_path)
    count = 3 * KEPT_OPEN
    for number in range(count):
        (tmp_path / f"{number}").write_bytes(bytes([number]) * 10)
    before = len(list(descriptors.iterdir()))
    for _ in range(2):
        assert [storage.read(f"{number}", 1, 3) for number in range(count)] == [bytes([n]) * 2 for n in range(count)]
    assert len(list(descriptors.iterdir())) == before + KEPT_OPEN
    del storage
    assert len(list(descriptors.iterdir())) == before


def test_whole_files_are_not_kept_open(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    storage = Storage(tmp_path)
    assert storage.read("x") == b"old"
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "new").replace(tmp_path / "x")
    assert storage.read("x") == b"new"


def test_a_system_without_reads_at_a_place_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(CONTENT)
    monkeypatch.delattr(os, "pread")
    storage = Storage(tmp_path)
    assert storage.read("x", 250, 260) == CONTENT[250:260]
    assert storage.read("x", 250) == CONTENT[250:]
    assert storage.read_many("x", [300, 766], 4) == [CONTENT[300:304], CONTENT[766:]]


def test_it_is_sent_to_another_process_without_what_is_open(root: str | Path) -> None:
    storage = Storage(root)
    before = pickle.dumps(storage)
    assert storage.read("a/b.jpg", 2, 4) == CONTENT[2:4]
    assert pickle.dumps(storage) == before
    assert pickle.loads(before).read("a/b.jpg", 2, 4) == CONTENT[2:4]


def test_a_connection_is_made_anew_after_a_fork(root: str | Path) -> None:
    storage = Storage(root)
    assert storage.read("a/b.jpg", 2, 4) == CONTENT[2:4]
    reader, writer = os.pipe()
    process = os.fork()
    if not process:
        try:
            os.write(writer, storage.read("a/b.jpg", 1, 3) + storage.read("a/b.jpg"))
        finally:
            os._exit(0)
    os.waitpid(process, 0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == CONTENT[1:3] + CONTENT
    assert storage.read("a/b.jpg", 5, 7) == CONTENT[5:7]


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = {"class": "faraway_driver.core.FileSystem", "err": "Please install faraway_driver"}
    monkeypatch.setitem(known_implementations, "faraway", driver)
    with pytest.raises(
        InputError, match="faraway://x/y needs the Python package faraway_driver, which is not installed"
    ):
        Storage("faraway://x/y").read("a.jpg")


def test_an_unknown_address_is_said() -> None:
    with pytest.raises(InputError, match=r"nonsense://x cannot be used as a folder .*nonsense"):
        Storage("nonsense://x").exists("a.jpg")


def test_a_storage_that_fails_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("the line is dead")

    storage = Storage("memory://failing")
    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "info", fail)
    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "cat_file", fail)
    for ask in (storage.exists, storage.read, storage.size):
        with pytest.raises(InputError, match=r"memory://failing/x cannot be read \(RuntimeError: the line is dead\)"):
            ask("x")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="everyone may read here")
def test_a_file_that_may_not_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    (tmp_path / "x").chmod(0)
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
        Storage(tmp_path).read("x")
