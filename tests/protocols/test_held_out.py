"""People and photos that are tested were not trained on."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamese_verify.data import FaceDataModule
from siamese_verify.data.identity_split import split_by_identity
from siamese_verify.datasets import FolderPhotos, SyntheticFaces
from siamese_verify.errors import InputError
from siamese_verify.protocols import (
    HeldOutShare,
    TrainingSubset,
    all_pairs,
    find_leak,
    folder_pairs,
    pair_file,
    read_training_run,
    refuse_leak,
)
from siamese_verify.samplers import IdentityBatchSampler
from siamese_verify.structures import Crop, InputSpec

SAMPLER = partial(IdentityBatchSampler, identities_per_batch=2, samples_per_identity=2)


def album(root: Path, people: int = 8, first: str = "p0", seed: int = 0) -> Path:
    """A folder for each person, with three photos of noise."""
    rng = np.random.default_rng(seed)
    for person in range(people):
        folder = root / f"{first[:-1]}{int(first[-1]) + person}"
        folder.mkdir(parents=True)
        for photo in range(3):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{photo}.png")
    return root


def seen(photos: FolderPhotos, people: int) -> list[TrainingSubset]:
    """The first people of a folder, as trained on."""
    return [TrainingSubset.from_photos(photos, np.flatnonzero(photos.identities < people))]


@pytest.mark.parametrize("people", [6, 7, 40])
def test_three_parts_are_disjoint_and_the_test_part_does_not_depend_on_the_seed(people: int) -> None:
    identities = np.repeat(np.arange(people + 3), [4] * people + [1] * 3)
    splits = [
        split_by_identity(identities, 0.2, 2, seed, test=HeldOutShare(max_samples_per_identity=3)) for seed in range(3)
    ]
    for split in splits:
        parts = [set(identities[rows].tolist()) for rows in split]
        assert len(set.union(*parts)) == sum(map(len, parts)) == people + 3
        assert all(
            sum((identities[rows] == one).sum() > 1 for one in part) >= 2
            for rows, part in zip(split, parts, strict=True)
        )
        np.testing.assert_array_equal(split.test, splits[0].test)
        assert np.unique(identities[split.test], return_counts=True)[1].max() == 3
    assert people < 40 or any((split.validation != splits[0].validation).any() for split in splits[1:])


def test_too_few_people_for_three_parts_are_refused(tmp_path: Path) -> None:
    photos = FolderPhotos(album(tmp_path, people=5))
    with pytest.raises(InputError, match=r"hold 5 people with two photos or more, but training, validation and test"):
        FaceDataModule(photos, InputSpec(16, crop=Crop("whole")), SAMPLER, test=HeldOutShare())


def test_people_and_photos_of_the_training_folder_are_found(tmp_path: Path) -> None:
    photos = FolderPhotos(album(tmp_path))
    leak = find_leak(seen(photos, 3), folder_pairs(tmp_path).photos)
    assert leak.people == ["p0", "p1", "p2"]
    assert leak.rows == list(range(9))
    protocol = folder_pairs(tmp_path)
    with pytest.raises(InputError, match=r"3 of its 8 people .* such as 'p0', and 9 of its 24 photos .*p0/0.png"):
        refuse_leak(seen(photos, 3), protocol, allowed=False)
    assert refuse_leak(seen(photos, 3), protocol, allowed=True) == leak.sentence


def test_copies_under_other_names_are_found_by_their_content(tmp_path: Path) -> None:
    photos = FolderPhotos(album(tmp_path / "train"))
    other = album(tmp_path / "other", first="q0", seed=1)
    assert not find_leak(seen(photos, 8), FolderPhotos(other)).sentence
    shutil.copy(tmp_path / "train" / "p5" / "1.png", other / "q3" / "holiday.png")
    leak = find_leak(seen(photos, 8), FolderPhotos(other))
    assert leak.people == []
    assert leak.sentence == "1 of its 25 photos are trained on, such as q3/holiday.png"
    assert not find_leak(seen(photos, 5), FolderPhotos(other)).sentence


def test_names_are_compared_everywhere_and_numbers_within_one_data_set(tmp_path: Path) -> None:
    named = FolderPhotos(album(tmp_path / "a"))
    assert find_leak(seen(named, 2), FolderPhotos(album(tmp_path / "b", seed=1))).people == ["p0", "p1"]
    numbered = FolderPhotos(album(tmp_path / "c", first="0", seed=2))
    assert find_leak(seen(numbered, 2), FolderPhotos(tmp_path / "c")).people == ["0", "1"]
    assert not find_leak(seen(numbered, 2), FolderPhotos(album(tmp_path / "d", first="0", seed=3))).sentence
    drawn = SyntheticFaces(4, 2, 16)
    assert find_leak([TrainingSubset.from_photos(drawn, np.arange(4))], SyntheticFaces(4, 2, 16)).people == ["0", "1"]
    assert not find_leak([TrainingSubset.from_photos(drawn, np.arange(4))], SyntheticFaces(4, 2, 16, seed=1)).sentence


@pytest.mark.parametrize("columns", ["", ",p0,p1"])
def test_a_table_of_pairs_is_compared_too(columns: str, tmp_path: Path) -> None:
    photos = FolderPhotos(album(tmp_path))
    head = "a,b,same" + (",identity_a,identity_b" if columns else "")
    (tmp_path / "pairs.csv").write_text(
        f"{head}\np0/0.png,p1/0.png,0{columns}\np0/1.png,p0/2.png,1{columns and ',p0,p0'}\n"
    )
    leak = find_leak(seen(photos, 1), pair_file(tmp_path / "pairs.csv").photos)
    assert leak.people == (["p0"] if columns else [])
    assert len(leak.rows) == 3


def test_a_test_photo_that_is_a_training_photo_by_another_name_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    album(tmp_path)
    data = FaceDataModule(FolderPhotos(tmp_path), InputSpec(16, crop=Crop("whole")), SAMPLER, test=HeldOutShare())
    tested = data.test_protocol("album").photos
    assert len(tested) == 6
    trained = data.photos.names[data.split.train[0]]
    (tmp_path / tested.names[2]).write_bytes((tmp_path / trained).read_bytes())
    data = FaceDataModule(FolderPhotos(tmp_path), InputSpec(16, crop=Crop("whole")), SAMPLER, test=HeldOutShare())
    protocol = data.test_protocol("album")
    assert list(protocol.photos.names) == [name for row, name in enumerate(tested.names) if row != 2]
    assert protocol.name == "album, all pairs of 2 people held out for testing"
    assert "1 test photos are also training photos" in caplog.text
    assert refuse_leak(data.seen, protocol, allowed=False) == ""


def test_a_model_outside_of_a_run_has_no_record(tmp_path: Path) -> None:
    assert read_training_run("casia-webface") is None
    (tmp_path / "people.json").write_text("{")
    with pytest.raises(InputError, match=r"run .* is damaged .*people.json"):
        read_training_run(tmp_path / "bundle")


def test_the_default_protocol_of_synthetic_faces_is_disjoint_from_training() -> None:
    drawn = SyntheticFaces(40, 2, 16)
    protocol = all_pairs(SyntheticFaces(4, 2, 16, first=1_000_000), "unseen")
    assert refuse_leak([TrainingSubset.from_photos(drawn, np.arange(80))], protocol, allowed=False) == ""
