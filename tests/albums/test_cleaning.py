from __future__ import annotations

import argparse
import csv
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from siamese_verify.albums import FaceTable
from siamese_verify.albums.album_source import AlbumSource
from siamese_verify.albums.cleaning import Finding, find_label_errors, write_findings
from siamese_verify.cli.clean_album import add_arguments, identities_of, largest_faces, run
from siamese_verify.datasets import FolderPhotos, ListedPhotos
from siamese_verify.errors import InputError
from siamese_verify.evaluation import ScoreCalibration, calibrate
from tests.albums.test_people import rows_of


@pytest.fixture(scope="module")
def calibration() -> ScoreCalibration:
    return calibrate(*rows_of(60, 4, seed=9), intervals=False)


def test_each_kind_of_planted_error_is_found_and_nothing_else(calibration: ScoreCalibration) -> None:
    rows, truth = rows_of(20, 6, seed=1)
    labels = truth.copy()
    labels[3] = 5  # a photo of 0 among those of 5
    labels[truth == 8] = 7  # two people under one name
    labels[np.flatnonzero(truth == 12)[:3]] = 40  # one person under two names
    rows[100] = rows[101]  # a copy
    found = find_label_errors(rows, labels, calibration)
    assert {one.kind for one in found} == {"mislabelled", "two people", "one person", "duplicate"}
    (moved,) = [one for one in found if one.kind == "mislabelled"]
    assert (moved.rows, moved.identity, moved.other) == ((3,), 5, 0)
    (two,) = [one for one in found if one.kind == "two people"]
    assert two.identity == 7 and len(two.rows) == 6 and len(set(truth[list(two.rows)].tolist())) == 1
    (one,) = [one for one in found if one.kind == "one person"]
    assert {one.identity, one.other} == {12, 40}
    (copy,) = [one for one in found if one.kind == "duplicate"]
    assert {*copy.rows, copy.shown} == {100, 101}


def test_correct_labels_have_no_findings(calibration: ScoreCalibration) -> None:
    assert find_label_errors(*rows_of(20, 6, seed=1), calibration) == []
    assert find_label_errors(np.empty((0, 24), np.float32), [], calibration) == []
    assert find_label_errors(*rows_of(1, 1), calibration) == []


def test_the_list_to_review_says_what_is_wrong_and_drops_nothing_by_itself(
    tmp_path: Path, calibration: ScoreCalibration
) -> None:
    rows, labels = rows_of(20, 6, seed=1)
    labels[3] = 5
    found = find_label_errors(rows, labels, calibration)
    write_findings(
        tmp_path / "review.csv", found, [f"=photo{row}.jpg" for row in range(120)], list("abcdefghijklmnopqrst")
    )
    (line,) = csv.DictReader((tmp_path / "review.csv").open())
    assert (line["kind"], line["photo"], line["identity"], line["other"]) == ("mislabelled", "'=photo3.jpg", "f", "a")
    assert line["drop"] == "no" and float(line["log_likelihood_ratio"]) > 0
    assert (tmp_path / "review.csv").stat().st_mode & 0o777 == 0o600


def test_a_carriage_return_in_a_name_and_a_list_without_findings_can_be_read_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a\rb/1\r.jpg", "c/2.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    review = tmp_path / "review.csv"
    write_findings(review, [], [], [])
    assert len(FolderPhotos(tmp_path, drop=review).names) == 2
    write_findings(review, [Finding("mislabelled", (0,), 0, 1, 3.0, 0)], ["a\rb/1\r.jpg"], ["a\rb", "c"])
    review.write_bytes(review.read_bytes().replace(b",no", b",yes") + b"mislabelled,gone/3.jpg,a,c,1,yes\r\n")
    assert list(FolderPhotos(tmp_path, drop=review).names) == ["c/2.jpg"]
    assert "1 of the 2 photos to drop" in caplog.text


def test_memory_for_an_identity_grows_with_its_photos(calibration: ScoreCalibration) -> None:
    """All pairs of 900 photos would be nine times as many as of 300."""
    peaks = []
    for count in (300, 900):
        rows, labels = rows_of(1, count)
        tracemalloc.start()
        assert find_label_errors(rows, labels, calibration) == []
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 5 * peaks[0]


def test_a_folder_that_is_missing_is_said_before_the_work(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(InputError, match=r"no folder .*missing"):
        run(parser.parse_args([str(tmp_path), "--output", str(tmp_path / "missing" / "review.csv")]))


def test_invalid_input_is_refused(calibration: ScoreCalibration) -> None:
    rows, labels = rows_of(3, 3)
    with pytest.raises(InputError, match="one identity"):
        find_label_errors(rows, labels[:4], calibration)
    with pytest.raises(InputError, match="NaN"):
        find_label_errors(np.full_like(rows, np.nan), labels, calibration)


def test_a_reviewed_list_leaves_out_the_photos_with_yes(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    review = tmp_path / "review.csv"
    review.write_text("kind,photo,drop\nmislabelled,a/2.jpg,Yes\nduplicate,b/1.jpg,no\n")
    assert list(FolderPhotos(tmp_path, drop=review).names) == ["a/1.jpg", "b/1.jpg"]
    review.write_text("photo,drop\na/2.jpg,perhaps\n")
    with pytest.raises(InputError, match=r"Line 2 .* 'perhaps'"):
        FolderPhotos(tmp_path, drop=review)
    review.write_text("photo,drop\nc/9.jpg,yes\n")
    with pytest.raises(InputError, match="None of the 1 photos to drop"):
        FolderPhotos(tmp_path, drop=review)


def test_lists_leave_out_what_was_reviewed_and_say_who_is_on_a_photo(tmp_path: Path) -> None:
    place, review = tmp_path / "train.csv", tmp_path / "review.csv"
    place.write_text("path,identity\n1.jpg,zoe\n2.jpg,anna\n3.jpg,bob\n4.jpg,bob\n")
    review.write_text("photo,drop\n2.jpg,yes\n3.jpg,yes\n4.jpg,no\n")
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        photos = ListedPhotos(place, cache=cache, drop=review)
        assert list(photos.names) == ["4.jpg", "1.jpg"]
        assert [photos.people[identity] for identity in photos.identities] == ["bob", "zoe"]
        assert len(photos.people) == 2
        assert len(ListedPhotos(place, cache=cache)) == 4
    review.write_text("photo,drop\n9.jpg,yes\n")
    with pytest.raises(InputError, match="None of the 1 photos to drop"):
        ListedPhotos(place, drop=review)
    review.write_text("photo,drop\n" + "".join(f"{number}.jpg,yes\n" for number in range(1, 5)))
    with pytest.raises(InputError, match="leave some"):
        ListedPhotos(place, drop=review)
    assert identities_of(AlbumSource(place), ["3.jpg", "1.jpg"]) == (["bob", "zoe"], ["3.jpg", "1.jpg"])
    place.write_text(f"path,identity\n{tmp_path}/1.jpg,zoe\n3.jpg,bob\n")
    listed = ["3.jpg", f"{tmp_path}/1.jpg"]  # as `drop` has to name them
    assert identities_of(AlbumSource(place), ["3.jpg", "1.jpg"]) == (["bob", "zoe"], listed)
    (tmp_path / "train.TXT").write_text("zoe/1.jpg\nbob/3.jpg\n")  # no column: their folders
    assert identities_of(AlbumSource(tmp_path / "train.TXT"), ["bob/3.jpg", "zoe/1.jpg"])[0] == ["bob", "zoe"]
    (tmp_path / "train.TXT").write_text(f"{tmp_path}/zoe/1.jpg\n")
    with pytest.raises(InputError, match="has absolute paths, which do not say whose folder"):
        identities_of(AlbumSource(tmp_path / "train.TXT", "/"), [f"{tmp_path}/zoe/1.jpg"[1:]])
    with pytest.raises(InputError, match="any more"):
        identities_of(AlbumSource(place), ["9.jpg"])
    assert identities_of(AlbumSource(tmp_path), ["anna/1.jpg"]) == (["anna"], ["anna/1.jpg"])
    with pytest.raises(InputError, match="no identity's folder"):
        identities_of(AlbumSource(tmp_path), ["1.jpg"])


def test_of_a_photo_with_two_faces_the_largest_counts() -> None:
    boxes = np.array([[0, 0, 2, 2], [0, 0, 5, 5], [0, 0, 1, 1]], np.float32)
    table = FaceTable(["a/1.jpg", "a/1.jpg", "a/2.jpg"], np.zeros((3, 2), np.float32), boxes, np.ones(3, np.float32))
    assert largest_faces(table).tolist() == [1, 2]
