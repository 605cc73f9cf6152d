"""A model by any of its names."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from siamese_verify.errors import InputError
from siamese_verify.faces.detector_networks import FILES, load_networks
from siamese_verify.faces.mtcnn import Networks
from siamese_verify.models.bundle import DETECTOR, MANIFEST, NETWORK, WEIGHTS, Bundle, open_bundle
from siamese_verify.models.metadata import PRETRAINED, ModelMetadata
from siamese_verify.models.onnx_engine import Engine, OnnxEngine

if TYPE_CHECKING:
    from siamese_verify.models.face_model import FaceModel

MOST_THREADS = 256  # each takes memory, and more than there are cores help nobody
Parts = tuple[ModelMetadata, Engine, Networks | None, "Future[None] | None"]


def bundle_folder(name: str | Path) -> Path | None:
    """The bundle that a path leads to: itself or that of a run; None where it is something else.

    Raises:
        InputError: a run that did not finish, or nothing at all.
    """
    path = Path(name)
    if path.is_file() or str(name) in PRETRAINED:
        return None
    if (path / "bundle").is_dir():
        return path / "bundle"
    if (path / "checkpoints").is_dir():
        raise InputError(f"The run {name} has no bundle, it did not finish: give {path / 'checkpoints' / 'best.ckpt'}.")
    if (path / MANIFEST).is_file() or (path / WEIGHTS).is_file():
        return path
    if path.exists() and not path.is_dir():
        raise InputError(f"{name} is a pipe or a device, no model: give a bundle folder or a checkpoint.")
    raise InputError(f"There is no model {name}: give {', '.join(PRETRAINED)}, a bundle folder or a checkpoint.")


def load_parts(
    name: str | Path, engine: Literal["auto", "onnx", "torch"], device: str = "cpu", threads: int | None = None
) -> Parts:
    """What a verifier is made of, see `Verifier.load`."""
    if engine not in ("auto", "onnx", "torch"):
        raise InputError(f"A model runs on onnx or torch, or auto chooses, not {engine!r}.")
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise InputError(f"ONNX Runtime takes 1 to {MOST_THREADS} threads, got {threads}.")
    folder = bundle_folder(name)
    if engine == "torch" or (engine == "auto" and (Path(name).is_file() or device != "cpu")):
        from siamese_verify.models.export import with_weights
        from siamese_verify.models.torch_engine import TorchEngine

        model = with_weights(load_model(name, device))
        return model.metadata, TorchEngine(model.encoder), None, None
    if device != "cpu":
        raise InputError(f"The engine onnx runs on the CPU, not on {device!r}: use the engine torch.")
    if Path(name).is_file():
        raise InputError(f"{name} is a checkpoint: `siamese-verify export {name} --to BUNDLE` makes a bundle of it.")
    if folder is None:
        from siamese_verify.models.registry import pretrained_bundle

        return parts_of(open_bundle(pretrained_bundle(str(name))), threads, str(name))
    return parts_of(open_bundle(folder), threads)


def parts_of(bundle: Bundle, threads: int | None = None, name: str | None = None) -> Parts:
    """What a verifier is made of, from a bundle; meanwhile all its files are compared with their hashes."""
    pool = ThreadPoolExecutor(1)
    proof = pool.submit(bundle.check, bundle.files)
    pool.shutdown(wait=False)
    networks = None
    if bundle.metadata.input_spec.crop.needs_face:
        networks = load_networks({file: bundle.read(place) for file, place in zip(FILES, DETECTOR, strict=True)})
    network = bundle.path(NETWORK)
    try:
        run = OnnxEngine(network, str(network), threads)
    except InputError:
        proof.result()  # that it was changed says more than that it cannot be run
        raise
    return replace(bundle.metadata, name=name or bundle.metadata.name), run, networks, proof


def load_model(name: str | Path, device: str = "cpu") -> FaceModel:
    """Load a model for torch.

    Args:
        name: `casia-webface`, `vggface2`, a bundle folder, a run folder, or a Lightning checkpoint.
        device: where the encoder goes.

    Raises:
        InputError: there is no such model, it is damaged, or there is no such device.
    """
    from siamese_verify.models.export import load_bundle
    from siamese_verify.models.face_model import load_checkpoint
    from siamese_verify.models.registry import load_pretrained

    folder = bundle_folder(name)
    if folder is not None:
        model = load_bundle(folder)
    elif str(name) in PRETRAINED:
        model = load_pretrained(str(name))
    else:
        model = load_checkpoint(Path(name))
    try:
        model.encoder.to(device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"The device {device!r} cannot be used: {str(error).splitlines()[0]}") from None
    return model
