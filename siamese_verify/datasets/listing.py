"""Photos and identities in a list: CSV, Parquet or lines of text; and lists of identities to leave out."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from siamese_verify.datasets.folder import IndexedPhotos, check_dropped, read_dropped
from siamese_verify.datasets.index import FaceIndex, index_path, make_index, open_index, save_index, string_array
from siamese_verify.datasets.storage import Storage
from siamese_verify.errors import InputError
from siamese_verify.structures import Photos


def identity_name(photos: Photos, identity: int) -> str:
    """Name of an identity, or its number if the data set has no names."""
    people = getattr(photos, "people", None)
    return str(people[identity]) if people is not None else str(identity)


def read_drop_list(path: str | Path, photos: Photos) -> dict[int, str]:
    """Identities of `photos` to leave out, each with the reason.

    Args:
        path: of the list: a name or number in each line, the reason after a tab or comma.
        photos: the data set.

    Raises:
        InputError: no such file, not UTF-8, or none of its identities is in the data set.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The drop list {path} cannot be read: {error}.") from None
    reasons = {}
    for line in filter(None, map(str.strip, lines)):
        name, _, reason = line.partition("\t" if "\t" in line else ",")
        reasons[name.strip()] = reason.strip() or f"listed in {Path(path).name}"
    identities = np.unique(photos.identities).tolist()
    names = {identity: identity_name(photos, identity) for identity in identities}
    found = {identity: reasons[name] for identity, name in names.items() if name in reasons}
    if not found:
        raise InputError(
            f"None of the {len(reasons):,} identities in {path} is in the data set, whose first is "
            f"{names[identities[0]]!r}: list names or numbers as they are there."
        )
    return found


class ListedPhotos(IndexedPhotos):
    """Photos of a list.

    Args:
        path: of the list, here or in object storage: `.parquet`; `.csv` with a header; else lines of `path label`
            separated by the last blank or tab, or MXNet's `number label path` separated by tabs.
        root: folder that the paths start from; by default the list's own.
        split: value of the column `split` of the photos to take; None takes all.
        cache: folder for an index that the next run maps instead of reading the list; None reads it every time.
        drop: a list of `siamese-verify clean` that was reviewed: photos with yes in its column `drop` are left out.

    Raises:
        InputError: no such list, a missing column, an invalid line, an empty value, a path that comes twice or leads
            out of the root, no photo in the split; no such list of photos to drop, or none of them is in the list.
    """

    def __init__(
        self,
        path: str | Path,
        root: str | Path | None = None,
        split: str | None = None,
        cache: str | Path | None = None,
        drop: str | Path | None = None,
    ) -> None:
        place = str(path)
        folder = root if root is not None else place.rpartition("/")[0] or "."
        remote = "://" in place
        if not remote and not Path(place).is_file():
            raise InputError(f"There is no list {path}: give a CSV or Parquet file with the columns path and identity.")
        dropped = read_dropped(drop) if drop is not None else frozenset[str]()
        details = (split, *sorted(dropped))
        cached = None if remote else index_path(cache, Path(place), *details)
        if cached and cached.is_file():
            index = open_index(cached)
        else:
            index = read_list(place, split, dropped, drop)
            index = save_index(index, cached) if cached else index
        self.list = place
        super().__init__(folder, index)


def read_list(
    path: str, split: str | None = None, dropped: frozenset[str] = frozenset(), drop: str | Path | None = None
) -> FaceIndex:
    """Read a list of photos.

    Args:
        path: see `ListedPhotos`.
        split: see `ListedPhotos`.
        dropped: photos to leave out.
        drop: list that says so.

    Raises:
        InputError: see `ListedPhotos`.
    """
    folder, _, name = path.rpartition("/")
    kind = PurePosixPath(name).suffix.lower()
    try:
        source = io.BytesIO(Storage(folder).read(name)) if "://" in path else path
        if kind == ".parquet":
            table = parquet.read_table(source, columns=_columns(path, parquet.read_schema(source).names, split))
        elif kind == ".csv":
            text = dict.fromkeys(["path", "identity", "split", "camera"], pa.large_string())
            options = arrow_csv.ConvertOptions(column_types=text, strings_can_be_null=False)
            table = arrow_csv.read_csv(source, convert_options=options)
        else:
            table = _read_lines(path, source.getvalue() if isinstance(source, io.BytesIO) else Path(path).read_bytes())
    except InputError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"The list {path} cannot be read: {' '.join(str(error).split())}") from None
    table = table.select(_columns(path, table.column_names, split))
    if split is not None:
        table = table.filter(pc.equal(table["split"].cast(pa.large_string()), split)).drop_columns("split")
        if not len(table):
            raise InputError(f"The list {path} has no photo in the split {split!r}: check its column split.")
    columns = {name: string_array(table[name].combine_chunks()) for name in table.column_names}
    _check_photos(path, columns["path"], columns["identity"])
    if dropped:
        kept = pc.invert(pc.is_in(columns["path"], string_array(sorted(dropped))))
        check_dropped(drop, len(dropped), len(kept) - pc.sum(kept).as_py(), path)
        columns = {name: column.filter(kept) for name, column in columns.items()}
        if not len(columns["path"]):
            raise InputError(f"All photos of {path} are to be dropped by {drop}: leave some.")
    return make_index(columns["path"], columns["identity"], columns.get("split"), columns.get("camera"))


def _columns(path: str, present: Sequence[str], split: str | None) -> list[str]:
    wanted = ["path", "identity"] + ["split"] * (split is not None or "split" in present)
    wanted += ["camera"] * ("camera" in present)
    missing = [name for name in wanted if name not in present]
    if missing:
        raise InputError(f"{path} has no column {', '.join(missing)} (its columns: {', '.join(present)}): rename them.")
    return wanted


def _read_lines(path: str, content: bytes) -> pa.Table:
    rows = []
    for number, line in enumerate(content.decode("utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        fields = line.strip().split("\t")
        if len(fields) == 3:
            fields = fields[:0:-1]  # MXNet's number, label, path
        elif len(fields) != 2:
            fields = line.strip().rsplit(None, 1)
        if len(fields) != 2:
            raise InputError(f"Line {number} of {path} should be a path and a label, got {line.strip()[:80]!r}.")
        rows.append((fields[0].strip(), fields[1].strip()))
    paths, labels = zip(*rows, strict=True) if rows else ((), ())
    return pa.table({"path": string_array(paths), "identity": string_array(labels)})


def _check_photos(path: str, paths: pa.Array, identities: pa.Array) -> None:
    if not len(paths):
        raise InputError(f"The list {path} holds no photo.")
    refuse_empty_cells(path, "path", paths)
    refuse_empty_cells(path, "identity", identities)
    refuse_repeated(path, paths, "a photo shows one identity")


def refuse_empty_cells(place: object, name: str, column: pa.Array) -> None:
    """Raise InputError if a photo of the list at `place` has an empty text in a column."""
    row = pc.index(pc.equal(pc.fill_null(pc.utf8_trim_whitespace(column), ""), ""), True).as_py()
    if row >= 0:
        raise InputError(f"Photo {row + 1} in {place} has no {name}: fill it in, or remove the line.")


def refuse_repeated(place: object, paths: pa.Array, reason: str) -> None:
    """Raise InputError, with a reason or a way out, if a path is in the list at `place` more than once."""
    if pc.count_distinct(paths).as_py() != len(paths):
        counts = pc.value_counts(paths)
        twice = counts.filter(pc.greater(counts.field("counts"), 1))[0]["values"].as_py()
        raise InputError(f"The list {place} has the photo {twice} twice: {reason}.")
