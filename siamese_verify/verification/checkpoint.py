"""A model from a Lightning checkpoint of ours."""

from __future__ import annotations

from pathlib import Path

import torch

from siamese_verify.errors import InputError
from siamese_verify.verification.model import FaceModel, build_encoder
from siamese_verify.verification.record import read_operating_points


def load_checkpoint(path: Path) -> FaceModel:
    """Read the encoder and its thresholds from a checkpoint that training wrote, without unpickling code.

    Raises:
        InputError: the file is no such checkpoint.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        configuration = dict(checkpoint["hyper_parameters"]["encoder"])
        state = {k.removeprefix("encoder."): v for k, v in checkpoint["state_dict"].items() if k.startswith("encoder.")}
    except Exception as error:  # torch's unpickler raises anything on what is no pickle, and advises to trust the file
        raise InputError(f"{path} is not a checkpoint of siamese-verify ({type(error).__name__}).") from None
    measured = checkpoint.get("validation") or {}
    data = (checkpoint["hyper_parameters"].get("data") or {}).get("name")
    return FaceModel.of(
        str(path),
        build_encoder(configuration, state),
        configuration,
        read_operating_points(measured.get("operating_points", [])),
        eer_threshold=measured.get("eer_threshold"),
        measured_on=f"all {measured.get('pairs', 0):,} pairs of the people held out from {data} training",
        training={"data": data, "pretrained": configuration.get("pretrained")},
        metrics=measured,
    )
