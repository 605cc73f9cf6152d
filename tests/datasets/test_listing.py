from __future__ import annotations

import pickle
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from siamese_verify.datasets import ListedPhotos
from siamese_verify.errors import InputError

PATHS = ["x/1.png", "x/2.png", "y/1.png", "名 前/1.png"]
LABELS = ["7", "7", "9", "11"]
SPLITS = ["train", "train", "test", "train"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, path in enumerate(PATHS):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / path)
    return tmp_path


def table(root: Path, kind: str) -> Path:
    path = root / f"list.{kind}"
    splits = SPLITS
    if kind == "parquet":
        parquet.write_table(pa.table({"identity": [7, 7, 9, 11], "path": PATHS, "split": splits}), path)
    elif kind == "csv":
        lines = [f'"{p}",{i},{s},more' for p, i, s in zip(PATHS, LABELS, splits, strict=True)]
        path.write_text("path,identity,split,other\n" + "\n".join(lines) + "\n", encoding="utf-8")
    elif kind == "lst":
        lines = [f"{n}\t{i}\t{p}" for n, (p, i) in enumerate(zip(PATHS, LABELS, strict=True))]
        path.write_text("\n".join(lines), encoding="utf-8")
    else:
        path.write_text("\n".join(f"{p} {i}" for p, i in zip(PATHS, LABELS, strict=True)) + "\n\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["parquet", "csv", "lst", "txt"])
def test_lists_of_every_kind_are_read_alike(root: Path, kind: str) -> None:
    photos = ListedPhotos(table(root, kind))
    assert photos.people == ["11", "7", "9"]
    assert photos.names == ["名 前/1.png", "x/1.png", "x/2.png", "y/1.png"]
    assert photos.identities.tolist() == [0, 1, 1, 2]
    assert [photos[row].getpixel((0, 0)) for row in range(4)] == [(3, 0, 0), (0, 0, 0), (1, 0, 0), (2, 0, 0)]
    assert photos.digest == ListedPhotos(table(root, "csv")).digest


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_split_takes_its_photos(root: Path, kind: str) -> None:
    assert ListedPhotos(table(root, kind), split="test").names == ["y/1.png"]
    assert len(ListedPhotos(table(root, kind), split="train")) == 3
    with pytest.raises(InputError, match="no photo in the split 'validation'"):
        ListedPhotos(table(root, kind), split="validation")


@pytest.mark.parametrize("kind", ["parquet", "csv", "lst", "txt"])
@pytest.mark.parametrize("cached", [False, True])
def test_splits_stay_with_their_photos(root: Path, kind: str, cached: bool) -> None:
    for _ in range(2):
        photos = ListedPhotos(table(root, kind), cache=root / "cache" if cached else None)
        if kind in ("lst", "txt"):
            assert photos.splits is None
        else:
            assert photos.splits == ["train", "train", "train", "test"]  # in the order of the names
    assert ListedPhotos(table(root, "csv"), split="train").splits is None


@pytest.mark.parametrize("split", [None, "train"])
def test_cameras_stay_with_their_photos(root: Path, split: str | None) -> None:
    lines = [
        f"{path},{one},{set_},cam {row}"
        for row, (path, one, set_) in enumerate(zip(PATHS, LABELS, SPLITS, strict=True))
    ]
    (root / "shots.csv").write_text("path,identity,split,camera\n" + "\n".join(lines), encoding="utf-8")
    for _ in range(2):
        photos = ListedPhotos(root / "shots.csv", split=split, cache=root / "cache")
        assert photos.cameras == ["cam 3", "cam 0", "cam 1", "cam 2"][: 3 if split else 4]
    assert ListedPhotos(table(root, "csv")).cameras is None


def test_a_photo_may_have_no_split(root: Path) -> None:
    columns = {"path": PATHS, "identity": LABELS, "split": ["train", None, "test", None]}
    parquet.write_table(pa.table(columns), root / "some.parquet")
    assert ListedPhotos(root / "some.parquet").splits == ["", "train", "", "test"]
    assert ListedPhotos(root / "some.parquet", split="train").names == ["x/1.png"]


def test_paths_can_start_from_another_folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "list.txt"
    elsewhere.write_text("x/1.png a\n")
    assert ListedPhotos(elsewhere, root)[0].size == (4, 4)


def test_a_cached_list_is_mapped_until_it_changes(root: Path) -> None:
    path = table(root, "csv")
    first = ListedPhotos(path, cache=root / "cache")
    again = ListedPhotos(path, cache=root / "cache")
    assert again.names == first.names
    assert not again.identities.flags.owndata
    assert pickle.loads(pickle.dumps(again))[1].getpixel((0, 0)) == (0, 0, 0)
    path.write_text("path,identity\nx/1.png,b\n")
    assert len(ListedPhotos(path, cache=root / "cache")) == 1


def test_a_list_and_its_photos_may_be_in_object_storage(root: Path) -> None:
    files = fsspec.filesystem("memory")
    for path in PATHS:
        files.pipe_file(f"/lake/{path}", (root / path).read_bytes())
    for kind in ("csv", "parquet", "txt"):
        files.pipe_file(f"/lake/list.{kind}", table(root, kind).read_bytes())
        photos = ListedPhotos(f"memory://lake/list.{kind}", cache=root / "cache")
        assert photos[1].getpixel((0, 0)) == (0, 0, 0)
        assert photos.people == ["11", "7", "9"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "path,who\nx,1\n", "no column identity .its columns: path, who"),
        ("a.csv", "path,identity\nx,\n", "Photo 1 in .* has no identity"),
        ("a.csv", "path,identity\n ,1\n", "Photo 1 in .* has no path"),
        ("a.csv", "path,identity\nx,1\ny,1\nx,2\n", "photo x twice"),
        ("a.csv", "path,identity\n", "holds no photo"),
        ("a.csv", "path,identity\nx,1,2,3\n", "cannot be read"),
        ("a.csv", "", "cannot be read"),
        ("a.txt", "x 1\nalone\n", "Line 2 of .* should be a path and a label, got 'alone'"),
        ("a.txt", "", "holds no photo"),
        ("a.parquet", "no parquet", "cannot be read"),
    ],
)
def test_invalid_lists_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        ListedPhotos(tmp_path / name)


def test_a_missing_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no list"):
        ListedPhotos(tmp_path / "none.csv")


def test_a_path_out_of_the_folder_is_refused_when_it_is_opened(root: Path) -> None:
    inner = root / "x" / "list.txt"
    inner.write_text("../y/1.png a\n")
    with pytest.raises(InputError, match="leads out of"):
        ListedPhotos(inner)[0]
