"""Load models by name: a pretrained name, a bundle, a run or a checkpoint; for torch or for a verifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from siamese_verify.errors import InputError
from siamese_verify.faces import DETECTOR_FILES, load_networks
from siamese_verify.faces.mtcnn import Networks
from siamese_verify.models.bundle import DETECTOR, MANIFEST, NETWORK, WEIGHTS, Bundle, open_bundle
from siamese_verify.models.engines import Engine, OnnxEngine, TorchEngine
from siamese_verify.models.metadata import PRETRAINED, ModelMetadata, read_operating_points
from siamese_verify.structures import Crop

if TYPE_CHECKING:
    from torch import Tensor

    from siamese_verify.encoders import Encoder
    from siamese_verify.evaluation import OperatingPoint

MAX_THREADS = 256


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
        configuration: dict[str, Any],
        operating_points: tuple[OperatingPoint, ...] = (),
        **known: Any,
    ) -> FaceModel:
        """Create a model of an encoder; `known` are further fields of `ModelMetadata`."""
        spec, size = encoder.input_spec, encoder.embedding_size
        return cls(encoder, ModelMetadata(name, configuration, spec, size, operating_points, **known))


class VerifierParts(NamedTuple):
    """Parts of a verifier."""

    metadata: ModelMetadata
    engine: Engine
    networks: Networks | None  # of the face detector; None for those in this machine's cache
    integrity: Future[None] | None  # integrity check of the bundle's files, None without a bundle


def load_parts(
    name: str | Path, engine: Literal["auto", "onnx", "torch"], device: str = "cpu", threads: int | None = None
) -> VerifierParts:
    """Load the parts of a verifier, see `Verifier.load`."""
    if engine not in ("auto", "onnx", "torch"):
        raise InputError(f"engine must be 'auto', 'onnx' or 'torch', got {engine!r}.")
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise InputError(f"ONNX Runtime takes 1 to {MAX_THREADS} threads, got {threads}.")
    if engine == "torch" or (engine == "auto" and (Path(name).is_file() or device != "cpu")):
        from siamese_verify.models.export import with_weights_hash

        model = with_weights_hash(load_model(name, device))
        return VerifierParts(model.metadata, TorchEngine(model.encoder), None, None)
    if device != "cpu":
        raise InputError(f"The engine onnx runs on the CPU, not on {device!r}: use the engine torch.")
    bundle = find_bundle(name)
    with_name = replace(bundle.metadata, name=str(name) if str(name) in PRETRAINED else bundle.metadata.name)
    pool = ThreadPoolExecutor(1)
    integrity = pool.submit(bundle.check, bundle.files)  # while the network is loaded
    pool.shutdown(wait=False)
    networks = None
    if bundle.metadata.input_spec.crop.needs_face:
        networks = load_networks(
            {file: bundle.read(place) for file, place in zip(DETECTOR_FILES, DETECTOR, strict=True)}
        )
    network = bundle.path(NETWORK)
    try:
        return VerifierParts(with_name, OnnxEngine(network, str(network), threads), networks, integrity)
    except InputError:
        integrity.result()  # a changed file is the better explanation
        raise


def find_bundle(name: str | Path) -> Bundle:
    """Open the bundle of a pretrained name, bundle folder or run.

    Raises:
        InputError: there is no such model, it is damaged, or it is a checkpoint.
    """
    if str(name) in PRETRAINED:
        from siamese_verify.models.registry import pretrained_bundle

        return open_bundle(pretrained_bundle(str(name)))
    if Path(name).is_file():
        raise InputError(f"{name} is a checkpoint: `siamese-verify export {name} --output BUNDLE` makes a bundle.")
    return open_bundle(bundle_folder(name))


def bundle_folder(name: str | Path) -> Path:
    """Return the bundle folder of a path: itself, or that of a run.

    Raises:
        InputError: there is none.
    """
    path = Path(name)
    if (path / "bundle").is_dir():
        return path / "bundle"
    if (path / "checkpoints").is_dir():
        raise InputError(f"The run {name} has no bundle, it did not finish: give {path / 'checkpoints' / 'best.ckpt'}.")
    if (path / MANIFEST).is_file() or (path / WEIGHTS).is_file():
        return path
    if path.exists() and not path.is_dir():
        raise InputError(f"{name} is a pipe or a device: give a bundle folder or a checkpoint.")
    raise InputError(f"There is no model {name}: give {', '.join(PRETRAINED)}, a bundle folder or a checkpoint.")


def load_model(name: str | Path, device: str = "cpu") -> FaceModel:
    """Load a model for torch.

    Args:
        name: `casia-webface`, `vggface2`, a bundle folder, a run folder, or a Lightning checkpoint.
        device: of the encoder.

    Raises:
        InputError: there is no such model, it is damaged, or there is no such device.
    """
    if str(name) in PRETRAINED:
        from siamese_verify.models.registry import load_pretrained

        model = load_pretrained(str(name))
    elif Path(name).is_file():
        model = load_checkpoint(Path(name))
    else:
        model = load_bundle(bundle_folder(name))
    try:
        model.encoder.to(device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"The device {device!r} cannot be used: {str(error).splitlines()[0]}") from None
    return model


def load_bundle(folder: Path) -> FaceModel:
    """Load a bundle for torch, after an integrity check of all its files.

    Raises:
        InputError: a file or field is missing, of another format, or was changed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    bundle = open_bundle(folder)
    if bundle.metadata.quantization != "none":
        raise InputError(
            f"The bundle {folder} computes in {bundle.metadata.quantization} and has no weights for torch: "
            "use the engine onnx, or the bundle that it was made from."
        )
    weights = bundle.read(WEIGHTS)
    bundle.check([name for name in bundle.files if name != WEIGHTS])
    try:
        encoder = build_encoder(bundle.metadata.configuration, load(weights))
    except SafetensorError as error:
        raise bundle.damaged(error) from None
    if (bundle.metadata.input_spec, bundle.metadata.embedding_size) != (encoder.input_spec, encoder.embedding_size):
        raise bundle.damaged("field input differs from that of its encoder")
    return FaceModel(encoder, bundle.metadata)


def load_checkpoint(path: Path) -> FaceModel:
    """Load the encoder and thresholds of a checkpoint that training wrote, without unpickling code.

    Raises:
        InputError: the file is not such a checkpoint.
    """
    import torch

    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        configuration = dict(checkpoint["hyper_parameters"]["encoder"])
        state = {k.removeprefix("encoder."): v for k, v in checkpoint["state_dict"].items() if k.startswith("encoder.")}
    except Exception as error:  # torch's unpickler raises anything, and advises to trust the file
        raise InputError(f"{path} is not a checkpoint of siamese-verify ({type(error).__name__}).") from None
    measured = checkpoint.get("validation") or {}
    data = (checkpoint["hyper_parameters"].get("data") or {}).get("name")
    return FaceModel.create(
        str(path),
        build_encoder(configuration, state),
        configuration,
        read_operating_points(measured.get("operating_points", [])),
        eer_threshold=measured.get("eer_threshold"),
        measured_on=f"all {measured.get('pairs', 0):,} pairs of the people held out from {data} training",
        training={"data": data, "pretrained": configuration.get("pretrained")},
        metrics=measured,
    )


def encoder_class(configuration: Mapping[str, Any]) -> Callable[..., Encoder]:
    """Return the encoder class that a configuration names; nothing else is ever imported or called.

    Raises:
        InputError: it is not one of `siamese_verify.encoders`.
    """
    from siamese_verify import encoders

    target = str(configuration.get("_target_", ""))
    module, _, name = target.rpartition(".")
    if module != "siamese_verify.encoders" or name == "Encoder" or name not in encoders.__all__:
        raise InputError(
            f"The encoder {target!r} is not one of siamese_verify.encoders, and a bundle can hold no other."
        )
    found: Callable[..., Encoder] = getattr(encoders, name)
    return found


def build_encoder(configuration: Mapping[str, Any], state: Mapping[str, Tensor]) -> Encoder:
    """Build an encoder in evaluation mode.

    Args:
        configuration: `_target_`, a class of `siamese_verify.encoders`, and its arguments.
        state: its state dict.

    Raises:
        InputError: another target, wrong arguments, or weights that do not fit.
    """
    create = encoder_class(configuration)
    try:
        encoder = create(**_encoder_arguments(configuration))
        encoder.load_state_dict(state)
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        name = configuration["_target_"].rpartition(".")[2]
        raise InputError(f"The weights do not fit the encoder {name}: {str(error).splitlines()[0]}") from None
    return encoder.eval()


def _encoder_arguments(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of an encoder: nested crops and encoders are built, and pretrained weights are not downloaded."""
    arguments = {name: value for name, value in configuration.items() if name != "_target_"}
    if arguments.get("pretrained"):
        arguments["pretrained"] = None  # its weights are in the bundle
    if isinstance(arguments.get("crop"), Mapping):
        arguments["crop"] = Crop(**{key: value for key, value in arguments["crop"].items() if key != "_target_"})
    if isinstance(inner := arguments.get("encoder"), Mapping):
        if "encoder" in inner:
            raise InputError("An encoder may wrap one encoder, not a wrapped one.")
        arguments["encoder"] = encoder_class(inner)(**_encoder_arguments(inner))
    return arguments
