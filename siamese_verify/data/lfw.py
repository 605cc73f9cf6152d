"""Labeled Faces in the Wild: people, View 1 and View 2 pairs.

Huang et al., "Labeled Faces in the Wild: A Database for Studying Face Recognition in Unconstrained Environments",
University of Massachusetts, Amherst, Technical Report 07-49, 2007.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from siamese_verify.data.files import FilePhotos
from siamese_verify.data.protocol import Listed, Protocol, all_pairs
from siamese_verify.errors import InputError

IMAGE_FOLDERS = ("lfw-deepfunneled", "lfw_funneled", "lfw")
IMAGES, PEOPLE = 13_233, 5_749
TRAINING_PEOPLE, TEST_PEOPLE = "peopleDevTrain.txt", "peopleDevTest.txt"  # View 1's
log = logging.getLogger(__name__)


class LFWPhotos(FilePhotos):
    """Some photos of LFW, opened when asked for.

    Args:
        root: folder that holds the protocol files and one of `IMAGE_FOLDERS`.
        photos: person and number of each photo, as in ("Abdullah_Gul", 13).

    Raises:
        InputError: there is no LFW in `root`.
    """

    def __init__(self, root: str | Path, photos: Sequence[tuple[str, int]]) -> None:
        self.lfw = Path(root)
        self.people = sorted({person for person, _ in photos})
        numbers = {person: label for label, person in enumerate(self.people)}
        names = [f"{person}/{person}_{number:04d}.jpg" for person, number in photos]
        identities = np.array([numbers[person] for person, _ in photos], dtype=np.int64)
        super().__init__(image_folder(root), names, identities)


class AllOfLFW(LFWPhotos):
    """Every photo of LFW, for `prepare`.

    Args:
        root: LFW's folder.

    Raises:
        InputError: there is no LFW in `root`, or no photo in it.

    Attributes:
        splits: `train` or `test` of View 1 for each photo, "" where the people files are missing.
    """

    def __init__(self, root: str | Path) -> None:
        found = sorted(path.stem.rpartition("_") for path in image_folder(root).glob("*/*_[0-9][0-9][0-9][0-9].jpg"))
        if not found:
            raise InputError(f"{image_folder(root)} holds no photos such as Aaron_Eckhart/Aaron_Eckhart_0001.jpg.")
        super().__init__(root, [(person, int(number)) for person, _, number in found])
        if (len(found), len(self.people)) != (IMAGES, PEOPLE):
            log.warning(
                "%s has %s photos of %s people, LFW has %s of %s: some are missing, or others were added.",
                root,
                *(f"{count:,}" for count in (len(found), len(self.people), IMAGES, PEOPLE)),
            )
        split_of: dict[str, str] = {}
        for split, file in (("train", TRAINING_PEOPLE), ("test", TEST_PEOPLE)):
            if (Path(root) / file).is_file():
                split_of |= dict.fromkeys(lfw_people(root, file).people, split)
        self.splits = [split_of.get(person, "") for person, _, _ in found]


def image_folder(root: str | Path | None) -> Path:
    """The folder of LFW's people, in any of its layouts.

    Raises:
        InputError: there is none.
    """
    if root is None or not Path(root).is_dir():
        raise InputError(f"There is no folder {root}: set data.root to a copy of LFW (data/README.md says how).")
    root = Path(root)
    for name in IMAGE_FOLDERS:
        if (root / name).is_dir():
            return root / name
    raise InputError(f"{root} holds none of {', '.join(IMAGE_FOLDERS)}: set data.root to a copy of LFW.")


def lfw_people(root: str | Path, people: str = TRAINING_PEOPLE) -> LFWPhotos:
    """All photos of the people that a people file lists.

    Args:
        root: LFW's folder.
        people: name of the file: the number of people, then lines of person and number of photos, separated by a tab;
            in View 2 the number of folds, and the number of people at the head of each.

    Raises:
        InputError: no LFW, no such file, a wrong line in it, or not as many people as it announces.
    """
    head, rows = _read(root, people, widths=(1, 2))
    listed = [(fields[0], _integer(fields[1], people, number)) for number, fields in rows if len(fields) == 2]
    folds = [_integer(fields[0], people, number) for number, fields in rows if len(fields) == 1]
    if len(listed) != (sum(folds) or head[0]):
        raise InputError(f"{people} announces {sum(folds) or head[0]:,} people and lists {len(listed):,}.")
    return LFWPhotos(root, [(person, photo) for person, count in listed for photo in range(1, count + 1)])


def lfw_pairs(root: str | Path, pairs: str, name: str) -> Protocol:
    """The pairs of a pair file, `pairs.txt` of View 2 with its folds, or one of View 1.

    Args:
        root: LFW's folder.
        pairs: name of the file: a head of [folds and] genuine pairs in a fold, then for each fold its genuine pairs
            (person, two numbers) and as many impostors (person, number, person, number), separated by tabs.
        name: of the protocol, for reports.

    Raises:
        InputError: no LFW, no such file, a wrong line in it, or images that are missing.
    """
    rows: dict[tuple[str, int], int] = {}
    left, right, same = [], [], []
    head, lines = _read(root, pairs, widths=(3, 4))
    for number, fields in lines:
        first = (fields[0], _integer(fields[1], pairs, number))
        second = (fields[-2] if len(fields) == 4 else fields[0], _integer(fields[-1], pairs, number))
        left.append(rows.setdefault(first, len(rows)))
        right.append(rows.setdefault(second, len(rows)))
        same.append(len(fields) == 3)
    folds, genuine = head if len(head) == 2 else (1, head[0])
    if len(same) != 2 * folds * genuine:
        raise InputError(f"{pairs} announces {2 * folds * genuine} pairs in its first line and has {len(same)}.")
    for fold in range(folds):
        found = sum(same[2 * genuine * fold : 2 * genuine * (fold + 1)])
        if found != genuine:
            raise InputError(f"Fold {fold + 1} of {pairs} should hold {genuine} genuine pairs and holds {found}.")
    photos = LFWPhotos(root, list(rows))
    missing = [name for name in photos.names if not (Path(photos.root) / name).is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} of the {len(photos):,} images in {pairs} are missing in {photos.root}, the first: "
            f"{', '.join(missing[:5])}."
        )
    fold_of_pair = np.arange(len(same)) // (2 * genuine) if folds > 1 else None
    return Protocol(name, photos, Listed(np.array(left), np.array(right), np.array(same), fold_of_pair))


def lfw_all_pairs(root: str | Path, people: str, name: str) -> Protocol:
    """Every pair of the photos of the people in a file."""
    return all_pairs(lfw_people(root, people), name)


def has_training_people(photos: LFWPhotos) -> bool:
    """Whether anybody of View 1's training people is on the photos, as on most of View 2's.

    Without the file that lists them it is assumed: a claim has to be shown, and a report not to be lost.

    Raises:
        InputError: the file is damaged.
    """
    if not (photos.lfw / TRAINING_PEOPLE).is_file():
        return True
    return not set(photos.people).isdisjoint(lfw_people(photos.lfw).people)


def lfw_category(data: str | None, pretrained: str | None, detector: bool, strangers: bool) -> str:
    """What a result on LFW may claim to be, in the words of its authors' results page.

    Args:
        data: name of the data set whose identities were trained on.
        pretrained: name of the weights that training started from, None for random ones.
        detector: faces were cut by a detector, itself trained on photos from outside of LFW.
        strangers: none of View 1's training people is in the pairs, see `has_training_people`.
    """
    if data == "lfw" and not strangers:
        return f"none: training saw people of these pairs, or there is no {TRAINING_PEOPLE} to rule it out"
    if data != "lfw" or pretrained:
        return "unrestricted, labelled outside data"
    if detector:
        return "unrestricted, label-free outside data (the face detector's)"
    return "unrestricted, no outside data"


def _read(root: str | Path, file: str, widths: tuple[int, ...]) -> tuple[list[int], list[tuple[int, list[str]]]]:
    """The counts in a protocol file's first line, and the numbers and fields of its other lines."""
    image_folder(root)  # a wrong root is the likelier mistake than a missing file
    root = Path(root)
    try:
        lines = (root / file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"LFW's {file} cannot be read in {root}: {error}.") from None
    if not lines:
        raise InputError(f"{root / file} is empty.")
    head = [_integer(field, file, 1) for field in lines[0].split()]
    if len(head) not in (1, 2):
        raise InputError(f"Line 1 of {file} should hold one or two counts: {lines[0]!r}.")
    rows = [(number, line.split("\t")) for number, line in enumerate(lines[1:], start=2) if line.strip()]
    for number, fields in rows:
        if len(fields) not in widths:
            raise InputError(f"Line {number} of {file} is not as LFW's should be: {chr(9).join(fields)!r}.")
    return head, rows


def _integer(text: str, file: str, number: int) -> int:
    try:
        return int(text)
    except ValueError:
        raise InputError(f"Line {number} of {file} has {text!r} where a number should be.") from None
