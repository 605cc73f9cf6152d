"""What `pip install` of the built wheel gives, far from the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import SMALL_BATCHES, TINY

REPOSITORY = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    isolation = ["--no-isolation"] if find_spec("hatchling") else []
    command = [sys.executable, "-m", "build", "--wheel", *isolation, "--outdir", str(folder), str(REPOSITORY)]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(folder), str(wheel)]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder


def python(installed: Path, place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in an empty folder, with the installed package before the repository's."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=place,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(installed)},
    )


def test_the_wheel_holds_every_file_of_the_package_and_the_configuration(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    folders = {name: REPOSITORY / name for name in ("siamese_verify", "hydra_plugins")}
    folders["siamese_verify/conf"] = REPOSITORY / "conf"
    sources = {
        f"{name}/{path.relative_to(folder)}"
        for name, folder in folders.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sources <= packed
    assert {"siamese_verify/conf/train.yaml", "siamese_verify/evaluation/pages/report.html.j2"} <= packed
    assert "siamese_verify/py.typed" in packed  # type checkers read the package's own annotations
    assert not any(name.startswith(("tests/", "runs/", "benchmarks/", "data/")) for name in packed)


def test_the_configuration_of_the_installed_package_is_its_own(installed: Path, tmp_path: Path) -> None:
    ended = python(installed, tmp_path, "-c", "from siamese_verify.cli.configuration import CONF; print(CONF)")
    assert ended.stdout.strip() == str(installed / "siamese_verify" / "conf"), ended.stderr


def test_the_installed_package_trains_a_sweep_of_one_run(installed: Path, tmp_path: Path) -> None:
    overrides = (*TINY, *SMALL_BATCHES, "trainer.max_epochs=1", "hydra.sweep.dir=sweep")
    ended = python(installed, tmp_path, "-m", "siamese_verify.cli.main", "train", "-m", *overrides)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    run = tmp_path / "sweep" / "0"
    assert (run / "report" / "report.html").is_file()
    assert (run / "bundle" / "bundle.json").is_file()
    assert '"commit": "none"' in (run / "run.json").read_text()
    assert (tmp_path / "sweep" / "sweep.html").is_file()
