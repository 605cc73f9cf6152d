"""Running a command line within the process of the tests, and folders of synthetic faces."""

from __future__ import annotations

import logging
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from siamese_verify.cli import main as cli
from siamese_verify.cli.configuration import CONF
from siamese_verify.data.data_loaders import SIGNALS
from siamese_verify.datasets import SyntheticFaces

CHOICES = {folder.name: sorted(path.stem for path in folder.glob("*.yaml")) for folder in CONF.iterdir()}
SENTENCE = re.compile(r"siamese-verify: [^\n]+\.\n")  # and nothing else


class Ended(NamedTuple):
    code: object
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Run a command line within this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pytest"])
    stopping = {number: signal.getsignal(number) for number in SIGNALS}
    handlers, level = logging.root.handlers[:], logging.root.level

    def run(*arguments: str) -> Ended:
        code: object
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'siamese_verify", RuntimeWarning)  # runpy, of modules imported before
            try:
                code = cli.main([*arguments])
            except SystemExit as end:
                code = end.code
        return Ended(code, *capfd.readouterr())

    yield run
    logging.root.handlers[:] = handlers  # Hydra puts its own in their place
    logging.root.setLevel(level)
    for number, handler in stopping.items():
        signal.signal(number, handler)


def save_faces(folder: Path, identities: int, images: int, size: int = 32) -> list[Path]:
    """Save synthetic faces as `p00/0.png`, a folder for each person; return the paths in order."""
    faces = SyntheticFaces(identities, images, size)
    paths = [folder / f"p{row // images:02}" / f"{row % images}.png" for row in range(len(faces))]
    for row, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        faces[row].save(path)
    return paths
