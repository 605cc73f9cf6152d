"""Photos of one's own, a folder for each person -> thresholds and calibration of a model for photos like them."""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from siamese_verify.cli.run_metadata import versions
from siamese_verify.datasets import FolderPhotos
from siamese_verify.errors import InputError, printable
from siamese_verify.evaluation import Interval, VerificationReport, all_pairs_intervals, all_pairs_report, calibrate
from siamese_verify.faces import Quality, ranges_of
from siamese_verify.models import Bundle, ModelMetadata, open_bundle
from siamese_verify.models.bundle import CARD, write_bundle
from siamese_verify.models.loading import bundle_folder
from siamese_verify.models.metadata import PRETRAINED, Limit, model_card
from siamese_verify.models.registry import pretrained_bundle
from siamese_verify.verification import NoDecision, Verifier
from siamese_verify.verification.decision import complaints
from siamese_verify.verification.late_bar import late_bar

CHUNK = 64  # photos whose faces are embedded together
LEAST_PEOPLE = 20  # with two photos or more: of fewer, others could give quite another threshold
LEAST_IMPOSTORS = 1000  # pairs: ten of them decide a false accept rate of 1 %
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
    """What photos of one's own say about a model.

    Attributes:
        shipped: what the model's metadata says.
        limit: where it accepts by that, None without a threshold.
        metadata: the same with what was measured on these photos.
        report: of all their pairs, at the shipped threshold.
        photos: that have a face.
        people: who are on them.
        left_out: why others have none, and how many.
        unlike: faces outside of the quality that the shipped thresholds were measured on.
    """

    shipped: ModelMetadata
    limit: Limit | None
    metadata: ModelMetadata
    report: VerificationReport
    photos: int
    people: int
    left_out: Counter[str]
    unlike: int

    def sentences(self) -> Iterator[str]:
        """Say it, what the shipped threshold really does first."""
        report, rates, limit = self.report, self.report.at_threshold, self.limit
        if limit is None or rates is None:
            yield f"{self.shipped.name} ships without a threshold."
        else:
            asked = "" if limit.far is None else f" for a false accept rate of {limit.far:.3g}"
            yield (
                f"The threshold {limit.threshold:.4f} that {self.shipped.name} ships with{asked} accepts "
                f"{rates.far:.3%} of the impostor pairs of these photos{_over_people(report.intervals.get('far'))} and "
                f"rejects {rates.frr:.3%} of the genuine pairs{_over_people(report.intervals.get('frr'))}."
            )
        yield (
            f"Measured on {self.photos:,} photos of {self.people:,} people: {report.genuine:,} genuine and "
            f"{report.impostors:,} impostor pairs."
        )
        if self.left_out:
            total = self.photos + self.left_out.total()
            told = ", ".join(f"{count:,} {REASONS[reason]}" for reason, count in sorted(self.left_out.items()))
            yield f"{self.left_out.total():,} of {total:,} photos are left out: {told}."
        if self.shipped.quality and self.unlike:
            yield (
                f"{self.unlike:,} of the faces are of a quality that the shipped thresholds were not measured on: "
                "verify calls them inconclusive."
            )
        yield "What these people can show of each false accept rate (95 % intervals over people):"
        assert self.metadata.score_calibration is not None
        for point in report.operating_points:
            if point.target > 0.5:
                continue
            _, interval = self.metadata.score_calibration.impostor_tail.threshold(point.target)
            if point.insufficient or (interval and math.isinf(interval.high)):
                yield f"  FAR {point.target:g}: too few people to know its threshold."
                continue
            about = f" ({interval.low:.4f} to {interval.high:.4f})" if interval else ""
            passed = f"accepts {point.tar:.2%} of the genuine pairs"
            yield f"  FAR {point.target:g}: threshold {point.threshold:.4f}{about}, {passed}."


def measured_on_photos(
    verifier: Verifier,
    faces: str | Path,
    far: float | None = None,
    *,
    progress: bool = True,
) -> Recalibration:
    """Measure a model on photos of one's own, found, chosen and cut as `Verifier.verify` does it.

    Args:
        verifier: of the model, with its policy for photos of multiple faces.
        faces: a folder for each person, see `FolderPhotos`.
        far: the rate whose shipped threshold is judged; by default that of `verify`.
        progress: draw bars.

    Raises:
        InputError: no such folder, or too few people or pairs to set a threshold by.
    """
    if verifier.on_multiple_faces == "any":
        raise InputError("One face of each photo is measured: set on_multiple_faces to error, largest or central.")
    shipped = verifier.metadata
    limit = shipped.limit(far) if far is not None or shipped.score_calibration or shipped.operating_points else None
    photos = FolderPhotos(faces)
    parts, rows, qualities = [np.empty((0, shipped.embedding_size), dtype=np.float32)], [], list[Quality]()
    seen, left_out = set[bytes](), Counter[str]()
    with late_bar("Embedding photos", progress) as advance:
        for start in range(0, len(photos), CHUNK):
            found = []
            for row in range(start, min(start + CHUNK, len(photos))):
                try:
                    content = photos.read(row)
                    digest = hashlib.sha256(content).digest()
                    if digest in seen:  # a pair of one photo with itself says nothing about others
                        left_out[COPY] += 1
                        continue
                    seen.add(digest)
                    found += verifier.find(content, photos.storage.place(photos.names[row]))
                    rows.append(row)
                except InputError as error:
                    left_out[error.reason if isinstance(error, NoDecision) else "unreadable_photo"] += 1
            qualities += [face.quality for face in found]
            parts.append(verifier.embed_faces(found))
            advance(min(start + CHUNK, len(photos)), len(photos))
    people = np.asarray(photos.identities)[rows]
    _check_enough(faces, people, left_out)
    embeddings = np.concatenate(parts)
    report = all_pairs_report(embeddings, people, threshold=limit.threshold if limit else None, progress=progress)
    known = all_pairs_intervals(embeddings, people, limit.threshold if limit else None)
    report = replace(report, intervals=known)
    count = len(np.unique(people))
    name = f"all {report.pairs:,} pairs of {len(rows):,} photos of {count:,} people in {Path(faces).resolve().name}"
    metadata = replace(
        shipped,
        operating_points=report.operating_points,
        eer_threshold=report.eer_threshold,
        measured_on=name,
        metrics=report.to_keep(),
        score_calibration=calibrate(embeddings, people, name),
        quality=ranges_of(qualities),
    )
    unlike = sum(bool(complaints(quality, shipped.quality)) for quality in qualities)
    return Recalibration(shipped, limit, metadata, report, len(rows), count, left_out, unlike)


def bundle_of(model: str | Path) -> Bundle:
    """The bundle that a model is kept in.

    Raises:
        InputError: there is no such model, or it is a checkpoint.
    """
    if str(model) in PRETRAINED:
        return open_bundle(pretrained_bundle(str(model)))
    folder = bundle_folder(model)
    if folder is None:
        raise InputError(f"{model} is a checkpoint: `siamese-verify export {model} --to BUNDLE` makes a bundle of it.")
    return open_bundle(folder)


def save_recalibrated(folder: Path, bundle: Bundle, metadata: ModelMetadata) -> Bundle:
    """Write a bundle of the same weights and network with another metadata.

    Args:
        folder: where to.
        bundle: whose files are taken.
        metadata: see `Recalibration`.

    Raises:
        InputError: a file of the bundle is damaged, or the folder cannot be written to.
    """
    files = {name: bundle.read(name) for name in bundle.files if name != CARD}
    # How pairs were decided at thresholds that are not these is no check of theirs.
    checks: dict[str, Any] = {name: value for name, value in bundle.checks.items() if not name.startswith("flips")}
    files[CARD] = model_card(metadata, checks).encode()
    return write_bundle(folder, metadata, files, checks, versions())


def _check_enough(faces: str | Path, people: np.ndarray, left_out: Counter[str]) -> None:
    """Refuse photos that no threshold could be set by."""
    sizes = np.unique(people, return_counts=True)[1].astype(np.int64)
    twice = int((sizes > 1).sum())
    impostors = (int(sizes.sum()) ** 2 - int((sizes**2).sum())) // 2
    if twice >= LEAST_PEOPLE and impostors >= LEAST_IMPOSTORS:
        return
    without = f" ({left_out.total():,} photos are left out)" if left_out else ""
    raise InputError(
        f"{faces} shows {twice:,} people on two usable photos or more, and {impostors:,} impostor pairs{without}: a "
        f"threshold takes {LEAST_PEOPLE} people and {LEAST_IMPOSTORS:,} pairs at least, a good one hundreds of people."
    )


def _over_people(interval: Interval | None) -> str:
    return f" (95 % over people: {interval.low:.3%} to {interval.high:.3%})" if interval else ""


def recalibrate_arguments(parser: argparse.ArgumentParser) -> None:
    """What it takes."""
    parser.description = (
        "Say how often the threshold that a model ships with is wrong on photos of yours, and measure thresholds, "
        "calibration and limits of quality anew on them. The weights stay as they are."
    )
    parser.add_argument("model", help="casia-webface, vggface2, a bundle or a run")
    parser.add_argument(
        "--faces", required=True, metavar="FOLDER", help="with a folder of photos for each person, two or more of most"
    )
    parser.add_argument("--out", metavar="BUNDLE", help="where the bundle goes; without it nothing is written")
    parser.add_argument("--far", type=float, help="false accept rate whose shipped threshold is judged")
    parser.add_argument(
        "--on-multiple-faces",
        choices=("error", "largest", "central"),
        default="error",
        help="what to do with a photo of multiple faces, as you will with `verify` (%(default)s)",
    )
    parser.add_argument("--threads", type=int, help="of ONNX Runtime; one for each core by default")


def recalibrate(options: argparse.Namespace) -> int:
    """Measure, tell, and write the bundle if one was asked for."""
    from siamese_verify.verification import Verifier

    out = Path(options.out) if options.out else None
    if out and out.exists() and not (out / "bundle.json").is_file():
        raise InputError(f"{out} is there and is no bundle: give another folder.")
    bundle = bundle_of(options.model)  # what is wrong with it is said before any photo is looked at
    verifier = Verifier.load(
        options.model, engine="onnx", threads=options.threads, on_multiple_faces=options.on_multiple_faces
    )
    progress = sys.stdout.isatty()
    found = measured_on_photos(verifier, options.faces, options.far, progress=progress)
    for sentence in found.sentences():
        print(printable(sentence))
    if out is None:
        print("Nothing was written: --out BUNDLE makes a bundle with these thresholds.")
    else:
        save_recalibrated(out, bundle, found.metadata)
        print(printable(f"Bundle: {out}"))
    return 0
