"""Search among an album's faces: exact against a naive search in float64, rounded rows, FAISS, and what scores mean."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from siamese_verify.albums import FaceTable
from siamese_verify.albums.album_folder import AlbumFolder, StoredRows, quantize
from siamese_verify.albums.album_search import AlbumAnswer, nearest_rows, open_index, proposed_rows, search_album
from siamese_verify.albums.album_source import AlbumSource
from siamese_verify.albums.embed_album import AlbumSummary, embed_album
from siamese_verify.albums.face_pictures import read_face
from siamese_verify.cli import embed_photos
from siamese_verify.cli.main import main
from siamese_verify.errors import InputError
from siamese_verify.evaluation import Calibration, ImpostorTail, ScoreCalibration
from siamese_verify.gallery.identification import search_threshold
from tests.albums.stub_verifier import METADATA, OTHER, draw_album, load


def unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    result: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)
    return result


def stored(rows: NDArray[np.float32], int8: bool) -> StoredRows:
    if not int8:
        return StoredRows(rows, rows.shape[1])
    rounded, scale = quantize(rows)
    return StoredRows(np.concatenate([rounded, scale[:, None].view(np.int8)], axis=1), rows.shape[1])


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("block", [1, 7, 1000])
def test_the_nearest_rows_are_those_of_a_naive_search(int8: bool, block: int) -> None:
    rng = np.random.default_rng(0)
    rows = unit(rng.normal(size=(300, 12)))
    rows[200:210] = rows[5]  # ties, in the order of the rows
    rows[100:150] = unit(rows[7] + 1e-6 * rng.normal(size=(50, 12)))  # closer than float32 can tell
    queries = unit(rng.normal(size=(4, 12)))
    queries[1:3] = rows[[5, 7]]
    kept = stored(rows, int8)
    found = nearest_rows(queries, kept, 20, block=block)
    for number, query in enumerate(queries):
        exact = (kept[:].astype(np.float64) * query).sum(axis=1)
        expected = sorted(range(300), key=lambda row: (-min(1.0, exact[row]), row))[:20]
        assert found.rows[number].tolist() == expected
        assert np.allclose(found.scores[number], np.minimum(1, exact[expected]), atol=1e-12, rtol=0)


def test_a_search_on_a_device_finds_the_same() -> None:
    rng = np.random.default_rng(1)
    rows, queries = unit(rng.normal(size=(200, 8))), unit(rng.normal(size=(3, 8)))
    here, there = (nearest_rows(queries, stored(rows, True), 5, device=one, block=64) for one in ("cpu", "cpu:0"))
    assert np.array_equal(here.rows, there.rows) and np.array_equal(here.scores, there.scores)


def test_rounded_rows_have_unit_length_and_the_cosines_of_their_rows() -> None:
    rows = unit(np.random.default_rng(2).normal(size=(500, 512)))
    kept = stored(rows, True)
    assert np.abs(np.linalg.norm(kept[:].astype(np.float64), axis=1) - 1).max() < 1e-6
    assert ((kept[:] * rows).sum(axis=1) > 0.9999).all()
    block = slice(100, 200)
    assert np.allclose(kept.scores(block, rows[:3]), kept[block] @ rows[:3].T, atol=1e-6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("searched")
    album = draw_album(place / "album", 60)
    embed_album(album, place / "faces", METADATA, load, processes=1)
    return place / "faces"


def test_faiss_proposes_and_is_kept(folder: Path) -> None:
    pytest.importorskip("faiss")
    album, table = AlbumFolder(folder), FaceTable.read(folder)
    for _ in range(2):
        found = proposed_rows(table.embeddings[11], album.rows(), 5, open_index(album))
        assert np.array_equal(found.rows, nearest_rows(table.embeddings[11:12], album.rows(), 5).rows)
    assert {path.stat().st_mode & 0o777 for path in folder.glob("rows-*.faiss*")} == {0o600}
    mapped = album.rows(mapped=True)
    assert isinstance(mapped.stored, np.memmap) and np.array_equal(mapped[:], album.rows()[:])
    answer = search_album(album, METADATA, table.embeddings[11], top=5, threshold=0.99, approximate=True)
    assert [hit.row for hit in answer.hits] == found.rows[0].tolist()


def test_a_photo_finds_itself_with_its_place(folder: Path) -> None:
    table = FaceTable.read(folder)
    answer = search_album(AlbumFolder(folder), METADATA, table.embeddings[33], top=3, threshold=0.99)
    assert answer.hits[0].row == 33 and answer.hits[0].photo == table.photos[33]
    assert list(answer.hits[0].box) == [0, 0, 8, 8]
    assert [hit.accepted for hit in answer.hits] == [hit.score >= 0.99 for hit in answer.hits]
    assert answer.searched == 59 and answer.far is None and answer.hits[0].log_likelihood_ratio is None
    assert json.loads(json.dumps(answer.to_dict(), allow_nan=False))["hits"][0]["photo"] == table.photos[33]


@pytest.fixture
def calibrated() -> ScoreCalibration:
    scores = np.arange(0.0, 1.0, 0.05)
    tail = ImpostorTail(tuple(scores.tolist()), tuple((10**6 * (1 - scores) ** 4).astype(int).tolist()), 10**6)
    return ScoreCalibration(Calibration("logistic", (0.0, 1.0), (-3.0, 3.0), 40, 400), tail)


def test_the_threshold_allows_for_the_number_of_faces(folder: Path, calibrated: ScoreCalibration) -> None:
    metadata, album = replace(METADATA, score_calibration=calibrated), AlbumFolder(folder)
    embedding = FaceTable.read(folder).embeddings[33]
    answer = search_album(album, metadata, embedding, top=59, far=0.1, prior=0.01)
    tail = calibrated.impostor_tail
    assert answer.threshold == search_threshold(tail, 0.1, 59).threshold > tail.threshold(0.1)[0]
    for hit in answer.hits:
        assert hit.accepted == (hit.score >= answer.threshold)
        share = tail.at_most(hit.score)
        assert hit.one_in == (max(1, int(1 / (59 * share))) if share else None)
        assert hit.probability is not None and hit.log_likelihood_ratio is not None
        odds = np.exp(hit.log_likelihood_ratio) * 0.01 / 0.99
        assert np.isclose(hit.probability, odds / (1 + odds))


def test_what_cannot_be_searched_is_refused(folder: Path) -> None:
    album, embedding = AlbumFolder(folder), np.eye(16, dtype=np.float32)[0]
    with pytest.raises(InputError, match=r"was embedded by stub \(\w+\), not by other"):
        search_album(album, OTHER, embedding)
    with pytest.raises(InputError, match="never calibrated, so no rate leads to a threshold"):
        search_album(album, METADATA, embedding, far=0.01)
    with pytest.raises(InputError, match="gives from 1 to"):
        search_album(album, METADATA, embedding, top=0)
    for device in ("gpu", "cuda:99"):
        with pytest.raises(InputError, match=f"The device '{device}' cannot be used"):
            search_album(album, METADATA, embedding, device=device)
    assert len(search_album(album, METADATA, embedding, device="auto").hits) == 20
    with pytest.raises(InputError, match="must be finite"):
        nearest_rows(np.full((1, 16), np.nan), album.rows(), 1)


def test_a_picture_of_a_face_is_cut_from_its_photo(folder: Path) -> None:
    table = FaceTable.read(folder)
    picture = read_face(AlbumFolder(folder).source, table.photos[3], (2, 2, 4, 4), side=16)
    assert picture.size == (16, 16) and picture.getextrema() != ((230, 230), (232, 232), (235, 235))


@pytest.mark.parametrize("photo", ["x#t=1&at=foo.png", "x.mp4#t=1&at=2.png", "x#t=1.00,2.00&at=1.00.png"])
def test_a_photo_named_like_a_track_has_its_picture(tmp_path: Path, photo: str) -> None:
    (draw_album(tmp_path, 2) / "000" / "0.png").rename(tmp_path / photo)
    assert read_face(AlbumSource(tmp_path), photo, (2, 2, 4, 4), side=16).size == (16, 16)


def test_pictures_that_cannot_be_had_are_refused_with_a_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, photo = AlbumFolder(folder).source, FaceTable.read(folder).photos[3]
    with pytest.raises(InputError, match=r"The face is not on 000/3\.png any more"):
        read_face(source, photo, (20, 2, 30, 4))

    def fail(_: str) -> bytes:
        raise ConnectionError("No answer.")

    monkeypatch.setattr(source, "read", fail)
    with pytest.raises(InputError, match="No answer"):
        read_face(source, photo, (2, 2, 4, 4))


def test_the_source_of_pictures_is_opened_once(folder: Path) -> None:
    album = AlbumFolder(folder)
    assert album.source is album.source


def test_on_a_gpu_one_process_embeds_by_default(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def embedded(*_: object, processes: int | None, **__: object) -> AlbumSummary:
        asked.append(processes)
        return AlbumSummary(1, 1, 0, 0, 1.0, Counter())

    monkeypatch.setattr("siamese_verify.albums.embed_album.embed_album", embedded)
    for arguments in (["cuda"], ["cuda:1", "--processes", "3"], ["cpu"]):
        main(["embed", str(tmp_path), "--out", str(tmp_path), "--model", str(tiny_run), "--device", *arguments])
    assert asked == [1, 3, None]


def test_the_commands_embed_and_search(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    draw_album(tmp_path / "album", 12)
    assert main(["embed", "album", "--output", "faces", "--model", str(tiny_run), "--processes", "1", "--int8"]) == 0
    said = capsys.readouterr()
    assert "12 photos, 11 faces in faces" in said.out and "1 photos have none: see faces/left_out.csv" in said.out
    photo = "album/001/5.png"
    assert main(["search", photo, "--in", "faces", "--top", "4", "--json"]) in (0, 1)
    answer = json.loads(capsys.readouterr().out)
    assert set(answer) == set(AlbumAnswer.__dataclass_fields__)
    assert answer["hits"][0]["photo"] == "001/5.png" and answer["hits"][0]["score"] > 0.999
    for place in ("page.html", "page"):
        assert main(["search", photo, "--in", "faces", "--threshold", "0.9", "--page", place]) == 0
        assert "* " in capsys.readouterr().out
    page = (tmp_path / "page.html").read_text()
    assert page == (tmp_path / "page" / "index.html").read_text()
    assert page.count("<img") == 12 and "http" not in page
    with pytest.raises(SystemExit) as ended:
        main(["search", photo, "--in", "nowhere"])
    assert ended.value.code == 2 and "nowhere holds no embeddings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "page", "said"),
    [
        (["search", "a.jpg", "--in"], "file", "--page file is a file: name a folder, or a file for the page"),
        (["clean"], "file/page", "--page file/page is a file: name a folder"),
        (["clean"], "gone/page.html", "There is no folder gone to write gone/page.html to: create it first."),
        (["group"], "page.html", "--page page.html names a file, but there is a page for each person: name a folder."),
    ],
)
def test_a_page_that_cannot_be_written_is_refused_before_the_work(
    command: list[str],
    page: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(SystemExit) as ended:
        main([*command, "nowhere", "--page", page])
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_former_names_of_options_are_understood() -> None:
    parser = ArgumentParser()
    embed_photos.add_arguments(parser)
    former = parser.parse_args(["photos", "--out", "faces", "--engine", "ray"])
    assert former == parser.parse_args(["photos", "--output", "faces", "--on", "ray"])
