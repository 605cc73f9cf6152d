"""An encoder and what is known about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from siamese_verify import encoders
from siamese_verify.errors import InputError
from siamese_verify.evaluation import OperatingPoint, ScoreMeaning
from siamese_verify.types import Crop

PRETRAINED = ("casia-webface", "vggface2")  # names of facenet-pytorch's weights


@dataclass(frozen=True)
class FaceModel:
    """An encoder and what is known about it.

    Attributes:
        name: what it was loaded by.
        encoder: in evaluation mode.
        configuration: `_target_` and arguments that build the encoder.
        operating_points: thresholds by false accept rate; empty where none were ever measured.
        eer_threshold: of the same measurement; None without one.
        measured_on: the data and pairs behind them.
        training: what the weights were trained on: `data` and `pretrained`, each a name or None.
        metrics: of the same measurement.
        meaning: of its scores, as probabilities and among strangers; None where it was never measured.
    """

    name: str
    encoder: encoders.Encoder
    configuration: dict[str, Any]
    operating_points: tuple[OperatingPoint, ...] = ()
    eer_threshold: float | None = None
    measured_on: str = ""
    training: dict[str, str | None] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    meaning: ScoreMeaning | None = None

    def operating_point(self, far: float | None = None) -> OperatingPoint:
        """The threshold for a false accept rate.

        Args:
            far: one of those measured; by default the strictest that enough impostors stand behind, else the loosest.

        Raises:
            InputError: none was measured, or not this one.
        """
        if not self.operating_points:
            measure = f", or measure it with `siamese-verify evaluate model={self.name}`, which keeps it"
            raise InputError(
                f"No threshold of {self.name} was ever measured: give one of your own with --threshold"
                f"{measure if self.name in PRETRAINED else ''}."
            )
        by_far = sorted(self.operating_points, key=lambda point: point.target)
        if far is None:
            return next((point for point in by_far if not point.insufficient), by_far[-1])
        for point in by_far:
            if abs(point.target - far) <= 1e-9 * far:
                return point
        measured = ", ".join(f"{point.target:g}" for point in by_far)
        raise InputError(
            f"No threshold of {self.name} for a false accept rate of {far:g} was measured: use {measured}."
        )


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


def read_operating_points(rows: list[dict[str, Any]]) -> tuple[OperatingPoint, ...]:
    """Read operating points from JSON, where an infinite threshold is null.

    Raises:
        TypeError: fields are missing or unknown.
    """
    return tuple(
        OperatingPoint(**{**row, "threshold": float("inf") if row["threshold"] is None else row["threshold"]})
        for row in rows
    )
