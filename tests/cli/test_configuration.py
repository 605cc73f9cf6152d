"""Values of the wrong kind are told by the names they are set by, before anything is made of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from siamese_verify.cli.configuration import CONF, check_values
from siamese_verify.errors import InputError

Configured = Callable[..., DictConfig]
GROUPS = ("encoder", "loss", "miner", "sampler", "augmentation", "optimizer", "scheduler", "trainer", "logger", "data")


@pytest.mark.parametrize("group", GROUPS)
def test_every_value_that_ships_is_of_its_kind(group: str, configured: Configured, tmp_path: Path) -> None:
    for choice in sorted((CONF / group).glob("*.yaml")):
        check_values(configured("train", tmp_path, f"{group}={choice.stem}"))


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("seed=1.5", "seed must be a whole number from 0 to 4294967295, got 1.5."),
        ("optimizer.lr=abc", "optimizer.lr must be a number, got 'abc'."),
        ("encoder.size=big", "encoder.size must be a whole number, got 'big'."),
        ("encoder.normalize=2", "encoder.normalize must be true or false, got 2."),
        ("encoder.crop.kind=x", "encoder.crop.kind must be one of whole, center, box, five_point, got 'x'."),
        ("data.photos.identities=many", "data.photos.identities must be a whole number, got 'many'."),
        ("data=folder data.root=2024", "data.root must be text (in quotes: \"'...'\"), got 2024."),
        ("sampler.identities_per_batch=3.5", "sampler.identities_per_batch must be a whole number, got 3.5."),
        ("augmentation.scale=0.5", "augmentation.scale must be a list, got 0.5."),
        ("trainer.max_epochs=abc", "trainer.max_epochs must be a whole number or null, got 'abc'."),
        ("loss.margin=x", "loss.margin must be a number, got 'x'."),
        (
            "datamodule.on_multiple_faces=any",
            "datamodule.on_multiple_faces must be one of error, largest, central, got 'any'.",
        ),
        ("allow_leakage=perhaps", "allow_leakage must be true or false, got 'perhaps'."),
    ],
)
def test_another_kind_is_refused(override: str, sentence: str, configured: Configured, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        check_values(configured("train", tmp_path, *override.split()))
    assert str(refused.value) == sentence
