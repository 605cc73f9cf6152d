"""Verify all pairs of a table: each photo is embedded once, and a run that was stopped goes on where it was."""

from __future__ import annotations

import io
import math
import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from siamese_verify.atomic_write import atomic_open, atomic_write
from siamese_verify.errors import InputError
from siamese_verify.faces import OnMultipleFaces, Quality, check_on_multiple_faces
from siamese_verify.verification.decision import DecisionOptions, DetectedFace
from siamese_verify.verification.pair_table import PairTable, ScoreWriter, check_suffix, check_writable, read_pairs
from siamese_verify.verification.verifier import CHUNK

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from siamese_verify.verification.verifier import Verifier

# What a decision needs to know of a face besides its embedding; NaN where it is not known.
FACE = np.dtype(
    [(name, np.float64) for name in (*Quality._fields, "probability", "rotated_by")]
    + [("box", np.float64, 4), ("faces", np.int32)]
)
NO_CROP = np.empty((0, 0, 3), dtype=np.uint8)
THREADS = 2  # photos in which faces are searched at the same time
BLOCK = 16_384  # pairs decided and written together
MAX_ERRORS = 5  # listed in a summary


class Summary(NamedTuple):
    """Counts of a table of pairs; `pairs` = `decided` + `inconclusive` + `failed`."""

    pairs: int
    decided: int  # `same` + `different`
    same: int
    different: int
    inconclusive: int
    failed: int  # failures to acquire: a photo is missing, unreadable, or shows no face or multiple faces
    photos: int  # distinct ones
    errors: tuple[str, ...]  # of the first that failed, each with its line

    def sentence(self) -> str:
        """Return the counts in words."""
        return (
            f"{self.pairs:,} pairs of {self.photos:,} photos: {self.same:,} the same person, {self.different:,} "
            f"different people, {self.inconclusive:,} inconclusive, {self.failed:,} without a decision."
        )


def verify_pairs(
    verifier: Verifier,
    table: str | Path,
    out: str | Path,
    root: str | Path | None = None,
    far: float | None = None,
    threshold: float | None = None,
    on_multiple_faces: OnMultipleFaces | None = None,
    decide: bool = False,
    prior: float | None = None,
    progress: bool = True,
    chunk: int = CHUNK,
    block: int = BLOCK,
) -> Summary:
    """Verify all pairs of a table.

    Each photo is read, searched and embedded once. The output has all rows and columns of the table, followed by
    `score, same, log_likelihood_ratio, probability, prior, one_in, threshold, reasons, warnings, error`; what a row
    lacks is empty. It appears when it is complete. Until then, embeddings are cached in a folder beside it, so that the
    same command resumes after it was stopped; the folder is removed at the end.

    Args:
        verifier: of the model.
        table: `.csv` or `.parquet` with the columns `a` and `b`; its columns that are named like one of the output's
            are renamed to `..._given`.
        out: `.csv` or `.parquet`, replaced if it exists.
        root: folder that the paths in `a` and `b` start from; by default that of the table.
        far: see `Verifier.verify`.
        threshold: likewise.
        on_multiple_faces: likewise; with `any`, the best pair of faces counts.
        decide: likewise.
        prior: likewise; without one `probability` is empty.
        progress: show a progress bar after two seconds.
        chunk: photos embedded and cached together.
        block: pairs decided and written together.

    Raises:
        InputError: the table or output cannot be used, see `read_pairs`; a value that `Verifier.verify` would refuse;
            another process writes the same output. Never for a bad photo.
    """
    source, target = Path(table), Path(out)
    check_suffix(target)
    if not target.absolute().parent.is_dir():
        raise InputError(f"There is no folder {target.parent} for the output {target.name}: make it first.")
    if target.is_dir() or (target.exists() and source.exists() and target.samefile(source)):
        raise InputError(f"The output {out} is a folder or the table of pairs itself: give another name.")
    selection = check_on_multiple_faces(on_multiple_faces or verifier.on_multiple_faces)
    folder = source.parent if root is None else Path(root)
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder} for the photos to start from: give another root.")
    options = DecisionOptions(far=far, threshold=threshold, prior=prior, decide=decide)
    verifier.check(**options)
    pairs = read_pairs(source)
    check_writable(pairs, target.suffix)
    cache = CachedEmbeddings(target.with_name(f".{target.name}.unfinished"), _origin(verifier, selection))
    try:
        photos = EmbeddedPhotos(verifier, pairs.photos, folder, selection)
        with _progress("Embedding photos", len(photos.paths), progress) as bar:
            photos.embed(cache, chunk, bar.update)
        with _progress("Deciding about pairs", len(pairs), progress) as bar, atomic_open(target) as file:
            writer = ScoreWriter(file, target.suffix, pairs)
            summary = _decide_pairs(verifier, pairs, photos, options, writer, block, bar.update)
        cache.remove()
    except OSError as error:
        raise InputError(
            f"The output {out} cannot be written ({error}): correct that, and run the same command again to resume."
        ) from None
    finally:
        cache.release()
    return summary


def _progress(title: str, total: int, shown: bool) -> Any:
    """Progress bar on a terminal, shown after two seconds."""
    from tqdm import tqdm

    return tqdm(total=total, desc=title, delay=2, leave=False, disable=None if shown else True)


def _origin(verifier: Verifier, on_multiple_faces: OnMultipleFaces) -> str:
    """Name of all that decides which faces are embedded, and how; the liveness hook may refuse a photo."""
    hook: Any = verifier.liveness
    named = f"{hook.__module__}.{hook.__qualname__}" if hasattr(hook, "__qualname__") else repr(hook)
    return f"{verifier.metadata.fingerprint} {on_multiple_faces} {named}"


def _decide_pairs(
    verifier: Verifier,
    pairs: PairTable,
    photos: EmbeddedPhotos,
    options: DecisionOptions,
    writer: ScoreWriter,
    block: int,
    advance: Callable[[int], object],
) -> Summary:
    """Decide about all pairs, and write and count the decisions."""
    counts: Counter[bool | None] = Counter()
    errors: list[str] = []
    failed = 0
    for start in range(0, len(pairs), block):
        part = slice(start, start + block)
        both = zip(pairs.left[part].tolist(), pairs.right[part].tolist(), strict=True)
        rows = [_decide_pair(verifier, photos, left, right, options) for left, right in both]
        writer.write(start, rows)
        for number, row in enumerate(rows, start):
            if "error" not in row:
                counts[row["same"]] += 1
                continue
            failed += 1
            if len(errors) < MAX_ERRORS:
                errors.append(f"{pairs.unit} {pairs.numbers[number]}: {row['error']}")
        advance(len(rows))
    writer.close()
    same, different, inconclusive = counts[True], counts[False], counts[None]
    decided = same + different
    return Summary(len(pairs), decided, same, different, inconclusive, failed, len(photos.paths), tuple(errors))


def _decide_pair(
    verifier: Verifier, photos: EmbeddedPhotos, left: int, right: int, options: DecisionOptions
) -> dict[str, Any]:
    """Columns of the output for two photos, by the numbers of their names; -1 where none is named."""
    errors = [
        photos.error(name) if name >= 0 else f"No photo is named in the column {column}."
        for column, name in (("a", left), ("b", right))
    ]
    if any(errors):
        return {"error": " ".join(dict.fromkeys(filter(None, errors)))}
    result = verifier.compare(*photos.faces_of(left), *photos.faces_of(right), **options)
    return {
        "score": result.score,
        "same": result.same,
        "log_likelihood_ratio": result.log_likelihood_ratio,
        "probability": result.probability,
        "prior": result.prior,
        "one_in": result.one_in,
        "threshold": result.threshold if math.isfinite(result.threshold) else None,
        "reasons": " ".join(result.reasons) or None,
        "warnings": " ".join(result.warnings) or None,
    }


class EmbeddedPhotos:
    """Embeddings of P photos in one array: 4 D bytes for each, 205 MB for 100,000 photos and 512 numbers.

    The faces of a photo are the rows from `first` on, as many as `counts` says; -1 marks a photo that is to be done.
    """

    def __init__(self, verifier: Verifier, names: list[str], folder: Path, on_multiple_faces: OnMultipleFaces) -> None:
        self.verifier, self.on_multiple_faces, self.names = verifier, on_multiple_faces, names
        rows: dict[Path, int] = {}  # one photo may be written as x.jpg and ./x.jpg
        self.row = np.array([rows.setdefault(folder / name, len(rows)) for name in names], dtype=np.int32)
        self.paths = list(rows)
        self.shown_names = [names[name] for name in np.unique(self.row, return_index=True)[1]]
        self.first = np.zeros(len(self.paths), dtype=np.int64)
        self.counts = np.full(len(self.paths), -1, dtype=np.int32)
        self.errors: dict[int, str] = {}
        self.filled = 0
        self.embeddings = np.empty((len(self.paths), verifier.metadata.embedding_size), dtype=np.float32)
        self.faces = np.empty(len(self.paths), dtype=FACE)

    def embed(self, cache: CachedEmbeddings, chunk: int, advance: Callable[[int], object]) -> None:
        """Embed all photos that are not cached."""
        keys = [photo_key(path) for path in self.paths]
        rows = {key: row for row, key in enumerate(keys) if key}
        for part in cache.read():
            self._insert([rows.get(key, -1) for key in part.keys.tolist()], part)
        with ThreadPoolExecutor(THREADS) as pool:
            # Chunks begin at the same rows however often it was stopped: the last bits of an embedding may depend on
            # the other faces of its batch.
            for start in range(0, len(self.paths), chunk):
                rows_ahead = range(start, min(start + chunk, len(self.paths)))
                todo = [row for row in rows_ahead if self.counts[row] < 0]
                if todo:
                    part = self._embed_rows(todo, [keys[row] for row in todo], pool)
                    cache.add(part)
                    self._insert(todo, part)
                advance(len(rows_ahead))

    def _embed_rows(self, rows: list[int], keys: list[str], pool: ThreadPoolExecutor) -> Part:
        found = list(pool.map(self._find, rows))
        faces = [face for one in found if not isinstance(one, str) for face in one]
        embeddings = self.verifier.embed_faces(faces) if faces else self.embeddings[:0]
        return Part(
            keys=np.array(keys),
            errors=np.array([one if isinstance(one, str) else "" for one in found]),
            counts=np.array([0 if isinstance(one, str) else len(one) for one in found], dtype=np.int32),
            faces=np.array([_pack(face) for face in faces], dtype=FACE),
            embeddings=np.asarray(embeddings, dtype=np.float32),
        )

    def _find(self, row: int) -> list[DetectedFace] | str:
        """Faces of a photo, or why there are none."""
        try:
            return self.verifier.find(self.paths[row], self.shown_names[row], self.on_multiple_faces)
        except (InputError, OSError) as error:
            return str(error) or type(error).__name__

    def _insert(self, rows: list[int], part: Part) -> None:
        """Insert the photos of a part; row -1 and rows that are there already are skipped."""
        starts = np.cumsum(part.counts) - part.counts
        for row, error, count, start in zip(rows, part.errors.tolist(), part.counts.tolist(), starts, strict=True):
            if row < 0 or self.counts[row] >= 0:
                continue
            end = self.filled + count
            if end > len(self.faces):  # only if multiple faces of a photo are used
                more = max(end, len(self.faces) * 3 // 2) - len(self.faces)
                self.embeddings = np.concatenate([self.embeddings, np.empty((more, self.embeddings.shape[1]), "f4")])
                self.faces = np.concatenate([self.faces, np.empty(more, FACE)])
            self.embeddings[self.filled : end] = part.embeddings[start : start + count]
            self.faces[self.filled : end] = part.faces[start : start + count]
            self.first[row], self.counts[row], self.filled = self.filled, count, end
            if error:
                self.errors[row] = error

    def error(self, name: int) -> str:
        """Why a photo has no face, by the number of its name; empty where it has one."""
        return self.errors.get(int(self.row[name]), "")

    def faces_of(self, name: int) -> tuple[list[DetectedFace], NDArray[np.float32]]:
        """Faces of a photo without their pixels, and their (K,D) embeddings, by the number of its name."""
        row = self.row[name]
        rows = slice(self.first[row], self.first[row] + self.counts[row])
        return [_unpack(face, self.names[name]) for face in self.faces[rows].tolist()], self.embeddings[rows]


def _pack(face: DetectedFace) -> tuple[Any, ...]:
    """A face as `FACE`."""
    numbers = (math.nan if number is None else number for number in (*face.quality, face.probability))
    return (*numbers, face.rotated_by, face.box or (math.nan,) * 4, face.faces)


def _unpack(face: tuple[Any, ...], name: str) -> DetectedFace:
    """A face that was `FACE`."""
    *numbers, rotated_by, box, faces = face
    known: list[Any] = [None if math.isnan(number) else number for number in numbers]
    *quality, probability = known
    place = None if math.isnan(box[0]) else tuple(box)
    return DetectedFace(
        name, NO_CROP, Quality(*quality), place, probability=probability, rotated_by=rotated_by, faces=faces
    )


class Part(NamedTuple):
    """Some photos: each has an error, or one face or more."""

    keys: NDArray[np.str_]  # (P,) see `photo_key`
    errors: NDArray[np.str_]  # (P,) why there is no face, empty otherwise
    counts: NDArray[np.int32]  # (P,) faces
    faces: NDArray[np.void]  # (F,) of `FACE`, photo after photo
    embeddings: NDArray[np.float32]  # (F,D) unit rows


class CachedEmbeddings:
    """A folder of cached embeddings, in files that are written completely or not at all.

    Embeddings are personal data: the folder is private to its owner, and `remove` deletes it after use.

    Args:
        folder: created if missing.
        origin: of the embeddings, such as a model's fingerprint; files of another origin are removed.

    Raises:
        InputError: another process uses the folder, or it cannot be created.
    """

    def __init__(self, folder: Path, origin: str) -> None:
        self.folder, self.origin = folder, origin
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            self._lock = _lock_folder(folder)
        except BlockingIOError:
            raise InputError(f"Another process is writing to {folder}: wait for it, or write elsewhere.") from None
        except OSError as error:
            raise InputError(f"The folder {folder} cannot be made: {error}.") from None
        self._next = 0

    def read(self) -> Iterator[Part]:
        """Yield what is cached; damaged files and those of another origin are removed."""
        for path in sorted(self.folder.glob("*.npz")):
            self._next = max(self._next, int(path.stem) + 1 if path.stem.isdecimal() else 0)
            try:
                with np.load(path, allow_pickle=False) as content:
                    part = Part(*(content[name] for name in Part._fields))
                    consistent = len(part.faces) == len(part.embeddings) == part.counts.sum()
                    if str(content["origin"]) != self.origin or part.faces.dtype != FACE or not consistent:
                        raise ValueError(path)
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                path.unlink(missing_ok=True)
            else:
                yield part

    def add(self, part: Part) -> None:
        """Cache some more, after `read`."""
        content = io.BytesIO()
        np.savez(content, origin=np.array(self.origin), **part._asdict())
        atomic_write(self.folder / f"{self._next:06d}.npz", content.getvalue())
        self._next += 1

    def release(self) -> None:
        """Unlock the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder)


def _lock_folder(folder: Path) -> int | None:
    """Lock a folder against other processes, where the system can; the lock ends with the process."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    return descriptor


def photo_key(path: Path) -> str:
    """Identify the content of a photo without reading it, by path, size and times of change; empty without a file.

    The time at which its permissions changed counts as well: a file that may be read by now is worth another try.
    """
    try:
        found = path.stat()
    except (OSError, ValueError):  # a name that no file can have
        return ""
    known = (str(path.absolute()), found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return sha256(repr(known).encode("utf-8", "surrogatepass")).hexdigest()
