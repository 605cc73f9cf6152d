"""Faces of a clip: those of one person in frames that follow one another are a track, which has one template."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from siamese_verify.albums.album_folder import AlbumFace, album_face
from siamese_verify.errors import InputError
from siamese_verify.faces.rotation import Box, overlap
from siamese_verify.verification import NoDecision, Verifier

LEAD = 1.0  # seconds sought before a frame, as frames are stored in another order than they are shown in
STEP = 0.2  # seconds between two frames that are searched
GAP = 1.0  # seconds that a track may be without a face: one that looks away, or a frame without detection
OVERLAP = 0.3  # intersection over union of two boxes of one face in frames that follow one another
SAME = 0.5  # cosine of one person's faces, for models whose threshold was never measured


@dataclass
class Track:
    """A face through a clip.

    Attributes:
        first: seconds at its first face.
        last: at its last one.
        box: of the last one.
        total: (D,) float64 sum of the embeddings, each of unit length.
        best: the most probable face, the largest of equals.
        at: seconds of that.
    """

    first: float
    last: float
    box: Box
    total: NDArray[np.float64]
    best: AlbumFace
    at: float

    @property
    def template(self) -> NDArray[np.float32]:
        """(D,) mean of the embeddings, of unit length."""
        result: NDArray[np.float32] = (self.total / np.linalg.norm(self.total)).astype(np.float32)
        return result


class FaceTracker:
    """Links the faces of frames to tracks.

    A face goes on with the track of the largest sum of cosine and overlap. Its cosine with the track's template has to
    reach the threshold of one person; half of it if its box overlaps the last one of the track by `OVERLAP`, as a face
    that stays where it was seldom changes.

    Args:
        same: cosine from which two photos count as of one person.
    """

    def __init__(self, same: float = SAME) -> None:
        self.same = same
        self._running: list[Track] = []

    def add(self, seconds: float, faces: Sequence[AlbumFace]) -> list[Track]:
        """Link the faces of a frame; return tracks that have ended before it."""
        ended = [track for track in self._running if seconds - track.last > GAP]
        self._running = [track for track in self._running if seconds - track.last <= GAP]
        known, linked = len(self._running), set[int]()
        pairs = []
        for row, column in itertools.product(range(len(faces)), range(known)):
            track = self._running[column]
            cosine, shared = float(faces[row].embedding @ track.template), overlap(faces[row].box, track.box)
            if cosine >= (self.same / 2 if shared >= OVERLAP else self.same):
                pairs.append((cosine + shared, row, column))
        taken = set[int]()
        for _, row, column in sorted(pairs, reverse=True):
            if row in linked or column in taken:
                continue
            linked.add(row)
            taken.add(column)
            face, track = faces[row], self._running[column]
            track.last, track.box, track.total = seconds, face.box, track.total + face.embedding
            if _rank(face) > _rank(track.best):
                track.best, track.at = face, seconds
        for row, face in enumerate(faces):
            if row not in linked:
                total = face.embedding.astype(np.float64)
                self._running.append(Track(seconds, seconds, face.box, total, face, seconds))
        return ended

    def finish(self) -> list[Track]:
        """Tracks that ran when the clip ended."""
        ended, self._running = self._running, []
        return ended


def _rank(face: AlbumFace) -> tuple[float, float]:
    left, top, right, bottom = face.box
    return round(face.probability, 2), (right - left) * (bottom - top)


def track_clip(path: str, name: str, verifier: Verifier) -> list[AlbumFace]:
    """Tracks of the faces in a clip, each as one face with one template, in the order of their beginnings.

    Box, probability and quality are those of the best face of a track. The name of its photo ends with where it is in
    the clip, in seconds: `#t=FIRST,LAST&at=BEST` (after W3C Media Fragments).

    Args:
        path: of the clip.
        name: that the names of the tracks begin with.
        verifier: finds and embeds.

    Raises:
        NoDecision: the clip cannot be read, or no face was found.
        InputError: PyAV is not installed.
    """
    metadata = verifier.metadata
    measured = metadata.score_calibration or metadata.operating_points
    tracker = FaceTracker(metadata.decision_threshold().threshold if measured else SAME)
    tracks = []
    for seconds, frame in read_frames(path):
        try:
            found = verifier.find(frame, f"{path} at {seconds:.2f} s", "any", opened=True)
        except NoDecision:
            found = []
        embeddings = verifier.embed_faces(found)
        faces = [
            album_face(name, face, frame.size)._replace(embedding=embedding)
            for face, embedding in zip(found, embeddings, strict=True)
        ]
        tracks += tracker.add(seconds, faces)
    tracks += tracker.finish()
    if not tracks:
        raise NoDecision(f"No face was found in {path}: use a clip that shows some from the front.", "no_face")
    return [
        track.best._replace(
            photo=f"{name}#t={track.first:.2f},{track.last:.2f}&at={track.at:.2f}", embedding=track.template
        )
        for track in sorted(tracks, key=lambda track: (track.first, track.at))
    ]


def read_frames(path: str, start: float = 0.0) -> Iterator[tuple[float, Image.Image]]:
    """Seconds and upright RGB picture of a clip's frames, at least `STEP` seconds apart.

    Args:
        path: of the clip.
        start: seconds before which frames are left out.

    Raises:
        NoDecision: the clip cannot be read, or has no picture.
        InputError: PyAV is not installed.
    """
    try:
        import av
    except ImportError:
        raise InputError("Clips need PyAV, which is not installed: pip install 'siamese-verify[video]'.") from None
    following, number = start, 0
    try:
        with av.open(path) as clip:
            if not clip.streams.video:
                raise NoDecision(f"{path} has no picture: give a clip with a video stream.", "unreadable_photo")
            stream: Any = clip.streams.video[0]
            stream.thread_type = "NONE"  # one thread for each process
            if start > LEAD:  # from the last key frame before; a format without an index is read from its beginning
                with suppress(av.FFmpegError):
                    clip.seek(int((start - LEAD) * 1e6))
            for number, frame in enumerate(clip.decode(stream)):
                seconds = frame.time if frame.time is not None else number / float(stream.average_rate or 25)
                if seconds < following - 1e-6:
                    continue
                following = seconds + STEP
                picture = frame.to_image()
                turn = int(getattr(frame, "rotation", 0) or 0)
                yield seconds, picture.rotate(turn, expand=True) if turn else picture
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, NoDecision | InputError):
            raise
        raise NoDecision(f"{path} is damaged after {number} frames: {error}.", "unreadable_photo") from None


def frame_at(path: str, seconds: float) -> Image.Image:
    """The frame that was searched at a time, or the next one; see `read_frames`.

    Raises:
        InputError: there is none.
    """
    for _, picture in read_frames(path, seconds - STEP / 20):
        return picture
    raise InputError(f"{path} has no frame at {seconds:.2f} s: it was changed.")
