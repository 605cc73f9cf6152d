"""Recalibrate a model on your own photos: check its thresholds on them, and measure new ones."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from siamese_verify.datasets import FolderPhotos
from siamese_verify.errors import InputError
from siamese_verify.evaluation import Interval, VerificationReport, all_pairs_intervals, all_pairs_report, calibrate
from siamese_verify.faces import Quality, ranges_of
from siamese_verify.models.bundle import CARD, NETWORK, Bundle, write_bundle
from siamese_verify.models.exported_network import network_of
from siamese_verify.models.metadata import DecisionThreshold, ModelMetadata, model_card
from siamese_verify.verification.decision import NoDecision, quality_complaints
from siamese_verify.verification.verifier import CHUNK, Verifier

MIN_IDENTITIES = 20  # with two photos or more: with fewer, other people could give a very different threshold
MIN_IMPOSTORS = 1000  # pairs: ten of them decide a false accept rate of 1 %
COPY = "copy of another file"
REASONS = {
    "unreadable_photo": "unreadable",
    "no_face": "without a face",
    "multiple_faces": "with multiple faces",
    "refused": "refused",
    COPY: "copies of others",
}


@dataclass(frozen=True)
class Recalibration:
    """Measurement of a model on your own photos.

    Attributes:
        shipped: metadata of the model as it was.
        threshold: that it accepts at by them; None if it has none.
        metadata: the same with what was measured on these photos.
        report: of all pairs of these photos, at the shipped threshold.
        photos: number with a face.
        identities: number of people on them.
        left_out: photos without a face that was used, counted by reason.
        unlike: number of faces outside of the quality that the shipped thresholds were measured on.
    """

    shipped: ModelMetadata
    threshold: DecisionThreshold | None
    metadata: ModelMetadata
    report: VerificationReport
    photos: int
    identities: int
    left_out: Counter[str]
    unlike: int

    def sentences(self) -> Iterator[str]:
        """Yield the results in words, beginning with the error rates of the shipped threshold."""
        report, rates, threshold = self.report, self.report.at_threshold, self.threshold
        if threshold is None or rates is None:
            yield f"{self.shipped.name} ships without a threshold."
        else:
            asked = "" if threshold.far is None else f" for a false accept rate of {threshold.far:.3g}"
            yield (
                f"The threshold {threshold.threshold:.4f} that {self.shipped.name} ships with{asked} accepts "
                f"{rates.far:.3%} of the impostor pairs of these photos{_over_people(report.intervals.get('far'))} and "
                f"rejects {rates.frr:.3%} of the genuine pairs{_over_people(report.intervals.get('frr'))}."
            )
        yield from measured_in_words(report, self.photos, self.identities, self.left_out)
        if self.shipped.quality and self.unlike:
            yield (
                f"{self.unlike:,} of the faces are of a quality that the shipped thresholds were not measured on: "
                "verify calls them inconclusive."
            )
        yield "Thresholds by false accept rate, as far as these people can show them (95 % intervals over people):"
        assert self.metadata.score_calibration is not None
        for point in report.operating_points:
            if point.target > 0.5:
                continue
            _, interval = self.metadata.score_calibration.impostor_tail.threshold(point.target)
            if point.insufficient or (interval and math.isinf(interval.high)):
                yield f"  FAR {point.target:g}: too few people to know its threshold."
                continue
            about = f" ({interval.low:.4f} to {interval.high:.4f})" if interval else ""
            accepted = f"accepts {point.tar:.2%} of the genuine pairs"
            yield f"  FAR {point.target:g}: threshold {point.threshold:.4f}{about}, {accepted}."


def recalibrate(
    verifier: Verifier, faces: str | Path, far: float | None = None, *, progress: bool = True
) -> Recalibration:
    """Measure a model on your own photos, whose faces are found, selected and aligned as `Verifier.verify` does it.

    Args:
        verifier: of the model, with its face selection.
        faces: a folder for each person, see `FolderPhotos`.
        far: false accept rate whose shipped threshold is checked; by default that of `verify`.
        progress: show progress bars.

    Raises:
        InputError: no such folder, or too few people or pairs for a threshold.
    """
    if verifier.on_multiple_faces == "any":
        raise InputError("One face of each photo is measured: set on_multiple_faces to error, largest or central.")
    shipped, threshold = verifier.metadata, None
    if far is not None or shipped.score_calibration or shipped.operating_points:
        threshold = shipped.decision_threshold(far)
    embeddings, identities, qualities, left_out = embed_people(verifier, faces, progress)
    accept_at = threshold.threshold if threshold else None
    report = all_pairs_report(embeddings, identities, threshold=accept_at, progress=progress)
    report = replace(report, intervals=all_pairs_intervals(embeddings, identities, accept_at))
    count, place = len(np.unique(identities)), Path(faces).resolve().name
    name = f"all {report.pairs:,} pairs of {len(identities):,} photos of {count:,} people in {place}"
    metadata = replace(
        shipped,
        operating_points=report.operating_points,
        eer_threshold=report.eer_threshold,
        measured_on=name,
        metrics=report.to_metadata(),
        score_calibration=calibrate(embeddings, identities, name),
        quality=ranges_of(qualities),
    )
    unlike = sum(bool(quality_complaints(quality, shipped.quality)) for quality in qualities)
    return Recalibration(shipped, threshold, metadata, report, len(identities), count, left_out, unlike)


def embed_people(
    verifier: Verifier, folder: str | Path, progress: bool
) -> tuple[NDArray[np.float32], NDArray[np.int64], list[Quality], Counter[str]]:
    """Embed photos that show a face: embeddings, identities from 0, qualities, and reasons why others are left out.

    Raises:
        InputError: no folder with a folder for each person, or too few people or pairs for a threshold.
    """
    photos = FolderPhotos(folder)
    parts, rows = [verifier.embed_faces([])], list[int]()
    qualities, digests, left_out = list[Quality](), set[bytes](), Counter[str]()
    with tqdm(total=len(photos), desc="Embedding photos", delay=2, disable=not progress or None) as bar:
        for start in range(0, len(photos), CHUNK):
            chunk, found = range(start, min(start + CHUNK, len(photos))), []
            for row in chunk:
                try:
                    content = photos.read(row)
                    digest = hashlib.sha256(content).digest()
                    if digest in digests:  # a pair of equal photos is no evidence about others
                        left_out[COPY] += 1
                        continue
                    digests.add(digest)
                    found += verifier.find(content, photos.storage.location(photos.names[row]))
                    rows.append(row)
                except InputError as error:
                    left_out[error.reason if isinstance(error, NoDecision) else "unreadable_photo"] += 1
            qualities += [face.quality for face in found]
            parts.append(verifier.embed_faces(found))
            bar.update(len(chunk))
    people = np.unique(np.asarray(photos.identities)[rows], return_inverse=True)[1].astype(np.int64)
    check_enough(folder, people, left_out)
    return np.concatenate(parts), people, qualities, left_out


def measured_in_words(report: VerificationReport, photos: int, people: int, left_out: Counter[str]) -> Iterator[str]:
    """Yield what was measured, and how many photos are left out beside those used, and why."""
    yield (
        f"Measured on {photos:,} photos of {people:,} people: {report.genuine:,} genuine and "
        f"{report.impostors:,} impostor pairs."
    )
    if left_out:
        reasons = ", ".join(f"{count:,} {REASONS[reason]}" for reason, count in sorted(left_out.items()))
        yield f"{left_out.total():,} of {photos + left_out.total():,} photos are left out: {reasons}."


def save_recalibrated(folder: Path, bundle: Bundle, metadata: ModelMetadata, versions: Mapping[str, str]) -> Bundle:
    """Write a bundle with the weights and network of another and new metadata, see `Recalibration`.

    Raises:
        InputError: a file of the bundle is damaged, or the folder cannot be written to.
    """
    files = {name: bundle.read(name) for name in bundle.files if name != CARD}
    if NETWORK not in files:
        network = network_of(bundle)
        files[NETWORK] = network if isinstance(network, bytes) else network.read_bytes()
    # Decisions were compared at other thresholds.
    checks = {name: value for name, value in bundle.checks.items() if not name.startswith("flips")}
    files[CARD] = model_card(metadata, checks).encode()
    return write_bundle(folder, metadata, files, checks, dict(versions))


def check_enough(faces: str | Path, identities: NDArray[np.int64], left_out: Counter[str]) -> None:
    """Check that there are enough photos for a threshold."""
    sizes = np.unique(identities, return_counts=True)[1].astype(np.int64)
    repeated = int((sizes > 1).sum())
    impostors = (int(sizes.sum()) ** 2 - int((sizes**2).sum())) // 2
    if repeated >= MIN_IDENTITIES and impostors >= MIN_IMPOSTORS:
        return
    without = f" ({left_out.total():,} photos are left out)" if left_out else ""
    raise InputError(
        f"{faces} shows {repeated:,} people on two usable photos or more, and {impostors:,} impostor pairs{without}: a "
        f"threshold takes {MIN_IDENTITIES} people and {MIN_IMPOSTORS:,} pairs at least, a good one hundreds of people."
    )


def _over_people(interval: Interval | None) -> str:
    return f" (95 % over people: {interval.low:.3%} to {interval.high:.3%})" if interval else ""
