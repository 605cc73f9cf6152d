"""Pixels: its cosine is the correlation of two images."""

from __future__ import annotations

import numpy as np
import torch

from siamese_verify.encoders import Pixels

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)


def test_the_cosine_of_gray_images_is_their_correlation() -> None:
    gray = np.repeat(IMAGES[:, :1], 3, axis=1)
    embeddings = Pixels(size=8)(torch.from_numpy(gray)).numpy()
    np.testing.assert_allclose(embeddings @ embeddings.T, np.corrcoef(gray[:, 0].reshape(5, -1)), atol=1e-5)


def test_the_cosine_of_color_images_is_the_correlation_with_every_channel_about_its_own_mean() -> None:
    embeddings = Pixels(size=8)(torch.from_numpy(IMAGES)).numpy()
    for i, left in enumerate(IMAGES.astype(np.float64)):
        for j, right in enumerate(IMAGES.astype(np.float64)):
            across = sum(((a - a.mean()) * (b - b.mean())).sum() for a, b in zip(left, right, strict=True))
            spread = [np.sqrt(sum(((c - c.mean()) ** 2).sum() for c in image)) for image in (left, right)]
            np.testing.assert_allclose(embeddings[i] @ embeddings[j], across / (spread[0] * spread[1]), atol=1e-5)


def test_brightness_contrast_and_tint_do_not_count() -> None:
    tinted = 0.5 * IMAGES + np.array([10, 40, 90]).reshape(3, 1, 1)
    plain, changed = (Pixels(size=8)(torch.from_numpy(images).float()) for images in (IMAGES, tinted))
    torch.testing.assert_close(plain, changed, atol=1e-5, rtol=0)


def test_there_is_nothing_to_learn() -> None:
    assert not list(Pixels().parameters())


def test_large_images_are_compared_at_64_pixels() -> None:
    small = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), dtype=np.uint8))
    large = small.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    found = Pixels(size=128)(large)
    assert found.shape == (2, Pixels(size=128).embedding_size) == (2, 3 * 64 * 64 + 1)
    torch.testing.assert_close(found, Pixels(size=64)(small))
