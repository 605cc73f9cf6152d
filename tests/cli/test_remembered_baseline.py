"""The baseline of a training is measured once for a protocol, on photos opened once, and then remembered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf

from siamese_verify.cli import train
from siamese_verify.cli.measure import Figures, Result, measure
from siamese_verify.cli.remembered_baseline import FILE, KEPT, _text, recall, remember
from siamese_verify.data import FaceCropper
from siamese_verify.datasets import SyntheticFaces
from siamese_verify.encoders import SmallResNet, raw_inputs
from siamese_verify.models import FaceModel
from siamese_verify.protocols.protocol import PairProtocol, all_pairs
from siamese_verify.run_record import RunRecord
from siamese_verify.structures import Crop

BASELINE = {"_target_": "siamese_verify.encoders.raw_inputs"}


class Counted(SyntheticFaces):
    """Counts how often a photo is opened."""

    opened = 0

    def __getitem__(self, row: int) -> Any:
        self.opened += 1
        return super().__getitem__(row)


@pytest.fixture
def model() -> FaceModel:
    return FaceModel.create("mine", SmallResNet(size=32, width=4, embedding_size=16, crop=Crop("whole")).eval())


@pytest.fixture
def measured(model: FaceModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Measures beside a baseline; returns its figures and the names of what was not remembered."""
    names: list[str] = []

    def counting(name: str, *given: Any, **options: Any) -> Result:
        names.append(name)
        return measure(name, *given, **options)

    monkeypatch.setattr(train, "measure", counting)

    def run(protocol: PairProtocol, commit: str = "none", **settings: Any) -> tuple[Figures, list[str]]:
        names.clear()
        cfg: DictConfig = OmegaConf.create(
            {"cache": str(tmp_path / "cache"), "resamples": 9, "remember_baseline": True, "baseline": BASELINE}
        )
        cfg.update(settings)
        spec, record = model.encoder.input_spec, RunRecord()
        record.versions = {"commit": commit}
        _, (figures,) = train.measure_beside(model, raw_inputs(spec), protocol, record, cfg)
        return figures, names[1:]

    return run


def test_a_baseline_is_measured_once_and_its_photos_are_opened_once(measured: Any, model: FaceModel) -> None:
    photos = Counted(6, 3, 32)
    protocol = all_pairs(photos, "six people")
    first, measured_then = measured(protocol)
    assert (measured_then, photos.opened) == (["raw pixels"], 18)
    spec = model.encoder.input_spec
    alone = measure("raw pixels", raw_inputs(spec), protocol, FaceCropper(spec), resamples=9).figures
    assert first == alone
    assert first.metrics["EER"]["low"] < first.metrics["EER"]["high"]
    assert measured(protocol) == (first, [])


def test_what_decides_a_baseline_is_what_it_is_remembered_by(measured: Any) -> None:
    protocol = all_pairs(SyntheticFaces(6, 3, 32), "six people")
    measured(protocol)
    again = ["raw pixels"]
    assert measured(protocol, resamples=0)[1] == again
    assert measured(all_pairs(SyntheticFaces(6, 3, 32, seed=1), "six people"))[1] == again  # same names, other pixels
    assert measured(all_pairs(SyntheticFaces(6, 3, 32), "others"))[1] == again
    assert measured(protocol, remember_baseline=False)[1] == again
    assert measured(protocol, cache=None)[1] == again
    assert measured(protocol)[1] == []
    own = {**BASELINE, "_target_": "own.Network"}  # its weights and its code may change
    assert [measured(protocol, baseline=own)[1] for _ in range(2)] == [again, again]
    assert [measured(protocol, "0f3a+")[1] for _ in range(2)] == [again, again]  # code that no commit holds


def test_arrays_of_the_same_bytes_but_another_kind_or_shape_differ() -> None:
    array = np.array([[1, 0], [2, 0]], np.int32)
    same_bytes = [array, array.reshape(4), array.view(np.uint32), array.view(np.int64), array.view("S4")]
    assert len({_text(one) for one in same_bytes}) == 5
    assert _text(np.array(["a", "b"], object)) == _text(np.array(["a", "b"], object))


@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff", b"[1]", b'{"key": 3}', b'{"key": ["a", "b", 1, 2]}', b"[" * 9999]
)
def test_a_corrupt_or_foreign_file_is_ignored_and_replaced(content: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert recall(tmp_path, "key") is None
    figures = Figures("raw pixels", "VerificationReport", {"EER": {"rate": 0.25}}, ("A sentence.",))
    remember(tmp_path, "key", figures)
    assert recall(tmp_path, "key") == figures
    assert recall(tmp_path, "other") is None


def test_the_memory_is_bounded_and_may_be_missing(tmp_path: Path) -> None:
    for number in range(KEPT + 3):
        remember(tmp_path, str(number), Figures("raw pixels", "VerificationReport", {"AUC": number / 7}))
    assert [recall(tmp_path, str(number)) is None for number in range(5)] == [True, True, True, False, False]
    remember(tmp_path / FILE, "key", Figures("raw pixels", "VerificationReport", {}))  # no folder: left
    remember(None, "key", Figures("raw pixels", "VerificationReport", {}))
    assert recall(tmp_path / FILE, "key") is None
