"""Decisions on people, and what is asked about them; `siamese-verify group` on the command line is the oracle."""

from __future__ import annotations

import argparse
import csv
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from siamese_verify.albums.album_folder import AlbumFolder
from siamese_verify.albums.grouping import PersonModel
from siamese_verify.albums.people import DECISIONS, GROUPS, AlbumFaces, Decisions, group_album, read_groups
from siamese_verify.albums.people_questions import LEAST, ask
from siamese_verify.albums.people_review import PeopleReview, mean_scores
from siamese_verify.cli.group_album import add_arguments, decide
from siamese_verify.errors import InputError
from tests.albums.people_album import PeopleAlbum, draw_rows, write_people

Open = Callable[..., PeopleReview]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> PeopleAlbum:
    return write_people(tmp_path_factory.mktemp("drawn"))


@pytest.fixture
def album(drawn: PeopleAlbum, tmp_path: Path) -> PeopleAlbum:
    shutil.copytree(drawn.folder, tmp_path / "faces")
    return drawn._replace(folder=tmp_path / "faces")


def group(album: PeopleAlbum, *arguments: str, again: bool = False) -> dict[str, tuple[str, str]]:
    """Number and name of the person of each photo, as the command finds them."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    decisions, earlier, table = Decisions.read(album.folder), read_groups(album.folder), album.table
    decide(decisions, earlier, parser.parse_args(["folder", *arguments]), AlbumFaces(table))
    people = group_album(table, album.calibration, decisions, () if again else earlier)
    decisions.write(album.folder)
    people.write(album.folder)
    return read(album.folder)


def read(folder: Path) -> dict[str, tuple[str, str]]:
    with (folder / GROUPS).open(newline="") as file:
        return {line["photo"]: (line["person"], line["name"]) for line in csv.DictReader(file)}


@pytest.fixture
def opened() -> Iterator[Open]:
    """`opened(album)` is the review of an album that the command has grouped, and sorts anew at once."""
    reviews: list[PeopleReview] = []

    def start(album: PeopleAlbum, quiet: float = 0.0) -> PeopleReview:
        group(album)
        decisions, table = Decisions.read(album.folder), album.table
        people = group_album(table, album.calibration, decisions, read_groups(album.folder))
        reviews.append(PeopleReview(AlbumFolder(album.folder), people, decisions, album.calibration, quiet=quiet))
        return reviews[-1]

    yield start
    for review in reviews:
        assert review.close(20)


def settled(review: PeopleReview) -> PeopleReview:
    """The review once the other faces are sorted anew."""
    end = time.monotonic() + 60
    while review.state()["busy"]:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert not review.state()["failure"]
    return review


def row_of(album: PeopleAlbum, photo: str) -> int:
    return list(album.table.photos).index(photo)


def pairs(groups: dict[str, tuple[str, str]], album: PeopleAlbum) -> tuple[str, str]:
    """Numbers of the people with the earlier and the later photos of identity 5."""
    return groups["05/0.png"][0], groups["05/3.png"][0]


@pytest.mark.parametrize("kind", ["name", "one name for two", "same", "different", "split"])
def test_a_decision_does_what_the_command_does(kind: str, album: PeopleAlbum, opened: Open, tmp_path: Path) -> None:
    groups = group(album)
    first, second = pairs(groups, album)
    assert first != second
    other = album._replace(folder=tmp_path / "other")
    shutil.copytree(album.folder, other.folder)
    review = opened(album)
    if kind == "name":
        assert review.name(int(first), "  Ann  Lee ") == f"Person {first} is Ann Lee."
        expected = group(other, "--name", f"{first}=Ann Lee")
    elif kind == "one name for two":
        review.name(int(first), "Ann")
        assert review.name(int(second), "Ann") == f"Person {second} is Ann, one person with {first}, who has that name."
        expected = group(other, "--name", f"{first}=Ann", "--name", f"{second}=Ann")
    elif kind == "same":
        assert review.merge([int(first), int(second)]) == f"{first} and {second} are one person."
        expected = group(other, "--merge", f"{first},{second}")
    elif kind == "different":
        review.apart([int(first), int(second)])
        expected = group(other, "--apart", f"{first},{second}")
    else:
        said = review.split(int(groups["00/3.png"][0]), [row_of(album, "00/3.png")], together=False)
        assert said == f"1 face is somebody else, not person {groups['00/3.png'][0]}."
        expected = group(other, "--split", f"{groups['00/3.png'][0]}=00/3.png")
    decided, by_command = Decisions.read(album.folder), Decisions.read(other.folder)
    assert decided.names == by_command.names and decided.same == by_command.same
    assert sorted(decided.different) == sorted(by_command.different)
    assert read(settled(review).album.path) == expected
    assert (expected != groups) == (kind != "different")
    assert group(album) == expected  # and the command finds it so afterwards


@pytest.mark.parametrize("together", [True, False])
def test_faces_that_are_split_off_stay_away_when_the_album_is_grouped_from_nothing(
    together: bool, album: PeopleAlbum, opened: Open
) -> None:
    groups = group(album)
    person = groups["00/0.png"][0]
    members = [photo for photo, found in groups.items() if found[0] == person]
    assert len(members) == 6
    review = opened(album)
    review.name(int(person), "Ann")
    review.split(int(person), [row_of(album, photo) for photo in members[:2]], together)
    for found in (read(settled(review).album.path), group(album, again=True)):
        gone = {found[photo][0] for photo in members[:2]}
        assert {found[photo][1] for photo in members[2:]} == {"Ann"}  # who keeps the name, also of a face that is gone
        assert len({found[photo][0] for photo in members[2:]}) == 1
        assert not gone & {found[photo][0] for photo in members[2:]}
        assert len(gone) == 1 or not together


def test_what_was_said_by_a_face_that_is_split_off_holds_for_the_rest(album: PeopleAlbum, opened: Open) -> None:
    groups = group(album)
    first, second = pairs(groups, album)
    review = opened(album)
    review.merge([int(first), int(second)])
    review.apart([int(first), int(groups["07/0.png"][0])])
    for photo in ("05/0.png", "05/1.png"):  # the faces that stand for them are among these
        person = int(read(settled(review).album.path)["05/2.png"][0])
        review.split(person, [row_of(album, photo)], together=False)
    found = group(album, again=True) if settled(review).close(20) else {}
    assert found["05/2.png"][0] == found["05/3.png"][0] == found["05/5.png"][0]
    assert found["05/2.png"][0] not in {found[f"07/{number}.png"][0] for number in range(6)}
    assert found["05/0.png"][0] != found["05/2.png"][0] != found["05/1.png"][0]


def test_decisions_that_contradict_each_other_or_are_about_nobody_change_nothing(
    album: PeopleAlbum, opened: Open
) -> None:
    first, second = (int(one) for one in pairs(group(album), album))
    review = opened(album)
    review.name(first, "Ann")
    review.name(second, "Bob")
    settled(review)
    before = [(album.folder / file).read_bytes() for file in (DECISIONS, GROUPS)]
    version = review.state()["version"]
    everything = [row_of(album, f"00/{number}.png") for number in range(6)]
    with pytest.raises(InputError, match="said to be one person but are named Ann and Bob"):
        review.merge([first, second])
    with pytest.raises(InputError, match="Person 99 is not there any more"):
        review.merge([first, 99])
    with pytest.raises(InputError, match="each once"):
        review.merge([first, first])
    with pytest.raises(InputError, match="two people who are not the same, not 3"):
        review.apart([1, 2, 3])
    with pytest.raises(InputError, match="all faces of person"):
        review.split(int(read(album.folder)["00/0.png"][0]), everything, together=True)
    with pytest.raises(InputError, match="Choose some faces of person"):
        review.split(first, [everything[0]], together=True)
    with pytest.raises(InputError, match="control characters"):
        review.name(first, "A\x1bnn")
    assert [(album.folder / file).read_bytes() for file in (DECISIONS, GROUPS)] == before
    assert review.state()["version"] == version
    review.name(second, "")
    assert review.state()["named"] == 1


def test_undo_takes_back_decisions_one_by_one(album: PeopleAlbum, opened: Open) -> None:
    groups = group(album)
    first, second = (int(one) for one in pairs(groups, album))
    review = opened(album)
    review.merge([first, second])
    settled(review)
    review.name(first, "Ann")
    assert review.undo() == f"Taken back: Person {first} is Ann."
    assert review.state()["undo"] == f"{first} and {second} are one person."
    review.undo()
    assert read(album.folder) == groups  # at once, whatever ends the process then
    assert not Decisions.read(album.folder).same + Decisions.read(album.folder).names
    with pytest.raises(InputError, match="no decision to take back"):
        review.undo()
    assert read(settled(review).album.path) == groups


@pytest.mark.parametrize("gone", [(0, 1, 2), (0, 3, 4), (2, 4, 5)])
def test_decisions_and_numbers_hold_whatever_ends_the_process(
    gone: tuple[int, ...], album: PeopleAlbum, opened: Open
) -> None:
    first, second = pairs(group(album), album)
    before = (album.folder / GROUPS).read_bytes()
    review = opened(album, quiet=60.0)
    review.merge([int(first), int(second)])
    person = int(read(album.folder)["05/0.png"][0])
    review.split(person, [row_of(album, f"05/{number}.png") for number in gone], together=True)
    shown = dict(zip(album.table.photos, review._view.persons.tolist(), strict=True))
    assert {photo: int(number) for photo, (number, _) in read(album.folder).items()} == shown
    assert len(Decisions.read(album.folder).same) >= 2
    shown_to = [shown[f"05/{number}.png"] for number in range(6)]
    found = group(album)  # as the command does after a kill: nothing was sorted or closed
    assert [int(found[f"05/{number}.png"][0]) for number in range(6)] == shown_to
    for earlier in (b"", before):  # and where it ended before groups.csv was written
        (album.folder / GROUPS).write_bytes(earlier)
        again = group(album)
        kept = {again[f"05/{number}.png"][0] for number in range(6) if number not in gone}
        assert kept.isdisjoint(again[f"05/{number}.png"][0] for number in gone)


def test_a_second_split_keeps_the_first(album: PeopleAlbum, opened: Open) -> None:
    person = int(group(album)["00/0.png"][0])
    review = opened(album, quiet=60.0)
    rows = [row_of(album, f"00/{number}.png") for number in (1, 3, 5)]
    for last in range(3):
        review.split(person, rows, together=True)
        review.split(int(review._view.persons[rows[0]]), [rows[last]], together=False)
        again = group(album, again=True)
        rest = {again[f"00/{number}.png"][0] for number in (0, 2, 4)}
        assert rest.isdisjoint(again[f"00/{number}.png"][0] for number in (1, 3, 5))
        review.undo()
        review.undo()


def test_people_joined_by_a_name_stay_one_without_it(album: PeopleAlbum, opened: Open) -> None:
    first, second = pairs(group(album), album)
    review = opened(album, quiet=60.0)
    review.name(int(first), "Ann")
    review.name(int(second), "Ann")
    review.name(int(read(album.folder)["05/0.png"][0]), "Bob")
    again = group(album, again=True)
    assert again["05/0.png"] == again["05/3.png"] and again["05/0.png"][1] == "Bob"


def test_a_merge_takes_back_that_any_two_are_not_one(album: PeopleAlbum, opened: Open) -> None:
    groups = group(album)
    first, second = (int(one) for one in pairs(groups, album))
    other = int(groups["07/0.png"][0])
    review = opened(album)
    review.apart([first, second])
    review.apart([other, second])
    review.merge([other, first, second])
    assert not Decisions.read(album.folder).different
    found = read(settled(review).album.path)
    assert found["05/0.png"][0] == found["05/3.png"][0] == found["07/0.png"][0]


def test_groups_that_could_not_be_written_are_written_later(
    album: PeopleAlbum, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("siamese_verify.albums.people_review.RETRY", 0.05)
    before = group(album)
    first, second = (int(one) for one in pairs(before, album))
    review = settled(opened(album))
    review.merge([first, second])
    settled(review)
    (album.folder / GROUPS).unlink()
    (album.folder / GROUPS).mkdir()
    assert review.undo().startswith("Taken back")
    while review.state()["busy"]:
        time.sleep(0.01)
    assert "groups.csv cannot be written" in review.state()["failure"]
    (album.folder / GROUPS).rmdir()
    end = time.monotonic() + 60
    while not (album.folder / GROUPS).is_file() or review.state()["failure"]:  # without another decision
        assert time.monotonic() < end
        time.sleep(0.01)
    assert read(album.folder) == before


def test_files_that_cannot_be_written_are_a_sentence(album: PeopleAlbum, opened: Open) -> None:
    first, second = (int(one) for one in pairs(group(album), album))
    review = settled(opened(album))
    (album.folder / GROUPS).rename(album.folder / "kept.csv")
    (album.folder / GROUPS).mkdir()
    review.merge([first, second])
    while review.state()["busy"]:
        time.sleep(0.01)
    assert "groups.csv cannot be written" in review.state()["failure"]
    assert len(Decisions.read(album.folder).same) == 1
    (album.folder / GROUPS).rmdir()
    kept = (album.folder / DECISIONS).rename(album.folder / "kept.json")
    (album.folder / DECISIONS).mkdir()
    with pytest.raises(InputError, match=r"decisions\.json cannot be written"):
        review.name(first, "Ann")
    assert review.state()["named"] == 0
    (album.folder / DECISIONS).rmdir()
    kept.rename(album.folder / DECISIONS)
    review.name(first, "Ann")
    assert read(settled(review).album.path)["05/3.png"] == (str(first), "Ann")


def test_questions_are_answered_once(album: PeopleAlbum, opened: Open) -> None:
    review = settled(opened(album))
    asked = review.questions()
    assert asked["ready"] and asked["total"] == len(asked["questions"]) >= 4
    answered = set()
    while questions := settled(review).questions()["questions"]:
        numbers = [person["number"] for person in questions[0]["people"]]
        faces = [album.table.photos.index(person["sample"][0]["photo"]) for person in questions[0]["people"]]
        who = {int(album.identities[row]) for row in faces}
        assert frozenset(faces) not in answered
        answered.add(frozenset(faces))
        (review.merge if len(who) == 1 else review.apart)(numbers)
    assert len(answered) >= 4
    assert review.close(20)
    again = opened(album)  # the next day
    assert settled(again).questions()["total"] == 0


def test_questions_are_the_pairs_of_the_largest_ratio_that_may_be_one(album: PeopleAlbum) -> None:
    people, photos = 12, 5
    rows = draw_rows(people, photos, 3, apart=2.0)
    persons = np.repeat(np.arange(2 * people), [3, 2] * people) + 1  # the earlier and the later photos
    model = PersonModel.from_calibration(album.calibration.calibration)
    on_photo = np.arange(len(rows))
    on_photo[0], on_photo[3] = on_photo[10], on_photo[13]  # persons 1 and 5, 2 and 6 are on one photo
    apart = [[int(np.flatnonzero(persons == 3)[0]), int(np.flatnonzero(persons == 4)[0])]]
    forbidden = {(1, 5), (2, 6), (3, 4)}
    expected = []
    for a in range(1, 2 * people + 1):
        for b in range(a + 1, 2 * people + 1):
            one, other = (rows[persons == number].astype(np.float64) for number in (a, b))
            ratio = model.log_likelihood_ratio(
                np.mean([x @ y for x in one for y in other]),
                (len(one), np.mean([x @ y for x in one for y in one])),
                (len(other), np.mean([x @ y for x in other for y in other])),
            )
            if ratio >= LEAST and (a, b) not in forbidden:
                expected.append((float(ratio), a, b))
    found = ask(rows, persons, model, np.unique(on_photo, return_inverse=True)[1], apart)
    assert [(int(persons[one.first]), int(persons[one.second])) for one in found] == [
        pair[1:] for pair in sorted(expected, reverse=True)
    ]
    assert [one.ratio for one in found] == pytest.approx([pair[0] for pair in sorted(expected, reverse=True)], abs=1e-4)
    assert ask(rows, persons, model, on_photo % 1000, apart, most=2) == found[:2]


def test_pages_hold_everybody_once(album: PeopleAlbum, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("siamese_verify.albums.people_review.PAGE", 5)
    monkeypatch.setattr("siamese_verify.albums.people_review.SHEET", 4)
    review = settled(opened(album))
    pages = review.people(0)["pages"]
    numbers = [person["number"] for page in range(pages) for person in review.people(page)["people"]]
    groups = read(album.folder)
    assert sorted(map(str, numbers)) == sorted({person for person, _ in groups.values()})
    assert review.people(10**12)["page"] == pages - 1
    sizes = [person["size"] for page in range(pages) for person in review.people(page)["people"]]
    assert sizes == sorted(sizes, reverse=True)
    first = numbers[0]
    rows = [face["row"] for page in range(2) for face in review.person(first, page)["faces"]]
    scores = [face["score"] for page in range(2) for face in review.person(first, page)["faces"]]
    assert sorted(rows) == [row_of(album, photo) for photo, found in groups.items() if found[0] == str(first)]
    assert scores == sorted(scores, reverse=True)
    assert review.person(first, 0, least_first=True)["faces"][0]["row"] == rows[-1]
    review.name(first, "Ann Lee")
    assert [person["number"] for person in review.people(0, "LEE")["people"]] == [first]
    assert review.completions("l") == review.completions("ann") == ["Ann Lee"]
    assert review.completions("nn") == []


def test_mean_scores_are_those_of_a_loop() -> None:
    rows = draw_rows(3, 3, 0)
    chosen = np.array([1, 4, 5, 8])
    naive = [np.mean([rows[a].astype(float) @ rows[b] for b in chosen if b != a]) for a in chosen]
    assert mean_scores(rows, chosen) == pytest.approx(naive)
    assert np.isnan(mean_scores(rows, chosen[:1])).all()
