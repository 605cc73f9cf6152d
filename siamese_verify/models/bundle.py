"""Model bundle: a folder with everything that verifying needs, without pickle. Reading it needs no torch."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any

from siamese_verify.atomic_write import atomic_write
from siamese_verify.errors import InputError
from siamese_verify.faces import DETECTORS, alignment_name, detector_files
from siamese_verify.models.metadata import ModelMetadata, model_card

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
