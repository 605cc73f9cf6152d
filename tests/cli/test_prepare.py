"""`siamese-verify prepare` and `preview`: from an archive to the batches that training sees."""

from __future__ import annotations

import json
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
from siamese_verify.datasets import AllOfLFW
from siamese_verify.errors import InputError
from tests.cli.conftest import SENTENCE, Command, save_faces
from tests.conftest import SMALL_BATCHES, TINY

Configured = Callable[..., DictConfig]
SHARED = Path(__file__).resolve().parents[2].parent / "shared/data"
WHOLE = ("align=box", "align.size=32", "align.crop.kind=whole", "align.crop.margin=0", "processes=0")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A folder for each of 12 people, packed."""
    save_faces(tmp_path / "faces", 12, 4, 40)
    with tarfile.open(tmp_path / "faces.tgz", "w:gz") as tape:
        for folder in sorted((tmp_path / "faces").iterdir()):
            tape.add(folder, folder.name)
    return tmp_path / "faces.tgz"


def test_an_archive_becomes_faces_to_train_on(
    archive: Path, tmp_path: Path, configured: Configured, fitted: Callable[..., Path], capsys: Any
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
    prepared = (
        "data=prepared",
        f"data.root={tmp_path / 'out'}",
        "data.crop=whole",
        "encoder.size=16",
        "encoder.width=8",
    )
    small = ("threads=1", *SMALL_BATCHES, "protocol=synthetic", "trainer.max_epochs=1")
    run = fitted(tmp_path / "run", *prepared, *small, "datamodule.in_memory=false", "datamodule.workers=1")
    filtered = json.loads((run / "run.json").read_text())["filtered"]
    assert filtered == "yes: 1 identities with 4 photos left out by drop.txt"


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


def test_a_part_of_lfw_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "lfw" / "Anna_B").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "lfw" / "Anna_B" / "Anna_B_0001.jpg")
    photos = AllOfLFW(tmp_path)
    assert photos.names == ["Anna_B/Anna_B_0001.jpg"]
    assert photos.splits == [""]
    assert "has 1 photos of 1 people, LFW has 13,233 of 5,749" in caplog.text


# The batches


@pytest.mark.parametrize("sampler", ["identity", "pairs", "triplets", "images", "hard"])
def test_a_preview_shows_the_batches(sampler: str, tmp_path: Path, configured: Configured) -> None:
    size = {"pairs": "sampler.pairs=6", "triplets": "sampler.triplets=5", "images": "sampler.images=12"}
    people = ("sampler.identities_per_batch=4", "sampler.samples_per_identity=3")
    sizes = (size[sampler],) if sampler in size else people
    cfg = configured("preview", tmp_path, f"sampler={sampler}", *TINY, *sizes, f"output={tmp_path}")
    paths = preview(cfg)
    assert [path.name for path in paths] == ["batch_1.png", "batch_2.png"]
    with Image.open(paths[0]) as sheet:
        rows, columns = {"pairs": (6, 2), "triplets": (5, 3), "images": (2, 10)}.get(sampler, (4, 3))
        pixels = np.asarray(sheet.convert("RGB"))
    assert (pixels.shape[0] - 32) // 136 == rows or sampler == "images"
    assert (pixels.shape[1] - 8) // 120 >= min(columns, 3)
    colors = {tuple(bytes.fromhex(color[1:])) for color in (GENUINE, IMPOSTOR)}
    framed = all((pixels == color).all(axis=2).any() for color in colors)
    assert framed == (sampler in ("pairs", "triplets"))


def test_no_batches_cannot_be_shown(tmp_path: Path, configured: Configured) -> None:
    with pytest.raises(InputError, match="batches must be a whole number of 1 or more, got 0"):
        preview(configured("preview", tmp_path, *TINY, "batches=0"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [("prepare data=folder data.root=none", "There is no folder none"), ("preview data=prepared", "data.root")],
)
def test_a_mistake_on_the_command_line_is_one_sentence(
    arguments: str, sentence: str, command: Command, tmp_path: Path
) -> None:
    ended = command(*arguments.split())
    assert ended.code == 2
    assert sentence in ended.err
    assert SENTENCE.fullmatch(ended.err)
    assert not list(tmp_path.iterdir())
