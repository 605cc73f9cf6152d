"""Faces aligned by several processes, some of which are killed."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

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


PROGRAM = """
import sys
from pathlib import Path
from tests.preparation.test_preparation_processes import ALIGNMENT, Endless
from siamese_verify.datasets import FolderPhotos
from siamese_verify.preparation import prepare_faces
prepare_faces(Endless(FolderPhotos(sys.argv[1]), Path()), "album", Path(sys.argv[2]), ALIGNMENT, {}, processes=1)
"""


@LINUX
def test_no_process_outlives_the_one_that_gave_it_work(album: Path, tmp_path: Path) -> None:
    program = [sys.executable, "-c", PROGRAM, str(album), str(tmp_path / "out")]
    root = Path(__file__).parents[2]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, cwd=root) as parent:
        assert parent.stdout is not None
        assert any(line.endswith("ready\n") for line in parent.stdout)
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        assert children
        parent.kill()
    limit = time.monotonic() + 30
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not [child for child in children if Path(f"/proc/{child}").exists()]
