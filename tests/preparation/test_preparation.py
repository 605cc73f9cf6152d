"""Faces aligned once: the same however often it was stopped, and by however many processes."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from siamese_verify.data import FaceCropper
from siamese_verify.datasets import FilePhotos, FolderPhotos, ListedPhotos, PreparedFaces, RecordPhotos
from siamese_verify.errors import InputError
from siamese_verify.faces import crop_face
from siamese_verify.preparation import Alignment, prepare_faces
from siamese_verify.preparation.align_photos import face_path
from siamese_verify.structures import Crop, InputSpec

LFW = Path(__file__).resolve().parents[2].parent / "shared/data/lfw/lfw-deepfunneled"
SPEC = InputSpec(24, crop=Crop("center"))


@pytest.fixture
def album(tmp_path: Path) -> FolderPhotos:
    rng = np.random.default_rng(0)
    for person in ("anna", "berta", "Ж"):
        (tmp_path / "album" / person).mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "album" / person / f"{number}.png")
    (tmp_path / "album" / "berta" / "1.png").write_bytes(b"no photo")
    (tmp_path / "album" / "berta" / "2.png").write_bytes(b"")
    return FolderPhotos(tmp_path / "album")


def prepare(photos: Any, output: Path, **options: Any) -> Any:
    alignment = options.pop("alignment", Alignment(SPEC))
    return prepare_faces(photos, "album", output, alignment, {"made": "today"}, **{"processes": 0, **options})


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_photo_becomes_a_face_in_the_index_or_is_accounted_for(album: FolderPhotos, tmp_path: Path) -> None:
    found = prepare(album, tmp_path / "out")
    assert found.outcomes == {"aligned": 10, "unreadable": 2}
    rows = parquet.read_table(tmp_path / "out" / "index.parquet").to_pylist()
    assert [row["source"] for row in rows] == [
        name for name in album.names if name not in ("berta/1.png", "berta/2.png")
    ]
    for row in rows:
        content = (tmp_path / "out" / row["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == row["sha256"]
        assert row["identity"] == row["source"].partition("/")[0]
        assert (row["width"], row["height"], row["faces"], row["box"]) == (50, 40, 0, None)
        assert row["sharpness"] > 0
        with Image.open(tmp_path / "out" / row["path"]) as face:
            expected = crop_face(album[list(album.names).index(row["source"])], SPEC)
            difference = np.abs(np.asarray(face, dtype=int) - np.asarray(expected, dtype=int))
            assert difference.mean() < 6  # what a JPEG of quality 95 costs noise
    with (tmp_path / "out" / "left_out.csv").open(encoding="utf-8", newline="") as file:
        account = list(csv.DictReader(file))
    assert [(line["photo"], line["outcome"]) for line in account] == [
        ("berta/1.png", "unreadable"),
        ("berta/2.png", "unreadable"),
    ]
    assert "not an image" in account[0]["reason"]
    assert sorted(path.name for path in (tmp_path / "out" / "sheets").iterdir()) == ["aligned.jpg", "blurred.jpg"]
    assert not (tmp_path / "out" / ".unfinished").exists()


class StoppedError(BaseException):
    """Stands for a kill."""


class Watched(FolderPhotos):
    """Notes which photos are read, and stops a run at one of them."""

    def __init__(self, root: Path, stop: int | None = None) -> None:
        super().__init__(root)
        self.stop, self.opened = stop, list[int]()

    def __getitem__(self, row: int) -> Image.Image:
        if row == self.stop:
            raise StoppedError
        self.opened.append(row)
        return super().__getitem__(row)


@pytest.mark.parametrize("stop", [1, 5, 7, 11])
def test_a_run_that_was_killed_goes_on_to_the_same_end(album: FolderPhotos, tmp_path: Path, stop: int) -> None:
    prepare(album, tmp_path / "whole", chunk=3)
    with pytest.raises(StoppedError):
        prepare(Watched(tmp_path / "album", stop), tmp_path / "again", chunk=3)
    assert not (tmp_path / "again" / "prepared.json").exists()
    with pytest.raises(InputError, match="no prepared faces"):
        PreparedFaces(tmp_path / "again")
    photos = Watched(tmp_path / "album")
    prepare(photos, tmp_path / "again", chunk=3)
    assert photos.opened == list(range(3 * (stop // 3), 12))  # finished chunks are not done again
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


def test_a_finished_preparation_is_not_done_again(album: FolderPhotos, tmp_path: Path) -> None:
    first = prepare(album, tmp_path / "out")
    before = contents(tmp_path / "out")
    photos = Watched(tmp_path / "album")
    assert prepare(photos, tmp_path / "out") == first
    assert contents(tmp_path / "out") == before
    assert photos.opened == []


def test_a_run_may_be_killed_between_any_two_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "album" / "a").mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(tmp_path / "album" / "a" / f"{number}.png")
    photos = FolderPhotos(tmp_path / "album")
    prepare(photos, tmp_path / "whole", chunk=2)

    def killed(output: Path, after: int) -> bool:
        taken = iter(range(after))

        def stopping(step: Callable[..., Any]) -> Callable[..., Any]:
            def run(*args: Any, **options: Any) -> Any:
                if next(taken, None) is None:
                    raise StoppedError
                return step(*args, **options)

            return run

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", lambda *_, **__: None)  # a kill leaves unfinished files
            for owner, name in ((Path, "write_bytes"), (Path, "replace"), (Path, "mkdir"), (shutil, "rmtree")):
                patch.setattr(owner, name, stopping(getattr(owner, name)))
            try:
                prepare(photos, output, chunk=2)
            except StoppedError:
                return True
        return False

    steps = 0
    while killed(output := tmp_path / str(steps), steps):
        prepare(photos, output, chunk=2)
        assert contents(output) == contents(tmp_path / "whole")
        steps += 1
    assert steps > 20


@pytest.mark.slow
def test_a_process_that_is_killed_at_any_moment_loses_at_most_a_chunk(album: FolderPhotos, tmp_path: Path) -> None:
    program = """
import os, signal, sys, threading, time
from pathlib import Path
from siamese_verify.datasets import FolderPhotos
from siamese_verify.preparation import Alignment, prepare_faces
from siamese_verify.structures import Crop, InputSpec
album, output, delay = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
class Slow(FolderPhotos):
    def __getitem__(self, row):
        time.sleep(0.05)
        return super().__getitem__(row)
threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
prepare_faces(Slow(album), "album", output, Alignment(InputSpec(24, crop=Crop("center"))), {"made": "today"},
    processes=0, chunk=2)
os._exit(0)
"""
    for delay in (0.03, 0.17, 0.26, 60.0):
        arguments = [sys.executable, "-c", program, str(album.root), str(tmp_path / "again"), str(delay)]
        ended = subprocess.run(arguments, capture_output=True, text=True)
        assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
    assert ended.returncode == 0
    prepare(album, tmp_path / "whole", chunk=2)
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


def test_faces_that_are_aligned_already_keep_their_bytes(tmp_path: Path) -> None:
    for name, size in (("same", 24), ("larger", 48)):
        pixels = np.random.default_rng(size).integers(0, 256, (size, size, 3), dtype=np.uint8)
        (tmp_path / "album" / "a").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "album" / "a" / f"{name}.jpg", quality=70)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated clockwise
    with Image.open(tmp_path / "album" / "a" / "same.jpg") as photo:
        photo.save(tmp_path / "album" / "a" / "lying.jpg", exif=exif)
    prepare(FolderPhotos(tmp_path / "album"), tmp_path / "out", alignment=Alignment(InputSpec(24, crop=Crop("whole"))))
    source, made = tmp_path / "album" / "a", tmp_path / "out" / "faces" / "a"
    assert (made / "lying.jpg").read_bytes() != (source / "lying.jpg").read_bytes()
    with Image.open(made / "lying.jpg") as face, Image.open(source / "lying.jpg") as photo:
        assert not face.getexif()
        upright = np.asarray(photo.transpose(Image.Transpose.ROTATE_270), dtype=int)
        assert np.abs(np.asarray(face, dtype=int) - upright).mean() < 12
    assert (made / "same.jpg").read_bytes() == (source / "same.jpg").read_bytes()
    with Image.open(made / "larger.jpg") as face:
        assert face.size == (24, 24)


def test_two_processes_make_what_one_makes(album: FolderPhotos, tmp_path: Path) -> None:
    prepare(album, tmp_path / "one")
    prepare(album, tmp_path / "two", processes=2)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_with_something_else_is_refused(album: FolderPhotos, tmp_path: Path, finished: bool) -> None:
    output = tmp_path / "out"
    if finished:
        prepare(album, output)
    else:
        with pytest.raises(StoppedError):
            prepare(Watched(tmp_path / "album", stop=7), output)
    before = contents(output)
    for other in (
        Alignment(InputSpec(32, crop=Crop("center"))),
        Alignment(SPEC, "largest"),
        Alignment(SPEC, quality=80),
    ):
        with pytest.raises(InputError, match="output"):
            prepare(album, output, alignment=other)
    assert contents(output) == before


def test_a_folder_that_is_not_empty_is_refused(album: FolderPhotos, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not empty"):
        prepare(album, tmp_path)


def test_a_folder_among_the_photos_is_refused(album: FolderPhotos, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(album.root)
    for output in (tmp_path / "album" / "out", tmp_path / "link" / "anna" / "out"):
        with pytest.raises(InputError, match=r"lies in .*album, among its people"):
            prepare(album, output)
    assert not [*Path(album.root).rglob("out")]


def test_identities_on_a_list_are_dropped_with_their_reasons(album: FolderPhotos, tmp_path: Path) -> None:
    (tmp_path / "drop.txt").write_text("Ж\tin LFW as well\nnobody\n\nanna, asked for it\n", encoding="utf-8")
    found = prepare(album, tmp_path / "out", drop=tmp_path / "drop.txt")
    assert found.outcomes == {"aligned": 2, "unreadable": 2, "dropped": 8}
    assert found.dropped == [
        {"identity": "anna", "photos": 4, "reason": "asked for it"},
        {"identity": "Ж", "photos": 4, "reason": "in LFW as well"},
    ]
    photos = PreparedFaces(tmp_path / "out")
    assert photos.filtered == "yes: 2 identities with 8 photos left out by drop.txt"
    assert list(photos.people) == ["berta"]
    sheets = sorted(path.name for path in (tmp_path / "out" / "sheets").iterdir())
    assert sheets == ["aligned.jpg", "blurred.jpg", "dropped.jpg"]


def test_a_drop_list_that_names_nobody_is_refused(album: FolderPhotos, tmp_path: Path) -> None:
    (tmp_path / "drop.txt").write_text("zoe\nyan\n")
    with pytest.raises(InputError, match=r"None of the 2 identities in .* whose first is 'anna'"):
        prepare(album, tmp_path / "out", drop=tmp_path / "drop.txt")
    with pytest.raises(InputError, match="cannot be read"):
        prepare(album, tmp_path / "out", drop=tmp_path / "none.txt")
    assert not (tmp_path / "out").exists()


def test_no_face_at_all_is_an_error_that_says_where_to_look(tmp_path: Path) -> None:
    (tmp_path / "album" / "a").mkdir(parents=True)
    (tmp_path / "album" / "a" / "1.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"None of 1 photos .* a face .1 unreadable.: see .*left_out"):
        prepare(FolderPhotos(tmp_path / "album"), tmp_path / "out")


def test_a_full_disk_is_said_and_nothing_done_is_lost(
    album: FolderPhotos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    replace = Path.replace

    def full(path: Path, target: Path) -> Path:
        if len(written) == 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(InputError, match=r"No space left on device.*make room, and run the command again"):
            prepare(album, tmp_path / "out", chunk=3)
    prepare(album, tmp_path / "out", chunk=3)
    prepare(album, tmp_path / "whole", chunk=3)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("name", "identity", "path"),
    [
        ("anna/1.png", "anna", "faces/anna/1.png.jpg"),
        ("anna/2020/1.jpg", "anna", "faces/anna/2020/1.jpg"),
        ("record 17", "5", "faces/5/record 17.face.jpg"),
        ("anna/1.JPG", "anna", "faces/anna/1.JPG"),
        ("1.jpg", "Ж", "faces/Ж/1.jpg"),
        ("../../1.jpg", "x", "faces/1.jpg"),
        ("/etc/1.jpg", "x", "faces/etc/1.jpg"),
    ],
)
def test_a_face_stays_in_its_folder(name: str, identity: str, path: str) -> None:
    assert face_path(name, identity) == path


def test_photos_of_different_names_never_share_a_place() -> None:
    ends = ("", ".jpg", ".jpeg", ".png", ".face", ".face.jpg", ".png.jpg", ".jpg.jpg", ".png.jpg.jpg", ".x", ".x.jpg")
    names = [f"a/1{end}{more}" for end in ends for more in ("", *ends)]
    assert len({face_path(name, "a") for name in names}) == len(set(names))


def test_a_face_is_never_written_over_another(album: FolderPhotos, tmp_path: Path) -> None:
    Image.new("RGB", (30, 30)).save(tmp_path / "album" / "1.jpg")
    Image.new("RGB", (30, 30)).save(tmp_path / "album" / "anna" / "1.jpg")
    photos = FilePhotos(tmp_path / "album", ["anna/1.jpg", "1.jpg"], np.array([0, 1]))
    photos.people = ["x", "anna"]
    with pytest.raises(InputError, match=r"Two photos would both be faces/anna/1\.jpg: rename one"):
        prepare(photos, tmp_path / "out")


@pytest.mark.parametrize("identity", ["..", "a/b", "", "C:\\x"])
def test_an_identity_that_is_no_folder_name_gets_one(identity: str) -> None:
    _, folder, name = face_path("1.jpg", identity).split("/")
    assert len(folder) == 16
    assert name == "1.jpg"


# What is read of it


def test_prepared_faces_are_taken_as_they_are(album: FolderPhotos, tmp_path: Path) -> None:
    found = prepare(album, tmp_path / "out")
    photos = PreparedFaces(tmp_path / "out")
    assert len(photos) == 10
    assert photos.digest == found.digest
    assert photos.filtered == "no"
    rows, crops = FaceCropper(SPEC)(photos, range(10), "Faces")
    assert rows == list(range(10))
    for row in rows:
        assert np.array_equal(crops[row].permute(1, 2, 0).numpy(), np.asarray(photos[row]))
    smaller = FaceCropper(InputSpec(12, crop=Crop("center")))(photos, [0], "Faces")[1]
    assert smaller.shape == (1, 3, 12, 12)
    sent = pickle.loads(pickle.dumps(photos))
    assert sent.aligned == photos.aligned
    assert sent[3].tobytes() == photos[3].tobytes()


@pytest.mark.parametrize(
    "spec",
    [
        InputSpec(24, crop=Crop("center", fraction=0.5)),
        InputSpec(24, crop=Crop("five_point")),
        InputSpec(24, crop=Crop("whole")),
        InputSpec(32, crop=Crop("center")),
    ],
)
def test_faces_that_were_aligned_for_another_input_are_refused(
    album: FolderPhotos, tmp_path: Path, spec: InputSpec
) -> None:
    prepare(album, tmp_path / "out")
    with pytest.raises(InputError, match=r"aligned as center of 24 pixels.* the encoder takes"):
        FaceCropper(spec)(PreparedFaces(tmp_path / "out"), [0], "Faces")


def test_a_margin_belongs_to_its_size() -> None:
    from siamese_verify.faces.alignment import spec_for

    photos: Any = FilePhotos(".", [], np.empty(0))
    photos.aligned = InputSpec(160, crop=Crop("box", margin=32))
    assert spec_for(photos, InputSpec(80, crop=Crop("box", margin=16))).crop.kind == "whole"
    with pytest.raises(InputError, match="margin 32"):
        spec_for(photos, InputSpec(80, crop=Crop("box", margin=32)))


def test_faces_of_another_version_are_refused(album: FolderPhotos, tmp_path: Path) -> None:
    prepare(album, tmp_path / "out")
    record = tmp_path / "out" / "prepared.json"
    record.write_text(record.read_text().replace('"center-1"', '"center-0"'))
    with pytest.raises(InputError, match="were aligned as center-0, this version aligns as center-1"):
        PreparedFaces(tmp_path / "out")


@pytest.mark.parametrize("damage", ["", "[]", '{"source": "x"}'])
def test_a_damaged_record_is_refused(album: FolderPhotos, tmp_path: Path, damage: str) -> None:
    prepare(album, tmp_path / "out")
    (tmp_path / "out" / "prepared.json").write_text(damage)
    with pytest.raises(InputError, match=r"prepared\.json is damaged"):
        PreparedFaces(tmp_path / "out")


def test_splits_of_a_source_are_those_of_its_faces(album: FolderPhotos, tmp_path: Path) -> None:
    source: Any = album
    source.splits = ["train" if name.startswith("anna") else "test" for name in album.names]
    prepare(source, tmp_path / "out")
    assert list(PreparedFaces(tmp_path / "out", split="train").people) == ["anna"]
    assert list(PreparedFaces(tmp_path / "out", split="test").people) == ["berta", "Ж"]


def test_a_list_with_splits_is_prepared_with_them(album: FolderPhotos, tmp_path: Path) -> None:
    lines = [f"{name},{name.partition('/')[0]},{'test' if name.startswith('b') else 'train'}" for name in album.names]
    (tmp_path / "list.csv").write_text("path,identity,split\n" + "\n".join(lines), encoding="utf-8")
    prepare(ListedPhotos(tmp_path / "list.csv", album.root), tmp_path / "out")
    assert list(PreparedFaces(tmp_path / "out", split="test").people) == ["berta"]
    assert list(PreparedFaces(tmp_path / "out", split="train").people) == ["anna", "Ж"]


# With the face detector


@pytest.fixture(scope="module")
def portraits() -> Iterator[dict[str, Image.Image]]:
    files = {name: LFW / name / f"{name}_0001.jpg" for name in ("AJ_Cook", "Abdullah_Gul", "George_W_Bush")}
    if not all(file.is_file() for file in files.values()):
        pytest.skip(f"the photos of LFW are not in {LFW}: see data/README.md")
    yield {name: Image.open(file).convert("RGB") for name, file in files.items()}


@pytest.mark.parametrize("kind", ["five_point", "box"])
def test_faces_are_found_aligned_and_described(kind: Any, portraits: dict[str, Image.Image], tmp_path: Path) -> None:
    upright, other, third = portraits.values()
    two = Image.new("RGB", (500, 250))
    two.paste(other, (0, 0))
    two.paste(third.resize((120, 120)), (300, 60))
    pictures = {"a/1.png": upright, "a/2.png": upright.transpose(Image.Transpose.ROTATE_270), "b/1.png": two}
    pictures["b/2.png"] = Image.new("RGB", (100, 100), "green")
    for name, picture in pictures.items():
        (tmp_path / "album" / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "album" / name)
    spec = InputSpec(112, crop=Crop(kind))
    found = prepare(FolderPhotos(tmp_path / "album"), tmp_path / "out", alignment=Alignment(spec, "largest"))
    assert found.outcomes == {"aligned": 3, "no face": 1}
    first, rotated, crowd = parquet.read_table(tmp_path / "out" / "index.parquet").to_pylist()
    assert (first["rotated_by"], rotated["rotated_by"]) == (0, 90)
    assert (first["faces"], crowd["faces"]) == (1, 2)
    assert crowd["box"][2] < 250
    assert len(first["landmarks"]) == 10
    assert first["probability"] > 0.99
    np.testing.assert_allclose(rotated["box"], first["box"], atol=1e-2)
    one, same = (np.asarray(Image.open(tmp_path / "out" / row["path"]), dtype=int) for row in (first, rotated))
    assert np.abs(one - same).mean() < 1
    sheets = sorted(path.stem for path in (tmp_path / "out" / "sheets").iterdir())
    assert sheets == ["aligned", "blurred", "multiple_faces", "no_face", "rotated"]
    assert json.loads((tmp_path / "out" / "prepared.json").read_text())["alignment"].endswith("after mtcnn-4")
    assert "no face was found in any rotation" in (tmp_path / "out" / "left_out.csv").read_text()


def test_whatever_people_bring_is_aligned_or_counted_and_nothing_else_is_touched(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    photo = Image.fromarray(pixels)
    folder = tmp_path / "album" / "Ж 名前 'a'"
    folder.mkdir(parents=True)
    photo.convert("CMYK").save(folder / "cmyk.jpg")
    photo.convert("P").save(folder / "palette.png")
    photo.convert("RGBA").save(folder / "alpha.png")
    Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257).save(folder / "sixteen.png")
    photo.save(folder / "animated.gif", save_all=True, append_images=[photo.rotate(90), photo.rotate(180)])
    photo.save(folder / "whole.jpg", quality=95)
    whole = (folder / "whole.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_text("no photo")
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (20_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    (folder / "bomb.png").write_bytes(header + zlib.crc32(header[12:]).to_bytes(4, "big") + b"\0\0\0\0IEND\xaeB`\x82")
    (folder / "loop").symlink_to(tmp_path / "album", target_is_directory=True)
    (folder / "itself.jpg").symlink_to(folder / "itself.jpg")
    before = contents(tmp_path)
    found = prepare(FolderPhotos(tmp_path / "album"), tmp_path / "out")
    assert found.outcomes == {"aligned": 6, "unreadable": 4}
    account = {line["photo"].rpartition("/")[2]: line["reason"] for line in left_out(tmp_path / "out")}
    assert set(account) == {"truncated.jpg", "empty.jpg", "text.png", "bomb.png"}
    assert "more than 64 megapixels" in account["bomb.png"]
    assert "is damaged" in account["truncated.jpg"]
    assert {name: state for name, state in contents(tmp_path).items() if not name.startswith("out/")} == before


def test_a_record_file_that_was_cut_gives_what_is_whole_and_the_offsets_of_the_rest(
    tmp_path: Path,
) -> None:
    content, lines = b"", ""
    for key in range(6):
        picture = io.BytesIO()
        Image.new("RGB", (24, 24), (40 * key, 0, 0)).save(picture, "JPEG")
        payload = struct.pack("<IfQQ", 0, float(key // 2), key, 0) + (b"no photo" if key == 1 else picture.getvalue())
        lines += f"{key}\t{len(content)}\n"
        content += struct.pack("<II", 0xCED7230A, len(payload)) + payload + b"\0" * (-len(payload) % 4)
    offsets = [int(line.split("\t")[1]) for line in lines.splitlines()]
    (tmp_path / "rec").mkdir()
    (tmp_path / "rec" / "train.rec").write_bytes(content[:-100])
    (tmp_path / "rec" / "train.idx").write_text(lines)
    found = prepare(RecordPhotos(tmp_path / "rec"), tmp_path / "out")
    assert found.outcomes == {"aligned": 4, "unreadable": 2}
    reasons = {line["photo"]: line["reason"] for line in left_out(tmp_path / "out")}
    assert set(reasons) == {"record 1", "record 5"}
    for key in (1, 5):
        assert f"record {key} at offset {offsets[key]} of {tmp_path}/rec/train.rec" in reasons[f"record {key}"]
    assert "but the file ends at" in reasons["record 5"]
    assert list(PreparedFaces(tmp_path / "out").people) == ["0", "1", "2"]


def left_out(output: Path) -> list[dict[str, str]]:
    with (output / "left_out.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
