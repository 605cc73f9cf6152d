"""Model bundle: a folder with everything that verifying needs, without pickle. Reading it needs no torch."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any

from siamese_verify.atomic_write import atomic_write
from siamese_verify.errors import InputError
from siamese_verify.faces import DETECTORS, alignment_name, detector_files
from siamese_verify.models.metadata import ModelMetadata, model_card

if TYPE_CHECKING:
    from torch import Tensor

    from siamese_verify.encoders import Encoder
    from siamese_verify.evaluation import OperatingPoint

FORMAT = 6
MANIFEST, WEIGHTS, NETWORK, CARD = "bundle.json", "model.safetensors", "model.onnx", "README.md"
DETECTOR = "detector"  # folder of the face detector's files
KNOWN_FILES = {
    WEIGHTS,
    NETWORK,
    CARD,
    *(f"{DETECTOR}/{name}" for detector in DETECTORS.values() for name in detector.files),
}  # no other file is ever opened
MAX_MANIFEST_BYTES = 64 * 2**20
MAX_EMBEDDING_SIZE, MAX_PIXELS = 65_536, 4096
FIELDS: dict[str, type | UnionType] = {
    "format": int,
    "encoder": dict,
    "input": dict,
    "embedding_size": int,
    "alignment": str,
    "quantization": str,
    "license": str,
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
    """A bundle with a valid manifest; each of its files is checked when it is read.

    Attributes:
        folder: of the bundle.
        metadata: of the model.
        files: SHA-256 of every file but the manifest, by name.
        checks: results of comparing the ONNX network with the weights.
        versions: of the software that wrote it.
    """

    folder: Path
    metadata: ModelMetadata
    files: dict[str, str]
    checks: dict[str, Any]
    versions: dict[str, str]

    def path(self, name: str) -> Path:
        """Return the path of a file.

        Raises:
            InputError: the bundle does not list it, or it is missing or not a regular file.
        """
        if name not in self.files:
            raise InputError(f"The bundle {self.folder} holds no {name}: export it again with the installed version.")
        if not (self.folder / name).is_file():
            raise InputError(f"The bundle {self.folder} cannot be read: {name} is missing or not a regular file.")
        return self.folder / name

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises:
            InputError: it is missing, or differs from its hash in the manifest.
        """
        try:
            content = self.path(name).read_bytes()
        except OSError as error:
            raise InputError(f"The bundle {self.folder} cannot be read: {error}.") from None
        self._compare(name, hashlib.sha256(content).hexdigest())
        return content

    def check(self, names: Collection[str]) -> None:
        """Integrity check: compare files with their hashes in the manifest.

        Raises:
            InputError: one is missing, or differs.
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
            raise self.damaged(f"{name} does not have the SHA-256 in {MANIFEST}")

    def damaged(self, reason: object) -> InputError:
        """Return the error of a damaged bundle."""
        return _damaged(self.folder, reason)

    def size(self) -> int:
        """Bytes of all its files."""
        return sum((self.folder / name).stat().st_size for name in self.files if (self.folder / name).is_file())


def open_bundle(folder: Path) -> Bundle:
    """Read the manifest of a bundle, and no other file.

    Raises:
        InputError: it is missing, has another format, or was changed.
    """
    content = _read_manifest(folder)
    files, checks = content["files"], content["checks"]
    if unknown := set(files) - KNOWN_FILES:
        raise _damaged(folder, f"it lists {min(unknown)!r}, which is not part of bundles")
    weights = str(files.get(WEIGHTS) or checks.get("weights_sha256", ""))
    try:
        metadata = ModelMetadata.from_dict(content, str(folder), weights)
    except InputError:
        raise
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise _damaged(folder, error) from None
    size, shape = metadata.embedding_size, metadata.input_spec.shape
    if isinstance(size, bool) or not (0 < size <= MAX_EMBEDDING_SIZE and math.prod(shape) <= 3 * MAX_PIXELS**2):
        raise _damaged(folder, f"its embedding size is {size} and its input of shape {shape}")
    alignment = alignment_name(metadata.input_spec.crop)
    if content["alignment"] != alignment:
        raise InputError(
            f"The bundle {folder} is of faces aligned as {content['alignment']}, this version aligns as {alignment}, "
            "so its thresholds do not hold: export it again, or install the version that it names."
        )
    return Bundle(folder, metadata, dict(files), checks, content["versions"])


def _read_manifest(folder: Path) -> dict[str, Any]:
    """Read a manifest whose format, types of fields and hash are right."""
    path = folder / MANIFEST
    try:
        if not path.is_file():  # a pipe would never end
            raise FileNotFoundError(f"{MANIFEST} is missing or not a regular file")
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise ValueError(f"{MANIFEST} has more than {MAX_MANIFEST_BYTES // 2**20} MB")
        text = path.read_bytes().decode()
        content = json.loads(text, parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"The bundle {folder} cannot be read: {error}.") from None
    if not isinstance(content, dict):
        raise _damaged(folder, f"{MANIFEST} is not an object")
    if content.get("format") != FORMAT:
        raise InputError(
            f"The bundle {folder} has format {content.get('format')!r}, this version reads {FORMAT}: "
            "export it again with the installed version."
        )
    for name, kind in FIELDS.items():
        if name not in content or not isinstance(content[name], kind):
            wanted = kind.__name__ if isinstance(kind, type) else kind
            found = type(content[name]).__name__ if name in content else "missing"
            raise _damaged(folder, f"field {name} should be {wanted}, is {found}")
    if content["sha256"] != manifest_digest(content) or text != manifest_text(content):  # not even in white space
        raise _damaged(folder, f"{MANIFEST} was changed after it was written (sha256)")
    return content


def write_bundle(
    folder: Path, metadata: ModelMetadata, files: Mapping[str, bytes], checks: dict[str, Any], versions: dict[str, str]
) -> Bundle:
    """Write a bundle: all of its files, or nothing.

    Args:
        folder: created if missing; a bundle in it is replaced.
        metadata: of the model.
        files: content by name, see `KNOWN_FILES`.
        checks: results of comparing the ONNX network with the weights.
        versions: of the software.

    Raises:
        InputError: the folder holds anything else, or cannot be written.
    """
    import shutil  # not at the top: verifying two photos does not need it

    content: dict[str, Any] = {
        "format": FORMAT,
        "alignment": alignment_name(metadata.input_spec.crop),
        **metadata.to_dict(),
        **({"needs_code": list(metadata.needs_code)} if metadata.needs_code else {}),  # for readers: weights need it
        "checks": checks,
        "versions": versions,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())},
    }
    content["sha256"] = manifest_digest(content)
    if folder.exists() and (others := _other_files(folder)):
        raise InputError(f"{folder} holds {others[0]}, which is not part of a bundle: give another folder.")
    token = os.urandom(8).hex()  # separates concurrent writers, and nobody can place a link there beforehand
    unfinished, former = (folder.with_name(f".{token}.{word}") for word in ("part", "former"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished.mkdir()
        for name, data in {**files, MANIFEST: manifest_text(content).encode()}.items():
            (unfinished / name).parent.mkdir(exist_ok=True)
            atomic_write(unfinished / name, data)
        if folder.exists():
            folder.replace(former)
        unfinished.replace(folder)
    except OSError as error:
        raise InputError(f"The bundle cannot be written to {folder} ({error}): make room, or give another.") from None
    finally:
        for leftover in (unfinished, former):
            shutil.rmtree(leftover, ignore_errors=True)
    return open_bundle(folder)


def save_files(
    folder: Path,
    metadata: ModelMetadata,
    files: Mapping[str, bytes],
    checks: dict[str, Any],
    versions: Mapping[str, str],
    detector: Mapping[str, bytes] | None = None,
) -> Bundle:
    """Write a bundle of these files, with the face detector (if None, of the cache) if it needs one, and a card."""
    crop = metadata.input_spec.crop
    if detector is None:
        detector = detector_files(crop.detector) if crop.needs_face else {}
    parts = {f"{DETECTOR}/{name}": content for name, content in detector.items()}
    card = {CARD: model_card(metadata, checks).encode()}
    return write_bundle(folder, metadata, {**files, **parts, **card}, checks, dict(versions))


def check_target(folder: Path) -> None:
    """Check that a bundle may be written to a folder, before the work for it.

    Raises:
        InputError: it exists and is not a bundle.
    """
    if folder.exists() and not (folder / MANIFEST).is_file():
        raise InputError(f"{folder} exists and is not a bundle: give another folder.")


def _other_files(folder: Path) -> list[str]:
    """Names in a folder that are not part of a bundle; of a file, its own."""
    if not folder.is_dir():
        return [folder.name]
    parts = {MANIFEST, *KNOWN_FILES, DETECTOR}
    return sorted(found for path in folder.rglob("*") if (found := path.relative_to(folder).as_posix()) not in parts)


def manifest_text(content: dict[str, Any]) -> str:
    """A manifest as it is written."""
    return json.dumps(content, indent=1, allow_nan=False)


def manifest_digest(content: dict[str, Any]) -> str:
    """SHA-256 of a manifest without its own field `sha256`."""
    rest = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _damaged(folder: Path, reason: object) -> InputError:
    return InputError(f"The bundle {folder} is damaged: {reason}.")


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


@dataclass(frozen=True)
class FaceModel:
    """An encoder on torch, in evaluation mode, with its metadata."""

    encoder: Encoder
    metadata: ModelMetadata

    @classmethod
    def create(
        cls,
        name: str,
        encoder: Encoder,
        configuration: Mapping[str, Any] | None = None,
        operating_points: tuple[OperatingPoint, ...] = (),
        **known: Any,
    ) -> FaceModel:
        """Create a model of an encoder.

        Args:
            name: of the model.
            encoder: on torch.
            configuration: `_target_` and arguments that create it; None if only the author's script can: its bundle
                then runs on ONNX, and on torch where the script gives the encoder.
            operating_points: measured thresholds.
            known: further fields of `ModelMetadata`.
        """
        spec, size = encoder.input_spec, encoder.embedding_size
        return cls(encoder, ModelMetadata(name, dict(configuration or {}), spec, size, operating_points, **known))


def load_bundle(folder: Path, trust_code: str | Collection[str] = (), encoder: Encoder | None = None) -> FaceModel:
    """Load a bundle for torch, after an integrity check of all its files.

    Args:
        folder: of the bundle.
        trust_code: see `siamese_verify.models.load_model`.
        encoder: see `load_model`.

    Raises:
        InputError: a file or field is missing, of another format, or was changed; see `load_model`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    bundle = open_bundle(folder)
    if bundle.metadata.quantization != "none":
        raise InputError(
            f"The bundle {folder} computes in {bundle.metadata.quantization} and has no weights for torch: "
            "use the engine onnx, or the bundle that it was made from."
        )
    if WEIGHTS not in bundle.files:
        raise without_weights(bundle)
    weights = bundle.read(WEIGHTS)
    bundle.check([name for name in bundle.files if name != WEIGHTS])
    wanted = (bundle.metadata.input_spec, bundle.metadata.embedding_size)
    if encoder is not None and wanted != (encoder.input_spec, encoder.embedding_size):
        raise InputError(
            f"The bundle {folder} is of an encoder with {wanted[0]} and {wanted[1]} dimensions, the one given has "
            f"{encoder.input_spec} and {encoder.embedding_size}."
        )
    try:
        found = build_encoder(bundle.metadata.configuration, load(weights), trust_code, encoder)
    except SafetensorError as error:
        raise bundle.damaged(error) from None
    if wanted != (found.input_spec, found.embedding_size):
        raise bundle.damaged("field input differs from that of its encoder")
    return FaceModel(found, bundle.metadata)


def build_encoder(
    configuration: Mapping[str, Any],
    state: Mapping[str, Tensor],
    trust_code: str | Collection[str] = (),
    encoder: Encoder | None = None,
) -> Encoder:
    """Build an encoder in evaluation mode.

    Args:
        configuration: `_target_` and arguments, see `siamese_verify.encoders.create_encoder`.
        state: its state dict.
        trust_code: see `load_model`.
        encoder: see `load_model`.

    Raises:
        InputError: another target, wrong arguments, or weights that do not fit.
    """
    from siamese_verify.encoders import Encoder, create_encoder

    if encoder is not None and not isinstance(encoder, Encoder):
        raise InputError(f"{type(encoder).__name__} is not an Encoder: wrap it by siamese_verify.encoders.wrap_module.")
    name = type(encoder).__name__ if encoder else str(configuration.get("_target_")).rpartition(".")[2]
    problem = f"The encoder {name} cannot be created"
    try:
        built = copy.deepcopy(encoder) if encoder is not None else create_encoder(configuration, _names(trust_code))
        problem = f"The weights do not fit the encoder {name}"
        built.load_state_dict(state)
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{problem}: {' '.join(str(error).split())}") from None
    return built.eval()


def can_create(bundle: Bundle, trust_code: str | Collection[str]) -> bool:
    """Whether the encoder of a bundle can be created for torch."""
    metadata = bundle.metadata
    if WEIGHTS not in bundle.files or (metadata.needs_timm and find_spec("timm") is None):
        return False
    return metadata.quantization == "none" and set(metadata.needs_code) <= set(_names(trust_code))


def _names(trust_code: str | Collection[str]) -> Collection[str]:
    return (trust_code,) if isinstance(trust_code, str) else trust_code


def without_weights(bundle: Bundle) -> InputError:
    """Error of a bundle that has no weights for torch."""
    return InputError(f"The bundle {bundle.folder} has no weights for torch: use the one that it was made from.")
