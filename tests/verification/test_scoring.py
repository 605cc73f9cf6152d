from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from siamese_verify.data import FaceCropper
from siamese_verify.datasets import SyntheticFaces
from siamese_verify.encoders import SmallResNet
from siamese_verify.evaluation import score_pairs
from siamese_verify.models import FaceModel, TorchEngine, embed_photos
from siamese_verify.structures import Crop
from siamese_verify.verification import Verifier


@pytest.mark.parametrize("block", [1, 4, 2**22])
def test_scores_are_the_inner_products_of_the_rows_however_few_fit_at_once(block: int) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(6, 5)).astype(np.float32)
    left, right = rng.integers(0, 6, (2, 17))
    naive = [sum(float(a) * float(b) for a, b in zip(rows[i], rows[j], strict=True)) for i, j in np.c_[left, right]]
    np.testing.assert_allclose(score_pairs(rows, left, right, block), naive, rtol=1e-5)


def test_embeddings_to_compare_have_unit_length_even_of_an_encoder_that_does_not_normalize() -> None:
    torch.manual_seed(0)
    encoder = SmallResNet(size=16, width=4, crop=Crop("whole"), normalize=False).eval()
    faces = SyntheticFaces(identities=3, images=2, size=32)
    embeddings, rows = embed_photos(encoder, faces, FaceCropper(encoder.input_spec))
    assert rows.tolist() == list(range(6))
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    verifier = Verifier(FaceModel.create("raw", encoder, {}).metadata, TorchEngine(encoder))
    np.testing.assert_allclose(verifier.embed([faces[row] for row in range(6)]), embeddings, atol=1e-6)
    result = verifier.verify(faces[0], faces[1], threshold=0.5)
    assert result.score == pytest.approx(float(embeddings[0] @ embeddings[1]), abs=1e-5)


class Blank:
    """Photos of nothing."""

    names, identities = ("a", "b"), np.array([0, 1])

    def __len__(self) -> int:
        return 2

    def __getitem__(self, row: int) -> Image.Image:
        return Image.new("RGB", (64, 64))


def test_photos_without_a_face_have_no_embedding() -> None:
    encoder = SmallResNet(size=16, width=4, crop=Crop("box")).eval()
    cropper = FaceCropper(encoder.input_spec)
    embeddings, rows = embed_photos(encoder, Blank(), cropper)
    assert (embeddings.shape, len(rows), len(cropper.failures)) == ((0, encoder.embedding_size), 0, 2)
