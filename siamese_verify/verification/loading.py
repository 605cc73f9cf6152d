"""A model by any of its names."""

from __future__ import annotations

from pathlib import Path

from siamese_verify.errors import InputError
from siamese_verify.verification.bundle import load_bundle
from siamese_verify.verification.checkpoint import load_checkpoint
from siamese_verify.verification.model import PRETRAINED, FaceModel
from siamese_verify.verification.pretrained import load_pretrained


def load_model(name: str | Path, device: str = "cpu") -> FaceModel:
    """Load a model.

    Args:
        name: `casia-webface`, `vggface2`, a bundle folder, a run folder, or a Lightning checkpoint.
        device: where the encoder goes.

    Raises:
        InputError: there is no such model, it is damaged, or there is no such device.
    """
    path = Path(name)
    if str(name) in PRETRAINED:
        model = load_pretrained(str(name))
    elif path.is_file():
        model = load_checkpoint(path)
    elif (path / "bundle").is_dir():
        model = load_bundle(path / "bundle")
    elif (path / "checkpoints").is_dir():
        raise InputError(f"The run {name} has no bundle, it did not finish: give {path / 'checkpoints' / 'best.ckpt'}.")
    elif (path / "bundle.json").is_file() or (path / "model.safetensors").is_file():
        model = load_bundle(path)
    else:
        raise InputError(f"There is no model {name}: give {', '.join(PRETRAINED)}, a bundle folder or a checkpoint.")
    try:
        model.encoder.to(device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"The device {device!r} cannot be used: {str(error).splitlines()[0]}") from None
    return model
