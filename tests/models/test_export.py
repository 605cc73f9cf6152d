"""export: bundles that were compared with torch, and int8 only where it is as good and faster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from siamese_verify.errors import InputError
from siamese_verify.models import load_bundle, load_model, open_bundle, quantization
from siamese_verify.models.bundle import DETECTOR
from siamese_verify.models.bundle_export import export_bundle, synthetic_pairs
from siamese_verify.models.quantization import check_gain, save_quantized
from siamese_verify.verification import Verifier


def test_a_checkpoint_becomes_a_bundle_that_says_what_was_compared(tiny_run: Path, tmp_path: Path) -> None:
    checkpoint = tiny_run / "checkpoints" / "best.ckpt"
    said = list(export_bundle(str(checkpoint), tmp_path / "out", {}, license="mine", synthetic=True))
    bundle = open_bundle(tmp_path / "out")
    assert set(bundle.files) == {"README.md", "model.onnx", "model.safetensors"}  # its faces need no detector
    assert not [name for name in bundle.files if name.startswith(DETECTOR)]
    assert (bundle.checks["flips"], bundle.checks["pairs"]) == (0, 400)
    assert bundle.checks["lowest_cosine_of_faces"] > 0.9999
    assert bundle.metadata.license == "mine"
    assert "0 decisions about 400 pairs differ" in said[0]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| license of the weights | mine |" in card
    assert "printed photo" in card


def test_without_faces_of_people_one_has_to_ask_for_drawn_ones(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError, match=r"data/lfw to compare on: give --faces, or --synthetic for drawn faces, .* and show less"
    ):
        list(export_bundle(str(tiny_run), tmp_path / "out", {}))
    with pytest.raises(InputError, match="not --synthetic"):
        list(export_bundle(str(tiny_run), tmp_path / "out", {}, quantize=True, synthetic=True))
    assert not (tmp_path / "out").exists()


@pytest.fixture
def quantized(tiny_run: Path, tmp_path: Path) -> Callable[[], Path]:
    def save() -> Path:
        model = load_model(tiny_run)
        faces = synthetic_pairs(model.metadata.input_spec)
        save_quantized(tmp_path / "int8", model, {}, faces, faces.crops[::5])
        return tmp_path / "int8"

    return save


@pytest.mark.parametrize(
    ("eer", "milliseconds", "complaint"),
    [
        (0.02, 2.5, r"not faster.*EER 2\.00% instead of 2\.00% on LFW, 2\.50 ms a face instead of 1\.25"),
        (0.0221, 1.0, r"rise by more than 0\.2%: EER 2\.21% instead of 2\.00%"),
        (float("nan"), 1.0, "rise by more"),
    ],
)
def test_a_slower_or_worse_int8_network_is_refused_with_both_numbers(
    eer: float, milliseconds: float, complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        check_gain(0.02, eer, 1.25, milliseconds, "LFW")


def test_an_int8_network_that_is_as_good_and_faster_is_kept() -> None:
    check_gain(0.02, 0.0219, 1.25, 1.24, "LFW")


def test_a_good_int8_network_is_a_space_of_its_own_and_runs_on_onnx_alone(
    quantized: Callable[[], Path], tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "check_gain", lambda *_: None)  # of a tiny network int8 gains nothing
    folder = quantized()
    rough, precise = Verifier.load(folder), Verifier.load(tiny_run)
    assert rough.metadata.quantization == "int8"
    assert rough.metadata.fingerprint != precise.metadata.fingerprint
    assert rough.metadata.measured_on.endswith("by the float32 network")
    crops = synthetic_pairs(precise.metadata.input_spec).crops
    alike = np.einsum("nd,nd->n", rough.embed_crops(crops), precise.embed_crops(crops))
    assert 0.8 < alike.mean() < 0.999999  # alike, and not the same
    assert "model.safetensors" not in open_bundle(folder).files
    assert f"| fingerprint | `{rough.metadata.fingerprint}` |" in (folder / "README.md").read_text()
    with pytest.raises(InputError, match="computes in int8 and has no weights for torch"):
        load_bundle(folder)
