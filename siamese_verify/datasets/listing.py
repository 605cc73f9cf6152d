"""Identities to leave out of a data set, and why."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from siamese_verify.datasets.folder import IndexedPhotos
from siamese_verify.datasets.index import FaceIndex, kept_file, make_index, open_index, save_index
from siamese_verify.datasets.storage import Storage
from siamese_verify.errors import InputError
from siamese_verify.structures import Photos


def identity_name(photos: Photos, code: int) -> str:
    """Name of an identity; its number where it has none."""
    people = getattr(photos, "people", None)
    return str(people[code]) if people is not None else str(code)


def read_drop_list(path: str | Path, photos: Photos) -> dict[int, str]:
    """Whom to leave out, by their numbers in `photos`, and why.

    Raises:
        InputError: no such file, not UTF-8, or nobody in it is in the data set.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            lines = [line.strip() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The drop list {path} cannot be read: {error}.") from None
    reasons = {}
    for line in filter(None, lines):
        name, _, reason = line.partition("\t" if "\t" in line else ",")
        reasons[name.strip()] = reason.strip() or f"listed in {Path(path).name}"
    codes = np.unique(photos.identities).tolist()
    found = {code: reasons[name] for code in codes if (name := identity_name(photos, code)) in reasons}
    if not found:
        raise InputError(
            f"None of the {len(reasons):,} identities in {path} is in the data set, whose first is "
            f"{identity_name(photos, codes[0])!r}: list names or numbers as they are there."
        )
    return found


class ListedPhotos(IndexedPhotos):
    """Photos of a list.

    Args:
        path: of the list, here or in object storage: `.parquet`; `.csv` with a header; any other is taken for lines of
            `path label`, separated by the last blank or tab, or MXNet's `number label path`, separated by tabs.
        root: folder that the paths start from; by default the list's own.
        split: value of the column `split` of the photos to take; None takes all.
        cache: folder to keep an index in that can be mapped, or None to read the list anew each time.

    Raises:
        InputError: no such list, a column that is missing, a line that is none, an empty value, a path that comes twice
            or leads out of the root, no photo in the split.
    """

    def __init__(
        self,
        path: str | Path,
        root: str | Path | None = None,
        split: str | None = None,
        cache: str | Path | None = None,
    ) -> None:
        place = str(path)
        folder = root if root is not None else place.rpartition("/")[0] or "."
        remote = "://" in place
        if not remote and not Path(place).is_file():
            raise InputError(f"There is no list {path}: give a CSV or Parquet file with the columns path and identity.")
        kept = None if remote else kept_file(cache, Path(place), split)
        if kept and kept.is_file():
            index = open_index(kept)
        else:
            index = read_list(place, split)
            index = save_index(index, kept) if kept else index
        self.list = place
        super().__init__(folder, index)


def read_list(path: str, split: str | None = None) -> FaceIndex:
    """Read a list of photos, see `ListedPhotos`.

    Raises:
        InputError: see there.
    """
    folder, _, name = path.rpartition("/")
    kind = PurePosixPath(name).suffix.lower()
    names = ["path", "identity", "split"]
    try:
        content = Storage(folder or ".").read(name) if "://" in path else None
        if kind == ".parquet":
            source = pa.BufferReader(content) if content is not None else path
            there = parquet.read_schema(source).names
            table = parquet.read_table(source, columns=_present(path, there, split))
        elif kind == ".csv":
            strings = arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.large_string()), strings_can_be_null=False
            )
            table = arrow_csv.read_csv(io.BytesIO(content) if content is not None else path, convert_options=strings)
            table = table.select(_present(path, table.column_names, split))
        else:
            table = _read_lines(path, content if content is not None else Path(path).read_bytes())
            _present(path, table.column_names, split)
    except InputError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"The list {path} cannot be read: {' '.join(str(error).split())}") from None
    if split is not None:
        table = table.filter(pc.equal(table["split"].cast(pa.large_string()), split))
        if not len(table):
            raise InputError(f"The list {path} has no photo in the split {split!r}: look at its column split.")
        table = table.drop_columns("split")
    columns = {name: table[name].cast(pa.large_string()).combine_chunks() for name in table.column_names}
    return make_index(*_checked(path, columns["path"], columns["identity"]), columns.get("split"))


def _present(path: str, there: Sequence[str], split: str | None) -> list[str]:
    """The columns to read: of the splits too, if there are any."""
    wanted = ["path", "identity"] + ["split"] * (split is not None or "split" in there)
    missing = [name for name in wanted if name not in there]
    if missing:
        raise InputError(f"{path} has no column {', '.join(missing)} (its columns: {', '.join(there)}): name them so.")
    return wanted


def _read_lines(path: str, content: bytes) -> pa.Table:
    paths, labels = [], []
    for number, line in enumerate(content.decode("utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        fields = line.strip().split("\t")
        if len(fields) == 3:
            fields = fields[:0:-1]  # MXNet's number, label, path
        elif len(fields) != 2:
            fields = line.strip().rsplit(None, 1)
        if len(fields) != 2:
            raise InputError(f"Line {number} of {path} should be a path and a label, is {line.strip()[:80]!r}.")
        paths.append(fields[0].strip())
        labels.append(fields[1].strip())
    return pa.table({"path": pa.array(paths, pa.large_string()), "identity": pa.array(labels, pa.large_string())})


def _checked(path: str, paths: pa.Array, identities: pa.Array) -> tuple[pa.Array, pa.Array]:
    if not len(paths):
        raise InputError(f"The list {path} holds no photo.")
    for name, column in (("path", paths), ("identity", identities)):
        empty = pc.equal(pc.fill_null(pc.utf8_trim_whitespace(column), ""), "")
        if pc.any(empty).as_py():
            row = pc.index(empty, True).as_py()
            raise InputError(f"Photo {row + 1} in {path} has no {name}: fill it in, or take the line out.")
    if pc.count_distinct(paths).as_py() != len(paths):
        counts = pc.value_counts(paths)
        twice = counts.filter(pc.greater(counts.field("counts"), 1))[0]["values"].as_py()
        raise InputError(f"The list {path} has the photo {twice} twice: a photo shows one identity.")
    return paths, identities
