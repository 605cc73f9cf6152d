"""Faces of a clip: linked to tracks by place and embedding, one template each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from siamese_verify.albums import FaceTable
from siamese_verify.albums.album_folder import AlbumFace, AlbumFolder
from siamese_verify.albums.embed_album import UNKNOWN, embed_album
from siamese_verify.albums.face_pictures import read_face
from siamese_verify.albums.face_tracks import GAP, FaceTracker, Track, frame_at, read_frames, track_clip
from siamese_verify.errors import InputError
from siamese_verify.faces.rotation import Box
from siamese_verify.verification import NoDecision
from tests.albums.stub_verifier import METADATA, load

ANN, BEN, *_ = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0].astype(np.float32)


def face(
    embedding: NDArray[np.float32], box: Box = (0, 0, 10, 10), noise: float = 0.0, probability: float = 0.99
) -> AlbumFace:
    rows = embedding + noise * np.random.default_rng(1).normal(size=8).astype(np.float32)
    return AlbumFace("clip", box, probability, UNKNOWN, (rows / np.linalg.norm(rows)).astype(np.float32))


def tracks_of(frames: Sequence[tuple[float, list[AlbumFace]]]) -> list[Track]:
    tracker, found = FaceTracker(0.5), []
    for seconds, faces in frames:
        found += tracker.add(seconds, faces)
    return sorted(found + tracker.finish(), key=lambda track: track.first)


def test_people_who_change_places_keep_their_tracks() -> None:
    left, right = (0.0, 0.0, 10.0, 10.0), (100.0, 0.0, 110.0, 10.0)
    frames = [(0.2 * t, [face(ANN, left if t < 3 else right), face(BEN, right if t < 3 else left)]) for t in range(6)]
    ann, ben = sorted(tracks_of(frames), key=lambda track: -float(track.template @ ANN))
    assert ann.template @ ANN > 0.99 and ben.template @ BEN > 0.99 and ann.last == ben.last == 1.0


def test_another_face_at_the_same_place_is_another_track() -> None:
    assert [track.last for track in tracks_of([(0.0, [face(ANN)]), (0.2, [face(BEN)])])] == [0.0, 0.2]


def test_an_unlike_view_goes_on_only_where_it_was() -> None:
    mixed = (0.4 * ANN + np.sqrt(1 - 0.16) * BEN).astype(np.float32)  # cosine 0.4, below the threshold of 0.5
    assert len(tracks_of([(0.0, [face(ANN)]), (0.2, [face(mixed, (2, 0, 12, 10))])])) == 1
    assert len(tracks_of([(0.0, [face(ANN)]), (0.2, [face(mixed, (50, 0, 60, 10))])])) == 2


def test_a_track_ends_when_its_face_was_away() -> None:
    assert len(tracks_of([(0.0, [face(ANN)]), (GAP, [face(ANN)])])) == 1
    assert len(tracks_of([(0.0, [face(ANN)]), (GAP + 0.1, [face(ANN)])])) == 2


def test_the_template_is_the_mean_and_the_best_face_stands_for_the_track() -> None:
    faces = [face(ANN, noise=0.1), face(ANN, (0, 0, 12, 12), probability=0.999), face(ANN, noise=0.2, probability=0.95)]
    (track,) = tracks_of([(float(row) / 5, [one]) for row, one in enumerate(faces)])
    mean = np.mean([one.embedding.astype(np.float64) for one in faces], axis=0)
    assert np.allclose(track.template, mean / np.linalg.norm(mean), atol=1e-6)
    assert track.best is faces[1] and track.at == 0.2


def write_clip(path: Path, colors: Sequence[tuple[int, int, int]]) -> Path:
    """A second of each color, at ten frames a second."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as clip:
        stream = clip.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 64, 48
        for color in colors:
            for _ in range(10):
                pixels = np.broadcast_to(np.array(color, dtype=np.uint8), (48, 64, 3))
                clip.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        clip.mux(stream.encode())
    return path


def test_a_clip_is_an_album_of_its_tracks(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [(250, 5, 5), (5, 5, 250), (5, 250, 5)])
    embed_album(clip, tmp_path / "out", METADATA, load, processes=1)
    table = FaceTable.read(tmp_path / "out")
    assert [name.partition("&")[0] for name in table.photos] == [
        "clip.mp4#t=0.00,0.80",
        "clip.mp4#t=1.00,1.80",
        "clip.mp4#t=2.00,2.80",
    ]
    assert (table.boxes == [0, 0, 64, 48]).all()
    assert (table.embeddings @ table.embeddings.T - np.eye(3) < 0.3).all()
    picture = read_face(AlbumFolder(tmp_path / "out").source, table.photos[1], (0, 0, 64, 48))
    red, _, blue = picture.getpixel((56, 56))  # type: ignore[misc]
    assert blue > 200 > 60 > red


def test_what_is_no_clip_is_left_out(tmp_path: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "clip.mp4").write_bytes(b"no clip")
    with pytest.raises(NoDecision, match="is damaged after 0 frames"):
        track_clip(str(tmp_path / "clip.mp4"), "clip.mp4", load())
    summary = embed_album(tmp_path / "clip.mp4", tmp_path / "out", METADATA, load, processes=1)
    assert (summary.faces, summary.left_out) == (0, 1) and len(FaceTable.read(tmp_path / "out")) == 0


def test_a_clip_whose_file_is_away_is_tracked_when_it_is_back(tmp_path: Path) -> None:
    away = write_clip(tmp_path / "away.mp4", [(250, 5, 5)])
    (tmp_path / "0.png").touch()
    (tmp_path / "list.txt").write_text("0.png\nclip.mp4")
    embed_album(tmp_path / "list.txt", tmp_path / "out", METADATA, load, processes=1)
    reasons = {one.photo: one.reason for one in AlbumFolder(tmp_path / "out").left_out()}
    assert reasons == {"0.png": "unreadable_photo", "clip.mp4": "unread_file"}
    away.rename(tmp_path / "clip.mp4")
    assert embed_album(tmp_path / "list.txt", tmp_path / "out", METADATA, load, processes=1).faces == 1


def test_without_pyav_a_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"no clip")
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(InputError, match=r"pip install 'siamese-verify\[video\]'"):
        embed_album(tmp_path / "clip.mp4", tmp_path / "out", METADATA, load, processes=1)


def test_a_picture_is_sought_in_its_clip_and_is_the_frame_that_was_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = str(write_clip(tmp_path / "clip.mp4", [(20 * one, 250 - 20 * one, 100) for one in range(12)]))
    searched = dict(read_frames(clip))
    decoded = 0

    def counted(frames: Iterable[object]) -> Iterator[tuple[int, object]]:
        nonlocal decoded
        for pair in enumerate(frames):
            decoded += 1
            yield pair

    monkeypatch.setattr("siamese_verify.albums.face_tracks.enumerate", counted, raising=False)
    for seconds in (0.0, 1.0, 1.8, 10.6, 11.4):
        assert np.array_equal(np.asarray(frame_at(clip, seconds)), np.asarray(searched[seconds]))
    assert decoded < 80  # of 120 frames the last would take 115
