"""Embeddings of photos, kept beside an output until that is finished."""

from __future__ import annotations

import csv
import io
import math
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from siamese_verify.atomic_write import whole_file, write_whole
from siamese_verify.errors import InputError
from siamese_verify.faces import Quality
from siamese_verify.tables import csv_cell, read_table
from siamese_verify.verification.decision import DetectedFace, best_pair
from siamese_verify.verification.late_bar import late_bar
from siamese_verify.verification.verifier import OnMultipleFaces, checked_on_multiple_faces

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from siamese_verify.verification.decision import DetectedFace, Verification

# What a decision needs to know of a face besides its embedding; NaN where it is not known.
FACE = np.dtype(
    [(name, np.float64) for name in (*Quality._fields, "probability", "rotated_by")]
    + [("box", np.float64, 4), ("faces", np.int32)]
)


class Part(NamedTuple):
    """Some photos: each has an error, or one face or more."""

    keys: NDArray[np.str_]  # (P,) see `photo_key`
    errors: NDArray[np.str_]  # (P,) why there is none, empty otherwise
    counts: NDArray[np.int32]  # (P,) faces
    faces: NDArray[np.void]  # (F,) of `FACE`, photo after photo
    embeddings: NDArray[np.float32]  # (F,D) unit rows


def photo_key(path: Path) -> str:
    """Name the content of a photo without reading it: by path, size, and times of change; empty without a file.

    The time at which its permissions changed counts as well: a file that may be read by now is worth another try.
    """
    try:
        found = path.stat()
    except (OSError, ValueError):  # a name that no file can have
        return ""
    told = (str(path.absolute()), found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return sha256(repr(told).encode("utf-8", "surrogatepass")).hexdigest()


class CachedEmbeddings:
    """A folder of faces' embeddings, in parts that are there completely or not at all.

    These are personal data: nobody else may read the folder, and `remove` has to be called as soon as it has served.

    Args:
        folder: made if it is missing.
        origin: of the embeddings, such as a model's fingerprint; parts of another are removed.

    Raises:
        InputError: another process is using the folder, or it cannot be made.
    """

    def __init__(self, folder: Path, origin: str) -> None:
        self.folder, self.origin = folder, origin
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            self._lock = _locked(folder)
        except BlockingIOError:
            raise InputError(f"Another process is writing to {folder}: wait for it, or write elsewhere.") from None
        except OSError as error:
            raise InputError(f"The folder {folder} cannot be made: {error}.") from None
        self._next = 0

    def parts(self) -> Iterator[Part]:
        """Read what is there; what is damaged or of another origin is removed."""
        for path in sorted(self.folder.glob("*.npz")):
            self._next = max(self._next, int(path.stem) + 1 if path.stem.isdecimal() else 0)
            try:
                with np.load(path, allow_pickle=False) as content:
                    if str(content["origin"]) != self.origin:
                        raise ValueError(content["origin"])
                    part = Part(*(content[name] for name in Part._fields))
                    if part.faces.dtype != FACE or not len(part.faces) == len(part.embeddings) == part.counts.sum():
                        raise ValueError(part.faces.dtype)
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                path.unlink(missing_ok=True)
            else:
                yield part

    def add(self, part: Part) -> None:
        """Keep some more, after `parts` was read."""
        content = io.BytesIO()
        np.savez(content, origin=np.array(self.origin), **part._asdict())
        write_whole(self.folder / f"{self._next:06d}.npz", content.getvalue())
        self._next += 1

    def release(self) -> None:
        """Let another process have the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def remove(self) -> None:
        """Remove the folder with everything in it."""
        shutil.rmtree(self.folder)


def _locked(folder: Path) -> int | None:
    """Lock a folder against other processes, where the system can; the lock ends with the process."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    number = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(number)
        raise
    return number


CHUNK = 64  # photos that are embedded together and kept together
THREADS = 2  # photos that are searched at the same time
NO_CROP = np.empty((0, 0, 3), dtype=np.uint8)


class _Record(Protocol):
    @property
    def embedding_size(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...


class Embedder(Protocol):
    """What embedding many photos needs of a verifier."""

    @property
    def metadata(self) -> _Record:
        """What is known about its model."""

    def find(self, photo: Path, /, name: str | None = None, on_multiple_faces: Any = None) -> list[DetectedFace]:
        """Find the faces of a photo; `InputError` where there is none to decide about."""

    def embed_faces(self, faces: Sequence[DetectedFace], /) -> NDArray[np.float32]:
        """Embed faces as (N,D) unit rows."""


class EmbeddedPhotos:
    """Embeddings of P photos in one array: 4 D bytes for each, 205 MB for 100,000 photos and 512 numbers.

    A photo's faces are the rows from `first` on, as many as `counts` says; -1 marks a photo that was not looked at.
    """

    def __init__(self, verifier: Embedder, names: list[str], folder: Path, on_multiple_faces: str | None) -> None:
        self.verifier, self.on_multiple_faces, self.names = verifier, on_multiple_faces, names
        numbers: dict[Path, int] = {}
        # One photo may be written as x.jpg and ./x.jpg.
        self.number = np.array([numbers.setdefault(folder / name, len(numbers)) for name in names], dtype=np.int32)
        self.paths = list(numbers)
        self.called = [names[row] for row in np.unique(self.number, return_index=True)[1]]
        self.first = np.zeros(len(self.paths), dtype=np.int64)
        self.counts = np.full(len(self.paths), -1, dtype=np.int32)
        self.errors: dict[int, str] = {}
        self.filled = 0
        self.embeddings = np.empty((len(self.paths), verifier.metadata.embedding_size), dtype=np.float32)
        self.faces = np.empty(len(self.paths), dtype=FACE)

    def embed(self, kept: CachedEmbeddings, advance: Callable[[int, int], None]) -> None:
        """Look at every photo, but for those that were kept from last time."""
        keys = [photo_key(path) for path in self.paths]
        rows = {key: row for row, key in enumerate(keys) if key}
        for part in kept.parts():
            self._take([rows.get(key, -1) for key in part.keys.tolist()], part)
        with ThreadPoolExecutor(THREADS) as pool:
            # Chunks are cut at the same places however often it is stopped: the last bits of an embedding may depend on
            # its company in a batch.
            for start in range(0, len(self.paths), CHUNK):
                chunk = range(start, min(start + CHUNK, len(self.paths)))
                todo = [row for row in chunk if self.counts[row] < 0]
                if todo:
                    part = self._look(todo, [keys[row] for row in todo], pool)
                    kept.add(part)
                    self._take(todo, part)
                advance(chunk.stop, len(self.paths))

    def _look(self, rows: list[int], keys: list[str], pool: ThreadPoolExecutor) -> Part:
        found = list(pool.map(self._find, rows))
        faces = [face for one in found if not isinstance(one, str) for face in one]
        embeddings = self.verifier.embed_faces(faces) if faces else self.embeddings[:0]
        return Part(
            keys=np.array(keys),
            errors=np.array([one if isinstance(one, str) else "" for one in found]),
            counts=np.array([0 if isinstance(one, str) else len(one) for one in found], dtype=np.int32),
            faces=np.array([_row_of(face) for face in faces], dtype=FACE),
            embeddings=np.asarray(embeddings, dtype=np.float32),
        )

    def _find(self, row: int) -> list[DetectedFace] | str:
        try:
            found = self.verifier.find(self.paths[row], name=self.called[row], on_multiple_faces=self.on_multiple_faces)
        except (InputError, OSError) as error:
            return str(error) or type(error).__name__
        return found or f"No face was found on {self.called[row]}."

    def _take(self, rows: list[int], part: Part) -> None:
        """Take a part in; row -1 and rows that are there already are left out."""
        starts = np.cumsum(part.counts) - part.counts
        for row, error, count, start in zip(rows, part.errors.tolist(), part.counts.tolist(), starts, strict=True):
            if row < 0 or self.counts[row] >= 0:
                continue
            end = self.filled + count
            if end > len(self.faces):  # only where photos of multiple faces are taken
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
        return self.errors.get(int(self.number[name]), "")

    def rows_of(self, name: int) -> range:
        """Rows of the faces of a photo, by the number of its name."""
        row = self.number[name]
        return range(self.first[row], self.first[row] + self.counts[row])

    def face(self, row: int, name: int) -> DetectedFace:
        """What a decision has to know of a face."""
        *quality, probability, rotated_by, box, faces = self.faces[row].tolist()
        return DetectedFace(
            self.names[name],
            NO_CROP,
            Quality(*(_known(number) for number in quality)),  # type: ignore[arg-type]
            None if math.isnan(box[0]) else tuple(box),
            probability=_known(probability),
            rotated_by=rotated_by,
            faces=faces,
        )


def _row_of(face: DetectedFace) -> tuple[Any, ...]:
    numbers = (*face.quality, face.probability)
    known = (math.nan if number is None else number for number in numbers)
    return (*known, face.rotated_by, face.box or (math.nan,) * 4, face.faces)


def _known(number: float) -> float | None:
    return None if math.isnan(number) else number


SUFFIXES = (".csv", ".parquet")
SCORED = pa.schema(
    [
        ("score", pa.float64()),
        ("same", pa.bool_()),
        ("log_likelihood_ratio", pa.float64()),
        ("probability", pa.float64()),
        ("prior", pa.float64()),
        ("one_in", pa.int64()),
        ("threshold", pa.float64()),
        ("reasons", pa.string()),
        ("warnings", pa.string()),
        ("error", pa.string()),
    ]
)


class PairTable(NamedTuple):
    """Pairs of photos, and whatever else stands in their table."""

    columns: pa.Table  # M rows, as they will be written
    photos: list[str]  # P distinct names, in the order in which they come first
    left: NDArray[np.int32]  # (M,) rows of `photos`; -1 where no photo is named
    right: NDArray[np.int32]  # (M,)
    places: Sequence[int]  # (M,) lines of a CSV, the header's being 1; rows of a Parquet file, from 1
    place: str  # what these are called

    def __len__(self) -> int:
        return len(self.left)


def read_pairs(path: Path) -> PairTable:
    """Read a table with the columns `a` and `b`; a column that the scores need for themselves is renamed `..._given`.

    Raises:
        InputError: another suffix, no such file, what `read_table` refuses, columns `a` or `b` of Parquet that are no
            text, a column that is there twice, two columns that would have one name.
    """
    check_suffix(path)
    if path.suffix.lower() == ".csv":
        header = _header(path)
        table = read_table(path, ("a", "b"), [name for name in header if name not in ("a", "b")])
        places: Sequence[int] = table.lines
        place = "Line"
        columns = pa.table({name: pa.array(table[name], pa.large_string()) for name in header})
        named = table["a"], table["b"]
    else:
        columns = _read_parquet(path)
        places, place = range(1, len(columns) + 1), "Row"
        named = columns["a"].to_pylist(), columns["b"].to_pylist()
    numbers: dict[str, int] = {}
    left, right = np.empty(len(columns), np.int32), np.empty(len(columns), np.int32)
    for row, (a, b) in enumerate(zip(*named, strict=True)):  # so that the photos of a pair stand together
        left[row] = numbers.setdefault(a, len(numbers)) if a else -1
        right[row] = numbers.setdefault(b, len(numbers)) if b else -1
    return PairTable(_renamed(path, columns), list(numbers), left, right, places, place)


def check_suffix(path: Path) -> None:
    """Accept tables by the end of their names.

    Raises:
        InputError: the name ends otherwise.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"The table {path} is neither .csv nor .parquet: name it by what it is.")


def _header(path: Path) -> list[str]:
    """Names of the columns, each once; none where the file cannot be read, which `read_table` then says."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next(csv.reader(file, strict=True), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return []
    return list(dict.fromkeys(name.strip() for name in header))


def _read_parquet(path: Path) -> pa.Table:
    try:
        columns = parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"The table {path} cannot be read: {error}.") from None
    names = columns.column_names
    for name in ("a", "b"):
        if name not in names:
            there = ", ".join(names) or "none"
            raise InputError(f"{path} has no column {name} (its columns: {there}): name them so.")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"{path} has the column {twice[0]} twice: keep one of them.")
    if not len(columns):
        raise InputError(f"The table {path} has no row: give a pair a row.")
    for place, field in enumerate(columns.schema):
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if field.name in ("a", "b"):
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
                raise InputError(f"The column {field.name} of {path} is {field.type}: give the photos' paths as text.")
            kind = pa.large_string()
        columns = columns.set_column(place, pa.field(field.name, kind), columns[field.name].cast(kind))
    return columns.replace_schema_metadata(None)


def _renamed(path: Path, columns: pa.Table) -> pa.Table:
    names = [f"{name}_given" if name in SCORED.names else name for name in columns.column_names]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(
            f"{path} has the columns {twice[0].removesuffix('_given')} and {twice[0]}, of which the first would be "
            "written under the name of the second: rename one of them."
        )
    return columns.rename_columns(names)


class ScoreWriter:
    """Writes a table of scores piece by piece; nobody should see the file before `close`.

    Args:
        file: open for writing.
        kind: `.csv` or `.parquet`.
        table: the pairs that are scored.
    """

    def __init__(self, file: BinaryIO, kind: str, table: PairTable) -> None:
        self.columns = table.columns
        self._schema = pa.schema([*table.columns.schema, *SCORED])
        self._csv = kind.lower() == ".csv"
        writer = arrow_csv.CSVWriter if self._csv else parquet.ParquetWriter
        self._writer: Any = writer(file, self._schema)

    def write(self, start: int, rows: list[dict[str, Any]]) -> None:
        """Write the scores of the pairs from `start` on, with what their table said of them."""
        scored = pa.Table.from_pylist(rows, schema=SCORED)
        given = self.columns.slice(start, len(rows))
        columns = [*given.columns, *scored.columns]
        if self._csv:
            columns = [_without_formulas(column) for column in columns]
        self._writer.write_table(pa.table(columns, schema=self._schema))

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


def _without_formulas(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column as `csv_cell` would have it, where it is text."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):  # in any encoding that goes on from ASCII
        cells: list[Any] = [
            one if one is None else csv_cell(one.decode("latin-1")).encode("latin-1") for one in column.to_pylist()
        ]
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        cells = [one if one is None else csv_cell(one) for one in column.to_pylist()]
    else:
        return column
    plain = pa.chunked_array([pa.array(cells, kind)])
    return plain.dictionary_encode().cast(column.type) if kind != column.type else plain


def check_writable(table: PairTable, kind: str) -> None:
    """Write one row into nowhere: what cannot be written should be known before hours of work.

    Raises:
        InputError: a column holds what such a file cannot, as a CSV cannot hold lists.
    """
    try:
        writer = ScoreWriter(io.BytesIO(), kind, table)
        writer.write(0, [{}])
        writer.close()
    except pa.ArrowException as error:
        raise InputError(
            f"A {kind} cannot hold every column of the pairs ({error}): write to a .parquet file, or leave it out."
        ) from None


PAIRS = 16_384  # decided and written together
TOLD = 5  # failed rows that a summary names


class Judge(Embedder, Protocol):
    """What a list of pairs needs of a verifier."""

    def decide(
        self,
        score: float,
        /,
        faces: Sequence[DetectedFace] = (),
        *,
        far: float | None = None,
        threshold: float | None = None,
        prior: float | None = None,
        decide: bool = False,
        comparisons: int = 1,
    ) -> Verification:
        """Say what a score means."""


class Summary(NamedTuple):
    """What came of a list of pairs; `pairs` = `decided` + `inconclusive` + `failed`."""

    pairs: int
    decided: int  # `same` + `different`
    same: int
    different: int
    inconclusive: int
    failed: int  # a photo of theirs is missing, unreadable, or shows no face or several
    photos: int  # distinct ones
    errors: tuple[str, ...]  # of the first that failed, each with its line

    def sentence(self) -> str:
        """Say it in words."""
        return (
            f"{self.pairs:,} pairs of {self.photos:,} photos: {self.same:,} the same person, {self.different:,} "
            f"different people, {self.inconclusive:,} inconclusive, {self.failed:,} without a decision."
        )


def verify_pairs(
    verifier: Judge,
    table: str | Path,
    out: str | Path,
    root: str | Path | None = None,
    far: float | None = None,
    threshold: float | None = None,
    on_multiple_faces: OnMultipleFaces | None = None,
    decide: bool = False,
    prior: float | None = None,
    progress: bool = True,
) -> Summary:
    """Decide about many pairs.

    Each photo is read, searched and embedded once, in however many pairs it is. The output has every row of the table,
    in its order, with every column, and `score, same, log_likelihood_ratio, probability, prior, one_in, threshold,
    reasons, warnings, error`; what a row lacks is empty. It appears when it is complete. Until then, embeddings are
    kept in a folder beside it, so that the same command goes on where it was stopped; the folder is removed at the end.

    Args:
        verifier: of photos.
        table: `.csv` or `.parquet` with the columns `a` and `b`; what it calls like a column of the output is carried
            along as `..._given`.
        out: `.csv` or `.parquet`, replaced if it is there.
        root: folder that the paths in `a` and `b` start from; by default that of the table.
        far: see `Verifier.verify`.
        threshold: likewise.
        on_multiple_faces: see `Verifier`; of `any`, the best pair of faces counts.
        decide: see `Verifier.verify`.
        prior: likewise; without one `probability` is empty.
        progress: draw a bar once it takes longer than two seconds.

    Raises:
        InputError: a table or an output that cannot be used, see `read_pairs`; a threshold or rate that
            `Verifier.verify` would refuse; another process is at the same output. Never for a bad photo.
    """
    source, target = Path(table), Path(out)
    check_suffix(target)
    if not target.absolute().parent.is_dir():
        raise InputError(f"There is no folder {target.parent} for the output {target.name}: make it first.")
    if target.is_dir() or (target.exists() and source.exists() and target.samefile(source)):
        raise InputError(f"The output {out} is a folder or the table of pairs itself: give another name.")
    if on_multiple_faces is not None:
        checked_on_multiple_faces(on_multiple_faces)
    folder = source.parent if root is None else Path(root)
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder} for the photos to start from: give another root.")
    verifier.decide(
        0.0, far=far, threshold=threshold, prior=prior, decide=decide
    )  # refuses what it must before any photo is read
    pairs = read_pairs(source)
    check_writable(pairs, target.suffix)
    kept = CachedEmbeddings(target.with_name(f".{target.name}.unfinished"), _origin(verifier, on_multiple_faces))
    try:
        photos = EmbeddedPhotos(verifier, pairs.photos, folder, on_multiple_faces)
        with late_bar("Embedding photos", progress) as advance:
            photos.embed(kept, advance)
        with late_bar("Deciding about pairs", progress) as advance, whole_file(target) as file:
            writer = ScoreWriter(file, target.suffix, pairs)
            scores = _Scores(
                verifier, pairs, photos, {"far": far, "threshold": threshold, "prior": prior, "decide": decide}
            )
            summary = scores.write(writer, advance)
        kept.remove()
    except OSError as error:
        raise InputError(
            f"The output {out} cannot be written ({error}): mend that, and the same command goes on where it was."
        ) from None
    finally:
        kept.release()
    return summary


def _origin(verifier: Judge, on_multiple_faces: OnMultipleFaces | None) -> str:
    """Name all that decides which faces are embedded, and how: nothing that was embedded another way is used."""
    policy = on_multiple_faces or getattr(verifier, "on_multiple_faces", "error")
    hook: Any = getattr(verifier, "liveness", None)  # may refuse what was accepted without it; its name has to do
    named = f"{hook.__module__}.{hook.__qualname__}" if hasattr(hook, "__qualname__") else repr(hook)
    return f"{verifier.metadata.fingerprint} {policy} {named}"


class _Scores:
    """The scores of pairs, row by row."""

    def __init__(self, verifier: Judge, pairs: PairTable, photos: EmbeddedPhotos, asked: dict[str, Any]) -> None:
        self.verifier, self.pairs, self.photos, self.asked = verifier, pairs, photos, asked

    def write(self, writer: ScoreWriter, advance: Callable[[int, int], None]) -> Summary:
        """Write them all, and count what came out."""
        pairs = self.pairs
        same = different = inconclusive = 0
        told: list[str] = []
        for start in range(0, len(pairs), PAIRS):
            block = slice(start, start + PAIRS)
            rows = [
                self.row(a, b) for a, b in zip(pairs.left[block].tolist(), pairs.right[block].tolist(), strict=True)
            ]
            writer.write(start, rows)
            for number, row in enumerate(rows, start):
                if "error" in row:
                    told += [f"{pairs.place} {pairs.places[number]}: {row['error']}"] * (len(told) < TOLD)
                    continue
                same += row["same"] is True
                different += row["same"] is False
                inconclusive += row["same"] is None
            advance(min(start + PAIRS, len(pairs)), len(pairs))
        writer.close()
        decided = same + different
        failed = len(pairs) - decided - inconclusive
        distinct = len(self.photos.paths)
        return Summary(len(pairs), decided, same, different, inconclusive, failed, distinct, tuple(told))

    def row(self, left: int, right: int) -> dict[str, Any]:
        """What the output says of two photos, by the numbers of their names; -1 where none is named."""
        photos = self.photos
        errors = [
            photos.error(name) if name >= 0 else f"No photo is named in the column {column}."
            for column, name in (("a", left), ("b", right))
        ]
        if any(errors):
            return {"error": " ".join(dict.fromkeys(filter(None, errors)))}
        first, second = photos.rows_of(left), photos.rows_of(right)
        embeddings = photos.embeddings
        place, other, score = best_pair(embeddings[first.start : first.stop], embeddings[second.start : second.stop])
        result = self.verifier.decide(
            score,
            (photos.face(first[place], left), photos.face(second[other], right)),
            comparisons=len(first) * len(second),
            **self.asked,
        )
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
