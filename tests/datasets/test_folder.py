"""A folder for each identity."""

from __future__ import annotations

from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from siamese_verify.datasets import FolderPhotos
from siamese_verify.errors import InputError


def paint(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 4), (200, 30, 60)).save(root / name)
    return root


def test_every_folder_is_an_identity_however_deep_its_photos_are(tmp_path: Path) -> None:
    photos = FolderPhotos(paint(tmp_path, "b/1.png", "a/2020/summer/1.png", "a/1.png"))
    assert photos.names == ["a/1.png", "a/2020/summer/1.png", "b/1.png"]
    assert list(photos.people) == ["a", "b"]
    assert photos.identities.tolist() == [0, 0, 1]
    assert photos.identities.dtype == np.int32
    assert len(photos) == 3


def test_names_in_any_script_are_sorted_by_code_points_in_every_file_system(tmp_path: Path) -> None:
    names = [
        f"{person}/{photo}.png" for person in ("Zoë", "anna", "Борис", "李雷", "Éva", "a b", "a") for photo in "12"
    ]
    photos = FolderPhotos(paint(tmp_path / "forward", *names))
    assert photos.names == FolderPhotos(paint(tmp_path / "backward", *reversed(names))).names
    assert photos.names == sorted(names, key=lambda name: name.split("/"))
    assert list(photos.people) == sorted({name.partition("/")[0] for name in names})
    for name, identity in zip(photos.names, photos.identities, strict=True):
        assert photos.people[identity] == name.partition("/")[0]


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "jpe", "jfif", "Png", "webp", "bmp", "pgm", "ppm", "tif", "TIFF"])
def test_a_photo_has_any_of_the_suffixes_in_any_case(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "a").mkdir()
    Image.new("L" if suffix == "pgm" else "RGB", (5, 4), 70).save(tmp_path / f"a/1.{suffix}")
    photos = FolderPhotos(tmp_path)
    assert photos.names == [f"a/1.{suffix}"]
    assert (photos[0].mode, photos[0].size) == ("RGB", (5, 4))


def test_heic_photos_are_listed_without_the_package_that_reads_them(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("1.HEIC", "2.heif"):
        (tmp_path / "a" / name).write_bytes(b"")
    assert FolderPhotos(tmp_path).names == ["a/1.HEIC", "a/2.heif"]


def test_hidden_files_are_left_out_and_other_files_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paint(tmp_path, "a/1.png", "a/.2.png", ".cache/1.png", "a/.thumbnails/1.png", "top.png")
    (tmp_path / "a/notes.txt").write_text("no photo")
    (tmp_path / "a/png").write_text("a name without a suffix")
    (tmp_path / "a/again").symlink_to(tmp_path, target_is_directory=True)
    assert FolderPhotos(tmp_path).names == ["a/1.png"]
    assert "3 files in" in caplog.text
    assert "in no identity's folder (1 x .txt, 1 x no suffix, 1 x .png)" in caplog.text


def test_photos_are_opened_when_asked_for(tmp_path: Path) -> None:
    paint(tmp_path, "a/1.png")
    (tmp_path / "a/2.png").write_bytes(b"damaged")
    photos = FolderPhotos(tmp_path)
    assert photos[0].getpixel((0, 0)) == (200, 30, 60)
    with pytest.raises(InputError, match=r"2\.png is not an image"):
        photos[1]


@pytest.mark.parametrize("files", [(), ("top.png",), (".hidden/1.png",)], ids=["empty", "only at the top", "hidden"])
def test_a_folder_without_identities_is_refused(tmp_path: Path, files: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=r"holds no folder with photos .*give each identity its own folder"):
        FolderPhotos(paint(tmp_path, *files))


@pytest.mark.parametrize("name", ["nowhere", "file.png"])
def test_a_missing_folder_or_a_file_is_refused(tmp_path: Path, name: str) -> None:
    paint(tmp_path, "file.png")
    with pytest.raises(InputError, match=f"There is no folder .*{name}"):
        FolderPhotos(tmp_path / name)


def test_a_folder_may_be_in_object_storage(tmp_path: Path) -> None:
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
