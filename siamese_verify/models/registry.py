"""Thresholds of pretrained models: those that ship with the package, and those that were measured on this machine."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siamese_verify import __version__, encoders
from siamese_verify.atomic_write import cache_folder, data_folder, write_whole
from siamese_verify.errors import InputError, printable
from siamese_verify.evaluation import ScoreCalibration
from siamese_verify.faces import FaceDetector
from siamese_verify.models.bundle import FORMAT, MANIFEST, open_bundle
from siamese_verify.models.face_model import FaceModel
from siamese_verify.models.metadata import LICENCE, PRETRAINED, read_operating_points, read_quality


def thresholds_file(name: str) -> Path:
    """Where the thresholds of a pretrained model come from; there may be no such file."""
    return shipped_thresholds(name) if ships_thresholds(name) else stored_thresholds(name)


def shipped_thresholds(name: str) -> Path:
    """Where the package keeps the thresholds of a pretrained model, if it does."""
    return Path(__file__).with_name("thresholds") / f"{name}.json"


def ships_thresholds(name: str) -> bool:
    """The package holds thresholds of this model, and those of an evaluation here are not asked for."""
    return shipped_thresholds(name).is_file()


def stored_thresholds(name: str) -> Path:
    """Where an evaluation on this machine keeps the thresholds of a pretrained model that ships without."""
    return data_folder() / "thresholds" / f"{name}.json"


def store_thresholds(name: str, measurement: dict[str, Any]) -> Path:
    """Keep a measurement for `load_model`; a model that ships with thresholds goes on using those."""
    path = stored_thresholds(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(measurement, indent=1, allow_nan=False).encode())
    return path


def load_pretrained(name: str) -> FaceModel:
    """One of `PRETRAINED`, with the thresholds that ship with the package, else those kept on this machine.

    Raises:
        InputError: its weights are neither in torch's cache nor to be had from the network.
    """
    configuration = {"_target_": "siamese_verify.encoders.InceptionResNet", "pretrained": name}
    encoder = encoders.InceptionResNet(pretrained=name).eval()
    source = thresholds_file(name)
    try:
        measured: dict[str, Any] = json.loads(source.read_text(encoding="utf-8")) if source.is_file() else {}
        points = read_operating_points(measured.pop("operating_points", []))
        score_calibration = (
            ScoreCalibration.from_dict(measured.pop("score_calibration")) if "score_calibration" in measured else None
        )
        quality = read_quality(measured.pop("quality", {}))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError(f"The thresholds in {source} are damaged: delete it and evaluate {name} again.") from None
    return FaceModel.of(
        name,
        encoder,
        configuration,
        points,
        measured_on=measured.get("measured_on", ""),
        training={"data": name, "pretrained": name},
        metrics=measured,
        score_calibration=score_calibration,
        quality=quality,
        licence=LICENCE,
    )


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
    from siamese_verify.models.export import save_bundle

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
    metadata = bundle.metadata
    eer = metadata.metrics.get("eer")
    accuracy = f"EER {eer:.2%} on {metadata.measured_on}" if isinstance(eer, float) else "not measured"
    return Listed(name, True, bundle.size() / 2**20, metadata.licence or "not stated", accuracy)
