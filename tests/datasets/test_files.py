from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamese_verify.datasets import FolderPhotos
from siamese_verify.errors import InputError
from siamese_verify.protocols import folder_pairs


def photo(path: Path, level: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (level, 0, 0)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, name in enumerate(
        ["b/2.png", "b/1.JPG", "a/sub/deep.jpeg", "Ä ö/x.webp", "名/y.bmp", "a/old.pgm", "a/z.tiff"]
    ):
        photo(tmp_path / name, 10 * number)
    (tmp_path / "b" / "notes.txt").write_text("no photo")
    photo(tmp_path / "b" / ".hidden.png")
    photo(tmp_path / ".cache" / "x.png")
    photo(tmp_path / "loose.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    return tmp_path


def test_each_folder_is_an_identity_in_any_script_and_depth(root: Path) -> None:
    photos = FolderPhotos(root)
    assert photos.names == ["a/old.pgm", "a/sub/deep.jpeg", "a/z.tiff", "b/1.JPG", "b/2.png", "Ä ö/x.webp", "名/y.bmp"]
    assert list(photos.people) == ["a", "b", "Ä ö", "名"]
    assert photos.identities.tolist() == [0, 0, 0, 1, 1, 2, 3]
    assert photos.identities.dtype == np.int32
    assert len(photos) == 7
    assert photos[4].size == (8, 6)
    assert photos[4].getpixel((0, 0)) == (0, 0, 0)


def test_all_pairs_or_some(root: Path) -> None:
    everything = folder_pairs(root)
    assert everything.pairs is None
    assert everything.name == f"{root.name}, all pairs"
    some = folder_pairs(root, "mine", pairs=6, seed=1).pairs
    assert some is not None
    assert some.same.sum() == 3
    again = folder_pairs(root, "mine", pairs=6, seed=1).pairs
    assert again is not None
    np.testing.assert_array_equal(some.left, again.left)
    with pytest.raises(InputError, match="1 pairs hold no genuine"):
        folder_pairs(root, pairs=1)


def test_what_is_no_such_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no folder"):
        FolderPhotos(tmp_path / "nowhere")
    photo(tmp_path / "loose.png")
    with pytest.raises(InputError, match="holds no folder with photos"):
        FolderPhotos(tmp_path)
