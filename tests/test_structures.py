from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from siamese_verify.errors import InputError
from siamese_verify.structures import Crop, InputSpec


@pytest.mark.parametrize(
    "wrong", [{"kind": "round"}, {"margin": -1.0}, {"margin": float("nan")}, {"fraction": 0.0}, {"fraction": 1.1}]
)
def test_invalid_crops_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="A crop"):
        Crop(**wrong)


def test_the_margin_is_smaller_than_the_crop() -> None:
    with pytest.raises(InputError, match="margin of a crop of 32 pixels must be smaller"):
        InputSpec(32, crop=Crop("box", margin=32))


@pytest.mark.parametrize("crop", [{"kind": "none"}, {"kind": "none", "margin": 6.0}])
def test_an_encoder_of_photos_is_refused_for_arrays_with_the_way_out(crop: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"takes photos, but the data are arrays: set encoder=array_resnet or"):
        InputSpec(32, crop=Crop(**crop))
    with pytest.raises(InputError, match="one or more positive numbers"):
        InputSpec.of_arrays(())


def test_input_spec_round_trips_through_a_dictionary() -> None:
    spec = InputSpec(96, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), Crop("center", fraction=0.5))
    assert InputSpec.from_dict(asdict(spec)) == spec
