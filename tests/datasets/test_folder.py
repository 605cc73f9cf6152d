"""A folder for each identity."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from siamese_verify.datasets import FolderPhotos
from siamese_verify.datasets import folder as files_module
from siamese_verify.errors import InputError
from siamese_verify.protocols import folder_pairs


def paint(root: Path, *names: str, size: tuple[int, int] = (5, 4)) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (200, 30, 60)).save(root / name)
    return root


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Three things: two with three photos each and one with two, thus 7 genuine pairs and 21 impostors."""
    return paint(
        tmp_path / "shop",
        *(f"{thing}/{photo}.png" for thing in ("cup", "jar") for photo in "123"),
        "pen/1.png",
        "pen/2.png",
    )


def test_every_folder_is_an_identity_however_deep_its_photos_lie(tmp_path: Path) -> None:
    photos = FolderPhotos(paint(tmp_path, "b/1.png", "a/2020/summer/1.png", "a/1.png"))
    assert photos.names == ["a/1.png", "a/2020/summer/1.png", "b/1.png"]
    assert list(photos.people) == ["a", "b"]
    assert photos.identities.tolist() == [0, 0, 1]
    assert photos.identities.dtype == np.int32
    assert len(photos) == 3


def test_names_stand_in_the_order_of_their_code_points_and_may_be_in_any_script(tmp_path: Path) -> None:
    names = [f"{person}/1.png" for person in ("Zoë", "anna", "Борис", "李雷", "Éva", "a b", "a")]
    photos = FolderPhotos(paint(tmp_path, *names))
    assert photos.names == sorted(names, key=lambda name: name.split("/"))
    assert list(photos.people) == sorted(name.partition("/")[0] for name in names)
    for name, identity in zip(photos.names, photos.identities, strict=True):
        assert photos.people[identity] == name.partition("/")[0]


def test_the_order_does_not_come_from_the_file_system(tmp_path: Path) -> None:
    names = [f"{person}/{photo}.png" for person in "ab" for photo in "12"]
    forward = FolderPhotos(paint(tmp_path / "forward", *names))
    backward = FolderPhotos(paint(tmp_path / "backward", *reversed(names)))
    assert forward.names == backward.names == names


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "jpe", "jfif", "Png", "webp", "bmp", "pgm", "ppm", "tif", "TIFF"])
def test_a_photo_may_have_any_of_the_suffixes_in_any_case(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "a").mkdir()
    Image.new("L" if suffix == "pgm" else "RGB", (5, 4), 70).save(tmp_path / f"a/1.{suffix}")
    photos = FolderPhotos(tmp_path)
    assert photos.names == [f"a/1.{suffix}"]
    assert (photos[0].mode, photos[0].size) == ("RGB", (5, 4))


def test_photos_of_telephones_are_taken_whoever_can_read_them(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("1.HEIC", "2.heif"):
        (tmp_path / "a" / name).write_bytes(b"")
    assert FolderPhotos(tmp_path).names == ["a/1.HEIC", "a/2.heif"]


def test_hidden_files_and_folders_are_left_out_and_other_files_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paint(tmp_path, "a/1.png", "a/.2.png", ".cache/1.png", "a/.thumbnails/1.png", "top.png")
    (tmp_path / "a/notes.txt").write_text("of no use")
    (tmp_path / "a/png").write_text("a name without a suffix")
    assert FolderPhotos(tmp_path).names == ["a/1.png"]
    assert "3 files in" in caplog.text
    assert "in no identity's folder (1 x .txt, 1 x no suffix, 1 x .png)" in caplog.text


def test_names_are_looked_at_in_blocks_of_any_size(
    shop: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = FolderPhotos(shop)
    for size in (1, 3, 8):
        monkeypatch.setattr(files_module, "BLOCK", size)
        assert FolderPhotos(shop).names == whole.names
        assert FolderPhotos(shop).identities.tolist() == whole.identities.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert not caplog.text


def test_a_link_that_leads_in_a_circle_is_not_followed(tmp_path: Path) -> None:
    paint(tmp_path, "a/1.png")
    (tmp_path / "a/again").symlink_to(tmp_path, target_is_directory=True)
    assert FolderPhotos(tmp_path).names == ["a/1.png"]


def test_photos_are_opened_only_when_asked_for(tmp_path: Path) -> None:
    paint(tmp_path, "a/1.png")
    (tmp_path / "a/2.png").write_bytes(b"damaged")
    photos = FolderPhotos(tmp_path)
    assert photos[0].getpixel((0, 0)) == (200, 30, 60)
    with pytest.raises(InputError, match=r"2\.png is not an image"):
        photos[1]


@pytest.mark.parametrize("files", [(), ("top.png",), (".hidden/1.png",)], ids=["empty", "only at the top", "hidden"])
def test_a_folder_without_identities_is_refused(tmp_path: Path, files: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=r"holds no folder with photos .*give each identity a folder of its own"):
        FolderPhotos(paint(tmp_path, *files))


def test_a_folder_that_is_not_there_or_is_a_file_is_refused(tmp_path: Path) -> None:
    paint(tmp_path, "file.png")
    for name in ("nowhere", "file.png"):
        with pytest.raises(InputError, match=f"There is no folder .*{name}"):
            FolderPhotos(tmp_path / name)


def test_all_pairs_are_compared_unless_a_number_is_asked_for(shop: Path) -> None:
    protocol = folder_pairs(shop)
    assert (protocol.name, protocol.pairs, len(protocol.photos)) == ("shop, all pairs", None, 8)
    assert folder_pairs(shop, "mine").name == "mine"


@pytest.mark.parametrize("pairs", [2, 6, 14])
def test_drawn_pairs_are_half_genuine_and_none_comes_twice(shop: Path, pairs: int) -> None:
    protocol = folder_pairs(shop, pairs=pairs)
    identities = protocol.photos.identities
    assert protocol.pairs is not None
    drawn = [(int(i), int(j)) for i, j in zip(protocol.pairs.left, protocol.pairs.right, strict=True)]
    assert len(set(drawn)) == len(drawn) == pairs
    assert set(drawn) <= set(combinations(range(8), 2))
    assert [bool(identities[i] == identities[j]) for i, j in drawn] == protocol.pairs.same.tolist()
    assert protocol.pairs.same.sum() == pairs // 2


def test_the_draw_depends_on_the_seed_alone(shop: Path) -> None:
    drawn = []
    for seed in (3, 3, 4):
        pairs = folder_pairs(shop, pairs=10, seed=seed).pairs
        assert pairs is not None
        drawn.append((pairs.left.tolist(), pairs.right.tolist()))
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("pairs", [-1, 0, 1])
def test_too_few_pairs_to_hold_both_kinds_are_refused(shop: Path, pairs: int) -> None:
    with pytest.raises(InputError, match=f"{pairs} pairs hold no genuine and no impostor pair"):
        folder_pairs(shop, pairs=pairs)


def test_folders_of_one_kind_of_pair_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no impostors"):
        folder_pairs(paint(tmp_path / "alone", "a/1.png", "a/2.png"))
    with pytest.raises(InputError, match="no genuine pairs"):
        folder_pairs(paint(tmp_path / "strangers", "a/1.png", "b/1.png"), pairs=2)


def test_a_folder_can_lie_in_object_storage(tmp_path: Path) -> None:
    paint(tmp_path, "a/1.png", "b/2020/1.png", "b/2.jpg")
    files = fsspec.filesystem("memory")
    for path in tmp_path.rglob("*.*"):
        files.pipe_file(f"/bucket/shop/{path.relative_to(tmp_path).as_posix()}", path.read_bytes())
    files.pipe_file("/bucket/shop/readme.txt", b"not a photo")
    near, far = FolderPhotos(tmp_path), FolderPhotos("memory://bucket/shop")
    assert far.names == near.names == ["a/1.png", "b/2.jpg", "b/2020/1.png"]
    assert far.identities.tolist() == near.identities.tolist()
    assert far.digest == near.digest
    assert [far[row].tobytes() for row in range(3)] == [near[row].tobytes() for row in range(3)]
    with pytest.raises(InputError, match="There is no folder memory://bucket/none"):
        FolderPhotos("memory://bucket/none")
