"""Files are written completely or not at all, under names that cannot be guessed."""

from __future__ import annotations

import errno
import os
import pickle
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from siamese_verify.atomic_write import atomic_append, atomic_open, atomic_write


@contextmanager
def limited(size: int) -> Iterator[None]:
    """Let this process write no file beyond so many bytes, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "metrics.json"
    atomic_write(target, b"old")
    with pytest.raises(KeyboardInterrupt), atomic_open(target) as file:
        file.write(b"n")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
    assert target.read_bytes() == b"old"


def test_a_full_disk_leaves_the_old_file_and_is_reported_with_its_free_space(tmp_path: Path) -> None:
    target = tmp_path / "last.ckpt"
    atomic_write(target, b"old")
    with limited(1000), pytest.raises(OSError, match=r"File too large, [\d,.]+ MB are free") as failed:
        atomic_write(target, bytes(5000))
    assert (failed.value.errno, failed.value.filename) == (errno.EFBIG, str(target))
    assert str(pickle.loads(pickle.dumps(failed.value))) == str(failed.value)  # as a worker process sends it
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert target.read_bytes() == b"old"


def test_appending_is_all_or_nothing(tmp_path: Path) -> None:
    target = tmp_path / "metrics.csv"
    atomic_append(target, b"step\n")
    with limited(1000), pytest.raises(OSError, match="MB are free"):
        atomic_append(target, b"1\n" * 5000)
    assert target.read_bytes() == b"step\n"
    atomic_append(target, b"1\n")
    assert target.read_bytes() == b"step\n1\n"


def test_a_link_is_replaced_or_refused_but_never_followed(tmp_path: Path) -> None:
    victim, target = tmp_path / "victim", tmp_path / "out.png"
    victim.write_bytes(b"mine")
    target.symlink_to(victim)
    with pytest.raises(OSError, match="symbolic link"):
        atomic_append(target, b"new")
    # A name that could be guessed.
    (tmp_path / f".out.png.{os.getpid()}.part").symlink_to(victim)
    atomic_write(target, b"new")
    assert not target.is_symlink()
    assert (target.read_bytes(), victim.read_bytes()) == (b"new", b"mine")


def test_names_of_unfinished_files_cannot_be_guessed(tmp_path: Path) -> None:
    names = set()
    for _ in range(20):
        with atomic_open(tmp_path / "x") as file:
            file.write(b"1")
            names |= {path.name for path in tmp_path.iterdir()} - {"x"}
    assert len(names) == 20
    assert all(len(name) > 20 for name in names)


def test_private_files_are_for_their_owner_and_others_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        atomic_write(tmp_path / "open", b"")
        atomic_write(tmp_path / "own", b"", private=True)
        atomic_write(tmp_path / "open", b"", private=True)
        assert (mode(tmp_path / "own"), mode(tmp_path / "open")) == (0o600, 0o600)
        atomic_write(tmp_path / "open", b"")
        assert mode(tmp_path / "open") == 0o640
    finally:
        os.umask(before)


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_folders_and_pipes_are_not_replaced(kind: str, tmp_path: Path) -> None:
    target = tmp_path / kind
    target.mkdir() if kind == "folder" else os.mkfifo(target)
    with pytest.raises(OSError, match=f"it is .*: '{target}'"):
        atomic_write(target, b"")
    assert [path.name for path in tmp_path.iterdir()] == [kind]


def test_an_error_of_another_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="source"), atomic_open(tmp_path / "copy") as file:
        file.write((tmp_path / "source").read_bytes())
    with pytest.raises(FileNotFoundError, match="none/file"):
        atomic_write(tmp_path / "none" / "file", b"")
