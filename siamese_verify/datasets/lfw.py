"""Labeled Faces in the Wild: download, photos and people.

Huang et al., "Labeled Faces in the Wild: A Database for Studying Face Recognition in Unconstrained Environments",
University of Massachusetts, Amherst, Technical Report 07-49, 2007.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from siamese_verify.datasets.archive import unpack
from siamese_verify.datasets.folder import FilePhotos
from siamese_verify.download import download
from siamese_verify.errors import InputError

IMAGE_FOLDERS = ("lfw-deepfunneled", "lfw_funneled", "lfw")
NUM_IMAGES, NUM_PEOPLE = 13_233, 5_749
TRAINING_PEOPLE, TEST_PEOPLE = "peopleDevTrain.txt", "peopleDevTest.txt"  # of View 1
MIRROR = "https://ndownloader.figshare.com/files"  # scikit-learn's
AUTHORS = "http://vis-www.cs.umass.edu/lfw"
log = logging.getLogger(__name__)


class RemoteFile(NamedTuple):
    """A file on a server.

    Attributes:
        name: of the file here.
        url: http or https.
        sha256: 64 hexadecimal digits.
        unpacks_to: folder that an archive unpacks to, None for other files.
        optional: most uses do without it.
    """

    name: str
    url: str
    sha256: str
    unpacks_to: str | None = None
    optional: bool = False


LFW_FILES = (
    RemoteFile(
        "pairsDevTrain.txt",
        f"{MIRROR}/5976012",
        "1d454dada7dfeca0e7eab6f65dc4e97a6312d44cf142207be28d688be92aabfa",
    ),
    RemoteFile(
        "pairsDevTest.txt",
        f"{MIRROR}/5976009",
        "7cb06600ea8b2814ac26e946201cdb304296262aad67d046a16a7ec85d0ff87c",
    ),
    RemoteFile(
        "pairs.txt",
        f"{MIRROR}/5976006",
        "ea42330c62c92989f9d7c03237ed5d591365e89b3e649747777b70e692dc1592",
    ),
    RemoteFile(
        "lfw-funneled.tgz",
        f"{MIRROR}/5976015",
        "b47c8422c8cded889dc5a13418c4bc2abbda121092b3533a83306f90d900100a",
        unpacks_to="lfw_funneled",
    ),
    RemoteFile(
        "lfw.tgz",
        f"{MIRROR}/5976018",
        "055f7d9c632d7370e6fb4afc7468d40f970c34a80d4c6f50ffec63f5a8d536c0",
        unpacks_to="lfw",
    ),
    RemoteFile(
        "peopleDevTrain.txt",
        f"{AUTHORS}/peopleDevTrain.txt",
        "2e58df13ba4cc143189336e001cc2c195f1dfa5b29a6475c02857be353c2a2fa",
        optional=True,
    ),
    RemoteFile(
        "peopleDevTest.txt",
        f"{AUTHORS}/peopleDevTest.txt",
        "c3ed1f90499473401542101a56c14c1d82396bb8218c67a356d7460601047555",
        optional=True,
    ),
    RemoteFile(
        "people.txt",
        f"{AUTHORS}/people.txt",
        "bc8fa2b7f25c895cf7efb6de4f4fc27ca8b8d1cfa63350ad8b96eae2b198d365",
        optional=True,
    ),
)


def fetch_lfw(root: Path, images: Literal["funneled", "original"] = "funneled") -> list[str]:
    """Download LFW's protocol files and photos that are missing; photos come into `lfw_funneled` or `lfw`.

    Args:
        root: folder, made if it is missing.
        images: which photos; the deep-funneled ones have no published hash and have to be brought by hand.

    Returns:
        Names of the optional files that cannot be downloaded. View 1 needs `peopleDevTrain.txt`.

    Raises:
        InputError: see `download` and `unpack`; other images.
    """
    folders = {"funneled": "lfw_funneled", "original": "lfw"}
    if images not in folders:
        raise InputError(f"images must be one of {', '.join(folders)}, got {images!r}.")
    unavailable = []
    for file in LFW_FILES:
        path = root / file.name
        if file.unpacks_to is None:
            try:
                download(
                    file.url, path, file.sha256, tries=1 if file.optional else 3
                )  # the authors' server is often down
            except InputError:
                if not file.optional or path.exists():  # with other content
                    raise
                unavailable.append(file.name)
        elif file.unpacks_to == folders[images] and not (root / file.unpacks_to).exists():
            unpack(download(file.url, path, file.sha256), root)
            path.unlink()
    return unavailable


class LFWPhotos(FilePhotos):
    """Photos of LFW, opened on access.

    Args:
        root: folder that holds the protocol files and one of `IMAGE_FOLDERS`.
        photos: person and number of each photo, such as ("Abdullah_Gul", 13).

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
    """All photos of LFW.

    Args:
        root: LFW's folder.

    Raises:
        InputError: there is no LFW in `root`, or no photo in it.

    Attributes:
        splits: `train` or `test` of View 1 for each photo; "" where the people files are missing.
    """

    def __init__(self, root: str | Path) -> None:
        found = sorted(path.stem.rpartition("_") for path in image_folder(root).glob("*/*_[0-9][0-9][0-9][0-9].jpg"))
        if not found:
            raise InputError(f"{image_folder(root)} holds no photos such as Aaron_Eckhart/Aaron_Eckhart_0001.jpg.")
        super().__init__(root, [(person, int(number)) for person, _, number in found])
        if (len(found), len(self.people)) != (NUM_IMAGES, NUM_PEOPLE):
            log.warning(
                "%s has %s photos of %s people, LFW has %s of %s: some are missing, or others were added.",
                root,
                *(f"{count:,}" for count in (len(found), len(self.people), NUM_IMAGES, NUM_PEOPLE)),
            )
        split_of: dict[str, str] = {}
        for split, file in (("train", TRAINING_PEOPLE), ("test", TEST_PEOPLE)):
            if (Path(root) / file).is_file():
                split_of |= dict.fromkeys(lfw_people(root, file).people, split)
        self.splits = [split_of.get(person, "") for person, _, _ in found]


def image_folder(root: str | Path | None) -> Path:
    """Folder of LFW's photos, in any of its layouts.

    Raises:
        InputError: no such folder.
    """
    if root is None or not Path(root).is_dir():
        raise InputError(f"There is no folder {root}: set data.root to a copy of LFW (see data/README.md).")
    root = Path(root)
    for name in IMAGE_FOLDERS:
        if (root / name).is_dir():
            return root / name
    raise InputError(f"{root} holds none of {', '.join(IMAGE_FOLDERS)}: set data.root to a copy of LFW.")


def lfw_people(root: str | Path, people: str = TRAINING_PEOPLE, without_fold: int | None = None) -> LFWPhotos:
    """All photos of the people that a people file lists.

    Args:
        root: LFW's folder.
        people: name of the file: the number of people, then lines of person, tab and number of photos; in View 2 the
            number of folds, and the number of people before each.
        without_fold: number of a fold of View 2 whose people are left out, from 0; None leaves out nobody.

    Raises:
        InputError: no LFW, no such file, an invalid line, not as many people as it announces, or no such fold.
    """
    head, rows = read_protocol_file(root, people, widths=(1, 2))
    listed = [(fields[0], parse_integer(fields[1], people, number)) for number, fields in rows if len(fields) == 2]
    folds = [parse_integer(fields[0], people, number) for number, fields in rows if len(fields) == 1]
    if len(listed) != (sum(folds) or head[0]):
        raise InputError(f"{people} announces {sum(folds) or head[0]:,} people and lists {len(listed):,}.")
    if without_fold is not None:
        check_fold(without_fold, len(folds), people)
        start = sum(folds[:without_fold])
        listed = listed[:start] + listed[start + folds[without_fold] :]
    return LFWPhotos(root, [(person, photo) for person, count in listed for photo in range(1, count + 1)])


def check_fold(fold: int, folds: int, file: str) -> None:
    """Raise InputError if a file of LFW has no fold of this number."""
    if folds < 2 or not 0 <= fold < folds:
        has = f"has the folds 0 ... {folds - 1}" if folds > 1 else "has no folds, as View 2 has"
        raise InputError(f"{file} {has}, got fold {fold}.")


def has_training_people(photos: LFWPhotos, people: str = TRAINING_PEOPLE, without_fold: int | None = None) -> bool:
    """Whether any of the people trained on is on the photos: by default, any of View 1's, as on most of View 2's.

    Assumed to be true without the file that lists them, so that nothing is claimed without evidence.

    Args:
        photos: of LFW.
        people: see `lfw_people`, also for the next.
        without_fold: of View 2.

    Raises:
        InputError: the file is damaged.
    """
    if not (photos.lfw / people).is_file():
        return True
    return not set(photos.people).isdisjoint(lfw_people(photos.lfw, people, without_fold).people)


def lfw_category(data: str | None, pretrained: str | None, detector: bool, disjoint: bool) -> str:
    """Category of a result on LFW, in the words of its authors' results page.

    Args:
        data: name of the training set.
        pretrained: name of the weights that training started from, None for random ones.
        detector: faces were cut by a detector, which was trained on other photos.
        disjoint: none of the people trained on is in the pairs, see `has_training_people`.
    """
    if data == "lfw" and not disjoint:
        return f"none: training saw people of these pairs, or there is no {TRAINING_PEOPLE} to rule it out"
    if data != "lfw" or pretrained:
        return "unrestricted, labeled outside data"
    if detector:
        return "unrestricted, label-free outside data (the face detector's)"
    return "unrestricted, no outside data"


def read_protocol_file(
    root: str | Path, file: str, widths: tuple[int, ...]
) -> tuple[list[int], list[tuple[int, list[str]]]]:
    """Read one of LFW's text files.

    Args:
        root: LFW's folder.
        file: name of the file.
        widths: how many fields, separated by tabs, a line may have.

    Returns:
        The one or two counts in its first line, and the number and the fields of each other line.

    Raises:
        InputError: no LFW, no such file, an invalid line.
    """
    image_folder(root)  # a wrong root is more likely than a missing file
    root = Path(root)
    try:
        lines = (root / file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"LFW's {file} cannot be read in {root}: {error}.") from None
    if not lines:
        raise InputError(f"{root / file} is empty.")
    head = [parse_integer(field, file, 1) for field in lines[0].split()]
    if len(head) not in (1, 2):
        raise InputError(f"Line 1 of {file} should hold one or two counts: {lines[0]!r}.")
    rows = [(number, line.split("\t")) for number, line in enumerate(lines[1:], start=2) if line.strip()]
    for number, fields in rows:
        if len(fields) not in widths:
            raise InputError(f"Line {number} of {file} is invalid: {chr(9).join(fields)!r}.")
    return head, rows


def parse_integer(text: str, file: str, number: int) -> int:
    """Number in a line of LFW's text files; InputError if it is not one."""
    try:
        return int(text)
    except ValueError:
        raise InputError(f"Line {number} of {file} has {text!r} where a number should be.") from None
