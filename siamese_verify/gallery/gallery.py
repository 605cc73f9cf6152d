"""Enroll people in an encrypted gallery, identify photos among them, forget people."""

from __future__ import annotations

import hmac
import io
import json
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.photo_sets import Combine, check_combine, quality_weights
from siamese_verify.gallery.enrolled_people import (
    Enrollment,
    GalleryModel,
    LogEntry,
    Person,
    enrollment_warnings,
    gallery_model,
    person_name,
)
from siamese_verify.gallery.identification import Candidate, Identification, SearchThreshold, count_of, search_threshold
from siamese_verify.gallery.key import GalleryKey, find_key
from siamese_verify.gallery.store import (
    BUSY_SECONDS,
    Store,
    add_log,
    add_person,
    add_template,
    person_by_name,
    read_log,
    remove_person,
)
from siamese_verify.gallery.template_search import (
    NOBODY,
    ApproximateIndex,
    Hit,
    Templates,
    index_path,
    remove_index,
    unit_templates,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from siamese_verify.faces import OnMultipleFaces, Photo, Quality
    from siamese_verify.verification import DetectedFace, Verifier

TOP = 5
CHUNK = 2048  # templates read at a time


class Contents:
    """Names and templates of a gallery in memory, kept up to date with the file.

    Args:
        embedding_size: numbers in an embedding.
    """

    def __init__(self, embedding_size: int) -> None:
        self._embedding_size = embedding_size
        self.names: dict[int, str] = {}  # by id of the person
        self.templates = Templates.empty(embedding_size)
        self._version = self._removals = self._last_person = self._last_template = 0

    def refresh(self, connection: Any) -> None:
        """Read what others changed since the last call, within a transaction."""
        version, removals = connection.execute("SELECT version, removals FROM gallery").fetchone()
        if version == self._version:
            return
        if removals != self._removals:
            present = {number for (number,) in connection.execute("SELECT id FROM person")}
            if gone := self.names.keys() - present:
                self.templates = self.templates.without(gone)
                for number in gone:
                    del self.names[number]
        for number, name in connection.execute("SELECT id, name FROM person WHERE id > ?", (self._last_person,)):
            self.names[number], self._last_person = name, max(number, self._last_person)
        cursor = connection.execute(
            "SELECT id, person, embedding FROM template WHERE id > ? ORDER BY id", (self._last_template,)
        )
        while chunk := cursor.fetchmany(CHUNK):
            numbers, people, content = zip(*chunk, strict=True)
            rows = np.frombuffer(b"".join(content), dtype="<f4").reshape(len(chunk), self._embedding_size)
            self.templates = self.templates.grown(rows, people, numbers)
            self._last_template = numbers[-1]
        self._version, self._removals = version, removals


class Gallery:
    """People and their templates in an encrypted SQLite file, for several threads and processes at once.

    Create with `Gallery.open`, in a `with` statement.
    """

    def __init__(self, store: Store, key: GalleryKey, model: GalleryModel, verifier: Verifier | None) -> None:
        self.model = model
        self._store, self._key, self._verifier = store, key, verifier
        self._lock = threading.RLock()  # of the contents; transactions are within it
        self._contents = Contents(model.embedding_size)

    @classmethod
    def open(
        cls,
        path: str | Path,
        model: Verifier | GalleryModel | None = None,
        *,
        key: GalleryKey | str | Path | bytes | None = None,
        create: bool = True,
        busy_seconds: float = BUSY_SECONDS,
    ) -> Gallery:
        """Open a gallery.

        Args:
            path: of its file.
            model: a verifier, or the description of a model, which takes embeddings only; None for the model that the
                gallery was created for.
            key: see `find_key`; None for that of the environment.
            create: create the gallery if there is none and a model is given.
            busy_seconds: to wait for another process that writes.

        Raises:
            InputError: no gallery, no key or a wrong one, another model, a damaged file, or a missing package.
        """
        secret = find_key(key)
        given = None if model is None else gallery_model(model)
        store = Store(Path(path).expanduser(), secret, given if create else None, busy_seconds)
        try:
            own = store.model(given)
            with store.reading() as connection:
                vacuumed = connection.execute("SELECT vacuumed FROM gallery").fetchone()[0]
            if not vacuumed:  # the process that forgot a person was killed before the end
                store.vacuum()
        except BaseException:
            store.close()
            raise
        return cls(store, secret, own, None if isinstance(model, GalleryModel) else model)

    def __enter__(self) -> Gallery:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and drop what was decrypted."""
        with self._lock:
            self._store.close()
            self._contents = Contents(self.model.embedding_size)

    def __len__(self) -> int:
        """Number of people."""
        with self._store.reading() as connection:
            return int(connection.execute("SELECT count(*) FROM person").fetchone()[0])

    def people(self) -> list[Person]:
        """All enrolled people, in the order of their names."""
        with self._store.reading() as connection:
            rows = connection.execute(
                "SELECT name, pseudonym, person.enrolled, count(template.id) FROM person "
                "LEFT JOIN template ON template.person = person.id GROUP BY person.id"
            )
            return sorted(Person(*row) for row in rows)

    def log(self) -> list[LogEntry]:
        """What happened, oldest first. The entries of people since forgotten have no name."""
        with self._store.reading() as connection:
            return read_log(connection)

    def enroll(
        self,
        name: str,
        photos: Sequence[Photo],
        *,
        on_multiple_faces: OnMultipleFaces | None = None,
        force: bool = False,
        keep_photos: bool = False,
    ) -> Enrollment:
        """Enroll a person, or add templates to one; all photos or none.

        Args:
            name: see `person_name`; an enrolled person gets more templates.
            photos: of this person.
            on_multiple_faces: which of multiple faces is used: `error`, `largest` or `central`.
            force: accept faces of a quality outside of what the model was measured on.
            keep_photos: keep the aligned faces, encrypted like everything else; see `photos`.

        Raises:
            NoDecision: a photo cannot be read, or shows no face or multiple faces.
            InputError: see `person_name`, no photos, or a face of too low a quality.
        """
        verifier = self._require_verifier()
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
    ) -> Enrollment:
        """Enroll a person by embeddings, in one transaction: all of them or none.

        Args:
            name: see `enroll`.
            embeddings: (N,D) of any nonzero length, of the gallery's model.
            qualities: N, of the faces; None where unknown, which is not refused.
            sources: N names of the faces for warnings; they are not stored.
            crops: N (S,S,3) uint8 RGB faces to keep; None for none.
            force: see `enroll`.
            compare: warn of the same face under another name, and of photos unlike one another.

        Raises:
            InputError: see `enroll` and `unit_templates`.
        """
        name = person_name(name)
        rows = unit_templates(embeddings, self.model.embedding_size)
        called = list(sources) if sources is not None else [f"face {row + 1}" for row in range(len(rows))]
        measured = list(qualities) if qualities is not None else [None] * len(rows)
        pictures = [_png(crop) for crop in crops] if crops is not None else [None] * len(rows)
        if not len(rows) == len(called) == len(measured) == len(pictures):
            raise InputError(f"There are {len(rows)} embeddings of {name}: give as many qualities, sources and crops.")
        problems = self._quality_problems(called, measured)
        if problems and not force:
            raise InputError(f"{name} was not enrolled, --force would: {' '.join(problems)}")
        with self._changing() as connection:
            found = person_by_name(connection, name)
            number = found[0] if found else None
            warnings = problems
            if compare:
                known = self._contents.templates, self._contents.names, number
                warnings = warnings + enrollment_warnings(rows, called, *known, self.model.impostor_tail)
            if number is None:
                number = add_person(connection, name)
            for row, quality, picture in zip(rows, measured, pictures, strict=True):
                add_template(connection, number, row, quality, picture)
            _, person = cast("tuple[int, Person]", person_by_name(connection, name))
            add_log(connection, "enrolled", person.pseudonym, self.model.name, {"templates": len(rows)})
        return Enrollment(name, person.pseudonym, len(rows), person.templates, tuple(warnings))

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
        combine: Combine = "best",
    ) -> Identification:
        """Search for the person on a photo.

        Args:
            photo: of one face.
            far: share of the searches for people who are not enrolled that may find one; by default 1e-3 if the
                impostor tail shows it for so many templates, else 1e-2.
            threshold: accept at this cosine and above instead, in [-1, 1].
            top: candidates to return.
            scores: return candidates below the threshold as well, see `Identification`.
            decide: decide where the result would be inconclusive, see `Verifier.verify`.
            on_multiple_faces: which of multiple faces is used: `error`, `largest` or `central`.
            combine: see `identify_embedding`.

        Raises:
            NoDecision: the photo cannot be read, or shows no face or multiple faces.
            InputError: see `identify_embedding`.
        """
        verifier = self._require_verifier()
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
            combine=combine,
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
        combine: Combine = "best",
    ) -> Identification:
        """Search for the person of an embedding. Only matches are logged.

        Args:
            embedding: (D,) or (1,D), of any nonzero length, of the gallery's model.
            far: see `identify`.
            threshold: see `identify`.
            top: see `identify`.
            scores: see `identify`.
            decide: see `identify`.
            face: that was embedded, for the result and for its quality, which may make it inconclusive.
            milliseconds: spent so far by stage.
            combine: `best` template of each person, `mean` of their templates, or mean weighted by `quality`. Means are
                compared exactly, and only with a threshold of the caller's: those of the model are of single photos.

        Raises:
            InputError: an invalid rate, means without a threshold, templates of unknown quality, a model without an
                impostor tail, or see `unit_templates`.
        """
        # Here and below, since it loads Pillow.
        from siamese_verify.verification.decision import threshold_doubt

        start = time.perf_counter()
        rows = unit_templates(embedding, self.model.embedding_size)
        if len(rows) != 1 or top < 1:
            raise InputError(f"A search takes one embedding and top >= 1, got {len(rows)} embeddings and top={top}.")
        check_combine(combine)
        if combine != "best" and threshold is None:
            raise InputError(
                f"Thresholds were measured on single photos: with combine={combine!r} give a threshold, such as one "
                "measured with protocol=templates."
            )
        poor = self._quality_problems([face.name], [face.quality]) if face is not None else []
        while True:
            templates, people = self._current()
            limit = self._threshold(far, threshold, len(templates))
            if combine == "best":
                hits = templates.best(rows[0], top)  # without the lock: it is the long part
            else:
                weights = self._weights(templates) if combine == "quality" else None
                hits = templates.best_combined(rows[0], top, weights)
            searched = time.perf_counter()
            doubt = threshold_doubt(hits[0].score, limit.interval) if hits else ""
            reasons = [*([f"The best score {doubt}"] if doubt else []), *(poor if hits else [])]
            decided = bool(decide or not reasons)
            candidates = self._candidates(hits, limit, decided)
            if candidates is not None:
                break  # else one of them was forgotten meanwhile
        accepted = [one for one in candidates if decided and one.score >= limit.threshold]
        warnings = [limit.reason] if limit.insufficient else []
        if not hits:
            warnings.append(f"The gallery {self._store.path} is empty: enroll a person.")
        if len(accepted) > 1:
            warnings.append(f"{len(accepted)} people reach the threshold: {', '.join(one.name for one in accepted)}.")
        shown = candidates if scores else accepted
        return Identification(
            found=bool(accepted) if decided else None,
            name=accepted[0].name if accepted else None,
            score=shown[0].score if shown else None,
            threshold=limit.threshold,
            threshold_interval=limit.interval,
            far=limit.far,
            candidates=tuple(shown),
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

    def _weights(self, templates: Templates) -> NDArray[np.float64]:
        """(N,) weights of templates by their quality, see `quality_weights`; 0 for people who were forgotten."""
        from siamese_verify.faces import Quality, quality_scores

        with self._store.reading() as connection:
            stored = dict(connection.execute("SELECT id, quality FROM template"))
        unknown = Quality(*[math.nan] * len(Quality._fields))
        known = [json.loads(stored.get(number, "null")) for number in templates.numbers.tolist()]
        weights = np.zeros(len(known))
        there = np.flatnonzero(templates.people != NOBODY)
        found = [Quality(**known[row]) if known[row] else unknown for row in there]
        weights[there] = quality_weights(quality_scores(found))
        return weights

    def forget(self, name: str) -> int:
        """Remove a person with all templates and photos for good, and rewrite the file.

        Returns:
            Number of templates removed.

        Raises:
            InputError: no person has that name.
        """
        name = person_name(name)
        with self._lock:
            with self._changing() as connection:
                number, person = self._person(connection, name)
                remove_person(connection, number)
                add_log(connection, "forgotten", person.pseudonym, self.model.name, {"templates": person.templates})
            try:
                self._store.vacuum()
            except InputError as error:
                later = "the file is rewritten at the next opening"
                raise InputError(f"{name} is forgotten, but {later}: {error}") from None
        return person.templates

    def photos(self, name: str) -> list[NDArray[np.uint8]]:
        """Stored faces of a person, (S,S,3) RGB each.

        Raises:
            InputError: no person has that name.
        """
        from PIL import Image

        name = person_name(name)
        with self._store.reading() as connection:
            number, _ = self._person(connection, name)
            query = "SELECT photo FROM template WHERE person = ? AND photo IS NOT NULL ORDER BY id"
            contents = [content for (content,) in connection.execute(query, (number,))]
        return [np.asarray(Image.open(io.BytesIO(content))) for content in contents]

    def use_index(self, *, keep: bool = False) -> None:
        """Search approximately from now on, with FAISS: for galleries too large to compare with every template.

        Templates enrolled afterwards are searched exactly besides. People who were forgotten are never found.

        Args:
            keep: save the index beside the gallery, mapped into memory, for the next opening. That file holds the
                templates unencrypted: only for a disk that is encrypted itself. Forgetting a person deletes it. By
                default the index is in memory only.

        Raises:
            InputError: the gallery is empty, the index cannot be written, or FAISS is not installed.
        """
        path = index_path(self._store.path)

        def sign(content: bytes) -> str:
            return hmac.digest(self._key.content, b"siamese-verify index " + content, "sha256").hex()

        index = ApproximateIndex.load(path, sign) if keep else None
        if index is None:
            rows, numbers = self._current()[0].living()
            index = ApproximateIndex.build(rows, numbers)  # minutes, so without the lock
            if keep:
                index.save(path, sign)
                if not np.isin(numbers, self._current()[0].living()[1]).all():  # a person was forgotten meanwhile
                    remove_index(self._store.path)
                else:
                    index = ApproximateIndex.load(path, sign) or index
        with self._lock:
            self._contents.templates = replace(self._contents.templates, index=index)

    def check(self) -> None:
        """Verify the authentication codes and the structure of the whole file.

        Raises:
            InputError: the file is damaged.
        """
        self._store.check()

    @contextmanager
    def _changing(self) -> Iterator[Any]:
        with self._lock, self._store.writing() as connection:
            self._contents.refresh(connection)
            yield connection
            connection.execute("UPDATE gallery SET version = version + 1")

    def _current(self) -> tuple[Templates, int]:
        """Templates and number of people as of now."""
        with self._lock, self._store.reading() as connection:
            self._contents.refresh(connection)
            return self._contents.templates, len(self._contents.names)

    def _require_verifier(self) -> Verifier:
        if self._verifier is None:
            raise InputError("This gallery was opened without a verifier and takes embeddings only: open it with one.")
        return self._verifier

    def _person(self, connection: Any, name: str) -> tuple[int, Person]:
        found = person_by_name(connection, name)
        if found is None:
            count = connection.execute("SELECT count(*) FROM person").fetchone()[0]
            held = count_of(count, "person")
            raise InputError(f"There is no {name!r} in the gallery ({held}): `siamese-verify people` lists them.")
        return found

    def _threshold(self, far: float | None, threshold: float | None, templates: int) -> SearchThreshold:
        from siamese_verify.verification.decision import check_threshold

        check_threshold(far, threshold)
        if threshold is not None:
            return SearchThreshold(float(threshold), None, None, 0, False, "")
        tail = self.model.impostor_tail
        if tail is None:
            name = self.model.name or "this model"
            raise InputError(f"The impostor scores of {name} were never measured: give a threshold.")
        if not templates:
            search_threshold(tail, far, 1)  # refuses an invalid rate
            return SearchThreshold(math.inf, None, far, tail.impostors, False, "")
        return search_threshold(tail, far, templates)

    def _candidates(self, hits: list[Hit], limit: SearchThreshold, decided: bool) -> list[Candidate] | None:
        """Names of the hits, after logging a match; None if one of them was forgotten since."""
        matched = decided and hits and hits[0].score >= limit.threshold
        with self._lock, self._store.writing() if matched else self._store.reading() as connection:
            self._contents.refresh(connection)
            names = self._contents.names
            if any(hit.person not in names for hit in hits):
                return None
            if matched:
                _, person = self._person(connection, names[hits[0].person])
                details = {
                    "score": round(hits[0].score, 6),
                    "threshold": round(limit.threshold, 6),
                    "far": limit.far,
                }
                add_log(connection, "matched", person.pseudonym, self.model.name, details)
            return [Candidate(names[hit.person], hit.score) for hit in hits]

    def _quality_problems(self, names: Sequence[str], qualities: Sequence[Quality | None]) -> list[str]:
        if not self.model.quality:
            return []
        from siamese_verify.verification.decision import quality_complaints

        return [
            f"{name}: {problem}"
            for name, quality in zip(names, qualities, strict=True)
            if quality is not None
            for problem in quality_complaints(quality, self.model.quality)
        ]


def _one(faces: Sequence[DetectedFace]) -> list[DetectedFace]:
    if len(faces) != 1:
        raise InputError(f"{faces[0].name} shows {len(faces)} faces: crop it to the one that is meant.")
    return list(faces)


def _png(crop: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(crop).save(file, "PNG")
    return file.getvalue()
