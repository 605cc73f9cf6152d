from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from siamese_verify.errors import InputError
from siamese_verify.structures import Crop, InputSpec


@pytest.mark.parametrize(
    "wrong", [{"kind": "round"}, {"margin": -1.0}, {"margin": float("nan")}, {"fraction": 0.0}, {"fraction": 1.1}]
)
def test_a_crop_that_cannot_be_cut_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="A crop"):
        Crop(**wrong)


def test_a_margin_as_wide_as_the_crop_is_refused() -> None:
    with pytest.raises(InputError, match="leaves nothing"):
        InputSpec(32, crop=Crop("box", margin=32))


def test_an_input_spec_survives_a_dictionary() -> None:
    spec = InputSpec(96, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), Crop("center", fraction=0.5))
    assert InputSpec.from_dict(asdict(spec)) == spec
