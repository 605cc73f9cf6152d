"""All faces of an album: from any source, in parts that a kill cannot tear, once each."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from siamese_verify.albums import FaceTable
from siamese_verify.albums.album_folder import (
    LOCK,
    AlbumFace,
    AlbumFolder,
    added_names,
    album_face,
    default_part,
    read_names,
    write_metadata,
    write_names,
)
from siamese_verify.albums.embed_album import UNKNOWN, embed_album
from siamese_verify.cli.main import main
from siamese_verify.datasets import RecordPhotos
from siamese_verify.datasets.storage import Storage
from siamese_verify.errors import InputError
from siamese_verify.evaluation import Calibration, ImpostorTail, ScoreCalibration
from siamese_verify.faces import DETECTORS, Quality
from siamese_verify.models.metadata import ModelMetadata
from siamese_verify.run_lock import claim
from siamese_verify.structures import Crop, DetectorName
from siamese_verify.verification import DetectedFace
from tests.albums.stub_verifier import ARRAYS, METADATA, OTHER, draw_album, load, load_for_arrays
from tests.datasets.test_recordio import insightface, write

ROOT = Path(__file__).resolve().parents[2]


def embed(source: str | Path, folder: Path, metadata: ModelMetadata = METADATA, **options: object) -> FaceTable:
    settings = {"processes": 1, "photos_per_part": 4, **options}
    embed_album(source, folder, metadata, load, **settings)  # type: ignore[arg-type]
    return FaceTable.read(folder)


def same(left: FaceTable, right: FaceTable) -> bool:
    columns = [(one.embeddings, one.boxes, one.probability, *one.quality.values()) for one in (left, right)]
    return list(left.photos) == list(right.photos) and all(
        np.array_equal(a, b, equal_nan=True) for a, b in zip(*columns, strict=True)
    )


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_album(tmp_path_factory.mktemp("album"), 41)


def test_each_photo_has_its_row_in_the_order_of_names(album: Path, tmp_path: Path) -> None:
    table = embed(album, tmp_path / "out")
    names = sorted(str(path.relative_to(album)) for path in album.rglob("*.png"))
    assert list(table.photos) == [name for name in names if name != "010/40.png"]
    verifier = load()
    expected = verifier.embed([album / name for name in table.photos])
    assert np.array_equal(table.embeddings, expected)
    assert (table.boxes == [0, 0, 8, 8]).all() and (table.probability == 1).all()
    quality = verifier.find(album / table.photos[7])[0].quality
    assert table.quality["sharpness"][7] == np.float32(quality.sharpness)
    assert np.isnan(table.quality["turn"]).all()
    assert (table.model, table.weights_sha256, table.root) == ("stub", "ab" * 32, str(album))


def test_threads_that_find_faces_change_nothing(album: Path, tmp_path: Path) -> None:
    assert same(embed(album, tmp_path / "three", threads=3), embed(album, tmp_path / "one"))
    left_out = [(tmp_path / name / "left_out.csv").read_bytes() for name in ("three", "one")]
    assert left_out[0] == left_out[1] != b""


def test_photos_without_a_face_are_listed_with_reasons(album: Path, tmp_path: Path) -> None:
    embed(album, tmp_path)
    (row,) = csv.DictReader((tmp_path / "left_out.csv").open(encoding="utf-8"))
    assert (row["photo"], row["reason"]) == ("010/40.png", "unreadable_photo")
    assert "is not an image" in row["detail"]


@pytest.mark.parametrize("name", ["mtcnn", "yunet"])
def test_an_album_of_another_detector_is_refused(album: Path, tmp_path: Path, name: DetectorName) -> None:
    crops = {one: Crop("box", detector=one) for one in DETECTORS}
    specs = {one: replace(METADATA, input_spec=replace(METADATA.input_spec, crop=crop)) for one, crop in crops.items()}
    embed(album, tmp_path, specs[name])  # the stub looks for no face
    assert AlbumFolder(tmp_path).metadata.face_policy == DETECTORS[name].identifier
    (other,) = {*DETECTORS} - {name}
    with pytest.raises(InputError, match="was made with the model stub"):
        embed(album, tmp_path, specs[other])


def test_nobody_else_can_read_the_folder(album: Path, tmp_path: Path) -> None:
    embed(album, tmp_path / "out")
    folders = [path for path in [tmp_path / "out", *(tmp_path / "out").rglob("*")] if path.is_dir()]
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.name != LOCK]
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_all_sources_of_the_same_photos_give_the_same_rows(album: Path, tmp_path: Path) -> None:
    names = list(Storage(album).names())
    (tmp_path / "list.csv").write_text("\n".join(["path,year", *(f"{name},2020" for name in names)]))
    parquet.write_table(pa.table({"year": [1] * len(names), "path": names}), tmp_path / "list.parquet")
    (tmp_path / "list.txt").write_text("\n".join(names))
    expected = embed(album, tmp_path / "folder")
    for kind in ("csv", "parquet", "txt"):
        assert same(embed(tmp_path / f"list.{kind}", tmp_path / kind, root=album), expected)


def test_absolute_paths_within_the_root_are_those_from_it(album: Path, tmp_path: Path) -> None:
    names = list(Storage(album).names())
    (tmp_path / "link").symlink_to(album)
    expected = embed(album, tmp_path / "folder")
    (tmp_path / "list.txt").write_text("\n".join([names[0], *(f"{album}/{name}" for name in names[1:])]))
    for number, root in enumerate((album, f"{album}/", tmp_path / "link")):
        assert same(embed(tmp_path / "list.txt", tmp_path / str(number), root=root), expected)
    (album / "list.txt").write_text((tmp_path / "list.txt").read_text())
    assert same(embed(album / "list.txt", tmp_path / "own"), expected)
    (album / "list.txt").unlink()
    parquet.write_table(pa.table({"path": [f"{album}/{name}" for name in names]}), tmp_path / "list.parquet")
    table = embed(tmp_path / "list.parquet", tmp_path / "machine", root="/")
    assert [f"/{name}" for name in table.photos] == [f"{album}/{name}" for name in expected.photos]
    assert np.array_equal(table.embeddings, expected.embeddings)


def test_entries_that_cannot_be_read_are_left_out_with_their_reason(album: Path, tmp_path: Path) -> None:
    bad = ["x" * 300, "/elsewhere/a.png", "../a.png", "a\0.png", "gone.png"]
    parquet.write_table(pa.table({"path": [*bad, f"{album}/000/0.png"]}), tmp_path / "list.parquet")
    assert list(embed(tmp_path / "list.parquet", tmp_path / "out", root=album).photos) == ["000/0.png"]
    with (tmp_path / "out" / "left_out.csv").open(newline="") as file:
        assert [(line["photo"], line["reason"]) for line in csv.DictReader(file)] == [
            (one, "unread_file") for one in bad
        ]


def test_a_root_that_is_not_unicode_does(album: Path, tmp_path: Path) -> None:
    root = tmp_path / "caf\udce9"
    (root / "000").mkdir(parents=True)
    (root / "000/0.png").write_bytes((album / "000/0.png").read_bytes())
    (tmp_path / "list.txt").write_text(f"000/0.png\n{tmp_path}/1.png")
    assert list(embed(tmp_path / "list.txt", tmp_path / "out", root=root).photos) == ["000/0.png"]


def test_one_photo_by_two_paths_is_refused(album: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"000/0.png\n{album}/000/0.png")
    with pytest.raises(InputError, match=r"has the photo 000/0\.png twice"):
        embed(tmp_path / "list.txt", tmp_path / "out", root=album)


def test_a_list_none_of_whose_photos_can_be_read_ends_with_the_way_out(album: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("000/0.png\n001/4.png")
    for _ in range(2):
        with pytest.raises(
            InputError, match=r"such as '000/0\.png', which was looked for in .*: put them there, or delete"
        ):
            embed(tmp_path / "list.txt", tmp_path / "out")
    (tmp_path / "000").mkdir()
    (tmp_path / "000/0.png").write_bytes((album / "000/0.png").read_bytes())
    assert len(embed(tmp_path / "list.txt", tmp_path / "out")) == 1


def test_object_storage_is_a_source(album: Path, tmp_path: Path) -> None:
    import fsspec

    files = fsspec.filesystem("memory")
    files.put(str(album), "/album", recursive=True)
    expected = embed(album, tmp_path / "local")
    assert same(embed("memory://album", tmp_path / "out"), expected)
    (tmp_path / "list.txt").write_text("\n".join(f"memory://album/{name}" for name in Storage(album).names()))
    assert same(embed(tmp_path / "list.txt", tmp_path / "listed", root="memory://album"), expected)


def test_records_are_a_source(tmp_path: Path) -> None:
    place = tmp_path / "faces"
    place.mkdir()
    write(place, insightface((2, 3, 1)))
    for number, source in enumerate((place, place / "train.rec")):
        table = embed(source, tmp_path / str(number))
        assert list(table.photos) == [f"record {key}" for key in range(1, 7)]
        photos = RecordPhotos(place)
        assert np.array_equal(table.embeddings, load().embed([photos[row] for row in range(6)]))


def test_arrays_are_a_source_for_models_that_take_them(tmp_path: Path) -> None:
    arrays = np.random.default_rng(0).random((9, 20)).astype(np.float32)
    np.save(tmp_path / "arrays.npy", arrays)
    embed_album(tmp_path / "arrays.npy", tmp_path / "out", ARRAYS, load_for_arrays, processes=1)
    table = FaceTable.read(tmp_path / "out")
    assert np.array_equal(table.embeddings, load_for_arrays().embed_arrays(arrays))
    assert list(table.photos) == [f"row {row}" for row in range(9)]
    with pytest.raises(InputError, match=r"The model stub takes photos, but .*arrays\.npy holds arrays"):
        embed(tmp_path / "arrays.npy", tmp_path / "wrong")


def test_photos_that_came_are_added_behind_the_others(tmp_path: Path) -> None:
    album = draw_album(tmp_path / "album", 10)
    before = embed(album, tmp_path / "out")
    draw_album(tmp_path / "album" / "000" / "later", 7, seed=1)
    after = embed(album, tmp_path / "out")
    assert list(after.photos[:9]) == list(before.photos)
    assert np.array_equal(after.embeddings[:9], before.embeddings)
    assert [name.startswith("000/later/") for name in after.photos[9:]] == [True] * 6
    assert AlbumFolder(tmp_path / "out").metadata.lists == (10, 17)
    assert same(embed(album, tmp_path / "out"), after)


@pytest.mark.parametrize(
    ("known", "listed"),
    [
        ("abcd", "abcd"),
        ("abcd", "abcdef"),  # behind the others
        ("abcd", "axbcyd"),  # among them
        ("abcd", "cd"),  # some were deleted
        ("cdab", "abcdx"),  # some came in an earlier folder and were added behind
        ("", "ab"),
    ],
)
@pytest.mark.parametrize("block", [1, 3, 100])
def test_names_that_came_are_told_from_those_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: str, listed: str, block: int
) -> None:
    monkeypatch.setattr("siamese_verify.albums.album_folder.BLOCK", block)
    write_names(tmp_path, known)
    found = added_names(read_names(tmp_path), iter(listed)).to_pylist()
    assert found == [name for name in listed if name not in known]


def test_memory_for_names_does_not_grow_where_only_the_end_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("siamese_verify.albums.album_folder.BLOCK", 2**10)
    names = [f"2024/{number // 1000:04}/IMG_{number:08}.jpg" for number in range(200_000)]
    write_names(tmp_path, names)
    before, most = pa.total_allocated_bytes(), 0

    def listed() -> Iterator[str]:
        nonlocal most
        for name in [*names, "new.jpg"]:
            most = max(most, pa.total_allocated_bytes() - before)
            yield name

    assert added_names(read_names(tmp_path), listed()).to_pylist() == ["new.jpg"]
    assert most < sum(map(len, names)) / 20


def test_parts_of_large_albums_are_larger_so_that_their_files_stay_few() -> None:
    photos = [1, 100, 10**4, 10**6, 10**8, 10**9, 10**10]
    assert [default_part(count) for count in photos[:4]] == [16, 16, 39, 2048]
    assert all(-(-count // default_part(count)) <= 2**16 for count in photos)


def test_int8_is_a_quarter_and_close(album: Path, tmp_path: Path) -> None:
    exact, rounded = embed(album, tmp_path / "float32"), embed(album, tmp_path / "int8", int8=True)
    error = np.abs(exact.embeddings - rounded.embeddings).max(axis=1)
    assert (error <= np.abs(exact.embeddings).max(axis=1) / 127).all() and error.max() > 0
    assert np.abs(np.linalg.norm(rounded.embeddings, axis=1) - 1).max() < 1e-6
    assert AlbumFolder(tmp_path / "int8").rows().stored.dtype == np.int8
    rows = np.random.default_rng(0).normal(size=(500, 512)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    sizes = []
    for name in ("int8", "float32"):
        write_metadata(tmp_path / name, replace(AlbumFolder(tmp_path / name).metadata, embedding_size=512))
        folder = AlbumFolder(tmp_path / name)
        folder.write_part(folder.ranges()[0], [AlbumFace("a", (0, 0, 8, 8), 1.0, UNKNOWN, row) for row in rows], [])
        sizes.append(folder.part(folder.ranges()[0]).stat().st_size)
    assert sizes[0] < 0.3 * sizes[1]


def test_large_tables_are_mapped(album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = embed(album, tmp_path / "out")
    rounded = embed(album, tmp_path / "int8", int8=True).embeddings
    monkeypatch.setattr("siamese_verify.albums.album_folder.IN_MEMORY", 0)
    for _ in range(2):
        found = FaceTable.read(tmp_path / "out")
        assert isinstance(found.embeddings, np.memmap) and same(found, expected)
        assert np.array_equal(FaceTable.read(tmp_path / "int8").embeddings, rounded)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"metadata": OTHER}, r"was made with the model stub \(\w+\), not other"),
        ({"int8": True}, "was made with storage as float32, not int8"),
        ({"source": "else"}, "was made with the source .*, not .*else: name another folder"),
    ],
)
def test_what_does_not_belong_to_the_folder_is_refused(
    album: Path, tmp_path: Path, options: dict[str, object], sentence: str
) -> None:
    embed(album, tmp_path / "out")
    draw_album(tmp_path / "else", 2)
    if "source" in options:
        options = {"source": tmp_path / "else"}
    with pytest.raises(InputError, match=sentence):
        embed(**{"source": album, "folder": tmp_path / "out", **options})  # type: ignore[arg-type]


def test_two_at_once_are_refused(album: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    lock = claim(tmp_path / "out" / LOCK)
    assert lock
    with lock, pytest.raises(InputError, match="Another process is writing to"):
        embed(album, tmp_path / "out")
    embed(album, tmp_path / "out")


def test_group_is_refused_while_another_process_writes(
    album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    embed(album, tmp_path / "out")
    tail = ImpostorTail((0.0,), (0,), 1)
    calibration = ScoreCalibration(Calibration("logistic", (0.0, 1.0), (-3.0, 3.0), 40, 400), tail)
    calibrated = SimpleNamespace(metadata=replace(METADATA, score_calibration=calibration))
    monkeypatch.setattr("siamese_verify.models.loading.find_bundle", lambda _: calibrated)
    lock = claim(tmp_path / "out" / LOCK)
    assert lock
    with lock, pytest.raises(SystemExit):
        main(["group", str(tmp_path / "out"), "--name", "1=Ann"])
    assert "Another process is writing to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("file\na.png\n", "has no column path"),
        ("path\na.png\na.png\n", "has the photo a.png twice"),
        ("path\na.png\n\" \"\n", "has no path: fill it in"),
        ("path\n", "holds no photo"),
    ],
)  # fmt: skip
def test_invalid_lists_are_refused(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(InputError, match=sentence):
        embed(tmp_path / "list.csv", tmp_path / "out")


def test_strange_folders_and_empty_sources_are_refused(album: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"holds thesis\.tex, which is no album's"):
        embed(album, tmp_path / "mine")
    with pytest.raises(InputError, match="mine holds no photo"):
        embed(tmp_path / "mine", tmp_path / "out")
    with pytest.raises(InputError, match=r"There is no .*missing: give a folder"):
        embed(tmp_path / "missing", tmp_path / "out2")
    with pytest.raises(InputError, match="holds no embeddings"):
        FaceTable.read(tmp_path / "mine")


def test_an_unfinished_or_damaged_table_is_refused(album: Path, tmp_path: Path) -> None:
    expected = embed(album, tmp_path)
    part = AlbumFolder(tmp_path).part(AlbumFolder(tmp_path).ranges()[2])
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(InputError, match="is damaged: delete it"):
        FaceTable.read(tmp_path)
    part.unlink()
    with pytest.raises(InputError, match="has 37 of 41 photos"):
        FaceTable.read(tmp_path)
    assert len(FaceTable.read(tmp_path, unfinished=True)) == 36
    assert same(embed(album, tmp_path), expected)


def test_the_box_of_a_rotated_face_is_that_on_the_upright_photo() -> None:
    face = DetectedFace("a", np.zeros((8, 8, 3), np.uint8), Quality(1, 2, 3, 0.5, 0.5), (10, 20, 30, 60), None, 0.9, 90)
    # Rotated counter-clockwise by 90 degrees, (x, y) of a photo of 200 x 100 comes to (y, 200 - x).
    assert np.allclose(album_face("a", face, (200, 100)).box, (140, 10, 180, 30))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_several_processes_write_what_one_does(album: Path, tmp_path: Path, engine: str) -> None:
    if engine == "ray":
        pytest.importorskip("ray.data")
    expected = embed(album, tmp_path / "one", photos_per_part=1)
    command = start_of(album, tmp_path / engine, tmp_path, engine)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    with subprocess.Popen(command, env=environment, cwd=ROOT) as first:  # killed as soon as a part is there
        while first.poll() is None and not list((tmp_path / engine).rglob("*.parquet")):
            time.sleep(0.01)
        first.kill()
    assert 0 < len(list((tmp_path / engine).rglob("*.parquet"))) < 41
    run = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    assert same(FaceTable.read(tmp_path / engine), expected)


def start_of(album: Path, out: Path, folder: Path, engine: str) -> list[str]:
    """Command that embeds by two processes."""
    arguments = f"{str(album)!r}, {str(out)!r}, METADATA, load, processes=2, engine={engine!r}, photos_per_part=1"
    program = f"""
from tests.albums.stub_verifier import METADATA, load
from siamese_verify.albums.embed_album import embed_album
if __name__ == "__main__":
    print(embed_album({arguments}))
"""
    (folder / "script.py").write_text(program)
    return [sys.executable, str(folder / "script.py")]


# Forks without torch and threads, so that a process to be killed starts in a millisecond.
KILLS = """
import json, os, random, shutil, signal, sys, time
from pathlib import Path
from siamese_verify.albums.embed_album import embed_album
from tests.albums.stub_verifier import METADATA, load

assert "torch" not in sys.modules
album, folder, kills = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
clock = random.Random(0)

def start(out):
    child = os.fork()
    if child == 0:
        try:
            embed_album(album, out, METADATA, load, processes=1, photos_per_part=4)
            os._exit(0)
        finally:
            os._exit(1)
    return child

begun = time.perf_counter()
assert os.waitpid(start(folder / "undisturbed"), 0)[1] == 0
span = time.perf_counter() - begun
found, turn, unfinished = {"kills": 0, "finished": 0, "left": 0}, 0, 0
while found["kills"] < kills or unfinished:
    out = folder / str(turn)
    child = start(out)
    if found["kills"] < kills:
        time.sleep(clock.uniform(0, span / 3))
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    unfinished = os.WIFSIGNALED(status)
    found["kills"] += unfinished
    found["left"] += bool(list(out.rglob(".*.part")))
    if not unfinished:
        assert status == 0
        found["finished"] += 1
        turn += 1
print(json.dumps(found))
"""


def test_killed_at_any_moment_it_finishes_with_the_same_rows(album: Path, tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", KILLS, str(album), str(tmp_path), "50"]
    run = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["kills"] == 50 and found["finished"] >= 1
    expected = FaceTable.read(tmp_path / "undisturbed")
    for turn in range(found["finished"]):
        folder = tmp_path / str(turn)
        assert same(FaceTable.read(folder), expected)
        assert (folder / "left_out.csv").read_bytes() == (tmp_path / "undisturbed" / "left_out.csv").read_bytes()
        assert not list(folder.rglob(".*.part"))


def test_a_photo_that_could_not_be_read_is_embedded_when_it_can_be(tmp_path: Path) -> None:
    album, away = draw_album(tmp_path / "album", 9), tmp_path / "away.png"
    expected = embed(album, tmp_path / "expected")
    (tmp_path / "list.txt").write_text("\n".join(Storage(album).names()))
    (album / "000" / "2.png").rename(away)
    embed(tmp_path / "list.txt", tmp_path / "out", root=album)
    reasons = {one.photo: one.reason for one in AlbumFolder(tmp_path / "out").left_out()}
    assert reasons == {"000/2.png": "unread_file", "002/8.png": "unreadable_photo"}
    parts = {path: path.stat().st_mtime_ns for path in sorted((tmp_path / "out" / "parts").iterdir())}
    embed(tmp_path / "list.txt", tmp_path / "out", root=album)
    assert {path: path.stat().st_mtime_ns for path in parts} == parts
    away.rename(album / "000" / "2.png")
    assert same(embed(tmp_path / "list.txt", tmp_path / "out", root=album), expected)
    assert [path for path, written in parts.items() if path.stat().st_mtime_ns != written] == [min(parts)]


def test_mapped_rows_are_those_of_a_part_that_was_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    album = draw_album(tmp_path / "album", 9)
    monkeypatch.setattr("siamese_verify.albums.album_folder.IN_MEMORY", 0)
    embed(album, tmp_path / "out")
    folder = AlbumFolder(tmp_path / "out")
    (album / "000" / "0.png").write_bytes((album / "000" / "1.png").read_bytes())
    folder.part(folder.ranges()[0]).unlink()
    rows = embed(album, tmp_path / "out").embeddings
    assert np.array_equal(rows[0], rows[1]) and len(list((tmp_path / "out").glob("rows-*"))) == 1
    folder.file_of_rows(".npy").unlink()
    lock = claim(tmp_path / "out" / LOCK)
    assert lock
    with lock, pytest.raises(InputError, match="Another process is writing to"):
        folder.rows()


def test_a_face_without_an_embedding_is_left_out(tmp_path: Path) -> None:
    album = draw_album(tmp_path / "album", 5)
    embed(album, tmp_path / "out")
    folder = AlbumFolder(tmp_path / "out")
    ones = np.full(16, 0.25, dtype=np.float32)
    faces = [
        AlbumFace(name, (0, 0, 8, 8), 1.0, UNKNOWN, row)
        for name, row in (("a", ones), ("a", ones * np.nan), ("b", ones * 0), ("c", ones))
    ]
    folder.write_part(folder.ranges()[0], faces, [])
    assert list(FaceTable.read(tmp_path / "out", unfinished=True).photos)[:2] == ["a", "c"]
    assert [one[:2] for one in folder.left_out_of(folder.part(folder.ranges()[0]))] == [("b", "no_embedding")]
    with pytest.raises(InputError, match="The embedding of a is NaN or zero: the model's weights are damaged"):
        folder.write_part(folder.ranges()[0], faces[1:3], [])


def test_a_folder_may_be_named_like_an_address_but_be_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    album = draw_album(tmp_path / "album", 3)
    monkeypatch.chdir(tmp_path)
    assert len(embed(album, Path("trip:2024"))) == 2
    with pytest.raises(InputError, match="s3://bucket/out is an address"):
        embed(album, "s3://bucket/out")  # type: ignore[arg-type]
    assert not Path("s3:").exists()
