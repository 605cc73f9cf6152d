"""Evaluate encoders on a protocol, print their metrics as a table and write the report."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from siamese_verify.data import CORRUPTIONS, FaceCropper, corrupt, describe_corruption
from siamese_verify.data.face_dataset import picture_of
from siamese_verify.datasets import LFWPhotos, has_training_people, lfw_category
from siamese_verify.encoders import Encoder
from siamese_verify.errors import InputError, printable
from siamese_verify.evaluation import (
    ALL_PAIRS_TARGETS,
    TARGETS,
    DamagedRates,
    PublishedCurve,
    VerificationReport,
    add_failures,
    all_pairs_intervals,
    all_pairs_report,
    check_calibration,
    damaged_rates,
    group_reports,
    identification_report,
    mean_of_groups,
    verification_report,
    write_scores,
)
from siamese_verify.evaluation.embedding_file import EMBEDDINGS, write_embeddings
from siamese_verify.evaluation.report import PAIRS_DIGEST
from siamese_verify.faces.alignment import spec_for
from siamese_verify.models import FaceModel, embed_photos, score_pairs
from siamese_verify.protocols import HeldOutShare, Protocol, keep_photos, sampled_pairs


@dataclass(frozen=True)
class Result:
    """Evaluation of one encoder on one protocol.

    Attributes:
        name: of the encoder, for tables.
        report: its metrics.
        protocol: the pairs that were to be compared.
        compared: those that could be compared: of photos without a failure to acquire.
        embeddings: (N,D) of the photos compared.
        scores: (M,) of the listed pairs compared, None where all pairs were.
        cropper: after use, with its list of failures to acquire.
        model: what is known about the encoder, with the threshold that was chosen elsewhere; None for a baseline.
    """

    name: str
    report: VerificationReport
    protocol: Protocol
    compared: Protocol
    embeddings: np.ndarray
    scores: np.ndarray | None
    cropper: FaceCropper
    model: FaceModel | None = None

    def row(self) -> dict[str, Any]:
        """Return metrics for a table: numbers, and rates as `{"rate": ...}` with their uncertainty where known."""
        report = self.report
        tar = next(point for point in report.operating_points if point.target == 0.01)
        eer = report.intervals.get("eer") if report.intervals else None
        row: dict[str, Any] = {
            "model": self.name,
            "EER": {"rate": report.eer, **(eer._asdict() if eer else {})},
            "AUC": round(report.auc, 4),
            "TAR@FAR=1%": {"rate": tar.tar, "insufficient": tar.insufficient},
        }
        if mean := report.mean_of_groups:
            row["mean EER of groups"] = {"rate": mean.eer, "low": mean.low, "high": mean.high}
        if report.acquisition:
            row["FTA"] = {"rate": report.acquisition.failure_rate}
        if report.identification:
            row["rank-1"] = {"rate": report.identification.cmc[1]}
        if report.kfold:
            row["accuracy"] = {"rate": report.kfold.mean, "standard_error": report.kfold.standard_error}
        elif report.at_threshold:
            row["balanced accuracy"] = {"rate": report.at_threshold.balanced_accuracy}
        return row


def measure(
    name: str,
    encoder: Encoder,
    protocol: Protocol,
    cropper: FaceCropper,
    model: FaceModel | None = None,
    *,
    resamples: int = 1000,
    targets: Sequence[float] = (),
) -> Result:
    """Embed each photo of a protocol once, score its pairs and return all metrics.

    Args:
        name: for tables.
        encoder: in evaluation mode.
        protocol: which pairs.
        cropper: made with the encoder's input spec.
        model: gives the threshold for protocols without folds, and the calibration.
        resamples: of the people, for intervals of differences between groups; 0 for no confidence intervals at all.
        targets: false accept rates besides `ALL_PAIRS_TARGETS` for all pairs or `TARGETS` for listed pairs.
    """
    embeddings, rows = embed_photos(encoder.eval(), protocol.photos, cropper)
    compared = keep_photos(protocol, rows)
    people, pairs = np.asarray(compared.photos.identities), compared.pairs
    targets = sorted({*targets, *(ALL_PAIRS_TARGETS if pairs is None else TARGETS)}, reverse=True)
    threshold = model.metadata.eer_threshold if model and (pairs is None or pairs.folds is None) else None
    scores = None
    if pairs is None:
        report = all_pairs_report(embeddings, people, targets=targets, threshold=threshold, progress=True)
        if resamples:
            report = replace(report, intervals=all_pairs_intervals(embeddings, people, threshold, targets))
    else:
        scores = score_pairs(embeddings, pairs.left, pairs.right)
        wanted = resamples > 0 and protocol.identities_known
        known = np.stack([people[pairs.left], people[pairs.right]], axis=1) if wanted else None
        report = verification_report(scores, pairs.same, pairs.folds, known, threshold, targets)
        if pairs.groups is not None:
            groups = group_reports(
                scores, pairs.same, pairs.groups, report.threshold, known, resamples=max(resamples, 1)
            )
            report = replace(report, groups=tuple(groups), mean_of_groups=mean_of_groups(groups))
    if protocol.identities_known and np.unique(people, return_counts=True)[1].max() > 1:
        report = replace(report, identification=identification_report(embeddings, people))
    if model and model.metadata.score_calibration:
        report = replace(
            report, calibration=check_calibration(model.metadata.score_calibration.calibration, report.curve)
        )
    if spec_for(protocol.photos, cropper.spec).crop.needs_face:
        photos = len(protocol.photos)
        failures = add_failures(report, photos, photos - len(rows), *protocol.count_pairs())
        report = replace(report, acquisition=failures)
    return Result(name, report, protocol, compared, embeddings, scores, cropper, model)


def measure_robustness(result: Result, encoder: Encoder, cache: str | None, pairs: int, seed: int = 0) -> Result:
    """Add to a result the rates when the first photo of some pairs is damaged, by kind and severity.

    Args:
        result: of the same encoder on photos as they are.
        encoder: in evaluation mode.
        cache: of detected faces.
        pairs: number of pairs, half of them genuine; fewer if the protocol has fewer.
        seed: of the choice of pairs, and of the noise in low light.
    """
    listed = sampled_pairs(result.compared, pairs, seed)
    photos, places = np.unique(listed.left, return_inverse=True)
    rows: list[DamagedRates] = []
    for kind, corruption in CORRUPTIONS.items():
        for severity in corruption.severities:
            text = describe_corruption(kind, severity)
            damaged, _ = embed_photos(
                encoder,
                result.compared.photos,
                FaceCropper(encoder.input_spec, cache, on_multiple_faces=result.cropper.on_multiple_faces),
                photos.tolist(),
                partial(corrupt, kind=kind, severity=severity, seed=seed),
                text,
            )
            scores = np.einsum("md,md->m", damaged[places], result.embeddings[listed.right])
            rows.append(damaged_rates(kind, text, scores, listed.same, result.report.threshold))
    return replace(result, report=replace(result.report, robustness=tuple(rows)))


def find_lfw_category(result: Result) -> str | None:
    """Return the category of LFW's results page that a result may claim; None for other data or a baseline."""
    model, photos = result.model, result.protocol.photos
    if not model or not isinstance(photos, LFWPhotos):
        return None
    training = model.metadata.training
    sets = {training.get("data"), *(stage.get("data") for stage in training.get("stages") or [])}
    disjoint = "lfw" not in sets or not has_training_people(photos)
    data = next(iter(sets - {"lfw"}), "lfw") if disjoint else "lfw"  # outside data of any stage
    detector = result.cropper.spec.crop.kind == "box"
    return lfw_category(data, training.get("pretrained"), detector=detector, disjoint=disjoint)


def check_claim(result: Result, claim: str | None) -> None:
    """Check the LFW category that a result claims.

    Raises:
        InputError: the result falls in another category, or in none.
    """
    category = find_lfw_category(result)
    if claim is not None and claim != category:
        raise InputError(
            f"This result may not claim {claim!r}: its category is {category or 'none, it is not on LFW'}."
        )


def save_results(
    folder: Path,
    result: Result,
    others: Sequence[Result],
    record: dict[str, Any],
    published: Sequence[PublishedCurve] = (),
    keep_embeddings: bool = False,
) -> Path:
    """Write the report of a result, with the metrics of others in a table; return the path of its page.

    The scores of listed pairs are written too, for `siamese-verify compare`; the embeddings of all pairs if asked for.
    """
    protocol, spec, model = result.compared, result.cropper.spec, result.model

    def pictures(pair: int) -> tuple[Image.Image, Image.Image]:
        left, right = (protocol.photos[row] for row in protocol.rows(pair))
        return (left, right) if spec.crop.needs_face else (picture_of(left, spec), picture_of(right, spec))

    chosen_elsewhere = result.report.at_threshold is not None
    details = {
        "protocol": protocol.name,
        "photos": len(result.protocol.photos),
        "threshold chosen on": model.metadata.measured_on if model and chosen_elsewhere else "these pairs",
        "data (SHA-256 of the crops)": result.cropper.digest,
        PAIRS_DIGEST: protocol.digest(),
        **record,
    }
    if category := find_lfw_category(result):
        details["LFW category"] = category
    page = result.report.save(
        folder,
        title=f"{result.name} on {protocol.name}",
        details=details,
        pictures=pictures,
        captions=protocol.describe,
        comparison=[entry.row() for entry in (result, *others)] if others else None,
        published=published,
    )
    if protocol.pairs is not None and result.scores is not None:
        pairs, names, people = protocol.pairs, protocol.photos.names, protocol.photos.identities
        photos = [(names[left], names[right]) for left, right in zip(pairs.left, pairs.right, strict=True)]
        known = [(str(people[left]), str(people[right])) for left, right in zip(pairs.left, pairs.right, strict=True)]
        write_scores(
            folder / "scores.csv",
            result.scores,
            pairs.same,
            photos,
            folds=pairs.folds,
            identities=known if result.protocol.identities_known else None,
            groups=pairs.groups,
        )
    if protocol.pairs is None and keep_embeddings:
        write_embeddings(folder / EMBEDDINGS, result.embeddings, protocol.photos.identities, protocol.photos.names)
    result.cropper.save_left_out(folder)
    return page


def further_protocols(cfg: DictConfig) -> dict[str, Protocol]:
    """Protocols of the setting `protocols`, by name.

    Raises:
        InputError: a name that no folder should have, or a share of the training set's people, which only the setting
            `protocol` can hold out.
    """
    found: dict[str, Protocol] = {}
    for name, settings in cfg.protocols.items():
        if not re.fullmatch(r"\w[\w.-]*", str(name)):
            raise InputError(f"A name in protocols is made of letters, digits, _, - and ., got {name!r}.")
        found[str(name)] = instantiate(settings)
        if isinstance(found[str(name)], HeldOutShare):
            raise InputError(f"protocols.{name} cannot hold people out of training: set protocol=held_out instead.")
    return found


def print_results(results: Mapping[str, Sequence[Result]], folder: Path) -> str:
    """Print one table of metrics, warnings, and the paths of the reports; return what was printed.

    Args:
        results: of several encoders, by the name of the protocol; "" for the first one.
        folder: of the run; the reports are in `report` and `report/NAME`.
    """
    from siamese_verify.evaluation.pages.page import number

    every = [result for one in results.values() for result in one]
    table = Table(title=escape(printable(every[0].protocol.name)) if len(results) == 1 else None)
    rows = [result.row() for result in every]
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names if len(results) == 1 else ["protocol", *names]:
        table.add_column(name, justify="left" if name in ("protocol", "model") else "right")
    for protocol, group in itertools.groupby(zip(every, rows, strict=True), lambda pair: pair[0].protocol):
        table.add_section()
        for place, (_, row) in enumerate(group):
            cells = [escape(printable(number(row.get(name, "")))) for name in names]
            table.add_row(*([] if len(results) == 1 else ["" if place else escape(printable(protocol.name))]), *cells)
    console = Console(record=True)
    console.print(table)
    if any(row["TAR@FAR=1%"]["insufficient"] for row in rows):
        console.print("* Fewer than ten impostors decide it: a rough estimate.")
    for result in every:
        failed = result.report.acquisition
        if failed and failed.failures:
            console.print(printable(f"{result.name}: {failed.sentence}"), soft_wrap=True, markup=False)
        if result.report.hint:
            console.print(printable(f"{result.name}: {result.report.hint}"), soft_wrap=True, markup=False)
    for name in results:
        page = folder / "report" / name / "report.html"
        console.print(f"Report{f' on {name}' if name else ''}: {printable(page)}", soft_wrap=True, markup=False)
    return console.export_text().rstrip()
