"""`siamese-verify center`: a model that adds the mirror image and subtracts the mean embedding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from siamese_verify.cli.center import center
from siamese_verify.data import FaceCropper
from siamese_verify.datasets import SyntheticFaces
from siamese_verify.encoders import MirroredEncoder
from siamese_verify.errors import InputError
from siamese_verify.evaluation import score_pairs
from siamese_verify.models import embed_faces, load_model

SMALL = ("data=synthetic", "data.photos.identities=8", "data.photos.images=3", "protocol=synthetic")
PROTOCOL = ("protocol.photos.identities=12", "protocol.photos.images=4", "resamples=0", "threads=1")


@pytest.mark.parametrize("mirror", [True, False])
def test_the_mean_over_the_data_is_subtracted_and_thresholds_are_those_of_the_protocol(
    mirror: bool, tiny_run: Path, tmp_path: Path, configured: Callable[..., DictConfig]
) -> None:
    settings = (f"model='{tiny_run}'", f"mirror={str(mirror).lower()}", f"output={tmp_path / 'out'}")
    center(configured("center", tmp_path / "x", *SMALL, *PROTOCOL, *settings), tmp_path / "out")
    plain, centered = load_model(tiny_run), load_model(tmp_path / "out")
    assert isinstance(centered.encoder, MirroredEncoder)

    def faces(photos: SyntheticFaces) -> torch.Tensor:
        return FaceCropper(plain.encoder.input_spec)(photos, range(len(photos)), "Faces")[1]

    def sides(images: torch.Tensor) -> np.ndarray:
        both = [embed_faces(plain.encoder, images)] + [embed_faces(plain.encoder, images.flip(3))] * mirror
        return np.asarray(np.concatenate(both, axis=1).astype(np.float64) / np.sqrt(len(both)))

    mean = sides(faces(SyntheticFaces(8, 3))).mean(axis=0)
    np.testing.assert_allclose(centered.encoder.center, mean, atol=1e-6)
    unseen = SyntheticFaces(12, 4, first=1_000_000)
    expected = sides(faces(unseen)) - mean
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = embed_faces(centered.encoder, faces(unseen))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    left, right = np.triu_indices(len(unseen), 1)
    impostors = score_pairs(found, left, right)[unseen.identities[left] != unseen.identities[right]]
    for point in centered.metadata.operating_points:
        assert point.impostors == len(impostors)
        assert (impostors >= point.threshold - 1e-6).mean() == pytest.approx(point.far)  # but for a last bit
    assert centered.metadata.training["center"] == "24 photos of synthetic"
    assert centered.metadata.training["data"] == plain.metadata.training["data"]
    assert centered.metadata.measured_on == "synthetic faces, all pairs of unseen people"
    assert (tmp_path / "out" / "report" / "report.html").is_file()
    with pytest.raises(InputError, match="holds a bundle already"):
        center(configured("center", tmp_path / "x", *SMALL, *PROTOCOL, *settings), tmp_path / "out")
    again = (f"model='{tmp_path / 'out'}'", f"output={tmp_path / 'other'}")
    with pytest.raises(InputError, match="is centered already"):
        center(configured("center", tmp_path / "x", *SMALL, *PROTOCOL, *again), tmp_path / "other")


def test_a_model_is_needed(tmp_path: Path, configured: Callable[..., DictConfig]) -> None:
    with pytest.raises(InputError, match="No model is given"):
        center(configured("center", tmp_path, *SMALL, f"output={tmp_path / 'out'}"), tmp_path / "out")
