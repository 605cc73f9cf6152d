"""Where LFW's files can be had, and fetching them.

The addresses and sums are those that scikit-learn publishes in `sklearn/datasets/_lfw.py`. The lists of people are not
among them: LFW's authors have these.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, NamedTuple

from siamese_verify.data.archive import unpack
from siamese_verify.data.download import download
from siamese_verify.errors import InputError

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
