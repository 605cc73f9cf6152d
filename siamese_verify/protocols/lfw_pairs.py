"""Protocols of Labeled Faces in the Wild: pairs of View 1 and View 2, and all pairs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from siamese_verify.datasets.lfw import LFWPhotos, check_fold, lfw_people, parse_integer, read_protocol_file
from siamese_verify.errors import InputError
from siamese_verify.protocols.protocol import PairList, PairProtocol, all_pairs

# The same photograph under two names, found by comparing the pixels of all photos of LFW (correlation above 0.98): one
# label of each two is wrong. LFW's errata, https://vis-www.cs.umass.edu/lfw, know of more errors.
SAME_PHOTO = (
    ("Andrew_Caldecott_0001", "Andrew_Gilligan_0001"),
    ("Bart_Hendricks_0001", "Ricky_Ray_0001"),
    ("Carlos_Beltran_0001", "Raul_Ibanez_0001"),
    ("Emmy_Rossum_0001", "Eva_Amurri_0001"),
    ("Gabrielle_Rose_0001", "Martha_Bowen_0002"),
)


def mark_doubtful(protocol: PairProtocol) -> PairProtocol:
    """Mark the photos of `SAME_PHOTO`: they count as they are labeled, and the report says what it is without them."""
    known = {name for both in SAME_PHOTO for name in both}
    doubtful = np.array([Path(name).stem in known for name in protocol.photos.names])
    return replace(protocol, doubtful=doubtful, doubted_by="the same photograph has two names in LFW")


def lfw_pairs(root: str | Path, pairs: str, name: str, fold: int | None = None) -> PairProtocol:
    """Pairs of one of LFW's pair files.

    Args:
        root: LFW's folder.
        pairs: name of the file, `pairs.txt` of View 2 or one of View 1: a line with the number of folds, if there are
            any, and of genuine pairs in each; then for each fold its genuine pairs (person, two numbers) and as many
            impostor pairs (person, number, person, number), separated by tabs.
        name: of the protocol, for reports.
        fold: number of the one fold whose pairs are meant, from 0; None for all.

    Raises:
        InputError: no LFW, no such file, an invalid line, other counts than announced, missing images, or no such fold.
    """
    rows: dict[tuple[str, int], int] = {}
    left, right, same = [], [], []
    head, lines = read_protocol_file(root, pairs, widths=(3, 4))
    folds, genuine = head if len(head) == 2 else (1, head[0])
    if len(lines) != 2 * folds * genuine:
        raise InputError(f"{pairs} announces {2 * folds * genuine} pairs in its first line and has {len(lines)}.")
    if fold is not None:
        check_fold(fold, folds, pairs)
        lines, folds = lines[2 * genuine * fold : 2 * genuine * (fold + 1)], 1
    for number, fields in lines:
        first = (fields[0], parse_integer(fields[1], pairs, number))
        second = (fields[-2] if len(fields) == 4 else fields[0], parse_integer(fields[-1], pairs, number))
        left.append(rows.setdefault(first, len(rows)))
        right.append(rows.setdefault(second, len(rows)))
        same.append(len(fields) == 3)
    for place in range(folds):
        found = sum(same[2 * genuine * place : 2 * genuine * (place + 1)])
        if found != genuine:
            number = (place if fold is None else fold) + 1
            raise InputError(f"Fold {number} of {pairs} should hold {genuine} genuine pairs and holds {found}.")
    photos = LFWPhotos(root, list(rows))
    missing = [name for name in photos.names if not (Path(photos.root) / name).is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} of the {len(photos):,} images in {pairs} are missing in {photos.root}, the first: "
            f"{', '.join(missing[:5])}."
        )
    fold_of_pair = np.arange(len(same)) // (2 * genuine) if folds > 1 else None
    listed = PairList(np.array(left), np.array(right), np.array(same), fold_of_pair)
    return mark_doubtful(PairProtocol(name, photos, listed))


def lfw_all_pairs(root: str | Path, people: str, name: str) -> PairProtocol:
    """All pairs of the photos of the people in one of LFW's people files."""
    return mark_doubtful(all_pairs(lfw_people(root, people), name))
