"""Pairs of one's own: a table of two photos and whether they show the same person."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from siamese_verify.datasets.folder import FilePhotos
from siamese_verify.errors import InputError
from siamese_verify.protocols.protocol import Listed, Protocol
from siamese_verify.tables import folds_of, people, read_table, truths


def pair_file(path: str | Path, root: str | Path | None = None, name: str | None = None) -> Protocol:
    """Read a CSV with the columns `a,b,same[,fold][,identity_a,identity_b][,group]`.

    Without identities, photos that genuine pairs join have one identity and all others different ones, but who is on
    them is not known.

    Args:
        path: of the file; `same` is 1 or 0, true or false.
        root: folder that the paths in `a` and `b` start from; by default that of the file.
        name: of the protocol; by default the file's.

    Raises:
        InputError: what `read_table` refuses, a truth that is none, paths out of `root`, photos that are not there,
            fewer than two folds, identities that contradict `same`.
    """
    file = Path(path)
    columns = read_table(file, ("a", "b", "same"), ("fold", "identity_a", "identity_b", "group"))
    same = np.array(truths(file, columns, "same"), dtype=np.bool_)
    folder = file.parent if root is None else Path(root)
    outside = [one for one in dict.fromkeys([*columns["a"], *columns["b"]]) if _leaves(one)]
    if outside:
        raise InputError(
            f"{len(outside)} paths in {path} are absolute or lead out of {folder}, the first: {outside[0]!r}: write "
            "them relative to it."
        )
    # One photo may be written as x.jpg and ./x.jpg, and would be two strangers.
    paths = [PurePosixPath(one).as_posix() for column in ("a", "b") for one in columns[column]]
    names, rows = np.unique(paths, return_inverse=True)
    photos: list[str] = names.tolist()
    missing = [one for one in photos if not _is_there(folder / one)]
    if missing:
        first = ", ".join(missing[:5])
        raise InputError(
            f"{len(missing)} of the {len(photos):,} photos in {path} are not in {folder}, the first: {first}: set root."
        )
    left, right = rows[: len(same)], rows[len(same) :]
    folds = folds_of(path, columns)
    if folds is not None:
        found, folds = np.unique(folds, return_inverse=True)
        if len(found) < 2:
            raise InputError(f"{path} has one fold, {columns['fold'][0]!r}: give two or more, or leave the column out.")
    given = people(path, columns)
    files = FilePhotos(folder, photos, np.empty(0, dtype=np.int64))
    if given:
        identities, files.people = _given(path, [*given[0], *given[1]], rows, len(photos), columns.lines)
    else:
        identities = joined(len(photos), left[same], right[same])
    contrary = np.flatnonzero((identities[left] == identities[right]) != same)
    if len(contrary):
        raise InputError(
            f"{len(contrary)} lines of {path} contradict who is on the photos, the first is line "
            f"{columns.lines[contrary[0]]}: a pair is genuine if both photos show one person."
        )
    groups = np.array(columns["group"]) if "group" in columns else None
    files.identities = identities
    listed = Listed(left, right, same, folds, groups)
    return Protocol(name or file.stem, files, listed, people_known=given is not None)


def joined(count: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Number the people on photos, where genuine pairs are known and nothing else.

    Args:
        count: of the photos.
        left: (G,) rows of genuine pairs.
        right: (G,) likewise.

    Returns:
        (count,) int64; photos that pairs join, over others if need be, have one number.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = coo_matrix((np.ones(len(left), dtype=np.bool_), (left, right)), shape=(count, count))
    return np.asarray(connected_components(edges, directed=False)[1], dtype=np.int64)


def _given(
    path: str | Path, named: list[str], rows: np.ndarray, count: int, lines: Sequence[int]
) -> tuple[np.ndarray, list[str]]:
    people, numbers = np.unique(named, return_inverse=True)
    identities = np.full(count, -1, dtype=np.int64)
    identities[rows] = numbers
    several = np.flatnonzero(identities[rows] != numbers)
    if len(several):
        line = lines[several[0] % len(lines)]
        raise InputError(f"Line {line} of {path} gives a photo another person than some other line: mend one of them.")
    return identities, people.tolist()


def _leaves(name: str) -> bool:
    parts = {*PurePosixPath(name).parts, *PureWindowsPath(name).parts}
    return ".." in parts or PurePosixPath(name).is_absolute() or bool(PureWindowsPath(name).drive)


def _is_there(photo: Path) -> bool:
    try:
        return photo.is_file()
    except OSError:  # a name too long for the file system
        return False
