from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torchvision.io import decode_jpeg, encode_jpeg
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as vision

from siamese_verify.data import EachImage, FaceAugmentation
from siamese_verify.data.augmentation import LUMA, map_colors
from siamese_verify.data.batched_changes import compress
from siamese_verify.datasets import SyntheticFaces
from siamese_verify.errors import InputError

NOTHING: dict[str, Any] = {
    "flip": 0.0,
    "scale": (1.0, 1.0),
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "occlusion": 0.0,
}
ONE_BY_ONE = {
    "flip": {"flip": 0.5},
    "crop": {"scale": (0.4, 0.9)},
    "rotation": {"rotation": 20.0},
    "color": {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3},
    "grayscale": {"grayscale": 0.5},
    "blur": {"blur": 0.5},
    "occlusion": {"occlusion": 0.5},
    "jpeg": {"jpeg": 0.5},
}


def faces(count: int, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")


def test_nothing_changes_nothing() -> None:
    images = faces(5)
    assert torch.equal(FaceAugmentation(**NOTHING)(images), images)


@pytest.mark.parametrize("change", ONE_BY_ONE.values(), ids=ONE_BY_ONE.keys())
def test_each_change_changes_some_images_and_leaves_the_batch_itself(change: dict[str, Any]) -> None:
    images = faces(40)
    kept = images.clone()
    torch.manual_seed(0)
    augment = FaceAugmentation(**{**NOTHING, **change})
    found = augment(images)
    assert torch.equal(images, kept)
    assert (found.shape, found.dtype) == (images.shape, torch.uint8)
    changed = [not torch.equal(one, other) for one, other in zip(found, images, strict=True)]
    assert any(changed)
    if 0.5 in change.values():
        assert 8 <= sum(changed) <= 32
    torch.manual_seed(0)
    assert torch.equal(augment(images), found)


def test_a_flip_is_the_mirror_image() -> None:
    images = faces(4)
    assert torch.equal(FaceAugmentation(**{**NOTHING, "flip": 1.0})(images), images.flip(3))


def test_a_crop_is_the_resized_part_that_torchvision_makes() -> None:
    images = faces(8)
    augment = FaceAugmentation(**{**NOTHING, "scale": (0.3, 0.8)})
    torch.manual_seed(3)
    boxes = augment.draw(8, 32).boxes.tolist()
    torch.manual_seed(3)
    found = augment(images)
    for image, (top, left, height, width), one in zip(images, boxes, found, strict=True):
        assert 0.25 < height * width / 32**2 < 0.85
        expected = vision.resized_crop(image, top, left, height, width, [32, 32], antialias=True)
        assert torch.equal(one, expected)


def test_a_rotation_is_that_of_torchvision_away_from_the_border() -> None:
    images = faces(8)
    augment = FaceAugmentation(**{**NOTHING, "rotation": 25.0})
    torch.manual_seed(3)
    degrees = augment.draw(8, 32).degrees.tolist()
    torch.manual_seed(3)
    found = augment(images)
    assert max(map(abs, degrees)) <= 25
    assert max(degrees) > 5 > -5 > min(degrees)
    inside = slice(8, 24)  # reaches no border at 25 degrees
    for image, angle, one in zip(images, degrees, found, strict=True):
        expected = vision.rotate(image.float(), -angle, vision.InterpolationMode.BILINEAR)  # counter-clockwise there
        assert (one - expected)[:, inside, inside].abs().max() <= 0.51


@pytest.mark.parametrize(("brightness", "contrast", "saturation"), [(0.8, 1.0, 1.0), (1.0, 0.6, 1.0), (0.9, 0.7, 0.4)])
def test_colors_are_those_of_torchvision_but_for_its_roundings(
    brightness: float, contrast: float, saturation: float
) -> None:
    image = faces(1)[0] // 2 + 30  # nothing is clipped
    expected = vision.adjust_brightness(image, brightness)
    expected = vision.adjust_contrast(vision.adjust_saturation(expected, saturation), contrast)
    linear = (saturation * np.eye(3) + (1 - saturation) * LUMA).astype(np.float32) * np.float32(brightness)
    found = map_colors(image, linear, contrast, np.empty((2, 32 * 32, 3), dtype=np.float32))
    assert (found.int() - expected.int()).abs().max() <= 3  # it cuts off decimals after each change


def test_grayscale_removes_all_color() -> None:
    gray = FaceAugmentation(**{**NOTHING, "grayscale": 1.0})(faces(3)).int()
    assert (gray.amax(dim=1) - gray.amin(dim=1)).max() <= 1


def test_an_occlusion_covers_a_rectangle_of_the_asked_size_in_one_gray() -> None:
    images = faces(30)
    found = FaceAugmentation(**{**NOTHING, "occlusion": 1.0, "cover": (0.2, 0.3)})(images)
    for one, image in zip(found, images, strict=True):
        rows, columns = np.nonzero((one != image).any(dim=0).numpy())
        inside = one[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert 0.1 < inside.shape[1] * inside.shape[2] / 32**2 < 0.4
        assert inside.amin() == inside.amax()


CONFIGS = sorted((Path(__file__).parents[2] / "conf" / "augmentation").glob("*.yaml"))


@pytest.mark.parametrize("name", [path.stem for path in CONFIGS if path.stem != "none"])
@pytest.mark.parametrize("side", [31, 64])
def test_a_batch_at_once_is_changed_as_its_images_one_by_one(name: str, side: int) -> None:
    with initialize_config_dir(str(CONFIGS[0].parents[1]), version_base=None):
        augment = instantiate(compose(f"augmentation/{name}")["augmentation"])
    photos = SyntheticFaces(identities=8, images=4, size=side)
    images = torch.stack([torch.from_numpy(np.array(photos[row])).permute(2, 0, 1) for row in range(32)])
    images[0], images[1] = 0, 255
    images[2] = torch.randint(0, 256, images[2].shape, generator=torch.Generator().manual_seed(0))
    kept = images.clone()
    torch.manual_seed(0)
    draws = augment.draw(len(images), side)
    found, expected = augment.apply_batched(images, draws), augment.apply_each(images, draws)
    assert torch.equal(images, kept)
    assert (found.dtype, found.shape) == (torch.uint8, images.shape)
    off = (found.int() - expected.int()).abs()
    compressed = draws.quality > 0
    assert off[~compressed].max() <= 3
    assert off[~compressed].float().mean() < 0.5
    if compressed.any():  # of levels that are one off, a coefficient between two steps may be rounded to the other one
        assert off[compressed].float().mean() < 1.5
        assert (off[compressed] > 3).float().mean() < 0.1
    torch.manual_seed(0)
    assert torch.equal(augment(images), expected), (
        "images of the CPU are changed one by one, by the same random numbers"
    )


@pytest.mark.parametrize("quality", [10, 50, 90])
def test_jpeg_of_a_batch_leaves_what_libjpeg_leaves(quality: int) -> None:
    images = faces(6, 40)
    found = compress(images.float(), torch.full((6,), float(quality)))
    expected = torch.stack([decode_jpeg(encode_jpeg(image, quality)) for image in images])
    off = (found - expected).abs()
    assert off.mean() < 0.3
    assert (off > 2).float().mean() < 0.02
    assert (images - expected.float()).abs().mean() > 10 * off.mean() or quality > 80


def test_any_transform_of_torchvision_can_be_used_image_by_image() -> None:
    images = faces(20)
    torch.manual_seed(0)
    found = EachImage(v2.RandomHorizontalFlip())(images)
    flipped = [torch.equal(one, image.flip(2)) for one, image in zip(found, images, strict=True)]
    assert 0 < sum(flipped) < 20


@pytest.mark.parametrize(
    "wrong",
    [
        {"flip": 1.5},
        {"scale": (0.0, 1.0)},
        {"scale": (0.9, 0.5)},
        {"quality": (0, 50)},
        {"cover": (0.5, 1.5)},
        {"rotation": 181},
    ],
)
def test_numbers_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"^{next(iter(wrong))} of an augmentation"):
        FaceAugmentation(**wrong)
