"""`siamese-verify prepare` and `preview`: from an archive to the batches that training sees."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.errors import InstantiationException
from omegaconf import DictConfig
from PIL import Image

from siamese_verify.cli import prepare as prepare_module
from siamese_verify.cli.prepare import prepare
from siamese_verify.cli.preview import GENUINE, IMPOSTOR, preview
from siamese_verify.datasets import AllOfLFW, SyntheticFaces
from siamese_verify.errors import InputError

Configured = Callable[..., DictConfig]
SHARED = Path(__file__).resolve().parents[2].parent / "shared/data"
WHOLE = ("align=box", "align.size=32", "align.crop.kind=whole", "align.crop.margin=0", "processes=0")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A folder for each of 12 people, packed."""
    faces = SyntheticFaces(identities=12, images=4, size=40)
    for row in range(len(faces)):
        path = tmp_path / "faces" / f"p{faces.identities[row]:02}" / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        faces[row].save(path)
    with tarfile.open(tmp_path / "faces.tgz", "w:gz") as tape:
        for folder in sorted((tmp_path / "faces").iterdir()):
            tape.add(folder, folder.name)
    return tmp_path / "faces.tgz"


def test_an_archive_becomes_faces_to_train_on(
    archive: Path, tmp_path: Path, configured: Configured, trained: Callable[..., Path], capsys: Any
) -> None:
    drop = tmp_path / "drop.txt"
    drop.write_text("p03,in the test set\n")
    folders = (f"data.root={tmp_path / 'unpacked'}", f"output={tmp_path / 'out'}")
    found = prepare(
        configured("prepare", tmp_path, "data=folder", f"archive={archive}", f"drop={drop}", *folders, *WHOLE)
    )
    assert found.outcomes == {"aligned": 44, "dropped": 4}
    told = capsys.readouterr().out
    assert "48 files unpacked" in told
    assert "48 photos of 12 identities" in told
    assert "Dropped p03, 4 photos: in the test set." in told
    again = configured("prepare", tmp_path, "data=folder", f"archive={archive}", f"drop={drop}", *folders, *WHOLE)
    assert prepare(again) == found
    assert f"{archive} is unpacked already." in capsys.readouterr().out
    run = trained(
        tmp_path / "run",
        "data=prepared",
        f"data.root={tmp_path / 'out'}",
        "data.crop=whole",
        "encoder.size=32",
        "encoder.width=8",
        "threads=1",
        "sampler.identities_per_batch=4",
        "sampler.samples_per_identity=2",
        "protocol=synthetic",
        "protocol.photos.identities=6",
        "protocol.photos.images=3",
        "trainer.max_epochs=1",
        "datamodule.in_memory=false",
        "datamodule.workers=1",
    )
    record = (run / "run.json").read_text()
    assert '"training set filtered": "yes: 1 identities with 4 photos left out by drop.txt"' in record
    assert "left out by drop.txt" in (run / "report" / "report.html").read_text()


def test_a_root_that_holds_no_lfw_asks_for_it(
    tmp_path: Path, configured: Configured, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    asked: list[Path] = []

    def fetch(root: Path) -> list[str]:
        asked.append(root)
        return ["peopleDevTrain.txt"]

    monkeypatch.setattr(prepare_module, "fetch_lfw", fetch)
    with pytest.raises(InstantiationException, match="There is no folder"):
        prepare(configured("prepare", tmp_path, f"data.root={tmp_path / 'lfw'}", f"output={tmp_path / 'out'}"))
    assert asked == [tmp_path / "lfw"]
    assert "peopleDevTrain.txt could not be downloaded" in capsys.readouterr().out


def test_an_archive_is_not_unpacked_into_object_storage(archive: Path, tmp_path: Path, configured: Configured) -> None:
    with pytest.raises(InputError, match=r"not into memory://there: set data\.root"):
        prepare(configured("prepare", tmp_path, "data=folder", "data.root=memory://there", f"archive={archive}"))


def test_all_of_lfw_is_counted_and_split() -> None:
    if not (SHARED / "lfw/lfw-deepfunneled").is_dir():
        pytest.skip(f"the photos of LFW are not in {SHARED / 'lfw'}: see data/README.md")
    photos = AllOfLFW(SHARED / "lfw")
    assert (len(photos), len(photos.people)) == (13_233, 5_749)
    assert (photos.splits.count("train"), photos.splits.count("test")) == (9_525, 3_708)
    assert len(np.unique(photos.identities)) == 5_749


def test_a_part_of_lfw_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "lfw" / "Anna_B").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "lfw" / "Anna_B" / "Anna_B_0001.jpg")
    photos = AllOfLFW(tmp_path)
    assert photos.names == ["Anna_B/Anna_B_0001.jpg"]
    assert photos.splits == [""]
    assert "has 1 photos of 1 people, LFW has 13,233 of 5,749" in caplog.text


# The batches


@pytest.mark.parametrize("sampler", ["identity", "pairs", "triplets", "images", "hard"])
def test_a_preview_shows_the_batches(
    sampler: str, tmp_path: Path, configured: Configured, tiny: tuple[str, ...]
) -> None:
    size = {"pairs": "sampler.pairs=6", "triplets": "sampler.triplets=5", "images": "sampler.images=12"}
    people = ("sampler.identities_per_batch=4", "sampler.samples_per_identity=3")
    sizes = (size[sampler],) if sampler in size else people
    cfg = configured("preview", tmp_path, f"sampler={sampler}", *tiny, *sizes, f"output={tmp_path}")
    paths = preview(cfg)
    assert [path.name for path in paths] == ["batch_1.png", "batch_2.png"]
    with Image.open(paths[0]) as sheet:
        rows, columns = {"pairs": (6, 2), "triplets": (5, 3), "images": (2, 10)}.get(sampler, (4, 3))
        pixels = np.asarray(sheet.convert("RGB"))
    assert (pixels.shape[0] - 32) // 136 == rows or sampler == "images"
    assert (pixels.shape[1] - 8) // 120 >= min(columns, 3)
    colours = {tuple(bytes.fromhex(colour[1:])) for colour in (GENUINE, IMPOSTOR)}
    framed = all((pixels == colour).all(axis=2).any() for colour in colours)
    assert framed == (sampler in ("pairs", "triplets"))


def test_no_batches_cannot_be_shown(tmp_path: Path, configured: Configured, tiny: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="batches must be a whole number of 1 or more, got 0"):
        preview(configured("preview", tmp_path, *tiny, "batches=0"))


@pytest.mark.parametrize(("command", "words"), [("prepare", "There is no folder"), ("preview", "data.root")])
def test_a_mistake_on_the_command_line_is_one_sentence(command: str, words: str, tmp_path: Path) -> None:
    data = "data=folder data.root=none" if command == "prepare" else "data=prepared"
    ended = subprocess.run(
        [sys.executable, "-m", "siamese_verify.cli.main", command, *data.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.iterdir())
