"""Faces aligned by several processes, some of which are killed."""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from siamese_verify.datasets import FolderPhotos
from siamese_verify.errors import InputError
from siamese_verify.preparation import Alignment, prepare_faces
from siamese_verify.structures import Crop, InputSpec

ALIGNMENT = Alignment(InputSpec(9, crop=Crop("center")))
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")


@pytest.fixture
def album(tmp_path: Path) -> Path:
    (tmp_path / "album" / "a").mkdir(parents=True)
    for number in range(8):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(tmp_path / "album" / "a" / f"{number}.png")
    return tmp_path / "album"


class Deadly:
    """Photos of which one ends the process that opens it, as a lack of memory would, until a file is there."""

    def __init__(self, photos: FolderPhotos, flag: Path) -> None:
        self.photos, self.flag = photos, flag
        self.names, self.identities = list(photos.names), np.asarray(photos.identities)
        self.digest = photos.digest

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> Image.Image:
        if row == 5 and not self.flag.exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return self.photos[row]


def test_a_killed_process_is_reported_and_the_next_run_goes_on(album: Path, tmp_path: Path) -> None:
    photos = Deadly(FolderPhotos(album), tmp_path / "flag")
    with pytest.raises(InputError, match="was killed, perhaps for want of memory: run the command again"):
        prepare_faces(photos, "album", tmp_path / "again", ALIGNMENT, {}, processes=2, chunk=2)
    photos.flag.touch()
    found = prepare_faces(photos, "album", tmp_path / "again", ALIGNMENT, {}, processes=2, chunk=2)
    assert found.outcomes == {"aligned": 8}
    assert prepare_faces(photos, "album", tmp_path / "whole", ALIGNMENT, {}, processes=0, chunk=2) == found
    whole, again = (
        {path.relative_to(root): hashlib.sha256(path.read_bytes()).digest() for path in root.rglob("*.*")}
        for root in (tmp_path / "whole", tmp_path / "again")
    )
    assert again == whole


class Endless(Deadly):
    """Photos that take forever to open, once a process has said that it does."""

    def __getitem__(self, row: int) -> Image.Image:
        print("ready", flush=True)
        time.sleep(60)
        return self.photos[row]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("album")
    parser.add_argument("output", type=Path)


def prepare_endlessly(options: argparse.Namespace) -> int:
    photos = Endless(FolderPhotos(options.album), Path())
    prepare_faces(photos, "album", options.output, ALIGNMENT, {}, processes=2, chunk=1)
    return 0


HERE = "tests.preparation.test_preparation_processes"  # as a program in the root finds it
PROGRAM = f"""
import sys
from siamese_verify.cli.main import COMMANDS, Command, main
COMMANDS["prepare"] = Command("", "{HERE}:prepare_endlessly", "{HERE}:add_arguments")
sys.exit(main(["prepare", *sys.argv[1:]]))
"""


@LINUX
@pytest.mark.parametrize(
    ("number", "status", "name"),
    [(signal.SIGKILL, -9, ""), (signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 75, "SIGTERM")],
)
def test_no_process_outlives_the_one_that_gave_it_work(
    number: int, status: int, name: str, album: Path, tmp_path: Path
) -> None:
    program = [sys.executable, "-c", PROGRAM, str(album), str(tmp_path / "out")]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(program, cwd=Path(__file__).parents[2], start_new_session=True, **pipes) as parent:
        assert parent.stdout is not None
        assert any(line.endswith("ready\n") for line in parent.stdout)
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        assert children
        (os.killpg if number == signal.SIGINT else os.kill)(parent.pid, number)  # a terminal's goes to all
        try:
            _, err = parent.communicate(timeout=40)
        finally:
            parent.kill()
    assert parent.returncode == status
    assert not name or err == f"Stopped by {name}: run the same command again to go on.\n"
    limit = time.monotonic() + 30
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not [child for child in children if Path(f"/proc/{child}").exists()]
