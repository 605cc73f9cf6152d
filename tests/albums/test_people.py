from __future__ import annotations

import argparse
import csv
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from siamese_verify.albums.album_folder import AlbumFolder
from siamese_verify.albums.embed_album import embed_album
from siamese_verify.albums.face_table import FaceTable
from siamese_verify.albums.people import (
    DECISIONS,
    GROUPS,
    AlbumFaces,
    AlbumPeople,
    Decisions,
    FaceReference,
    _numbers,
    face_of,
    group_album,
    read_groups,
)
from siamese_verify.cli.group_album import add_arguments, decide, write_pages
from siamese_verify.cli.options import page_path
from siamese_verify.errors import InputError
from siamese_verify.evaluation import ScoreCalibration, calibrate
from tests.albums.stub_verifier import METADATA, draw_album, load

SIZE = 24


def rows_of(people: int, photos: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    identities = np.repeat(np.arange(people), photos)
    rows = rng.normal(size=(people, SIZE))[identities] + 0.4 * rng.normal(size=(len(identities), SIZE))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), identities


@pytest.fixture(scope="module")
def calibration() -> ScoreCalibration:
    return calibrate(*rows_of(60, 4, seed=9), intervals=False)


def table_of(rows: np.ndarray) -> FaceTable:
    """Two faces on each photo, of people far from each other in the order of the rows."""
    half = len(rows) // 2
    names = [f"{row % half:03}.jpg" for row in range(len(rows))]
    left = np.where(np.arange(len(rows)) < half, 0.0, 100.0)
    boxes = np.stack([left, 0 * left, left + 50, 0 * left + 50], axis=1).astype(np.float32)
    return FaceTable(names, rows, boxes, np.ones(len(rows), np.float32))


@pytest.fixture
def table() -> FaceTable:
    return table_of(rows_of(8, 5)[0])


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(["folder", *arguments])


def grouped(
    folder: Path, table: FaceTable, calibration: ScoreCalibration, *arguments: str, again: bool = False
) -> AlbumPeople:
    """What the command does with an album that is embedded."""
    decisions, earlier = Decisions.read(folder), read_groups(folder)
    decide(decisions, earlier, options(*arguments), AlbumFaces(table))
    people = group_album(table, calibration, decisions, () if again else earlier)
    decisions.write(folder)
    people.write(folder)
    return people


def test_numbers_stay_and_new_photos_join_known_people(
    tmp_path: Path, table: FaceTable, calibration: ScoreCalibration
) -> None:
    rows, identities = rows_of(8, 5)
    known = np.flatnonzero(np.arange(40) % 5 < 3)  # three photos of each
    some = table_of(rows[known])
    before = grouped(tmp_path, some, calibration)
    assert sorted(set(before.persons.tolist())) == list(range(1, 9))
    place = {
        photo + str(box): person for photo, box, person in zip(some.photos, some.boxes, before.persons, strict=True)
    }
    names = [f"new-{row}.jpg" for row in range(40)]
    boxes = np.tile(np.array([0, 0, 50, 50], np.float32), (40, 1))
    for old, row in enumerate(known):
        names[row], boxes[row] = some.photos[old], some.boxes[old] + 3  # found anew, three pixels off
    after = grouped(tmp_path, FaceTable(names, rows, boxes, np.ones(40, np.float32)), calibration)
    assert after.lost == 0
    for old, row in enumerate(known):
        assert after.persons[row] == place[some.photos[old] + str(some.boxes[old])]
    for identity in range(8):
        assert len(set(after.persons[identities == identity].tolist())) == 1


def test_names_merges_and_splits_hold_when_the_album_is_grouped_again_from_nothing(
    tmp_path: Path, table: FaceTable, calibration: ScoreCalibration
) -> None:
    first = grouped(tmp_path, table, calibration)
    a, b, c = (int(first.persons[row]) for row in (0, 5, 10))
    photo = table.photos[12]
    grouped(tmp_path, table, calibration, "--name", f"{a}=Ann", "--merge", f"{a},{b}", "--split", f"{c}={photo}")
    for again in (False, True):
        people = grouped(tmp_path, table, calibration, again=again)
        assert people.persons[0] == people.persons[5]
        assert people.names[int(people.persons[0])] == "Ann"
        assert people.persons[12] != people.persons[11] == people.persons[10]
    (line, *_) = [one for one in csv.DictReader((tmp_path / GROUPS).open()) if one["name"]]
    assert line["name"] == "Ann"
    for file in (GROUPS, DECISIONS):
        assert (tmp_path / file).stat().st_mode & 0o777 == 0o600


def test_people_said_to_be_two_are_never_merged_and_the_last_decision_holds(
    tmp_path: Path, table: FaceTable, calibration: ScoreCalibration
) -> None:
    twice = replace(table, embeddings=np.tile(table.embeddings[:1], (40, 1)))  # all alike: two people at most
    strict = grouped(tmp_path, twice, calibration, again=True)
    assert len(set(strict.persons.tolist())) == 2
    grouped(tmp_path, table, calibration, again=True)
    people = grouped(tmp_path, table, calibration)
    a, b = int(people.persons[0]), int(people.persons[25])
    merged = grouped(tmp_path, table, calibration, "--merge", f"{a},{b}")
    assert merged.persons[0] == merged.persons[25]
    (tmp_path / DECISIONS).unlink()
    people = grouped(tmp_path, table, calibration, again=True)
    a, b = int(people.persons[0]), int(people.persons[25])
    grouped(tmp_path, table, calibration, "--apart", f"{a},{b}")
    alike = table.embeddings.copy()
    alike[25:30] = alike[0:5]
    apart = grouped(tmp_path, replace(table, embeddings=alike), calibration)
    assert set(apart.persons[:5].tolist()).isdisjoint(apart.persons[25:30].tolist())


def test_people_of_different_names_stay_two(tmp_path: Path, table: FaceTable, calibration: ScoreCalibration) -> None:
    people = grouped(tmp_path, table, calibration)
    a, b = int(people.persons[0]), int(people.persons[25])
    grouped(tmp_path, table, calibration, "--name", f"{a}=Ann", "--name", f"{b}=Bob")
    alike = table.embeddings.copy()
    alike[25:30] = alike[0:5]
    found = grouped(tmp_path, replace(table, embeddings=alike), calibration)
    assert set(found.names.values()) == {"Ann", "Bob"} and found.persons[0] != found.persons[25]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("--name", "99=Ann"), "no person '99'"),
        (("--name", "1"), "two values"),
        (("--merge", "1,1"), "twice"),
        (("--split", "1=none.jpg"), "no face on"),
        (("--name", "1=J\udcffrg"), "name .* is not UTF-8"),
        (("--name", "1=a\x1b[2J"), "control characters"),
    ],
)
def test_decisions_about_nobody_are_refused(
    tmp_path: Path, table: FaceTable, calibration: ScoreCalibration, arguments: tuple[str, str], match: str
) -> None:
    grouped(tmp_path, table, calibration)
    with pytest.raises(InputError, match=match):
        grouped(tmp_path, table, calibration, *arguments)


@pytest.mark.parametrize("file", [GROUPS, DECISIONS])
def test_damaged_files_are_refused(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_text("photo,person\na,b\n")
    with pytest.raises(InputError, match="damaged"):
        (read_groups if file == GROUPS else Decisions.read)(tmp_path)


@pytest.mark.parametrize("cells", ["a,0,0,1,1,99999999999999999999,,", "a,0,0,1,1,0,,", "a,0,0,1,1,1," + "n" * 2**18])
def test_edited_groups_are_refused_and_a_byte_order_mark_is_not(tmp_path: Path, cells: str) -> None:
    header = "photo,left,top,right,bottom,person,name,score\n"
    (tmp_path / GROUPS).write_text(f"\ufeff{header}a,0,0,1,1,7,Ann,\n", encoding="utf-8")
    assert read_groups(tmp_path) == [(("a", (0, 0, 1, 1)), 7, "Ann")]
    (tmp_path / GROUPS).write_text(f"{header}{cells}\n")
    with pytest.raises(InputError, match="damaged"):
        read_groups(tmp_path)


def test_photos_with_line_breaks_and_long_names_are_grouped_and_read_again(
    tmp_path: Path, table: FaceTable, calibration: ScoreCalibration
) -> None:
    names = ["a\rb.jpg", "a\nb.jpg", "\r.jpg", "x" * 50_000, *table.photos[4:]]
    tracemalloc.start()
    people = grouped(tmp_path, replace(table, photos=names), calibration)
    assert tracemalloc.get_traced_memory()[1] < 4e6  # 40 names as long as the longest would be 8 MB
    tracemalloc.stop()
    assert people.persons.max() == 8
    assert {one.face.photo for one in read_groups(tmp_path)} == set(names)


def test_contradicting_decisions_name_the_photos(
    tmp_path: Path, table: FaceTable, calibration: ScoreCalibration
) -> None:
    people = grouped(tmp_path, table, calibration)
    a, b = int(people.persons[0]), int(people.persons[25])
    grouped(tmp_path, table, calibration, "--name", f"{a}=Ann", "--name", f"{b}=Bob")
    with pytest.raises(InputError, match=rf"{table.photos[0]} and {table.photos[25]} .* Ann and Bob"):
        grouped(tmp_path, table, calibration, "--merge", f"{a},{b}")
    same = grouped(tmp_path, table, calibration, "--merge", f"{a},{b}", "--name", f"{b}=Ann")
    assert same.persons[0] == same.persons[25]
    first, second = (face_of(table, row) for row in (0, 25))
    with pytest.raises(InputError, match=rf"{table.photos[0]} and {table.photos[25]} .* one person and two"):
        group_album(table, calibration, Decisions(same=[(first, second)], different=[(first, second)]))


def test_a_face_that_is_not_of_a_large_person_stays_away_by_a_bounded_number_of_pairs(
    tmp_path: Path, calibration: ScoreCalibration
) -> None:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=SIZE) + 0.4 * rng.normal(size=(500, SIZE))
    many = table_of((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))
    many = replace(many, photos=[f"{row}.jpg" for row in range(500)])
    assert set(grouped(tmp_path, many, calibration).persons.tolist()) == {1}
    gone = [7, 60, 123, 499]
    for row in gone:
        found = grouped(tmp_path, many, calibration, "--split", f"1={row}.jpg")
    assert len(Decisions.read(tmp_path).different) <= 64 * len(gone)
    for people in (found, grouped(tmp_path, many, calibration, again=True)):
        rest = set(np.delete(people.persons, gone).tolist())
        assert len(rest) == 1 and rest.isdisjoint(people.persons[gone].tolist())


def test_a_name_typed_in_two_ways_is_one(tmp_path: Path, table: FaceTable, calibration: ScoreCalibration) -> None:
    people = grouped(tmp_path, table, calibration)
    a, b = int(people.persons[0]), int(people.persons[25])
    joined = grouped(tmp_path, table, calibration, "--name", f"{a}=Ren\u00e9", "--name", f"{b}=Rene\u0301")
    assert joined.persons[0] == joined.persons[25] and set(joined.names.values()) == {"Ren\u00e9"}


def test_a_later_merge_takes_back_apart_also_after_boxes_have_moved(
    tmp_path: Path, table: FaceTable, calibration: ScoreCalibration
) -> None:
    people = grouped(tmp_path, table, calibration)
    numbers = ",".join(str(people.persons[row]) for row in (0, 25))
    grouped(tmp_path, table, calibration, "--apart", numbers)
    moved = replace(table, boxes=table.boxes + 2)
    assert len(set(grouped(tmp_path, moved, calibration).persons[[0, 25]].tolist())) == 2
    merged = grouped(tmp_path, replace(table, boxes=table.boxes + 4), calibration, "--merge", numbers)
    assert merged.persons[0] == merged.persons[25] and merged.lost == 0


def test_the_number_of_somebody_who_is_gone_is_given_to_nobody_else(
    tmp_path: Path, calibration: ScoreCalibration
) -> None:
    rows = rows_of(3, 5)[0]
    boxes, ones = np.tile(np.array([0, 0, 50, 50], np.float32), (15, 1)), np.ones(15, np.float32)
    names = [f"{row}.jpg" for row in range(15)]
    two = FaceTable(names[:10], rows[:10], boxes[:10], ones[:10])
    assert sorted(set(grouped(tmp_path, two, calibration).persons.tolist())) == [1, 2]
    assert set(grouped(tmp_path, two, calibration, "--merge", "1,2").persons.tolist()) == {1}
    found = grouped(tmp_path, FaceTable(names, rows, boxes, ones), calibration)
    assert set(found.persons[10:].tolist()) == {3}


def test_numbering_people_of_a_large_album_takes_memory_and_time_by_faces() -> None:
    """Every earlier person in a loop over all faces would be 7e9 comparisons."""
    known = np.arange(1, 60_001).repeat(2)
    swapped = np.arange(60_000)[::-1].repeat(2)
    assert (_numbers(swapped, known, 60_000) == known).all()
    known[:4], groups = (1, 2, 2, 0), np.array([0, 0, 0, 1])
    assert _numbers(groups, known[:4], 9).tolist() == [1, 1, 1, 10]


def test_an_empty_album_has_no_people(tmp_path: Path, calibration: ScoreCalibration) -> None:
    empty = FaceTable([], np.empty((0, SIZE), np.float32), np.empty((0, 4), np.float32), np.empty(0, np.float32))
    assert len(grouped(tmp_path, empty, calibration).persons) == 0
    assert read_groups(tmp_path) == []


def test_a_contact_sheet_of_each_person_is_private_and_shows_their_faces(
    tmp_path: Path, calibration: ScoreCalibration
) -> None:
    embed_album(draw_album(tmp_path / "album", 8), tmp_path / "faces", METADATA, load, processes=1)
    album, table = AlbumFolder(tmp_path / "faces"), FaceTable.read(tmp_path / "faces")
    people = group_album(table, calibration, Decisions(names=[(FaceReference(table.photos[0], (0, 0, 8, 8)), "<Ann>")]))
    page = page_path(str(tmp_path / "page"), several=True)
    assert page
    write_pages(page.parent, album, people)
    for name in ("person-99.html", "person-of-mine.html"):  # of somebody who is gone, and of somebody else
        (tmp_path / "page" / name).touch(mode=0o600)
    write_pages(page.parent, album, people)
    (tmp_path / "page" / "person-of-mine.html").unlink()
    assert (tmp_path / "page").stat().st_mode & 0o777 == 0o700
    pages = sorted((tmp_path / "page").iterdir())
    assert len(pages) == 1 + len(set(people.persons.tolist()))
    assert all(page.stat().st_mode & 0o777 == 0o600 for page in pages)
    index = page.read_text()
    assert "&lt;Ann&gt;" in index and "<Ann>" not in index and "data:image/jpeg" in index
