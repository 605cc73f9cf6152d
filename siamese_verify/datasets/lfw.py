"""Labeled Faces in the Wild: people, View 1 and View 2 pairs.

Huang et al., "Labeled Faces in the Wild: A Database for Studying Face Recognition in Unconstrained Environments",
University of Massachusetts, Amherst, Technical Report 07-49, 2007."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from siamese_verify.datasets.archive import unpack
from siamese_verify.datasets.download import download
from siamese_verify.datasets.folder import FilePhotos
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


PHOTOS = 13_233
COPIES = "https://ndownloader.figshare.com/files"
AUTHORS = "http://vis-www.cs.umass.edu/lfw"


class RemoteFile(NamedTuple):
    """A file on a server.

    Attributes:
        name: of the file here.
        url: http or https.
        sha256: 64 hexadecimal digits.
        unpacks_to: folder that an archive unpacks to, None for a file that is used as it is.
        optional: much can be done without it.
    """

    name: str
    url: str
    sha256: str
    unpacks_to: str | None = None
    optional: bool = False


LFW_FILES = (
    RemoteFile(
        "pairsDevTrain.txt",
        f"{COPIES}/5976012",
        "1d454dada7dfeca0e7eab6f65dc4e97a6312d44cf142207be28d688be92aabfa",
    ),
    RemoteFile(
        "pairsDevTest.txt",
        f"{COPIES}/5976009",
        "7cb06600ea8b2814ac26e946201cdb304296262aad67d046a16a7ec85d0ff87c",
    ),
    RemoteFile(
        "pairs.txt",
        f"{COPIES}/5976006",
        "ea42330c62c92989f9d7c03237ed5d591365e89b3e649747777b70e692dc1592",
    ),
    RemoteFile(
        "lfw-funneled.tgz",
        f"{COPIES}/5976015",
        "b47c8422c8cded889dc5a13418c4bc2abbda121092b3533a83306f90d900100a",
        unpacks_to="lfw_funneled",
    ),
    RemoteFile(
        "lfw.tgz",
        f"{COPIES}/5976018",
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
    """Fetch LFW's protocol files and photos, as far as they are not there; stopped at any point, it continues.

    Args:
        root: folder, made if it is missing; the photos come into `lfw_funneled` or `lfw` within.
        images: which of the sets of photos. The deep-funneled one has no published sum: bring it yourself.

    Returns:
        Names of the optional files that could not be had, empty as a rule. Without `peopleDevTrain.txt` there are no
        View 1 people to train on.

    Raises:
        InputError: see `download` and `unpack`; another name of images; a folder of photos that is not whole.
    """
    folders = {"funneled": "lfw_funneled", "original": "lfw"}
    if images not in folders:
        raise InputError(f"images is {images!r}, but LFW can be fetched as one of {', '.join(folders)}.")
    lost = []
    for file in LFW_FILES:
        if file.unpacks_to is None:
            lost += _fetch_text(root, file)
        elif file.unpacks_to == folders[images]:
            _fetch_photos(root, file, root / file.unpacks_to)
    return lost


def _fetch_text(root: Path, file: RemoteFile) -> list[str]:
    path = root / file.name
    if not file.optional:
        download(file.url, path, file.sha256)
        return []
    try:
        download(file.url, path, file.sha256, tries=1)  # the authors' server is often down, and there are three of them
    except InputError:
        if path.exists():  # with something else in it
            raise
        return [file.name]
    return []


def _fetch_photos(root: Path, file: RemoteFile, folder: Path) -> None:
    if folder.exists():
        if (found := _photos(folder)) != PHOTOS:
            raise InputError(f"{folder} holds {found:,} of LFW's {PHOTOS:,} photos: move it away to have it fetched.")
        return
    archive = download(file.url, root / file.name, file.sha256)
    unpack(archive, root)
    archive.unlink()


def _photos(folder: Path) -> int:
    return sum(name.endswith(".jpg") and name[0] != "." for _, _, names in os.walk(folder) for name in names)
