"""Protocol of a table of pairs: two photos and whether they show the same person."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from siamese_verify.datasets.folder import FilePhotos
from siamese_verify.errors import InputError
from siamese_verify.evaluation.score_file import group_columns, read_groups
from siamese_verify.protocols.protocol import PairList, PairProtocol
from siamese_verify.tables import boolean_column, fold_column, identity_columns, read_table, required_column


def pair_file(
    path: str | Path, root: str | Path | None = None, name: str | None = None, group: str = "group"
) -> PairProtocol:
    """Pairs of a CSV with the columns `a,b,same[,fold][,identity_a,identity_b][,group][,group_a,group_b]`.

    Without identities, photos joined by genuine pairs share an identity, and all others have different ones.

    Args:
        path: of the file; `same` is 1 or 0, true or false.
        root: folder that the paths in `a` and `b` start from, here or in object storage; by default the file's.
        name: of the protocol; by default the file's.
        group: name of the column of each pair's group, and with `_a` and `_b` behind it of those of the groups of
            either photo, for rates within and across groups; see `labels_of`.

    Raises:
        InputError: see `read_table` and `boolean_column`; paths out of `root`, missing photos, a single fold,
            identities that contradict `same`.
    """
    file = Path(path)
    columns = read_table(file, ("a", "b", "same"), ("fold", "identity_a", "identity_b", *group_columns(group)))
    same = np.array(boolean_column(file, columns, "same"), dtype=np.bool_)
    for column in ("a", "b"):
        required_column(path, columns, column, "remove the line")
    # One photo may be written as x.jpg and ./x.jpg.
    paths = [PurePosixPath(photo).as_posix() for column in ("a", "b") for photo in columns[column]]
    names, rows = np.unique(paths, return_inverse=True)
    photos = FilePhotos(file.parent if root is None else root, names.tolist(), np.empty(0, dtype=np.int64))
    missing = [photo for photo in photos.names if not photos.storage.exists(photo)]
    if missing:
        raise InputError(
            f"{len(missing)} of the {len(photos):,} photos in {path} are not in {photos.root}, the first: "
            f"{', '.join(missing[:5])}: set protocol.root."
        )
    left, right = rows[: len(same)], rows[len(same) :]
    folds = fold_column(path, columns)
    if folds is not None:
        found, folds = np.unique(folds, return_inverse=True)
        if len(found) < 2:
            raise InputError(f"{path} has one fold, {columns['fold'][0]!r}: give two or more, or leave the column out.")
    given = identity_columns(path, columns)
    if given:
        photos.identities, photos.people = _number(path, [*given[0], *given[1]], rows, len(photos), columns.lines)
    else:
        photos.identities = connected_identities(len(photos), left[same], right[same])
    contradictions = np.flatnonzero((photos.identities[left] == photos.identities[right]) != same)
    if len(contradictions):
        raise InputError(
            f"{len(contradictions)} lines of {path} contradict the identities of the photos, the first is line "
            f"{columns.lines[contradictions[0]]}: a pair is genuine if both photos show one person."
        )
    groups, sides = read_groups(path, columns, group)
    listed = PairList(left, right, same, folds, groups)
    photo_groups = None
    if sides is not None:
        photo_groups = np.full(len(photos), "", dtype=sides.dtype)
        photo_groups[rows] = sides.T.ravel()
        several = np.flatnonzero(photo_groups[rows] != sides.T.ravel())
        if len(several):
            line = columns.lines[several[0] % len(same)]
            raise InputError(f"Line {line} of {path} gives a photo another {group} than another line: correct one.")
    protocol = PairProtocol(
        name or file.stem,
        photos,
        listed,
        identities_known=given is not None,
        photo_groups=photo_groups,
        group_column=group,
    )
    if sides is not None and protocol.compared_groups() < 2:
        raise InputError(f"The pairs of {path} are of fewer than two values of {group}: a comparison needs two.")
    return protocol


def connected_identities(count: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Identities of photos of which only genuine pairs are known: their connected components.

    Args:
        count: of the photos.
        left: (G,) rows of genuine pairs.
        right: (G,) likewise.

    Returns:
        (count,) int64.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = coo_matrix((np.ones(len(left), dtype=np.bool_), (left, right)), shape=(count, count))
    return np.asarray(connected_components(edges, directed=False)[1], dtype=np.int64)


def _number(
    path: str | Path, named: list[str], rows: np.ndarray, count: int, lines: Sequence[int]
) -> tuple[np.ndarray, list[str]]:
    """Identities of `count` photos and their names, from the name given to each of `rows`."""
    people, numbers = np.unique(named, return_inverse=True)
    identities = np.full(count, -1, dtype=np.int64)
    identities[rows] = numbers
    several = np.flatnonzero(identities[rows] != numbers)
    if len(several):
        line = lines[several[0] % len(lines)]
        raise InputError(f"Line {line} of {path} gives a photo another person than another line: correct one of them.")
    return identities, people.tolist()
