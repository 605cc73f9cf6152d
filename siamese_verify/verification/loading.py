"""A model by any of its names."""

from __future__ import annotations

from pathlib import Path

from siamese_verify.errors import InputError
from siamese_verify.verification.bundle import load_bundle
from siamese_verify.verification.checkpoint import load_checkpoint
from siamese_verify.verification.model import FaceModel
from siamese_verify.verification.pretrained import PRETRAINED, load_pretrained


def load_model(name: str | Path, device: str = "cpu") -> FaceModel:
    """Load a model.

    Args:
        name: `casia-webface`, `vggface2`, a bundle folder, a run folder, or a Lightning checkpoint.
        device: where the encoder goes.

    Raises:
        InputError: there is no such model, or it is damaged.
    """
    path = Path(name)
    if str(name) in PRETRAINED:
        model = load_pretrained(str(name))
    elif (path / "bundle.json").is_file():
        model = load_bundle(path)
    elif (path / "bundle" / "bundle.json").is_file():
        model = load_bundle(path / "bundle")
    elif path.is_file():
        model = load_checkpoint(path)
    else:
        raise InputError(f"There is no model {name}: give {', '.join(PRETRAINED)}, a bundle folder or a checkpoint.")
    model.encoder.to(device)
    return model
