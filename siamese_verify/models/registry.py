"""Registry of models: pretrained ones with their thresholds, and the bundles of this machine."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siamese_verify import __version__
from siamese_verify.atomic_write import cache_folder, data_folder, write_whole
from siamese_verify.errors import InputError, printable
from siamese_verify.evaluation import ScoreCalibration
from siamese_verify.faces import FaceDetector
from siamese_verify.models.bundle import FORMAT, MANIFEST, open_bundle
from siamese_verify.models.metadata import PRETRAINED, read_operating_points, read_quality

if TYPE_CHECKING:
    from siamese_verify.models.loading import FaceModel

LICENSE = "of facenet-pytorch (MIT), trained on data that is for research only"
DOWNLOAD_MEGABYTES = 107.0
BUNDLES = ("bundle", "bundles/*", "runs/*/*/bundle", "runs/*/*/*/bundle", "models/*")  # where bundles are looked for


def shipped_thresholds(name: str) -> Path:
    """Path of the thresholds of a pretrained model in the package; there may be none."""
    return Path(__file__).with_name("thresholds") / f"{name}.json"


def ships_thresholds(name: str) -> bool:
    """Whether the package has thresholds of a pretrained model; those of an evaluation here are not used then."""
    return shipped_thresholds(name).is_file()


def stored_thresholds(name: str) -> Path:
    """Path of the thresholds that an evaluation on this machine measured; there may be none."""
    return data_folder() / "thresholds" / f"{name}.json"


def store_thresholds(name: str, measurement: dict[str, Any]) -> Path:
    """Keep the thresholds of a pretrained model that ships without, for `load_model`."""
    path = stored_thresholds(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(measurement, indent=1, allow_nan=False).encode())
    return path


def thresholds_file(name: str) -> Path:
    """Path of the thresholds of a pretrained model; there may be none."""
    return shipped_thresholds(name) if ships_thresholds(name) else stored_thresholds(name)


def load_pretrained(name: str) -> FaceModel:
    """Load a pretrained model for torch, with its shipped thresholds, else those kept on this machine.

    Raises:
        InputError: its weights are neither in torch's cache nor can be downloaded.
    """
    from siamese_verify import encoders
    from siamese_verify.models.loading import FaceModel

    encoder = encoders.InceptionResNet(pretrained=name).eval()
    source = thresholds_file(name)
    try:
        measured: dict[str, Any] = json.loads(source.read_text(encoding="utf-8")) if source.is_file() else {}
        points = read_operating_points(measured.pop("operating_points", []))
        calibration = measured.pop("score_calibration", None)
        calibration = ScoreCalibration.from_dict(calibration) if calibration else None
        quality = read_quality(measured.pop("quality", {}))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError(f"The thresholds in {source} are damaged: delete it and evaluate {name} again.") from None
    return FaceModel.create(
        name,
        encoder,
        {"_target_": "siamese_verify.encoders.InceptionResNet", "pretrained": name},
        points,
        measured_on=measured.get("measured_on", ""),
        training={"data": name, "pretrained": name},
        metrics=measured,
        score_calibration=calibration,
        quality=quality,
        license=LICENSE,
    )


def pretrained_folder(name: str) -> Path:
    """Cache folder of the bundle of a pretrained model; it depends on all that the bundle is made of."""
    source = thresholds_file(name)
    parts = (str(FORMAT), FaceDetector.identifier, source.read_text(encoding="utf-8") if source.is_file() else "")
    return cache_folder() / "models" / f"{name}-{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:8]}"


def pretrained_bundle(name: str) -> Path:
    """Return the bundle folder of a pretrained model, exported at its first use; later uses need no network or torch.

    Raises:
        InputError: there is no such name, its weights are unavailable, or the cache cannot be written.
    """
    if name not in PRETRAINED:
        raise InputError(f"There is no pretrained model {name!r}: choose {' or '.join(PRETRAINED)}.")
    folder = pretrained_folder(name)
    if (folder / MANIFEST).is_file():
        return folder
    print(f"siamese-verify: exporting {name} at its first use, to {printable(folder)} ...", file=sys.stderr)
    from siamese_verify.models.export import save_bundle

    model = load_pretrained(name)
    try:
        save_bundle(folder, model, {"siamese-verify": __version__})
    except InputError as error:
        if (folder / MANIFEST).is_file():  # another process was faster
            return folder
        raise InputError(f"{error} Bundles are cached below $XDG_CACHE_HOME.") from None
    return folder


@dataclass(frozen=True)
class ModelEntry:
    """Row of the list of models.

    Attributes:
        name: to load it by.
        available: without a network.
        megabytes: of its files, or of the download.
        license: of the weights.
        accuracy: in words.
        note: how to get it, or what is wrong with it.
    """

    name: str
    available: bool
    megabytes: float
    license: str
    accuracy: str
    note: str = ""


def list_models(root: Path) -> Iterator[ModelEntry]:
    """List the pretrained models, then the bundles in the usual places below a folder."""
    for name in PRETRAINED:
        folder = pretrained_folder(name)
        if (folder / MANIFEST).is_file():
            yield describe_bundle(folder, name)
        else:
            note = f"to get it: siamese-verify models pull {name}"
            yield ModelEntry(name, False, DOWNLOAD_MEGABYTES, LICENSE, "", note)
    for pattern in BUNDLES:
        for folder in sorted(root.glob(pattern)):
            if (folder / MANIFEST).is_file():
                yield describe_bundle(folder, str(folder.relative_to(root)))


def describe_bundle(folder: Path, name: str) -> ModelEntry:
    """Describe a bundle by its manifest; a damaged one by what is wrong with it."""
    try:
        bundle = open_bundle(folder)
    except InputError as error:
        return ModelEntry(name, False, 0.0, "", "", str(error))
    metadata = bundle.metadata
    eer = metadata.metrics.get("eer")
    accuracy = f"EER {eer:.2%} on {metadata.measured_on}" if isinstance(eer, float) else "not measured"
    return ModelEntry(name, True, bundle.size() / 2**20, metadata.license or "not stated", accuracy)
