"""One interface to folders on this machine and in object storage."""

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

from siamese_verify.datasets.storage import Storage
from siamese_verify.errors import InputError

CONTENT = bytes(range(256)) * 3
NAMES = ["Anna Müller/фото 1.jpg", "a%20b/#1?.png", "a-b.jpg", "a/b.jpg", "a/c/d.jpg", "ab/x.jpg", "村上/🙂.png"]
HIDDEN = [".hidden.jpg", ".git/x.jpg", "a/.c/x.jpg", "a/.x"]


@pytest.fixture(params=["path", "str", "file://", "memory://"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str | Path]:
    """A folder of each kind with NAMES and HIDDEN."""
    if request.param == "memory://":
        files, folder = fsspec.filesystem("memory"), f"memory://{uuid4()} %/# ü"
        for name in [*reversed(NAMES), *HIDDEN]:
            files.pipe_file(f"{folder}/{name}", CONTENT)
        yield folder
        files.rm(folder, recursive=True)
        return
    for name in [*reversed(NAMES), *HIDDEN]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(CONTENT)
    folders: dict[str, str | Path] = {"path": tmp_path, "str": str(tmp_path), "file://": f"file://{tmp_path}"}
    yield folders[request.param]


def test_files_are_read_whole_and_in_parts(root: str | Path) -> None:
    storage = Storage(root)
    for name in NAMES:
        assert storage.read(name) == CONTENT
        assert storage.size(name) == len(CONTENT)
        assert storage.exists(name)
    for start, end in ((0, 5), (250, 260), (700, None), (0, None), (700, 9999), (5, 5), (9, 3), (768, None)):
        assert storage.read("a/b.jpg", start, end) == CONTENT[start:end]
    assert storage.read_many("a/b.jpg", [300, 0, 766], 4) == [CONTENT[300:304], CONTENT[:4], CONTENT[766:]]
    assert storage.location("a/b.jpg") == f"{root}/a/b.jpg"


def test_names_are_sorted_by_code_points_without_hidden_files(root: str | Path) -> None:
    assert list(Storage(root).names()) == NAMES == sorted(NAMES)


def test_missing_files_and_folders_are_reported(root: str | Path) -> None:
    storage = Storage(root)
    assert storage.is_folder()
    assert not storage.exists("a/nothing.jpg")
    assert not storage.exists("a")
    with pytest.raises(InputError, match=r"There is no file .*a/nothing\.jpg\."):
        storage.size("a/nothing.jpg")
    with pytest.raises(InputError, match=r"There is no file .*a/nothing\.jpg\."):
        storage.read("a/nothing.jpg")
    with pytest.raises(InputError, match=r"There is no file .*a/nothing\.jpg\."):
        storage.read_many("a/nothing.jpg", [0], 1)
    for ask in (storage.size, storage.read):
        with pytest.raises(InputError, match=r"is a folder, not a file|There is no file"):
            ask("a")
    for place in (f"{root}/nowhere", f"{root}/a-b.jpg"):
        assert not Storage(place).is_folder()
        with pytest.raises(InputError, match="There is no folder"):
            Storage(place).names()


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "..", "/etc/passwd", "C:\\x", "c:x", "\\x", "a\\..\\..\\x", "", "a\0b"]
)
def test_a_name_that_leads_out_of_the_folder_is_refused(root: str | Path, name: str) -> None:
    storage = Storage(root)
    for ask in (storage.read, storage.size, storage.exists):
        with pytest.raises(InputError, match=r"leads out of|does not name a file in"):
            ask(name)


def test_dots_within_a_name_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "a..b.jpg").write_bytes(b"x")
    assert Storage(tmp_path).read("a..b.jpg") == b"x"


@pytest.mark.parametrize(
    ("root", "path", "name"),
    [
        ("{here}/album", "{here}/album//000//0.png", "000/0.png"),
        ("/", "/{here}/000/0.png", "{below}/000/0.png"),
        ("{here}/album", "{here}/link/000/0.png", "000/0.png"),
        ("{here}/link", "{here}/album/000/0.png", "000/0.png"),
        ("{here}/album", "{here}/album/001/../000/0.png", "000/0.png"),
        ("file://{here}/album", "{here}/album/000/0.png", "000/0.png"),
        ("{here}/album", "file://{here}/album/000/0.png", "000/0.png"),
        ("memory://alb", "memory://alb/000/0.png", "000/0.png"),
        ("album", "{here}/album/0.png", "0.png"),
        ("", "{here}/0.png", "0.png"),
        ("album", "album/0.png", "album/0.png"),
        ("{here}/album", "{here}/album/../album/000/0.png", "000/0.png"),
        *(
            ("{here}/album", one, one)
            for one in (
                "/elsewhere/a.png",
                "{here}/album2/0.png",
                "../a.png",
                "b/../a.png",
                "C:\\a.png",
                "/a\0/b",
                "s3://a/b.png",
            )
        ),
        ("memory://alb", "memory://oth/x.png", "memory://oth/x.png"),
    ],
)
def test_paths_below_the_root_name_files_and_others_stay_as_they_are(
    tmp_path: Path, root: str, path: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "album").mkdir()
    (tmp_path / "link").symlink_to("album")
    monkeypatch.chdir(tmp_path)
    path, root, name = (text.format(here=tmp_path, below=str(tmp_path)[1:]) for text in (path, root, name))
    assert Storage(root).name_of(path) == name


def test_linked_folders_are_listed(tmp_path: Path) -> None:
    for name in ("elsewhere/anna", "elsewhere/berta/2020", "here"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "elsewhere/anna/1.jpg").write_bytes(b"1")
    (tmp_path / "elsewhere/berta/2020/2.jpg").write_bytes(b"2")
    here = tmp_path / "here"
    (here / "anna").symlink_to(tmp_path / "elsewhere" / "anna")
    (here / "berta").symlink_to(tmp_path / "elsewhere" / "berta")
    (tmp_path / "linked").symlink_to(here)
    assert (
        list(Storage(here).names())
        == list(Storage(tmp_path / "linked").names())
        == [
            "anna/1.jpg",
            "berta/2020/2.jpg",
        ]
    )
    # Folders that link to one another would give as many paths as there are orders of them.
    (tmp_path / "elsewhere/anna/sister").symlink_to(tmp_path / "elsewhere" / "berta")
    (tmp_path / "elsewhere/berta/sister").symlink_to(tmp_path / "elsewhere" / "anna")
    expected = ["anna/1.jpg", "anna/sister/2020/2.jpg", "berta/2020/2.jpg", "berta/sister/1.jpg"]
    assert list(Storage(here).names()) == expected


def test_links_that_lead_back_or_nowhere_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jpg").write_bytes(b"x")
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "b.jpg").symlink_to(tmp_path / "a" / "x.jpg")
    (tmp_path / "dead.jpg").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert list(Storage(tmp_path).names()) == ["a/x.jpg", "b.jpg"]


def test_storage_is_pickled_and_survives_a_fork(root: str | Path) -> None:
    storage = Storage(root)
    assert storage.read("a/b.jpg", 2, 4) == CONTENT[2:4]
    assert pickle.loads(pickle.dumps(storage)).read("a/b.jpg", 2, 4) == CONTENT[2:4]
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


def test_missing_packages_and_unknown_addresses_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = {"class": "faraway_driver.core.FileSystem", "err": "Please install faraway_driver"}
    monkeypatch.setitem(known_implementations, "faraway", driver)
    with pytest.raises(InputError, match=r"faraway://x/y/a\.jpg needs the Python package faraway_driver: install it"):
        Storage("faraway://x/y").read("a.jpg")
    with pytest.raises(InputError, match=r"nonsense://x/a.jpg cannot be read .*nonsense"):
        Storage("nonsense://x").exists("a.jpg")


def test_a_storage_that_fails_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("the line is dead")

    files = fsspec.get_filesystem_class("memory")
    storage = Storage("memory://failing")
    fsspec.filesystem("memory").pipe_file("memory://failing/x", CONTENT)
    monkeypatch.setattr(files, "cat_file", fail)
    with pytest.raises(InputError, match=r"memory://failing/x cannot be read \(RuntimeError: the line is dead\)"):
        storage.read_many("x", [0, 1], 2)
    monkeypatch.setattr(files, "info", fail)
    for ask in (storage.exists, storage.read, storage.size):
        with pytest.raises(InputError, match=r"memory://failing/x cannot be read \(RuntimeError: the line is dead\)"):
            ask("x")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="everyone may read here")
def test_files_and_folders_without_permission_are_reported(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    (tmp_path / "x").chmod(0)
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
        Storage(tmp_path).read("x")
    (tmp_path / "folder").mkdir(0)
    with pytest.raises(InputError, match=r"folder cannot be read \(Permission denied\)"):
        list(Storage(tmp_path).names())
