"""Load models by name: a pretrained name, a bundle, a run or a checkpoint."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from siamese_verify.errors import InputError, did_you_mean
from siamese_verify.models.bundle import (
    MANIFEST,
    WEIGHTS,
    Bundle,
    FaceModel,
    build_encoder,
    can_create,
    load_bundle,
    open_bundle,
    without_weights,
)
from siamese_verify.models.metadata import PRETRAINED, read_operating_points, training_of
from siamese_verify.opencv_zoo import SFACE
from siamese_verify.run_record import runs_within

if TYPE_CHECKING:
    from siamese_verify.encoders import Encoder


def load_model(
    name: str | Path,
    device: str = "cpu",
    trust_code: str | Collection[str] = (),
    encoder: Encoder | None = None,
    *,
    or_onnx: bool = False,
) -> FaceModel:
    """Load a model for torch.

    Args:
        name: `sface`, `casia-webface`, `vggface2`, `openface`, a bundle folder, a run folder, or a
            Lightning checkpoint.
        device: of the encoder; `auto` for a GPU if there is one.
        trust_code: classes of others, such as `my_package.MyNet`, that may be imported to create its encoder.
        encoder: takes the weights, as a copy, instead of one that is created; not those of a pretrained model.
        or_onnx: where a bundle's encoder cannot be created, embed by its ONNX network, without weights.

    Raises:
        InputError: there is no such model, it is damaged, its encoder needs code that is not trusted or is not to be
            given, or there is no such device.
    """
    if str(name) in PRETRAINED:
        from siamese_verify.models.registry import load_pretrained

        if encoder is not None:
            raise InputError(f"The pretrained model {name} has an encoder of its own: leave encoder out.")
        model = load_pretrained(str(name))
    elif Path(name).is_file():
        model = load_checkpoint(name, trust_code, encoder)
    else:
        folder = bundle_folder(name)
        if (
            or_onnx
            and device in ("auto", "cpu")
            and encoder is None
            and not can_create(open_bundle(folder), trust_code)
        ):
            from siamese_verify.models.onnx_encoder import load_onnx

            return load_onnx(folder, device)
        model = load_bundle(folder, trust_code, encoder)
    from siamese_verify.pairwise.pair_scores import torch_device

    model.encoder.to(torch_device(device))
    return model


def load_checkpoint(
    path: str | Path, trust_code: str | Collection[str] = (), encoder: Encoder | None = None
) -> FaceModel:
    """Load the encoder and thresholds of a checkpoint that `VerificationModule` wrote, without unpickling code.

    Args:
        path: of the checkpoint.
        trust_code: see `load_model`.
        encoder: see `load_model`; needed where the module was trained without a configuration.

    Raises:
        InputError: the file is not such a checkpoint; see `load_model`.
    """
    settings, state, measured = _read_checkpoint(path)
    configuration, training = dict(settings.get("encoder") or {}), training_of(settings)
    people = f"all {measured.get('pairs', 0):,} pairs of the people held out from {training['data'] or 'its'} training"
    return FaceModel.create(
        str(path),
        build_encoder(configuration, state, trust_code, encoder),
        configuration,
        read_operating_points(measured.get("operating_points", [])),
        eer_threshold=measured.get("eer_threshold"),
        measured_on=people if measured else "",
        training=training,
        metrics=measured,
    )


def _read_checkpoint(path: str | Path, lazily: bool = False) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Configuration, state of the encoder and last validation of a checkpoint, read without unpickling code.

    Args:
        path: of the checkpoint.
        lazily: read weights only when they are used.

    Raises:
        InputError: the file is not such a checkpoint.
    """
    import torch

    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=lazily)
        state = {k.removeprefix("encoder."): v for k, v in checkpoint["state_dict"].items() if k.startswith("encoder.")}
        settings = dict(checkpoint.get("hyper_parameters") or {})
        training_of(settings), dict(settings.get("encoder") or {})  # which must be what they are here
        return settings, state, dict(checkpoint.get("validation") or {})
    except Exception as error:  # torch's unpickler raises anything, and advises to trust the file
        raise InputError(f"{path} is not a checkpoint of siamese-verify ({type(error).__name__}).") from None


def torch_model(bundle: Bundle) -> FaceModel | None:
    """The model of a bundle for torch, if it needs no code of others; None where it has no weights for torch."""
    if can_create(bundle, ()):
        return load_bundle(bundle.folder)
    if bundle.metadata.weights_sha256 == SFACE.sha256:  # as published: torch takes them from that file
        return load_model("sface")
    return None


def find_bundle(name: str | Path) -> Bundle:
    """Open the bundle of a pretrained name, bundle folder or run.

    Raises:
        InputError: there is no such model, it is damaged, or it is a checkpoint.
    """
    if str(name) in PRETRAINED:
        from siamese_verify.models.registry import pretrained_bundle

        return open_bundle(pretrained_bundle(str(name)))
    if Path(name).is_file():
        raise InputError(
            f"{name} is a checkpoint: `siamese-verify export {shlex.quote(str(name))} --output BUNDLE` makes a bundle."
        )
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
    if str(name) and path.is_dir():
        raise InputError(
            f"{name}{runs_within(path) or ' holds no model: give a run, a bundle folder or a checkpoint.'}"
        )
    close = did_you_mean(str(name), PRETRAINED)
    choices = f"give {', '.join(PRETRAINED)}, a run, a bundle folder or a checkpoint."
    raise InputError(f"There is no model {name}: {close or choices}")


class Origin(NamedTuple):
    """What is known of a model without its weights.

    Attributes:
        configuration: of its encoder; empty if only its author's script can create it.
        training: see `ModelMetadata`.
        weights_sha256: empty for a checkpoint.
    """

    configuration: dict[str, Any]
    training: dict[str, Any]
    weights_sha256: str


def read_origin(name: str | Path) -> Origin:
    """What a model is, by its manifest or checkpoint; no code is imported for it, and no encoder created.

    Args:
        name: a pretrained name, a bundle folder, a run folder or a checkpoint.

    Raises:
        InputError: there is no such model, it is damaged, or has no weights for torch.
    """
    if str(name) in PRETRAINED:
        from siamese_verify.models.registry import SOURCES

        target, origin = SOURCES[str(name)].target, SOURCES[str(name)].origin
        return Origin({"_target_": target, "pretrained": str(name)}, {"data": origin, "pretrained": str(name)}, "")
    if Path(name).is_file():
        settings = _read_checkpoint(name, lazily=True)[0]
        return Origin(dict(settings.get("encoder") or {}), training_of(settings), "")
    bundle = open_bundle(bundle_folder(name))
    if WEIGHTS not in bundle.files:
        raise without_weights(bundle)
    metadata = bundle.metadata
    return Origin(dict(metadata.configuration), dict(metadata.training), metadata.weights_sha256)
