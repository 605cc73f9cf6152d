"""The models of this machine: pretrained ones as bundles in the user's cache, and bundles that lie about."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from siamese_verify import __version__
from siamese_verify.errors import InputError, printable
from siamese_verify.faces import FaceDetector
from siamese_verify.files import cache_folder
from siamese_verify.verification.bundle import FORMAT, MANIFEST, open_bundle
from siamese_verify.verification.record import LICENCE, PRETRAINED

MEGABYTES = 107.0  # of the weights that facenet-pytorch downloads
PLACES = (
    "bundle",
    "bundles/*",
    "runs/*/*/bundle",
    "runs/*/*/*/bundle",
    "models/*",
)  # of bundles, from where one stands


@dataclass(frozen=True)
class Listed:
    """A line of the list of models.

    Attributes:
        name: to load it by.
        there: it can be used without a network.
        megabytes: of its files, or of what would be downloaded.
        licence: of the weights.
        accuracy: in words.
        note: what is wrong with it, or to know.
    """

    name: str
    there: bool
    megabytes: float
    licence: str
    accuracy: str
    note: str = ""


def pretrained_folder(name: str) -> Path:
    """Where a pretrained model is kept as a bundle; another place whenever what goes into it is another."""
    from siamese_verify.verification.thresholds_file import thresholds_file

    source = thresholds_file(name)
    parts = (str(FORMAT), FaceDetector.identifier, source.read_text(encoding="utf-8") if source.is_file() else "")
    return cache_folder() / "models" / f"{name}-{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:8]}"


def pretrained_bundle(name: str) -> Path:
    """The bundle of a pretrained model, made at its first use; from then on it needs neither network nor torch.

    Raises:
        InputError: there is no such name, its weights are not to be had, or the cache cannot be written.
    """
    if name not in PRETRAINED:
        raise InputError(f"There is no pretrained model {name!r}: choose {' or '.join(PRETRAINED)}.")
    folder = pretrained_folder(name)
    if (folder / MANIFEST).is_file():
        return folder
    print(f"siamese-verify: making the bundle of {name} at its first use, in {printable(folder)} ...", file=sys.stderr)
    from siamese_verify.verification.export import save_bundle
    from siamese_verify.verification.pretrained import load_pretrained

    model = load_pretrained(name)
    try:
        save_bundle(folder, model, {"siamese-verify": __version__})
    except InputError as error:
        if (folder / MANIFEST).is_file():  # another process was faster
            return folder
        raise InputError(f"{error} XDG_CACHE_HOME says where bundles are kept.") from None
    return folder


def models(place: Path) -> Iterator[Listed]:
    """Pretrained models, then the bundles below a folder, as far as they can be found where bundles usually lie."""
    for name in PRETRAINED:
        folder = pretrained_folder(name)
        if (folder / MANIFEST).is_file():
            yield listed(folder, name)
        else:
            yield Listed(name, False, MEGABYTES, LICENCE, "", f"to get it: siamese-verify models pull {name}")
    for pattern in PLACES:
        for folder in sorted(place.glob(pattern)):
            if (folder / MANIFEST).is_file():
                yield listed(folder, str(folder.relative_to(place)))


def listed(folder: Path, name: str) -> Listed:
    """Describe a bundle by its manifest; a damaged one by what is wrong with it."""
    try:
        bundle = open_bundle(folder)
    except InputError as error:
        return Listed(name, False, 0.0, "", "", str(error))
    record = bundle.record
    eer = record.metrics.get("eer")
    accuracy = f"EER {eer:.2%} on {record.measured_on}" if isinstance(eer, float) else "not measured"
    return Listed(name, True, bundle.size() / 2**20, record.licence or "not stated", accuracy)
