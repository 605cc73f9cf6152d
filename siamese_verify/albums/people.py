"""People of an album: the groups of its faces, with numbers and names, and what their user has decided about them.

Groups and decisions are kept by photo and box, not by row: they hold when the album grows or is embedded anew.
"""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from siamese_verify.albums.face_table import FaceTable
from siamese_verify.albums.grouping import FALSE_MERGE_RATE, Grouping, group_faces
from siamese_verify.atomic_write import atomic_write
from siamese_verify.errors import InputError, printable
from siamese_verify.evaluation import ScoreCalibration
from siamese_verify.faces.rotation import Box, overlap
from siamese_verify.tables import csv_cell, read_csv_cell

GROUPS, DECISIONS = "groups.csv", "decisions.json"
COLUMNS = ("photo", "left", "top", "right", "bottom", "person", "name", "score")
FORMAT = 1
MOST_PEOPLE = 2**53  # what JSON holds exactly
OVERLAP = 0.5  # intersection over union from which two boxes of a photo are one face, as in detection benchmarks
REMEMBERED = 2**17  # faces whose row is remembered
ALIKE, SPREAD = 32, 32  # of a person, from which a face of somebody else is told apart: most like it, and of all


class FaceReference(NamedTuple):
    """A face, wherever it is in the album."""

    photo: str
    box: Box


class GroupedFace(NamedTuple):
    """A line of `groups.csv`."""

    face: FaceReference
    person: int
    name: str


@dataclass
class Decisions:
    """What the user has decided.

    Attributes:
        names: faces and the name of their person.
        same: pairs of faces of one person.
        different: pairs of faces that are not.
        highest: number ever given to a person: those of people who are gone are given to nobody else.
    """

    names: list[tuple[FaceReference, str]] = field(default_factory=list)
    same: list[tuple[FaceReference, FaceReference]] = field(default_factory=list)
    different: list[tuple[FaceReference, FaceReference]] = field(default_factory=list)
    highest: int = 0

    @classmethod
    def read(cls, folder: Path) -> Decisions:
        """Read the decisions in an album's folder; none where there are none.

        Raises:
            InputError: the file is damaged.
        """
        path = folder / DECISIONS
        if not path.exists():
            return cls()
        try:
            stored = json.loads(path.read_bytes())
            if stored["format"] != FORMAT:
                raise InputError(f"{path} is of another version of siamese-verify: update it.")
            same, different = (
                [(_reference(a), _reference(b)) for a, b in stored[kind]] for kind in ("same", "different")
            )
            names = [(_reference(face), checked_name(name)) for face, name in stored["names"]]
            return cls(names, same, different, _number(stored.get("highest", 0), 0))
        except InputError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is damaged ({error}): restore it, or remove it and decide again.") from None

    def write(self, folder: Path) -> None:
        """Write the decisions, readable for their owner only."""
        kinds = (f'"{kind}": [\n{_lines(getattr(self, kind))}\n]' for kind in ("names", "same", "different"))
        content = ",\n".join([f'{{"format": {FORMAT}', *kinds, f'"highest": {self.highest}}}\n'])
        atomic_write(folder / DECISIONS, content.encode(), private=True)

    def follow(self, index: AlbumFaces) -> None:
        """Replace each face by the one that it is in the album now: its box may have moved a little."""
        self.names = [(index.follow(face), name) for face, name in self.names]
        self.same = [(index.follow(a), index.follow(b)) for a, b in self.same]
        self.different = [(index.follow(a), index.follow(b)) for a, b in self.different]

    def decide(self, a: FaceReference, b: FaceReference, same: bool) -> None:
        """Remember whether two faces are one person; takes back what was decided about the two before."""
        for kind in (self.same, self.different):
            for pair in ((a, b), (b, a)):
                if pair in kind:
                    kind.remove(pair)
        (self.same if same else self.different).append((a, b))

    def copy(self) -> Decisions:
        """The same decisions, to be changed apart from these."""
        return Decisions([*self.names], [*self.same], [*self.different], self.highest)

    def name(self, faces: Sequence[FaceReference], name: str) -> None:
        """Remember the name of a person with these faces; an empty one takes back that they have one.

        Who has the name already is the same person, also when it is taken away later.

        Raises:
            InputError: see `checked_name`.
        """
        own, name = set(faces), checked_name(name)
        self.names = [one for one in self.names if one[0] not in own]
        if name:
            joined = [(faces[0], face) for face, known in self.names if known == name]
            self.same = list(dict.fromkeys([*self.same, *joined]))
            self.names.append((faces[0], name))

    def merge(self, *people: Sequence[FaceReference]) -> None:
        """Remember that people with these faces are one; takes back that any two of them are not."""
        person = {face: number for number, faces in enumerate(people) for face in faces}
        self.different = [(a, b) for a, b in self.different if a not in person or person[a] == person.get(b, person[a])]
        for other in people[1:]:
            self.decide(people[0][0], other[0], same=True)

    def split(
        self,
        index: AlbumFaces,
        faces: Sequence[FaceReference],
        rest: Sequence[FaceReference],
        together: bool = False,
    ) -> None:
        """Remember that faces are not of the person with the rest of the faces, which keep the name.

        Each face is told apart from each of the rest, or of more than 64 from the 32 most like it, which would draw it
        back when the album is grouped again from nothing, and from 32 spread over all of them by likeness.

        Args:
            index: faces of the album.
            faces: of somebody else.
            rest: the person's other faces.
            together: whether the faces are of one person; else each may be of another.
        """
        gone, left = set(faces), set(rest)

        def stays(face: FaceReference) -> FaceReference:
            return rest[0] if face in gone else face

        def between(a: FaceReference, b: FaceReference) -> bool:
            return (a in gone and b in left) or (a in left and b in gone)

        # What was decided about the person by one of the faces holds for the rest of it.
        said = [(stays(a), stays(b)) for a, b in self.different if (a in gone) != (b in gone) and not between(a, b)]
        self.same = [(stays(a), stays(b)) if between(a, b) else (a, b) for a, b in self.same]
        self.same = [(a, b) for a, b in self.same if a != b]
        self.names = [(stays(face), name) for face, name in self.names]
        split = [(face, other) for face, others in _told_apart(index, faces, rest) for other in others]
        if together:
            self.same += [(faces[0], face) for face in faces[1:]]
        self.different = list(dict.fromkeys([*self.different, *said, *split]))


def _told_apart(
    index: AlbumFaces, faces: Sequence[FaceReference], rest: Sequence[FaceReference]
) -> Iterator[tuple[FaceReference, Sequence[FaceReference]]]:
    """Faces of which each is told apart from the rest, and these, or some of them, see `Decisions.split`."""
    if len(rest) <= ALIKE + SPREAD:
        yield from ((face, rest) for face in faces)
        return
    rows = {row: other for other in rest if (row := index.find(other)) is not None}
    embeddings, others = index.table.embeddings[list(rows)], list(rows.values())
    for face in faces:
        row = index.find(face)
        if row is not None and others:
            order = np.argsort(-(embeddings @ index.table.embeddings[row]), kind="stable")
            spread = np.linspace(0, len(order) - 1, SPREAD).astype(np.int64)
            places = dict.fromkeys([*order[:ALIKE].tolist(), *order[spread].tolist()])
            yield face, [others[place] for place in places]


def checked_name(name: str) -> str:
    """The name of a person, composed (NFC): "é" typed in two ways is one name.

    Raises:
        InputError: it has control characters or is not UTF-8.
    """
    if printable(name) != name:
        raise InputError(f"The name {printable(name)!r} has control characters or is not UTF-8: type it anew.")
    return unicodedata.normalize("NFC", name)


def _lines(decisions: Iterable[Any]) -> str:
    """JSON of decisions, a line each."""
    return ",\n".join(map(json.dumps, decisions))


def _number(value: Any, least: int) -> int:
    """Number of a person; ValueError out of range."""
    if not least <= (number := int(value)) <= MOST_PEOPLE:
        raise ValueError(f"{number} is no number of a person")
    return number


def _reference(value: Any) -> FaceReference:
    photo, box = value
    left, top, right, bottom = map(float, box)
    return FaceReference(str(photo), (left, top, right, bottom))


def face_of(table: FaceTable, row: int) -> FaceReference:
    """The face in a row."""
    left, top, right, bottom = (round(float(edge), 2) for edge in table.boxes[row])
    return FaceReference(table.photos[row], (left, top, right, bottom))


class AlbumFaces:
    """Finds faces of an album by photo and box.

    `find(face)` is the row of the face of its photo that overlaps it most; None where none does by half, or the photo
    is gone.

    Args:
        table: of the album.

    Attributes:
        photos: (N,) number of each face's photo.
    """

    def __init__(self, table: FaceTable) -> None:
        self.table = table
        self.find = lru_cache(REMEMBERED)(self._find)
        self.rows: dict[str, list[int]] = defaultdict(list)
        for row, photo in enumerate(table.photos):
            self.rows[photo].append(row)
        self.photos = np.empty(len(table), dtype=np.int64)
        for number, rows in enumerate(self.rows.values()):
            self.photos[rows] = number

    def _find(self, face: FaceReference) -> int | None:
        found = [(overlap(face.box, face_of(self.table, row).box), -row) for row in self.rows.get(face.photo, ())]
        best = max(found, default=(0.0, 0))
        return -best[1] if best[0] >= OVERLAP else None

    def known(self, earlier: Iterable[GroupedFace]) -> tuple[NDArray[np.int64], int]:
        """(N,) number of each face's person in earlier groups, 0 for none, and how many earlier faces are gone."""
        known, lost = np.zeros(len(self.table), dtype=np.int64), 0
        for one in earlier:
            row = self.find(one.face)
            if row is None:
                lost += 1
            else:
                known[row] = one.person
        return known, lost

    def follow(self, face: FaceReference) -> FaceReference:
        """The face that `find` finds, or the same where it finds none."""
        row = self.find(face)
        return face if row is None else face_of(self.table, row)


def read_groups(folder: Path) -> list[GroupedFace]:
    """Read `groups.csv` of an album's folder; empty where there is none.

    Raises:
        InputError: a column is missing or a line is invalid.
    """
    path = folder / GROUPS
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.DictReader(file))
        return [
            GroupedFace(
                _reference((read_csv_cell(line["photo"]), [line[edge] for edge in COLUMNS[1:5]])),
                _number(line["person"], 1),
                read_csv_cell(line["name"]),
            )
            for line in lines
        ]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise InputError(f"{path} is damaged ({error}): remove it to group the album anew.") from None


@dataclass(frozen=True)
class AlbumPeople:
    """People of an album.

    Attributes:
        table: its faces.
        persons: (N,) number of each face's person, from 1; people keep their numbers.
        names: by number, of those that have one.
        grouping: how the faces were grouped.
        lost: decisions and earlier groups whose face is not in the album any more.
    """

    table: FaceTable
    persons: NDArray[np.int64]
    names: dict[int, str]
    grouping: Grouping
    lost: int

    def faces(self, person: int) -> NDArray[np.int64]:
        """Rows of a person's faces, those that are most alike the others first."""
        rows = np.flatnonzero(self.persons == person)
        return rows[np.argsort(-np.nan_to_num(self.grouping.scores[rows]), kind="stable")]

    def largest(self) -> list[int]:
        """Numbers of the people, those with the most faces first."""
        numbers, counts = np.unique(self.persons, return_counts=True)
        return [int(number) for number in numbers[np.argsort(-counts, kind="stable")]]

    def write(self, folder: Path) -> None:
        """Write `groups.csv`, readable for its owner only, people in the order of their numbers."""
        sink = io.StringIO()
        writer = csv.writer(sink)  # ends lines by \r\n, since only then "\r" in a name is quoted
        writer.writerow(COLUMNS)
        names = {person: csv_cell(name) for person, name in self.names.items()}
        order = np.argsort(self.persons, kind="stable")
        for start in range(0, len(order), 4096):  # lists, since single elements of arrays are slow
            rows = order[start : start + 4096]
            parts = (self.table.boxes[rows], self.persons[rows], self.grouping.scores[rows])
            for row, box, person, score in zip(rows.tolist(), *(part.tolist() for part in parts), strict=True):
                edges = [round(edge, 2) for edge in box]
                said = "" if score != score else f"{score:.4f}"
                writer.writerow([csv_cell(self.table.photos[row]), *edges, person, names.get(person, ""), said])
        atomic_write(folder / GROUPS, sink.getvalue().encode(), private=True)


def group_album(
    table: FaceTable,
    calibration: ScoreCalibration,
    decisions: Decisions,
    earlier: Sequence[GroupedFace] = (),
    *,
    rate: float = FALSE_MERGE_RATE,
    progress: bool = False,
) -> AlbumPeople:
    """Sort the faces of an album by person: new faces join known people, decisions hold, and numbers stay.

    Args:
        table: faces of the album.
        calibration: of the scores of its model.
        decisions: of the user; their `highest` number is raised to that of new people.
        earlier: the groups found before; a face that a decision takes out of its group starts alone.
        rate: see `group_faces`.
        progress: show a progress bar.

    Raises:
        InputError: decisions contradict each other, or see `group_faces`.
    """
    index = AlbumFaces(table)
    known, lost = index.known(earlier)
    decisions.highest = max([decisions.highest, *(one.person for one in earlier)])
    people = regroup_album(index, calibration, decisions, known, rate=rate, progress=progress)
    return replace(people, lost=people.lost + lost)


def regroup_album(
    index: AlbumFaces,
    calibration: ScoreCalibration,
    decisions: Decisions,
    known: NDArray[np.int64],
    *,
    rate: float = FALSE_MERGE_RATE,
    progress: bool = False,
) -> AlbumPeople:
    """Sort the faces of an album by person as `group_album` does, by the (N,) known numbers of people, 0 for none."""
    table, start = index.table, decided_people(index, decisions, known)
    found = group_faces(
        table.embeddings,
        calibration,
        index.photos,
        rate=rate,
        start=start.groups,
        exclusive=start.exclusive,
        progress=progress,
    )
    persons = start.numbers(found.groups, decisions)
    return AlbumPeople(table, persons, start.names(persons), found, start.lost)


@dataclass(frozen=True)
class DecidedPeople:
    """What is known of the people of an album from earlier groups and decisions alone.

    Attributes:
        groups: (N,) faces known to be of one person have the same number.
        exclusive: sets of rows of which no two are one person.
        known: (N,) earlier number of each face's person; 0 for none, and where a decision takes the face out.
        named: names by the row of a face.
        lost: decisions whose face is not in the album any more.
    """

    groups: NDArray[np.int64]
    exclusive: list[Sequence[int]]
    known: NDArray[np.int64]
    named: dict[int, str]
    lost: int

    def numbers(self, groups: NDArray[np.int64], decisions: Decisions) -> NDArray[np.int64]:
        """(N,) numbers of the people of groups; the `highest` of the decisions is raised to those of new people."""
        persons = _numbers(groups, self.known, decisions.highest)
        decisions.highest = max(decisions.highest, int(persons.max(initial=0)))
        return persons

    def names(self, persons: NDArray[np.int64]) -> dict[int, str]:
        """Names by the number of the person."""
        return {int(persons[row]): name for row, name in self.named.items()}


def decided_people(index: AlbumFaces, decisions: Decisions, known: NDArray[np.int64]) -> DecidedPeople:
    """Return what earlier groups and decisions say about the people of an album.

    Args:
        index: of its faces.
        decisions: of the user.
        known: (N,) earlier number of each face's person, 0 for none.

    Raises:
        InputError: decisions contradict each other.
    """
    table, lost = index.table, 0
    parent = list(range(len(table)))

    def find(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    apart, alone = [], set()
    for a, b in decisions.different:
        rows = index.find(a), index.find(b)
        lost += None in rows
        if rows[0] is not None and rows[1] is not None:
            apart.append((rows[0], rows[1]))
            if known[rows[0]] and known[rows[0]] == known[rows[1]]:
                alone.add(rows[0])
    known = np.where(np.isin(np.arange(len(table)), list(alone)), 0, known)
    first_of: dict[Any, int] = {}

    def join(row: int, key: Any) -> None:
        parent[find(row)] = find(first_of.setdefault(key, row))

    for row in np.flatnonzero(known).tolist():
        join(row, int(known[row]))
    for a, b in decisions.same:
        rows = index.find(a), index.find(b)
        lost += None in rows
        if rows[0] is not None and rows[1] is not None:
            parent[find(rows[0])] = find(rows[1])
    named: dict[int, str] = {}
    for face, name in decisions.names:
        place = index.find(face)
        lost += place is None
        if place is not None:
            named[place] = name
    for row, name in named.items():
        join(row, name)
    groups = [find(row) for row in range(len(table))]
    for x, y in apart:
        if groups[x] == groups[y]:
            raise InputError(
                f"The faces on {table.photos[x]} and {table.photos[y]} are said to be one person and two: take one of "
                f"the decisions back, or out of {DECISIONS}."
            )
    name_of: dict[int, int] = {}
    for row, name in named.items():
        if named[other := name_of.setdefault(groups[row], row)] != name:
            raise InputError(
                f"The faces on {table.photos[other]} and {table.photos[row]} are said to be one person but are named "
                f"{named[other]} and {name}: give both one name first."
            )
    once = {name: row for row, name in named.items()}
    exclusive: list[Sequence[int]] = [*apart, list(once.values())]
    return DecidedPeople(np.array(groups, dtype=np.int64), exclusive, known, named, lost)


def _numbers(groups: NDArray[np.int64], known: NDArray[np.int64], highest: int) -> NDArray[np.int64]:
    """Numbers of groups: the lowest known of each, each once; new ones follow the highest that was ever given."""
    number: dict[int, int] = {}
    pairs, counts = np.unique(np.stack([known, groups])[:, known > 0], axis=1, return_counts=True)
    given = set[int]()
    for place in np.lexsort((pairs[1], -counts, pairs[0])).tolist():  # of each person, the largest part first
        person, group = int(pairs[0, place]), int(pairs[1, place])
        if person not in given and group not in number:
            number[group] = person
            given.add(person)
    free = highest + 1
    for group in dict.fromkeys(groups.tolist()):
        if group not in number:
            number[group], free = free, free + 1
    return np.array([number[group] for group in groups.tolist()], dtype=np.int64)


def faces_by_person(groups: Iterable[GroupedFace]) -> Mapping[int, list[FaceReference]]:
    """Faces by the number of their person."""
    found: dict[int, list[FaceReference]] = defaultdict(list)
    for one in groups:
        found[one.person].append(one.face)
    return found
