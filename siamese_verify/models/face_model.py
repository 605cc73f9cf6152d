"""An encoder and what is known about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from siamese_verify import encoders
from siamese_verify.errors import InputError
from siamese_verify.evaluation import OperatingPoint
from siamese_verify.models.metadata import ModelMetadata, read_operating_points
from siamese_verify.structures import Crop


@dataclass(frozen=True)
class FaceModel:
    """An encoder and what is known about it.

    Attributes:
        encoder: in evaluation mode.
        metadata: the rest.
    """

    encoder: encoders.Encoder
    metadata: ModelMetadata

    @classmethod
    def of(
        cls,
        name: str,
        encoder: encoders.Encoder,
        configuration: dict[str, Any],
        operating_points: tuple[OperatingPoint, ...] = (),
        **known: Any,
    ) -> FaceModel:
        """Put a model together; `known` are further fields of `ModelMetadata`."""
        spec, embedding_size = encoder.input_spec, encoder.embedding_size
        return cls(encoder, ModelMetadata(name, configuration, spec, embedding_size, operating_points, **known))


def encoder_class(configuration: Mapping[str, Any]) -> Callable[..., encoders.Encoder]:
    """The class that a config names; nothing else is ever imported or called.

    Raises:
        InputError: it is not one of `siamese_verify.encoders`, by that name.
    """
    target = str(configuration.get("_target_", ""))
    module, _, name = target.rpartition(".")
    if module != "siamese_verify.encoders" or name == "Encoder" or name not in encoders.__all__:
        raise InputError(
            f"The encoder {target!r} is not one of siamese_verify.encoders, and a bundle can hold no other."
        )
    kind: Callable[..., encoders.Encoder] = getattr(encoders, name)
    return kind


def build_encoder(configuration: Mapping[str, Any], state: Mapping[str, Tensor]) -> encoders.Encoder:
    """Build an encoder of ours from its config and weights.

    Args:
        configuration: `_target_`, a class of `siamese_verify.encoders`, and its arguments.
        state: its state dict.

    Raises:
        InputError: another target, wrong arguments, or weights that do not fit.
    """
    kind = encoder_class(configuration)
    try:
        encoder = kind(**_arguments(configuration))
        encoder.load_state_dict(state)
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"The weights do not fit the encoder {kind.__name__}: {str(error).splitlines()[0]}") from None
    return encoder.eval()


def _arguments(configuration: Mapping[str, Any]) -> dict[str, Any]:
    arguments = {name: value for name, value in configuration.items() if name != "_target_"}
    if arguments.get("pretrained"):
        arguments["pretrained"] = None  # the weights come with the model
    if isinstance(arguments.get("crop"), Mapping):
        arguments["crop"] = Crop(**{key: value for key, value in arguments["crop"].items() if key != "_target_"})
    if isinstance(arguments.get("encoder"), Mapping):  # of an encoder around another one
        inner = arguments["encoder"]
        if "encoder" in inner:
            raise InputError("An encoder around an encoder around another is none of ours.")
        arguments["encoder"] = encoder_class(inner)(**_arguments(inner))
    return arguments


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
