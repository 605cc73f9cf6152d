"""How faces are cut: what `prepare` is told, and whether faces that were cut before fit an encoder."""

from __future__ import annotations

from dataclasses import dataclass, replace

from siamese_verify.errors import InputError
from siamese_verify.faces import Choice
from siamese_verify.types import Crop, InputSpec, Photos


@dataclass(frozen=True)
class Alignment:
    """How faces are prepared.

    Attributes:
        spec: size and crop.
        choice: which of several faces is the subject, see `siamese_verify.faces.choose_face`.
        quality: of the JPEGs, 1 ... 100.
    """

    spec: InputSpec
    choice: Choice = "central"
    quality: int = 95

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise InputError(f"The quality of JPEGs lies in 1 ... 100, got {self.quality}.")
        if self.choice not in ("central", "largest", "probable"):
            raise InputError(f"Of several faces the central, largest or probable one is taken, not {self.choice!r}.")


def spec_for(photos: Photos, spec: InputSpec) -> InputSpec:
    """How photos are cut for an encoder: as it says, or not at all if they were aligned for it before.

    Raises:
        InputError: they were aligned in another way.
    """
    aligned: InputSpec | None = getattr(photos, "aligned", None)
    if aligned is None:
        return spec
    if geometry(aligned) != geometry(spec) or aligned.size < spec.size:
        raise InputError(
            f"These faces were aligned as {describe(aligned)}, but the encoder takes {describe(spec)}: prepare them "
            f"anew, or set data.crop and the encoder's crop to what they are."
        )
    return replace(spec, crop=Crop("whole", resample=spec.crop.resample))


def geometry(spec: InputSpec) -> tuple[object, ...]:
    """What decides which part of a photo a crop shows, whatever its size."""
    crop = spec.crop
    if crop.kind == "box":
        return crop.kind, round(crop.margin / spec.size, 6), crop.square
    return (crop.kind, crop.fraction) if crop.kind == "center" else (crop.kind,)


def describe(spec: InputSpec) -> str:
    """An input in words, as in `box of 160 pixels, margin 32`."""
    crop = spec.crop
    details = [f"{crop.kind} of {spec.size} pixels"]
    details += [f"margin {crop.margin:g}"] * (crop.kind == "box") + ["square"] * (crop.kind == "box" and crop.square)
    return ", ".join([*details, *[f"fraction {crop.fraction:g}"] * (crop.kind == "center")])
