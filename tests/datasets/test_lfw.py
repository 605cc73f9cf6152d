"""LFW: the real files with the numbers that its authors publish, and clear errors for incomplete copies."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamese_verify.datasets import LFWPhotos, has_training_people, lfw_category, lfw_people
from siamese_verify.datasets.lfw import IMAGE_FOLDERS
from siamese_verify.errors import InputError
from siamese_verify.protocols import lfw_all_pairs, lfw_pairs

LFW = Path(__file__).resolve().parents[2].parent / "shared/data/lfw"
needs_lfw = pytest.mark.skipif(not (LFW / "pairs.txt").is_file(), reason=f"LFW is not in {LFW}: see data/README.md")

PEOPLE = {"Ann": 3, "Bob": 2, "Cyd": 1}
PAIRS = ["Ann\t1\t3", "Bob\t1\t2", "Ann\t2\tCyd\t1", "Bob\t1\tAnn\t1"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A whole LFW of three people, six photos and four pairs."""
    for number, (person, count) in enumerate(PEOPLE.items()):
        folder = tmp_path / "lfw-deepfunneled" / person
        folder.mkdir(parents=True)
        for photo in range(1, count + 1):
            Image.new("RGB", (8, 8), (100 * number, 10 * photo, 0)).save(folder / f"{person}_{photo:04d}.jpg")
    write(tmp_path, "people.txt", ["3", *(f"{person}\t{count}" for person, count in PEOPLE.items())])
    write(tmp_path, "pairs.txt", ["2", *PAIRS])
    return tmp_path


def write(root: Path, file: str, lines: Sequence[str]) -> None:
    (root / file).write_text("\n".join(lines) + "\n")


def refusal_of_pairs(root: Path) -> str:
    with pytest.raises(InputError) as raised:
        lfw_pairs(root, "pairs.txt", "LFW")
    message = str(raised.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


@needs_lfw
@pytest.mark.parametrize(
    ("file", "people", "images"),
    [("peopleDevTrain.txt", 4038, 9525), ("peopleDevTest.txt", 1711, 3708), ("people.txt", 5749, 13233)],
)
def test_counts_of_people_and_photos_are_the_published_ones(file: str, people: int, images: int) -> None:
    photos = lfw_people(LFW, file)
    lines = [line.split("\t") for line in (LFW / file).read_text().splitlines() if "\t" in line]
    naive = [f"{name}/{name}_{i:04d}.jpg" for name, count in lines for i in range(1, int(count) + 1)]
    assert (len(set(photos.identities.tolist())), len(photos)) == (people, images)
    assert photos.names == naive
    assert len(set(zip((name.split("/")[0] for name in photos.names), photos.identities.tolist(), strict=True))) == (
        people
    )


@needs_lfw
@pytest.mark.parametrize(
    ("file", "folds", "each"), [("pairsDevTrain.txt", 1, 1100), ("pairsDevTest.txt", 1, 500), ("pairs.txt", 10, 300)]
)
def test_pairs_are_those_of_a_naive_reading(file: str, folds: int, each: int) -> None:
    protocol = lfw_pairs(LFW, file, "LFW")
    pairs = protocol.pairs
    assert pairs is not None
    names = protocol.photos.names
    naive = []
    for line in (LFW / file).read_text().splitlines()[1:]:
        first, number, *rest = line.split("\t")
        second = rest[0] if len(rest) == 2 else first
        naive.append(
            (f"{first}/{first}_{int(number):04d}.jpg", f"{second}/{second}_{int(rest[-1]):04d}.jpg", first == second)
        )
    found = [(names[i], names[j], bool(same)) for i, j, same in zip(pairs.left, pairs.right, pairs.same, strict=True)]
    assert found == naive
    assert len(set(names)) == len(names)  # each photo is embedded once
    people = protocol.photos.identities
    np.testing.assert_array_equal(people[pairs.left] == people[pairs.right], pairs.same)
    if folds == 1:
        assert pairs.folds is None
        assert (pairs.same.sum(), (~pairs.same).sum()) == (each, each)
    else:
        assert pairs.folds is not None
        counts = Counter(zip(pairs.folds.tolist(), pairs.same.tolist(), strict=True))
        assert counts == {(fold, same): each for fold in range(folds) for same in (True, False)}


@needs_lfw
def test_training_and_test_people_of_view_1_are_different() -> None:
    train, test = (
        {name.split("/")[0] for name in lfw_people(LFW, f"peopleDev{part}.txt").names} for part in ("Train", "Test")
    )
    assert train.isdisjoint(test)


@needs_lfw
def test_photos_of_lfw_are_250_pixels_square() -> None:
    photos = LFWPhotos(LFW, [("AJ_Cook", 1), ("George_W_Bush", 530)])
    assert [photos[row].size for row in range(2)] == [(250, 250)] * 2


@pytest.mark.parametrize("folder", IMAGE_FOLDERS)
def test_photos_are_found_in_every_layout(root: Path, folder: str) -> None:
    (root / "lfw-deepfunneled").rename(root / folder)
    photos = lfw_people(root, "people.txt")
    assert photos.names == [f"{p}/{p}_{n:04d}.jpg" for p, count in PEOPLE.items() for n in range(1, count + 1)]
    assert photos.identities.tolist() == [0, 0, 0, 1, 1, 2]
    assert photos.identities.dtype == np.int64
    assert photos[5].size == (8, 8)


def test_counts_of_folds_are_not_taken_for_people(root: Path) -> None:
    write(root, "people.txt", ["2", "2", "Ann\t3", "Bob\t2", "1", "Cyd\t1"])
    assert len(lfw_people(root, "people.txt")) == 6


def test_pairs_without_folds(root: Path) -> None:
    protocol = lfw_pairs(root, "pairs.txt", "LFW View 1")
    pairs = protocol.pairs
    assert pairs is not None
    assert protocol.name == "LFW View 1"
    assert pairs.same.tolist() == [True, True, False, False]
    assert pairs.folds is None
    assert protocol.describe(2) == "Ann/Ann_0002.jpg and Cyd/Cyd_0001.jpg"
    assert len(protocol.photos) == 6


def test_pairs_with_folds_and_blank_lines(root: Path) -> None:
    write(root, "pairs.txt", ["2\t1", PAIRS[0], PAIRS[2], "", PAIRS[1], PAIRS[3], ""])
    pairs = lfw_pairs(root, "pairs.txt", "LFW").pairs
    assert pairs is not None
    assert pairs.folds is not None
    assert pairs.folds.tolist() == [0, 0, 1, 1]
    assert pairs.same.tolist() == [True, False, True, False]


def test_all_pairs_of_the_people_in_a_file(root: Path) -> None:
    protocol = lfw_all_pairs(root, "people.txt", "LFW, all pairs")
    assert protocol.pairs is None
    assert protocol.photos.identities.tolist() == [0, 0, 0, 1, 1, 2]


def test_a_missing_root_is_reported_with_its_setting(tmp_path: Path) -> None:
    message = refusal_of_pairs(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in message
    assert "data.root" in message


def test_a_folder_without_photos_is_reported(tmp_path: Path) -> None:
    message = refusal_of_pairs(tmp_path)
    assert str(tmp_path) in message
    assert all(name in message for name in (*IMAGE_FOLDERS, "data.root"))


@pytest.mark.parametrize("file", ["pairs.txt", "people.txt"])
def test_a_missing_protocol_file_is_reported(root: Path, file: str) -> None:
    (root / file).unlink()
    with pytest.raises(InputError, match=f"{file} cannot be read in {root}"):
        lfw_pairs(root, file, "LFW") if file == "pairs.txt" else lfw_people(root, file)


def test_missing_photos_are_counted_and_five_of_them_are_named(root: Path) -> None:
    for file in (root / "lfw-deepfunneled").rglob("*.jpg"):
        file.unlink()
    message = refusal_of_pairs(root)
    order = ["Ann/Ann_0001", "Ann/Ann_0003", "Bob/Bob_0001", "Bob/Bob_0002", "Ann/Ann_0002"]
    assert "6 of the 6 images in pairs.txt are missing" in message
    assert message.endswith(", ".join(f"{name}.jpg" for name in order) + ".")


def test_one_missing_photo_is_named(root: Path) -> None:
    (root / "lfw-deepfunneled/Cyd/Cyd_0001.jpg").unlink()
    message = refusal_of_pairs(root)
    assert "1 of the 6 images" in message
    assert message.endswith("Cyd/Cyd_0001.jpg.")


def test_a_damaged_photo_is_named_when_it_is_opened(root: Path) -> None:
    (root / "lfw-deepfunneled/Bob/Bob_0001.jpg").write_bytes(b"no photo")
    photos = lfw_people(root, "people.txt")
    assert photos[4].size == (8, 8)
    with pytest.raises(InputError, match=r"Bob_0001\.jpg"):
        photos[3]


@pytest.mark.parametrize(
    ("data", "pretrained", "detector", "disjoint", "claim"),
    [
        ("lfw", None, False, True, "unrestricted, no outside data"),
        ("lfw", None, True, True, "unrestricted, label-free outside data (the face detector's)"),
        ("lfw", "casia-webface", True, True, "unrestricted, labeled outside data"),
        ("casia-webface", "casia-webface", True, False, "unrestricted, labeled outside data"),
        ("synthetic", None, False, True, "unrestricted, labeled outside data"),
        (
            "lfw",
            None,
            True,
            False,
            "none: training saw people of these pairs, or there is no peopleDevTrain.txt to rule it out",
        ),
    ],
)
def test_the_category_of_a_result_depends_on_its_training_data(
    data: str, pretrained: str | None, detector: bool, disjoint: bool, claim: str
) -> None:
    assert lfw_category(data, pretrained, detector, disjoint) == claim


def test_view_2_after_training_on_view_1_claims_nothing() -> None:
    assert lfw_category("lfw", None, True, disjoint=False).startswith("none")


@needs_lfw
@pytest.mark.parametrize(("pairs", "met"), [("pairsDevTest.txt", False), ("pairs.txt", True)])
def test_training_people_are_in_view_2_and_not_in_the_test_pairs_of_view_1(pairs: str, met: bool) -> None:
    photos = lfw_pairs(LFW, pairs, "some pairs").photos
    assert isinstance(photos, LFWPhotos)
    assert has_training_people(photos) is met


@needs_lfw
def test_nobody_on_the_pairs_of_a_fold_is_among_the_people_of_the_others() -> None:
    whole, listed = lfw_pairs(LFW, "pairs.txt", "View 2").pairs, 0
    assert whole is not None and whole.folds is not None
    for fold in range(10):
        protocol = lfw_pairs(LFW, "pairs.txt", "one fold", fold)
        photos, pairs = protocol.photos, protocol.pairs
        assert isinstance(photos, LFWPhotos) and pairs is not None and pairs.folds is None
        rest = lfw_people(LFW, "people.txt", without_fold=fold)
        assert set(photos.people).isdisjoint(rest.people)
        assert not has_training_people(photos, "people.txt", fold)
        assert has_training_people(photos, "people.txt", (fold + 1) % 10)
        assert (pairs.same == whole.same[whole.folds == fold]).all()
        assert protocol.describe(7) == lfw_pairs(LFW, "pairs.txt", "View 2").describe(600 * fold + 7)
        listed += len(lfw_people(LFW, "people.txt").people) - len(rest.people)
    assert listed == 5749


def test_a_fold_that_a_file_does_not_have_is_refused(root: Path) -> None:
    with pytest.raises(InputError, match=r"pairs\.txt has no folds, as View 2 has, got fold 0"):
        lfw_pairs(root, "pairs.txt", "LFW", fold=0)
    write(root, "people.txt", ["2", "1", "Ann\t3", "2", "Bob\t2", "Cyd\t1"])
    assert lfw_people(root, "people.txt", without_fold=0).people == ["Bob", "Cyd"]
    assert lfw_people(root, "people.txt", without_fold=1).people == ["Ann"]
    with pytest.raises(InputError, match=r"people\.txt has the folds 0 \.\.\. 1, got fold 2"):
        lfw_people(root, "people.txt", without_fold=2)


def test_without_the_list_of_training_people_they_are_assumed_to_be_there(root: Path) -> None:
    photos = lfw_people(root, "people.txt")
    assert has_training_people(photos)
    write(root, "peopleDevTrain.txt", ["1", "Dan\t1"])
    assert not has_training_people(photos)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["2", *PAIRS[:2], "Ann\t1", PAIRS[3]], r"Line 4 of pairs\.txt is invalid: 'Ann\\t1'"),
        (["2", *PAIRS[:2], "Ann 1 2", PAIRS[3]], r"Line 4 of pairs\.txt is invalid: 'Ann 1 2'"),
        (["2", *PAIRS[:2], "Ann\t1\tBob\t1\t2", PAIRS[3]], r"Line 4 of pairs\.txt is invalid"),
        (["2", *PAIRS[:3], "Ann\tone\t2"], r"Line 5 of pairs\.txt has 'one' where a number should be"),
        (["2", *PAIRS[:3], "Ann\t1\t2.5"], r"Line 5 of pairs\.txt has '2\.5' where a number should be"),
        (["2", *PAIRS[:3], "Ann\t1\tBob\t"], r"Line 5 of pairs\.txt has '' where a number should be"),
        (["3", *PAIRS], "announces 6 pairs in its first line and has 4"),
        (["2\t2", *PAIRS], "announces 8 pairs in its first line and has 4"),
        (["0", *PAIRS], "announces 0 pairs in its first line and has 4"),
        (["1\t2\t3", *PAIRS], r"Line 1 of pairs\.txt"),
        (["", *PAIRS], r"Line 1 of pairs\.txt"),
        (PAIRS, r"Line 1 of pairs\.txt"),
        (["2\t1", PAIRS[0], "Ann\t1\t3", *PAIRS[2:]], r"Fold 1 of pairs\.txt should hold 1 genuine pairs and holds 2"),
    ],
)
def test_invalid_pair_files_are_refused(root: Path, lines: list[str], message: str) -> None:
    write(root, "pairs.txt", lines)
    assert re.search(message, refusal_of_pairs(root))


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "pairs.txt is empty"), (b"\xff\xfe\x00\x81", "pairs.txt cannot be read")]
)
def test_empty_and_binary_files_are_refused(root: Path, content: bytes, message: str) -> None:
    (root / "pairs.txt").write_bytes(content)
    assert message in refusal_of_pairs(root)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["3", "Bob\t2", "", "Ann"], r"Line 4 of people\.txt has 'Ann' where a number should be"),
        (["3", "Bob\t2", "", "Ann 3"], "has 'Ann 3' where a number should be"),
        (["3", "Bob\t2", "", "Ann\t3\t4"], r"Line 4 of people\.txt is invalid: 'Ann\\t3\\t4'"),
        (["3", "Ann\t3", "Bob\t1"], "announces 3 people and lists 2"),
    ],
)
def test_invalid_people_files_are_refused(root: Path, lines: list[str], message: str) -> None:
    write(root, "people.txt", lines)
    with pytest.raises(InputError, match=message):
        lfw_people(root, "people.txt")
