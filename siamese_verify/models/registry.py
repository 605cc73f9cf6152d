"""Registry of models: pretrained ones with their thresholds, and the bundles of this machine."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from siamese_verify import __version__
from siamese_verify.atomic_write import atomic_write, cache_folder, data_folder
from siamese_verify.errors import InputError, did_you_mean, printable
from siamese_verify.evaluation import ScoreCalibration
from siamese_verify.faces import DETECTORS
from siamese_verify.models.bundle import FORMAT, MANIFEST, NETWORK, Bundle, FaceModel, open_bundle, save_files
from siamese_verify.models.metadata import (
    PRETRAINED,
    ModelMetadata,
    read_operating_points,
    read_quality,
    stages_in_words,
)
from siamese_verify.opencv_zoo import FOLDING, SFACE, SFACE_INPUT, YUNET, folded, published
from siamese_verify.structures import DetectorName, InputSpec

BUNDLES = ("bundle", "bundles/*", "runs/*/*/bundle", "runs/*/*/*/bundle", "models/*")  # where bundles are looked for


class Source(NamedTuple):
    """Where a pretrained model comes from.

    Attributes:
        target: class of its encoder.
        detector: that finds its faces.
        license: of its weights, in words.
        megabytes: of the download.
        origin: of its training data, in words.
    """

    target: str
    detector: DetectorName
    license: str
    megabytes: float
    origin: str | None


SOURCES = {
    "sface": Source(
        "siamese_verify.encoders.SFace", "yunet", f"{SFACE.license}; detector YuNet {YUNET.license}", 10.8, None
    ),
    **{
        name: Source(
            "siamese_verify.encoders.InceptionResNet",
            "mtcnn",
            "of facenet-pytorch (MIT), trained on data that is for research only",
            107.0,
            name,
        )
        for name in ("casia-webface", "vggface2")
    },
    "openface": Source(
        "siamese_verify.encoders.OpenFace",
        "mtcnn",
        "Apache-2.0 as OpenFace published them, trained on data that is for research only",
        15.3,
        "CASIA-WebFace and FaceScrub",
    ),
}


def ships_thresholds(name: str) -> bool:
    """Whether the package has thresholds of a pretrained model that were measured with the present face detector."""
    return bool(_read_thresholds(name, _shipped(name)))


def store_thresholds(name: str, measurement: dict[str, Any]) -> Path:
    """Store thresholds of a pretrained model on this machine, for `load_model` where none are shipped."""
    path = _stored(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"detector": _detector(name), **measurement}
    atomic_write(path, json.dumps(content, indent=1, allow_nan=False).encode())
    return path


def read_thresholds(name: str) -> dict[str, Any]:
    """Thresholds of a pretrained model: the shipped ones, else those stored on this machine, else none.

    Thresholds measured with another version of the face detector do not hold and are not returned.
    """
    return _read_thresholds(name, _shipped(name)) or _read_thresholds(name, _stored(name))


def _detector(name: str) -> str:
    """Name and version of the face detector of a pretrained model."""
    return DETECTORS[SOURCES[name].detector].identifier


def _read_thresholds(name: str, path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        measured: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return measured if measured["detector"] == _detector(name) else {}
    except (ValueError, TypeError, KeyError):
        raise InputError(f"The thresholds in {path} are damaged: delete it and evaluate the model again.") from None


def _shipped(name: str) -> Path:
    return Path(__file__).with_name("thresholds") / f"{name}.json"


def _stored(name: str) -> Path:
    return data_folder() / "thresholds" / f"{name}.json"


def pretrained_metadata(name: str, spec: InputSpec, embedding_size: int) -> ModelMetadata:
    """Metadata of a pretrained model, with its shipped thresholds, else those stored on this machine.

    Raises:
        InputError: the thresholds are damaged.
    """
    source, measured = SOURCES[name], read_thresholds(name)
    try:
        points = read_operating_points(measured.pop("operating_points", []))
        calibration = measured.pop("score_calibration", None)
        calibration = ScoreCalibration.from_dict(calibration) if calibration else None
        quality = read_quality(measured.pop("quality", {}))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError(
            f"The thresholds of {name} are damaged: delete {_stored(name)} and evaluate it again."
        ) from None
    return ModelMetadata(
        name,
        {"_target_": source.target, "pretrained": name},
        spec,
        embedding_size,
        points,
        measured_on=measured.get("measured_on", ""),
        training={"data": source.origin, "pretrained": name},
        metrics=measured,
        score_calibration=calibration,
        quality=quality,
        license=source.license,
        weights_sha256=SFACE.sha256 if name == "sface" else "",
    )


def load_pretrained(name: str) -> FaceModel:
    """Load a pretrained model for torch, with its shipped thresholds, else those stored on this machine.

    Raises:
        InputError: its weights are neither in the cache nor can be downloaded.
    """
    from siamese_verify.encoders import InceptionResNet, OpenFace, SFace

    classes = {"sface": SFace, "openface": OpenFace}
    encoder = classes.get(name, InceptionResNet)(pretrained=name).eval()
    return FaceModel(encoder, pretrained_metadata(name, encoder.input_spec, encoder.embedding_size))


def pretrained_folder(name: str) -> Path:
    """Cache folder of the bundle of a pretrained model; it depends on all that the bundle is made of."""
    parts = [str(FORMAT), _detector(name), json.dumps(read_thresholds(name))]
    parts += [str(FOLDING)] if name == "sface" else []
    return cache_folder() / "models" / f"{name}-{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:8]}"


def pretrained_bundle(name: str, sources: Sequence[Path] = (), *, check: bool = False) -> Path:
    """Return the bundle folder of a pretrained model, made at its first use; later uses need no network.

    Args:
        name: of the model.
        sources: of `sface` and `openface`: files as published, or folders that hold them; by default those of `sface`
            are downloaded, and that of `openface` is the one given before.
        check: that all files of a bundle made before are whole, and make it again if they are not.

    Raises:
        InputError: there is no such name, its weights are unavailable, or the cache cannot be written.
    """
    if name not in PRETRAINED:
        choices = f"choose {' or '.join(PRETRAINED)}."
        raise InputError(f"There is no pretrained model {name!r}: {did_you_mean(name, PRETRAINED) or choices}")
    if sources and name == "openface":
        if len(sources) > 1:
            raise InputError(f"The weights of openface are one file, got {len(sources)} paths: give one by --from.")
        from siamese_verify.encoders.openface import published_weights

        published_weights(sources[0])  # it is then in the cache
    elif sources and name == "sface":
        for file in (SFACE, YUNET):
            published(file, sources)
    elif sources:
        raise InputError(f"The files of {name} are taken from torch's cache (TORCH_HOME), not from {sources[0]}.")
    folder = pretrained_folder(name)
    if (folder / MANIFEST).is_file() and not (check and _is_damaged(folder)):
        return folder
    print(f"siamese-verify: preparing {name} at its first use, in {printable(folder)} ...", file=sys.stderr)
    try:
        if name == "sface":
            save_sface(folder, sources)
        else:
            from siamese_verify.models.export import save_bundle

            save_bundle(folder, load_pretrained(name), {"siamese-verify": __version__})
    except InputError as error:
        if (folder / MANIFEST).is_file():  # another process was faster
            return folder
        raise InputError(f"{error} Bundles are cached below $XDG_CACHE_HOME.") from None
    return folder


def _is_damaged(folder: Path) -> bool:
    """Whether a bundle of the cache has a file that is not as it was written; it is then removed."""
    try:
        bundle = open_bundle(folder)
        bundle.check(bundle.files)
    except InputError:
        import shutil

        shutil.rmtree(folder, ignore_errors=True)
        return True
    return False


def save_sface(folder: Path, sources: Collection[Path]) -> Bundle:
    """Write the bundle of SFace with YuNet, without torch, see `pretrained_bundle`."""
    network, detector = (folded(file, sources) for file in (SFACE, YUNET))
    checks = {"published_as": SFACE.name, "weights_sha256": SFACE.sha256}
    metadata = pretrained_metadata("sface", SFACE_INPUT, 128)
    found = {DETECTORS["yunet"].files[0]: detector}
    return save_files(folder, metadata, {NETWORK: network}, checks, {"siamese-verify": __version__}, found)


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
        stages: of its training, in words.
    """

    name: str
    available: bool
    megabytes: float
    license: str
    accuracy: str
    note: str = ""
    stages: str = ""


def list_models(root: Path) -> Iterator[ModelEntry]:
    """List the pretrained models, then the bundles in the usual places below a folder."""
    for name in PRETRAINED:
        folder = pretrained_folder(name)
        if (folder / MANIFEST).is_file():
            yield describe_bundle(folder, name)
        else:
            note = f"to get it: siamese-verify models pull {name}{' --from nn4.small2.h5' * (name == 'openface')}"
            source = SOURCES[name]
            yield ModelEntry(name, False, source.megabytes, source.license, "", note)
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
    stages = stages_in_words(metadata.training)
    return ModelEntry(name, True, bundle.size() / 2**20, metadata.license or "not stated", accuracy, stages=stages)
