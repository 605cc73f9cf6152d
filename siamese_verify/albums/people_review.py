"""People of an album while their user decides about them."""

from __future__ import annotations

import io
import logging
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from siamese_verify.albums.album_folder import AlbumFolder
from siamese_verify.albums.face_pictures import read_face
from siamese_verify.albums.grouping import FALSE_MERGE_RATE, PersonModel
from siamese_verify.albums.people import (
    AlbumFaces,
    AlbumPeople,
    Decisions,
    FaceReference,
    checked_name,
    decided_people,
    face_of,
    regroup_album,
)
from siamese_verify.albums.people_questions import Question, ask
from siamese_verify.errors import InputError
from siamese_verify.evaluation import ScoreCalibration

PAGE, SHEET, SAMPLE = 24, 96, 6  # people of a page, faces of one's contact sheet, faces of each on a page of people
ASKED, COMPLETED = 24, 20  # questions and names sent at once
UNDONE = 20  # decisions that can be taken back
SORTED = 256  # people whose faces stay sorted
SIDE, PICTURES = 160, 2000  # pixels of a picture, and pictures in memory, of some 6 KB
QUIET, LONGEST_QUIET = 1.0, 10.0  # seconds; more than one where sorting takes longer
RETRY = 10.0  # seconds after which groups.csv, which could not be written, is tried again
Rows = NDArray[np.int64]
log = logging.getLogger(__name__)


class Undo(NamedTuple):
    """What there was before a decision."""

    said: str  # what was decided
    decisions: Decisions
    persons: Rows
    names: dict[int, str]


@dataclass
class PeopleView:
    """People at one moment.

    Attributes:
        version: grows with each change.
        persons: (N,) number of each face's person.
        names: by number, of those that have one.
    """

    version: int
    persons: Rows
    names: dict[int, str]
    numbers: Rows = field(init=False)  # of the people, those with the most faces first
    sizes: dict[int, int] = field(init=False)
    sorted: OrderedDict[int, tuple[Rows, NDArray[np.float64]]] = field(init=False, default_factory=OrderedDict)

    def __post_init__(self) -> None:
        numbers, counts = np.unique(self.persons, return_counts=True)
        self.numbers = numbers[np.argsort(-counts, kind="stable")]
        self.sizes = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
        self._order = np.argsort(self.persons, kind="stable")
        self._starts = dict(zip(numbers.tolist(), np.cumsum(counts) - counts, strict=True))

    def rows(self, person: int) -> Rows:
        """Rows of a person's faces, ascending.

        Raises:
            InputError: there is no such person.
        """
        if person not in self.sizes:
            raise InputError(f"Person {person} is not there any more: the people were sorted anew, choose again.")
        start = int(self._starts[person])
        return self._order[start : start + self.sizes[person]]


class PeopleReview:
    """People of an album while their user decides about them; safe to be used by several threads.

    The caller has claimed the album. A decision is checked, applied to the people it is about, and written to
    `decisions.json` and `groups.csv` before it is answered; then a thread sorts the other faces anew from there as
    `group_album` does, writes both again, and finds what to ask. Where only `groups.csv` cannot be written, the
    decision holds: `state` says so, and it is tried again. Every argument may come from anybody: faces are addressed by
    row, people by number.

    `picture(row)` is a JPEG of the face in a row, a square of 160 pixels, read from its photo; InputError where there
    is no such face, or its photo cannot be read any more.

    Args:
        album: folder of the album.
        people: as they were grouped, and written to the folder.
        decisions: that they follow.
        calibration: of the scores of the album's model.
        rate: false-merge rate, see `group_faces`.
        quiet: seconds without a decision after which the other faces are sorted anew.
    """

    def __init__(
        self,
        album: AlbumFolder,
        people: AlbumPeople,
        decisions: Decisions,
        calibration: ScoreCalibration,
        rate: float = FALSE_MERGE_RATE,
        quiet: float = QUIET,
    ) -> None:
        self.album, self.table, self.calibration, self.rate = album, people.table, calibration, rate
        self._quiet = quiet
        self._source = album.source
        self._model = PersonModel.from_calibration(calibration.calibration)
        self._index = AlbumFaces(people.table)
        self._decisions = decisions.copy()
        self._decisions.follow(self._index)
        self._grouping = people.grouping
        self._view = PeopleView(0, people.persons, people.names)
        self._questions: list[Question] | None = None  # not found yet
        self._undo: deque[Undo] = deque(maxlen=UNDONE)
        self.picture = lru_cache(PICTURES)(self._picture)
        self._changed = threading.Condition(threading.RLock())
        self._stale, self._unwritten, self._closing = False, False, False
        self._scored = people.persons, people.grouping.scores  # mean scores, and the persons that they are of
        self._decided_at, self._began, self._took = -math.inf, 0.0, 0.0  # monotonic; seconds of the last sorting
        self._failure = ""
        self._thread = threading.Thread(target=self._work, name="people", daemon=True)
        self._thread.start()

    # ---- what is shown

    def state(self) -> dict[str, Any]:
        """Numbers of faces and people, what can be taken back, and the seconds since sorting anew began, if it has."""
        with self._changed:
            busy = self._stale or self._questions is None
            return {
                "version": self._view.version,
                "faces": len(self.table),
                "people": len(self._view.numbers),
                "named": len(self._view.names),
                "undo": self._undo[-1].said if self._undo else None,
                "busy": busy,
                "seconds": time.monotonic() - self._began if busy and self._began else 0.0,
                "failure": self._failure,
            }

    def people(self, page: int, text: str = "") -> dict[str, Any]:
        """A page of people, those with the most faces first: `people`, `pages`, and the `version` of it all.

        Args:
            page: from 0; the last one if there are fewer.
            text: part of a name, or a number; empty for everybody.
        """
        view = self._view
        numbers = view.numbers.tolist()
        if text := normalize("NFC", text.strip()).casefold():
            numbers = [
                one for one in numbers if text == str(one) or (one in view.names and text in view.names[one].casefold())
            ]
        paging, part = _paged(len(numbers), page, PAGE)
        people = [self._person(view, number) for number in numbers[part]]
        return {"version": view.version, "total": len(numbers), **paging, "people": people}

    def person(self, number: int, page: int = 0, least_first: bool = False) -> dict[str, Any]:
        """A page of the contact sheet of a person: `number`, `name`, `size`, and `faces` with row, photo and score.

        Args:
            number: of the person.
            page: from 0; the last one if there are fewer.
            least_first: faces that are least like the others first, to find those of somebody else.

        Raises:
            InputError: there is no such person.
        """
        view = self._view
        rows, scores = self._sorted(view, number)
        if least_first:
            rows, scores = rows[::-1], scores[::-1]
        paging, part = _paged(len(rows), page, SHEET)
        faces = [
            {"row": row, "photo": self.table.photos[row], "score": None if math.isnan(score) else round(score, 3)}
            for row, score in zip(rows[part].tolist(), scores[part].tolist(), strict=True)
        ]
        return {**self._person(view, number), "version": view.version, **paging, "faces": faces}

    def questions(self) -> dict[str, Any]:
        """Pairs of people that may be one, the most probable first, and `ready`: whether they have been found."""
        with self._changed:
            view, found, decisions = self._view, self._questions, self._decisions
            different = {
                frozenset((self._person_of(view, a), self._person_of(view, b))) for a, b in decisions.different
            }
        asked: list[dict[str, Any]] = []
        seen: set[frozenset[int]] = set()
        for question in found or ():
            pair = int(view.persons[question.first]), int(view.persons[question.second])
            key = frozenset(pair)
            both_named = pair[0] in view.names and pair[1] in view.names
            if len(key) < 2 or key in different or key in seen or both_named:
                continue
            seen.add(key)
            if len(asked) < ASKED:
                people = [self._person(view, number) for number in pair]
                asked.append({"people": people, "ratio": math.exp(min(question.ratio, 100.0))})
        return {"version": view.version, "ready": found is not None, "total": len(seen), "questions": asked}

    def completions(self, start: str) -> list[str]:
        """Known names of which a word starts with a text, sorted."""
        start = normalize("NFC", start.strip()).casefold()
        names = {name for name in self._view.names.values() if f" {name}".casefold().find(f" {start}") >= 0}
        return sorted(names)[:COMPLETED]

    def _picture(self, row: int) -> bytes:
        if not 0 <= row < len(self.table):
            raise InputError(f"There is no face {row}: the album has {len(self.table):,}.")
        face, content = face_of(self.table, row), io.BytesIO()
        read_face(self._source, face.photo, face.box, SIDE).save(content, "JPEG", quality=85)
        return content.getvalue()

    # ---- decisions

    def name(self, person: int, name: str) -> str:
        """Name a person, or take the name away by an empty one; who has the name already is the same person.

        Returns:
            What was decided, a sentence; as all decisions do.

        Raises:
            InputError: there is no such person, the name is not one, or decisions contradict each other; then, as in
                all decisions, nothing is changed.
        """
        with self._changed:
            name, faces = checked_name(" ".join(name.split())), self._faces(person)
            others = [number for number, known in self._view.names.items() if known == name and number != person]
            said = f"Person {person} is {name}." if name else f"Person {person} has no name."
            if others:
                said = f"Person {person} is {name}, one person with {others[0]}, who has that name."
            return self._decide(said, lambda decisions: decisions.name(faces, name))

    def merge(self, people: Sequence[int]) -> str:
        """Say that people are one person; takes back that any two of them are not."""
        with self._changed:
            faces = [self._faces(person) for person in _each_once(people)]
            return self._decide(f"{_listed(people)} are one person.", lambda decisions: decisions.merge(*faces))

    def apart(self, people: Sequence[int]) -> str:
        """Say that two people are not one."""
        if len(people) != 2:
            raise InputError(f"Choose two people who are not the same, not {len(people)}.")
        with self._changed:
            first, second = (self._faces(person)[0] for person in _each_once(people))
            said = f"{_listed(people)} are not one person."
            return self._decide(said, lambda decisions: decisions.decide(first, second, same=False))

    def split(self, person: int, rows: Sequence[int], together: bool) -> str:
        """Say that faces are somebody else's.

        Args:
            person: whose they were taken for.
            rows: of the faces.
            together: whether they are of one other person; else each may be of another.
        """
        with self._changed:
            own, chosen = self._sorted(self._view, person)[0].tolist(), set(rows)
            if not chosen or not chosen <= set(own):
                raise InputError(f"Choose some faces of person {person}.")
            faces = [face_of(self.table, row) for row in sorted(chosen)]
            rest = [face_of(self.table, row) for row in own if row not in chosen]
            if not rest:
                raise InputError(f"These are all faces of person {person}: leave one at least.")
            count = "1 face is" if len(faces) == 1 else f"{len(faces):,} faces are"
            said = f"{count} {'a new person' if together else 'somebody else'}, not person {person}."
            return self._decide(said, lambda decisions: decisions.split(self._index, faces, rest, together))

    def undo(self) -> str:
        """Take back the last decision, and what was sorted anew after it; the last 20 can be taken back.

        Raises:
            InputError: there is none.
        """
        with self._changed:
            if not self._undo:
                raise InputError("There is no decision to take back.")
            said, decisions, persons, names = self._undo[-1]
            decisions.highest = self._decisions.highest  # numbers that were given are not given again
            self._change(decisions, persons, names)
            self._undo.pop()
            return f"Taken back: {said}"

    def close(self, seconds: float = 1.0) -> bool:
        """Write what is not written yet; return whether the thread has ended within so many seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            if self._unwritten:
                self._write_groups()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _decide(self, said: str, change: Callable[[Decisions], None]) -> str:
        before, decisions = self._decisions, self._decisions.copy()
        change(decisions)
        decided = decided_people(self._index, decisions, self._view.persons)
        persons = decided.numbers(decided.groups, decisions)
        view = self._view
        self._change(decisions, persons, decided.names(persons))
        self._undo.append(Undo(said, before, view.persons, view.names))
        return said

    def _change(self, decisions: Decisions, persons: Rows, names: dict[int, str]) -> None:
        """Write and show a decision, and let the thread sort the other faces."""
        self._write_decisions(decisions)
        self._decisions, self._view = decisions, PeopleView(self._view.version + 1, persons, names)
        self._stale, self._failure = True, ""
        self._try_groups()
        self._decided_at = time.monotonic()
        self._changed.notify_all()

    # ---- sorting anew

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._closing or self._stale or self._questions is None):
                    self._changed.wait(RETRY if self._unwritten else None)
                    if self._unwritten and not (self._closing or self._stale):
                        self._failure = ""
                        self._try_groups()
                quiet = min(max(self._quiet, self._took), LONGEST_QUIET)
                while not self._closing and (rest := self._decided_at + quiet - time.monotonic()) > 0:
                    self._changed.wait(rest)
                if self._closing:
                    return
                view, decisions, stale = self._view, self._decisions.copy(), self._stale
                self._began = time.monotonic()
            failure = ""
            try:
                people = None
                persons, names = view.persons, view.names
                if stale:
                    people = regroup_album(self._index, self.calibration, decisions, persons, rate=self.rate)
                    persons, names = people.persons, people.names
                exclusive = decided_people(self._index, decisions, persons).exclusive
                questions = ask(self.table.embeddings, persons, self._model, self._index.photos, exclusive)
            except Exception as error:  # the page shows it, and decisions go on
                if not isinstance(error, InputError):
                    log.exception("Sorting the faces anew failed.")
                questions, failure = [], f"The other faces were not sorted anew: {error or type(error).__name__}"
            with self._changed:
                self._took = time.monotonic() - self._began
                if self._view is not view or self._closing:
                    continue  # decided meanwhile
                self._began = 0.0
                self._questions, self._stale, self._failure = questions, False, failure
                if people is not None and not failure:
                    try:
                        self._write_decisions(decisions)  # numbers of new people
                    except InputError as error:
                        self._failure = str(error)
                        continue
                    self._grouping, self._scored = people.grouping, (persons, people.grouping.scores)
                    self._decisions = decisions
                    if not np.array_equal(persons, view.persons):
                        self._view = PeopleView(view.version + 1, persons, names)
                    self._try_groups()

    def _write_decisions(self, decisions: Decisions) -> None:
        """Write `decisions.json`."""
        _written(lambda: decisions.write(self.album.path))

    def _write_groups(self) -> None:
        """Write `groups.csv`."""
        view, (scored, scores) = self._view, self._scored
        scores, changed = scores.copy(), view.persons != scored
        for person in np.unique(view.persons[np.isin(scored, scored[changed]) | changed]).tolist():
            rows = view.rows(person)
            scores[rows] = mean_scores(self.table.embeddings, rows)
        self._scored = view.persons, scores
        grouping = replace(self._grouping, groups=view.persons, scores=scores)
        people = AlbumPeople(self.table, view.persons, view.names, grouping, 0)
        _written(lambda: people.write(self.album.path))
        self._unwritten = False

    def _try_groups(self) -> None:
        """Write `groups.csv`; `state` says where it cannot be written, and it is tried again."""
        self._unwritten = True
        try:
            self._write_groups()
        except InputError as error:
            self._failure = str(error)

    # ---- parts

    def _person(self, view: PeopleView, number: int) -> dict[str, Any]:
        """Number, name, number of faces and a few faces of a person."""
        rows, _ = self._sorted(view, number)
        return {
            "number": number,
            "name": view.names.get(number, ""),
            "size": len(rows),
            "sample": [{"row": row, "photo": self.table.photos[row]} for row in rows[:SAMPLE].tolist()],
        }

    def _sorted(self, view: PeopleView, number: int) -> tuple[Rows, NDArray[np.float64]]:
        """Rows of a person's faces, those most like the others first, and their mean scores with the others."""
        with self._changed:
            if number in view.sorted:
                view.sorted.move_to_end(number)
                return view.sorted[number]
        rows = view.rows(number)
        scores = mean_scores(self.table.embeddings, rows)
        order = np.argsort(-np.nan_to_num(scores), kind="stable")
        with self._changed:
            view.sorted[number] = rows[order], scores[order]
            while len(view.sorted) > SORTED:
                view.sorted.popitem(last=False)
        return rows[order], scores[order]

    def _faces(self, person: int) -> list[FaceReference]:
        return [face_of(self.table, row) for row in self._view.rows(person).tolist()]

    def _person_of(self, view: PeopleView, face: FaceReference) -> int:
        row = self._index.find(face)
        return 0 if row is None else int(view.persons[row])


def mean_scores(embeddings: NDArray[np.float32], rows: Rows) -> NDArray[np.float64]:
    """(n,) mean score of each of some faces with the others; NaN for a single one."""
    if len(rows) < 2:
        return np.full(len(rows), np.nan)
    parts = [rows[start : start + 4096] for start in range(0, len(rows), 4096)]
    total = sum(embeddings[part].sum(axis=0, dtype=np.float64) for part in parts)
    own = [np.einsum("nd,nd->n", embeddings[part], embeddings[part], dtype=np.float64) for part in parts]
    with_all = [embeddings[part] @ total for part in parts]
    return np.asarray((np.concatenate(with_all) - np.concatenate(own)) / (len(rows) - 1))


def _paged(count: int, page: int, size: int) -> tuple[dict[str, int], slice]:
    """Number of a page of so many things, from 0, the last one if there are fewer, and of all pages; and its part."""
    pages = max(1, math.ceil(count / size))
    page = min(page, pages - 1)
    return {"page": page, "pages": pages}, slice(page * size, (page + 1) * size)


def _each_once(people: Sequence[int]) -> Sequence[int]:
    if len(people) < 2 or len(set(people)) < len(people):
        raise InputError("Choose two people or more, each once.")
    return people


def _listed(people: Sequence[int]) -> str:
    return f"{', '.join(map(str, people[:-1]))} and {people[-1]}"


def _written(write: Callable[[], None]) -> None:
    """Write a file; InputError where it cannot be written."""
    try:
        write()
    except OSError as error:
        raise InputError(
            f"{error.filename} cannot be written ({error.strerror}): make room, and decide again."
        ) from None
