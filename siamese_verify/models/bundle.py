"""The model bundle: a folder with everything that a verifier needs, and no pickle. Reading it needs no torch."""

from __future__ import annotations

import hashlib
import json
import math
import secrets
import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import UnionType
from typing import Any

from siamese_verify.atomic_write import write_whole
from siamese_verify.errors import InputError
from siamese_verify.evaluation import ScoreCalibration
from siamese_verify.faces import alignment_name
from siamese_verify.faces.detector_networks import FILES as DETECTOR_FILES
from siamese_verify.models.metadata import ModelMetadata, read_operating_points, read_quality
from siamese_verify.structures import InputSpec

FORMAT = 6
MANIFEST, WEIGHTS, NETWORK, CARD = "bundle.json", "model.safetensors", "model.onnx", "README.md"
DETECTOR = tuple(f"detector/{name}" for name in DETECTOR_FILES)
KNOWN = {WEIGHTS, NETWORK, CARD, *DETECTOR}  # no other file is ever opened
MANIFEST_BYTES = 64 * 2**20  # more is no manifest of ours
MOST_NUMBERS, MOST_PIXELS = 65_536, 4096  # of an embedding, of a side: no encoder has more
FIELDS: dict[str, type | UnionType] = {
    "format": int,
    "encoder": dict,
    "input": dict,
    "embedding_size": int,
    "alignment": str,
    "quantization": str,
    "licence": str,
    "operating_points": list,
    "eer_threshold": float | None,
    "measured_on": str,
    "training": dict,
    "metrics": dict,
    "score_calibration": dict | None,
    "quality": dict,
    "checks": dict,
    "versions": dict,
    "files": dict,
    "sha256": str,
}


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest is in order; each of its files is checked when it is read.

    Attributes:
        folder: where it lies.
        metadata: what is known about the model.
        files: SHA-256 of every file but the manifest.
        checks: how its network was compared with the weights it was made from.
        versions: of the software that made it.
    """

    folder: Path
    metadata: ModelMetadata
    files: dict[str, str]
    checks: dict[str, Any]
    versions: dict[str, str]

    def read(self, name: str) -> bytes:
        """Read a file of it.

        Raises:
            InputError: it is not there, or is not what the manifest says.
        """
        try:
            content = self.path(name).read_bytes()
        except OSError as error:
            raise InputError(f"The bundle {self.folder} cannot be read: {error}.") from None
        self._compare(name, hashlib.sha256(content).hexdigest())
        return content

    def path(self, name: str) -> Path:
        """Where a file of it lies.

        Raises:
            InputError: it is no part of it, or it is not there or no file, such as a pipe that nobody may write to.
        """
        if name not in self.files:
            raise InputError(f"The bundle {self.folder} holds no {name}: export it anew with the version installed.")
        try:
            regular(self.folder / name)
        except OSError as error:
            raise InputError(f"The bundle {self.folder} cannot be read: {error}.") from None
        return self.folder / name

    def check(self, names: Collection[str]) -> None:
        """Compare files with the manifest, without holding them in memory.

        Raises:
            InputError: one is not there, or is not what the manifest says.
        """
        for name in names:
            try:
                with self.path(name).open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise InputError(f"The bundle {self.folder} cannot be read: {error}.") from None
            self._compare(name, digest)

    def _compare(self, name: str, digest: str) -> None:
        if digest != self.files[name]:
            raise InputError(
                f"The bundle {self.folder} is damaged: {name} does not have the SHA-256 that {MANIFEST} says."
            )

    def size(self) -> int:
        """Bytes of all its files."""
        return sum((self.folder / name).stat().st_size for name in self.files if (self.folder / name).is_file())


def open_bundle(folder: Path) -> Bundle:
    """Read the manifest of a bundle, and no other file.

    Raises:
        InputError: it is missing, of another version, or was changed; the message says what.
    """
    try:
        regular(folder / MANIFEST)
        if (folder / MANIFEST).stat().st_size > MANIFEST_BYTES:
            raise ValueError(f"{MANIFEST} has more than {MANIFEST_BYTES // 2**20} MB")
        text = (folder / MANIFEST).read_bytes().decode()
        content = json.loads(text, parse_constant=_refuse)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"The bundle {folder} cannot be read: {error}.") from None
    if not isinstance(content, dict):
        raise InputError(f"The bundle {folder} is damaged: {MANIFEST} is not an object.")
    if content.get("format") != FORMAT:
        raise InputError(
            f"The bundle {folder} has format {content.get('format')!r}, this version reads {FORMAT}: "
            "make it anew with the version that is installed."
        )
    for name, kind in FIELDS.items():
        if name not in content or not isinstance(content[name], kind):
            wanted = kind.__name__ if isinstance(kind, type) else kind
            found = type(content[name]).__name__ if name in content else "nothing"
            raise InputError(f"The bundle {folder} is damaged: field {name} should be {wanted}, is {found}.")
    if content["sha256"] != digest_of(content) or text != as_text(content):  # not even in white space
        raise InputError(f"The bundle {folder} is damaged: {MANIFEST} was changed after it was written (sha256).")
    if strangers := set(content["files"]) - KNOWN:
        raise InputError(f"The bundle {folder} is damaged: it lists {min(strangers)!r}, which no bundle holds.")
    try:
        spec = InputSpec.from_dict(content["input"])
        metadata = ModelMetadata(
            name=str(folder),
            configuration=content["encoder"],
            input_spec=spec,
            embedding_size=content["embedding_size"],
            operating_points=read_operating_points(content["operating_points"]),
            eer_threshold=content["eer_threshold"],
            measured_on=content["measured_on"],
            training=content["training"],
            metrics=content["metrics"],
            score_calibration=ScoreCalibration.from_dict(content["score_calibration"])
            if content["score_calibration"]
            else None,
            quality=read_quality(content["quality"]),
            licence=content["licence"],
            weights_sha256=str(content["files"].get(WEIGHTS) or content["checks"].get("weights_sha256", "")),
            quantization=content["quantization"],
        )
    except InputError:
        raise
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise InputError(f"The bundle {folder} is damaged: {error}.") from None
    if not (0 < metadata.embedding_size <= MOST_NUMBERS and 0 < spec.size <= MOST_PIXELS) or isinstance(
        metadata.embedding_size, bool
    ):
        raise InputError(
            f"The bundle {folder} is damaged: it says {metadata.embedding_size} dimensions and {spec.size} pixels."
        )
    now = alignment_name(spec.crop)
    if content["alignment"] != now:
        raise InputError(
            f"The bundle {folder} is of faces aligned as {content['alignment']}, this version aligns as {now}, and its "
            "thresholds would not hold: make it anew, or install the version that it names."
        )
    return Bundle(folder, metadata, dict(content["files"]), content["checks"], content["versions"])


def write_bundle(
    folder: Path, metadata: ModelMetadata, files: Mapping[str, bytes], checks: dict[str, Any], versions: dict[str, str]
) -> Bundle:
    """Write a bundle: its files come to lie there together, or not at all.

    Args:
        folder: made if it is missing; a bundle that was there is replaced.
        metadata: what is known about the model.
        files: the content of each, by names of `KNOWN`.
        checks: how the network was compared with the weights.
        versions: of the software, for the manifest.

    Raises:
        InputError: the folder holds something else, which would be lost, or cannot be written.
    """
    content: dict[str, Any] = {
        "format": FORMAT,
        "encoder": metadata.configuration,
        "input": asdict(metadata.input_spec),
        "embedding_size": metadata.embedding_size,
        "alignment": alignment_name(metadata.input_spec.crop),
        "quantization": metadata.quantization,
        "licence": metadata.licence,
        "operating_points": [
            {**point._asdict(), "threshold": point.threshold if math.isfinite(point.threshold) else None}
            for point in metadata.operating_points
        ],
        "eer_threshold": metadata.eer_threshold,
        "measured_on": metadata.measured_on,
        "training": metadata.training,
        "metrics": metadata.metrics,
        "score_calibration": metadata.score_calibration.to_dict() if metadata.score_calibration else None,
        "quality": {name: list(limits) for name, limits in metadata.quality.items()},
        "checks": checks,
        "versions": versions,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())},
    }
    content["sha256"] = digest_of(content)
    if folder.exists() and (others := others_in(folder)):
        raise InputError(f"{folder} holds {others[0]}, which is no part of a bundle: give another folder.")
    own = secrets.token_hex(8)  # keeps two writers apart, and nobody can lay a link there beforehand
    unfinished, former = (folder.with_name(f".{own}.{word}") for word in ("part", "former"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished.mkdir()
        for name, data in {**files, MANIFEST: as_text(content).encode()}.items():
            (unfinished / name).parent.mkdir(exist_ok=True)
            write_whole(unfinished / name, data)
        if folder.exists():
            folder.replace(former)
        unfinished.replace(folder)
    except OSError as error:
        raise InputError(f"The bundle cannot be written to {folder} ({error}): make room, or give another.") from None
    finally:
        for leftover in (unfinished, former):
            shutil.rmtree(leftover, ignore_errors=True)
    return open_bundle(folder)


def others_in(folder: Path) -> list[str]:
    """Names of what lies in a folder and is no part of a bundle; of a file, its own."""
    if not folder.is_dir():
        return [folder.name]
    parts = {MANIFEST, *KNOWN, *(str(Path(name).parent) for name in DETECTOR)}
    return sorted(found for path in folder.rglob("*") if (found := path.relative_to(folder).as_posix()) not in parts)


def as_text(content: dict[str, Any]) -> str:
    """A manifest as it is written."""
    return json.dumps(content, indent=1, allow_nan=False)


def regular(path: Path) -> None:
    """See that a path is a file, before opening something that never ends.

    Raises:
        OSError: it is not.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.name} is missing or no file")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def digest_of(content: dict[str, Any]) -> str:
    """SHA-256 of a manifest without its own field for it."""
    rest = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, allow_nan=False).encode()).hexdigest()
