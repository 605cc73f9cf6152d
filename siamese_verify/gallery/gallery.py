"""People and their templates: enrol, identify, forget."""

from __future__ import annotations

import io
import math
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.gallery.cipher import damaged, seal_of
from siamese_verify.gallery.contents import Contents
from siamese_verify.gallery.enrolled_people import (
    Enrolment,
    FaceVerifier,
    GalleryModel,
    LogEntry,
    Person,
    counted,
    gallery_model,
    now,
    person_name,
    suspicions,
)
from siamese_verify.gallery.identification import Candidate, Identification
from siamese_verify.gallery.key import GalleryKey, find_key
from siamese_verify.gallery.opening import Opened, open_store
from siamese_verify.gallery.search_threshold import SearchThreshold, search_threshold
from siamese_verify.gallery.store import Change, Store
from siamese_verify.gallery.template_search import (
    ApproximateIndex,
    Hit,
    Templates,
    index_path,
    remove_index,
    unit_templates,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from siamese_verify.faces import Photo, Quality
    from siamese_verify.verification import DetectedFace
    from siamese_verify.verification.verifier import OnMultipleFaces

TOP = 5


class Gallery:
    """People and their templates in an encrypted SQLite file, for several threads and processes at once.

    Use `Gallery.open`, in a `with` statement.
    """

    def __init__(self, store: Store, opened: Opened, verifier: FaceVerifier | None) -> None:
        self.model = opened.model
        self._store, self._opened, self._verifier = store, opened, verifier
        self._lock = threading.RLock()  # of the contents; a transaction is within it
        self._contents = self._nothing()

    @classmethod
    def open(
        cls,
        path: str | Path,
        model: FaceVerifier | GalleryModel | None = None,
        *,
        key: GalleryKey | str | Path | bytes | None = None,
        create: bool = True,
    ) -> Gallery:
        """Open a gallery.

        Args:
            path: of its file.
            model: a verifier, or what is known of its model, which takes embeddings only; None for the model of the
                gallery that is there, with embeddings and thresholds of the caller's own.
            key: see `find_key`; None for that of the environment.
            create: make the gallery if there is none and a model is given.

        Raises:
            InputError: no gallery, no key or another one, another model, a damaged file, or no package cryptography.
        """
        secret = find_key(key)
        place = Path(path).expanduser()
        given = None if model is None else gallery_model(model)
        if not (create and given) and not place.exists():
            raise InputError(f"There is no gallery {place}: enrol somebody first.")
        store = Store(place)
        try:
            opened = open_store(store, secret, given, create)
            if opened.unswept:  # whoever forgot somebody was killed before the end
                store.sweep()
        except BaseException:
            store.close()
            raise
        return cls(store, opened, None if isinstance(model, GalleryModel) else model)

    def __enter__(self) -> Gallery:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let go of what was decrypted."""
        with self._lock:
            self._store.close()
            self._contents = self._nothing()

    def __len__(self) -> int:
        """People enrolled."""
        with self._lock, self._store.reading() as connection:
            self._contents.refresh(connection)
            return len(self._contents.people)

    def people(self) -> list[Person]:
        """Return everybody who is enrolled, in the order of their names."""
        with self._lock, self._store.reading() as connection:
            self._contents.refresh(connection)
            return sorted(self._contents.people.values())

    def log(self) -> list[LogEntry]:
        """Return what happened, oldest first. The entries of people since forgotten have no name."""
        with self._lock, self._store.reading() as connection:
            ledger = self._contents.refresh(connection)
            entries: list[dict[str, Any]] = list(self._contents.read_log(connection, ledger))
            names = {person.pseudonym: person.name for person in self._contents.people.values()}
        return [
            LogEntry(
                entry["at"],
                entry["event"],
                entry["person"],
                names.get(entry["person"]),
                entry["model"],
                entry["details"],
            )
            for entry in entries
        ]

    def enroll(
        self,
        name: str,
        photos: Sequence[Photo],
        *,
        on_multiple_faces: OnMultipleFaces | None = None,
        force: bool = False,
        keep_photos: bool = False,
    ) -> Enrolment:
        """Enrol a person, or add templates to one; all photos or none.

        Args:
            name: see `person_name`; somebody who is there already gets more templates.
            photos: of this person's face.
            on_multiple_faces: what to do about several faces on a photo: `error`, `largest` or `central`.
            force: take faces of a quality below what the model was measured on, too.
            keep_photos: keep the aligned faces, encrypted likewise; see `photos`.

        Raises:
            NoDecision: a photo cannot be read, or has no face or several.
            InputError: see `person_name`, no photos, or a face of too low a quality.
        """
        verifier = self._needed_verifier()
        name = person_name(name)
        if not photos:
            raise InputError(f"There is no photo of {name}: give one or more.")
        faces: list[DetectedFace] = []
        for place, photo in enumerate(photos, 1):
            known = None if isinstance(photo, str | Path) else f"photo {place}"
            faces += _one(verifier.find(photo, known, on_multiple_faces))
        return self.enroll_embeddings(
            name,
            verifier.embed_faces(faces),
            [face.quality for face in faces],
            sources=[face.name for face in faces],
            crops=[face.crop for face in faces] if keep_photos else None,
            force=force,
        )

    def enroll_embeddings(
        self,
        name: str,
        embeddings: ArrayLike,
        qualities: Sequence[Quality | None] | None = None,
        *,
        sources: Sequence[str] | None = None,
        crops: Sequence[NDArray[np.uint8]] | None = None,
        force: bool = False,
        compare: bool = True,
    ) -> Enrolment:
        """Enrol a person by embeddings, in one transaction: all of them or none.

        Args:
            name: see `enroll`.
            embeddings: (N,D) of any non-zero length, of the gallery's model.
            qualities: N, of the faces; None where it is not known, which is no reason to refuse.
            sources: N, what to call the faces in warnings; they are not kept.
            crops: N (S,S,3) uint8 RGB faces to keep; None for none.
            force: see `enroll`.
            compare: look for the same face under other names, and for photos that do not fit together.

        Raises:
            InputError: see `enroll` and `unit_templates`.
        """
        name = person_name(name)
        rows = unit_templates(embeddings, self.model.dimension)
        called = list(sources) if sources is not None else [f"face {row + 1}" for row in range(len(rows))]
        judged = list(qualities) if qualities is not None else [None] * len(rows)
        pictures = [_png(crop) for crop in crops] if crops is not None else [None] * len(rows)
        if not len(rows) == len(called) == len(judged) == len(pictures):
            raise InputError(f"There are {len(rows)} embeddings of {name}: give as many qualities, sources and crops.")
        complaints = self._complaints(called, judged)
        if complaints and not force:
            raise InputError(f"{name} was not enrolled, --force would: {' '.join(complaints)}")
        with self._changing() as change:
            held, warnings = self._contents, complaints
            number = held.numbers.get(name)
            if compare:
                known = held.templates, held.people, number
                warnings = warnings + suspicions(rows, called, *known, self.model.impostor_tail)
            if number is None:
                person = Person(name, secrets.token_hex(8), now(), 0)
                number = change.add_person(person)
            else:
                person = held.people[number]
            for row, quality, picture in zip(rows, judged, pictures, strict=True):
                change.add_template(number, person, row, quality, picture)
            change.note("enrolled", person, {"templates": len(rows)})
        return Enrolment(name, person.pseudonym, len(rows), person.templates + len(rows), tuple(warnings))

    def identify(
        self,
        photo: Photo,
        *,
        far: float | None = None,
        threshold: float | None = None,
        top: int = TOP,
        scores: bool = False,
        decide: bool = False,
        on_multiple_faces: OnMultipleFaces | None = None,
    ) -> Identification:
        """Say who is on a photo, if it is anybody who is enrolled.

        Args:
            photo: of one face.
            far: share of the searches with a stranger's photo that may name somebody; by default the strictest of one
                in a thousand, a hundred and ten that was measured well for so many templates.
            threshold: a cosine of the caller's own instead, in [-1, 1].
            top: candidates to return.
            scores: tell names and scores of those who are most alike though they were not found, see `Identification`.
            decide: say somebody or nobody where it would be inconclusive, which it is as in `Verifier.verify`.
            on_multiple_faces: what to do about several faces on the photo: `error`, `largest` or `central`.

        Raises:
            NoDecision: the photo cannot be read, or has no face or several.
            InputError: see `identify_embedding`.
        """
        verifier = self._needed_verifier()
        start = time.perf_counter()
        faces = _one(verifier.find(photo, None, on_multiple_faces))
        found = time.perf_counter()
        embedding = verifier.embed_faces(faces)
        spent = {"find": 1e3 * (found - start), "embed": 1e3 * (time.perf_counter() - found)}
        return self.identify_embedding(
            embedding,
            far=far,
            threshold=threshold,
            top=top,
            scores=scores,
            decide=decide,
            face=faces[0],
            milliseconds=spent,
        )

    def identify_embedding(
        self,
        embedding: ArrayLike,
        *,
        far: float | None = None,
        threshold: float | None = None,
        top: int = TOP,
        scores: bool = False,
        decide: bool = False,
        face: DetectedFace | None = None,
        milliseconds: dict[str, float] | None = None,
    ) -> Identification:
        """Say whose embedding it is, if it is that of anybody who is enrolled. Matches are logged, nothing else is.

        Args:
            embedding: (D,) or (1,D), of any non-zero length, of the gallery's model.
            far: see `identify`.
            threshold: see `identify`.
            top: see `identify`.
            scores: see `identify`.
            decide: see `identify`.
            face: it was made from, for the answer and for its quality, which may make it inconclusive.
            milliseconds: spent so far, by stage.

        Raises:
            InputError: there is no such rate, no threshold was measured for the model, or see `unit_templates`.
        """
        from siamese_verify.verification.decision import threshold_doubt  # late, here and below: it loads Pillow

        start = time.perf_counter()
        rows = unit_templates(embedding, self.model.dimension)
        if len(rows) != 1 or top < 1:
            raise InputError(f"A search is for one embedding and 1 candidate or more, got {len(rows)} and {top}.")
        unlike = self._complaints([face.name], [face.quality]) if face is not None else []
        while True:
            templates, people = self._current()
            limit = self._limit(far, threshold, len(templates))
            hits = templates.best(rows[0], top)  # without a lock: it is the long part
            searched = time.perf_counter()
            doubt = threshold_doubt(hits[0].score, limit.interval) if hits else ""
            reasons = [*([f"The best score {doubt}"] if doubt else []), *(unlike if hits else [])]
            decided = bool(decide or not reasons)
            named = self._named(hits, limit, decided)
            if named is not None:
                break  # else somebody among them was forgotten meanwhile
        accepted = [one for one in named if decided and one.score >= limit.threshold]
        warnings = [limit.reason] if limit.insufficient else []
        if not hits:
            warnings.append(f"The gallery {self._store.path} is empty: enrol somebody.")
        if len(accepted) > 1:
            warnings.append(f"{len(accepted)} people reach the threshold: {', '.join(one.name for one in accepted)}.")
        told = named if scores else accepted
        return Identification(
            found=bool(accepted) if decided else None,
            name=accepted[0].name if accepted else None,
            score=told[0].score if told else None,
            threshold=limit.threshold,
            threshold_interval=limit.interval,
            far=limit.far,
            candidates=tuple(told),
            searched=len(templates),
            people=people,
            insufficient=limit.insufficient,
            reasons=() if decided else tuple(reasons),
            warnings=(*reasons, *warnings) if decided else tuple(warnings),
            face=face,
            model=self.model.name,
            milliseconds={
                **(milliseconds or {}),
                "search": 1e3 * (searched - start),
                "log": 1e3 * (time.perf_counter() - searched),
            },
        )

    def forget(self, name: str) -> int:
        """Remove a person, all templates and photos, for good: the file is then built anew from what it still holds.

        Returns:
            How many templates there were.

        Raises:
            InputError: there is nobody of that name.
        """
        name = person_name(name)
        with self._lock:
            with self._changing() as change:
                number, person = self._known(name)
                change.remove(number)
                change.note("forgotten", person, {"templates": person.templates})
            try:
                self._store.sweep()
            except InputError as error:
                raise InputError(f"{name} is forgotten, but the next opening has to sweep the file: {error}") from None
        return person.templates

    def photos(self, name: str) -> list[NDArray[np.uint8]]:
        """Return the faces of a person that were kept, (S,S,3) RGB each.

        Raises:
            InputError: there is nobody of that name.
        """
        from PIL import Image

        name = person_name(name)
        with self._lock, self._store.reading() as connection:
            self._contents.refresh(connection)
            number, person = self._known(name)
            bound = self._contents.bound(person)
            kept = connection.execute("SELECT sealed, photo FROM template WHERE person = ? ORDER BY id", (number,))
            contents = [
                self._contents.cipher.open("photo", photo, *bound, seal_of(sealed))
                for sealed, photo in kept
                if photo is not None
            ]
        return [np.asarray(Image.open(io.BytesIO(content))) for content in contents]

    def use_index(self, *, keep: bool = False) -> None:
        """Search approximately from now on, with FAISS: for galleries that are too large to look at every template.

        What is enrolled afterwards is searched besides, exactly, so an old index is slower, not blind. Nobody who was
        forgotten is found by it.

        Args:
            keep: keep it in a file beside the gallery, mapped into memory, for the next opening. That file holds the
                templates in the clear: only on a disk that is encrypted itself. Forgetting anybody deletes it. By
                default it is in memory alone.

        Raises:
            InputError: the gallery is empty, the index cannot be written, or FAISS is not installed.
        """
        cipher, path = self._contents.cipher, index_path(self._store.path)

        def mark(content: bytes) -> int:
            return cipher.mark(b"index", content)

        index = ApproximateIndex.load(path, mark) if keep else None
        if index is None:
            rows, numbers = self._current()[0].living()
            index = ApproximateIndex.build(rows, numbers)  # minutes, so without a lock
            if keep:
                index.save(path, mark)
                if not np.isin(numbers, self._current()[0].living()[1]).all():  # somebody was forgotten meanwhile
                    remove_index(self._store.path)
                else:
                    index = ApproximateIndex.load(path, mark) or index
        with self._lock:
            self._contents.use_index(index)

    def check(self) -> None:
        """Read the log and what has not been read yet, and let SQLite look for damage.

        Raises:
            InputError: the file is damaged.
        """
        self.log()
        found = self._store.check()
        if found != "ok":
            raise damaged(str(self._store.path), found.splitlines()[0])

    @contextmanager
    def _changing(self) -> Iterator[Change]:
        with self._lock, self._store.writing() as connection:
            change = Change(connection, self._contents, self.model.name)
            yield change
            change.finish()

    def _current(self) -> tuple[Templates, int]:
        """Templates and the number of people as of now."""
        with self._lock, self._store.reading() as connection:
            self._contents.refresh(connection)
            return self._contents.templates, len(self._contents.people)

    def _nothing(self) -> Contents:
        opened, where = self._opened, str(self._store.path)
        return Contents(opened.cipher, opened.header, opened.model.fingerprint, opened.model.dimension, where)

    def _needed_verifier(self) -> FaceVerifier:
        if self._verifier is None:
            raise InputError("This gallery was opened without a verifier and takes embeddings only: open it with one.")
        return self._verifier

    def _known(self, name: str) -> tuple[int, Person]:
        number = self._contents.numbers.get(name)
        if number is None:
            held = counted(len(self._contents.people), "person")
            raise InputError(f"There is no {name!r} in the gallery ({held}): `siamese-verify people` lists them.")
        return number, self._contents.people[number]

    def _limit(self, far: float | None, threshold: float | None, templates: int) -> SearchThreshold:
        from siamese_verify.verification.decision import check_number

        for name, value in (("false accept rate", far), ("threshold", threshold)):
            check_number(name, value)
        if threshold is not None:
            if far is not None:
                raise InputError(f"Give a threshold ({threshold}) or a false accept rate ({far}), not both.")
            if not -1 <= threshold <= 1:
                raise InputError(f"A threshold is a cosine between -1 and 1, got {threshold}.")
            return SearchThreshold(float(threshold), None, None, 0, False, "")
        if self.model.impostor_tail is None:
            raise InputError(
                f"How strangers score was never measured for {self.model.name or 'this model'}: give a threshold."
            )
        if not templates:
            search_threshold(self.model.impostor_tail, far, 1)  # a wrong rate is one all the same
            return SearchThreshold(math.inf, None, far, self.model.impostor_tail.impostors, False, "")
        return search_threshold(self.model.impostor_tail, far, templates)

    def _named(self, hits: list[Hit], limit: SearchThreshold, decided: bool) -> list[Candidate] | None:
        """Name candidates and log a match; None if one of them was forgotten since."""
        if not decided or not hits or hits[0].score < limit.threshold:
            with self._lock, self._store.reading() as connection:
                self._contents.refresh(connection)
                return _candidates(hits, self._contents.people)
        best = hits[0]
        with self._changing() as change:
            people = self._contents.people
            found = _candidates(hits, people)
            if found is not None:
                details = {"score": round(best.score, 6), "threshold": round(limit.threshold, 6), "far": limit.far}
                change.note("matched", people[best.person], details)
            return found

    def _complaints(self, names: Sequence[str], qualities: Sequence[Quality | None]) -> list[str]:
        if not self.model.quality:
            return []
        from siamese_verify.verification.decision import quality_complaints

        return [
            f"{name}: {complaint}"
            for name, quality in zip(names, qualities, strict=True)
            if quality is not None
            for complaint in quality_complaints(quality, self.model.quality)
        ]


def _candidates(hits: list[Hit], people: Mapping[int, Person]) -> list[Candidate] | None:
    """Name people; None if one of them was forgotten."""
    if any(hit.person not in people for hit in hits):
        return None
    return [Candidate(people[hit.person].name, hit.score) for hit in hits]


def _one(faces: Sequence[DetectedFace]) -> list[DetectedFace]:
    if len(faces) != 1:
        raise InputError(f"{faces[0].name} shows {len(faces)} faces: crop it to the one that is meant.")
    return list(faces)


def _png(crop: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(crop).save(file, "PNG")
    return file.getvalue()
