"""Evaluate encoders on a protocol, print their metrics as a table and write the report."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

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
    DamagedRates,
    PublishedCurve,
    VerificationReport,
    damaged_rates,
    score_pairs,
    write_scores,
)
from siamese_verify.evaluation.base_report import LeftOut, Report
from siamese_verify.evaluation.embedding_file import EMBEDDINGS, write_embeddings
from siamese_verify.evaluation.report import PAIRS_DIGEST
from siamese_verify.faces import quality_scores
from siamese_verify.faces.alignment import spec_for
from siamese_verify.models import FaceModel, embed_photos
from siamese_verify.models.metadata import people_of
from siamese_verify.protocols import EvaluationSettings, HeldOutShare, PairProtocol, Protocol, made_of, sampled_pairs
from siamese_verify.structures import InputSpec, Photos
from siamese_verify.tables import is_number, read_header, read_table


@dataclass(frozen=True)
class Result:
    """Evaluation of one encoder on one protocol.

    Attributes:
        name: of the encoder, for tables.
        report: its metrics.
        protocol: what was to be measured.
        compared: what could be: of photos without a failure to acquire.
        embeddings: (N,D) of the photos compared.
        rows: (N,) of the protocol's photos.
        cropper: after use, with its list of failures to acquire.
        model: what is known about the encoder, with the threshold that was chosen elsewhere; None for a baseline.
    """

    name: str
    report: Report
    protocol: Protocol
    compared: Protocol
    embeddings: np.ndarray
    rows: np.ndarray
    cropper: FaceCropper
    model: FaceModel | None = None

    @property
    def figures(self) -> Figures:
        """What tables and the terminal show of it."""
        failed = self.report.acquisition
        sentences = [failed.sentence] if failed and failed.failures else []
        sentences += [self.report.hint] if self.report.hint else []
        return Figures(self.name, type(self.report).__name__, self.report.row(), tuple(sentences))

    @cached_property
    def lfw_category(self) -> str | None:
        """Category of LFW's results page, see `find_lfw_category`; None also for a baseline."""
        known = self.model.metadata.training if self.model else None
        return None if known is None else find_lfw_category(known, self.protocol, self.cropper.spec)


class Figures(NamedTuple):
    """Metrics of one encoder on one protocol, as tables show them.

    Attributes:
        name: of the encoder.
        kind: name of the class of its report; each has other metrics.
        metrics: see `Report.row`.
        sentences: that people should read.
    """

    name: str
    kind: str
    metrics: dict[str, Any]
    sentences: tuple[str, ...] = ()

    @property
    def row(self) -> dict[str, Any]:
        """Metrics with the name of the encoder."""
        return {"model": self.name, **self.metrics}


def measure(
    name: str,
    encoder: Encoder,
    protocol: Protocol,
    cropper: FaceCropper,
    model: FaceModel | None = None,
    *,
    resamples: int = 1000,
    targets: Sequence[float] = (),
    earlier: Sequence[Result] = (),
    device: str = "cpu",
    embedded: tuple[np.ndarray, np.ndarray] | None = None,
    quality: str | Path | None = None,
) -> Result:
    """Embed each photo of a protocol once, and return all metrics.

    Args:
        name: for tables.
        encoder: in evaluation mode.
        protocol: what to measure.
        cropper: made with the encoder's input spec.
        model: gives the threshold for protocols without folds, and the calibration.
        resamples: of the people, for intervals of differences between groups; 0 for no confidence intervals at all.
        targets: false accept rates besides `ALL_PAIRS_TARGETS` for all pairs or `TARGETS` for listed pairs.
        earlier: results of the same encoder, in the same way: photos that one has embedded are not embedded again.
        device: where embeddings are compared, see `EvaluationSettings`.
        embedded: embeddings and rows of photos that were embedded before, see `embed_photos`.
        quality: a CSV with further qualities of the photos, see `qualities_of`.
    """
    further = qualities_of(protocol.photos, quality)  # what is wrong with it shows before photos are embedded
    same = next((one for one in earlier if one.protocol.photos is protocol.photos), None)
    if same:
        embeddings, rows, cropper = same.embeddings, same.rows, same.cropper
    else:
        embeddings, rows = embedded or embed_photos(encoder.eval(), protocol.photos, cropper)
    compared = protocol.keep(rows)
    own = quality_scores(cropper.qualities) if len(cropper.qualities) == len(rows) else {}
    further = {measured: values[rows] for measured, values in further.items()}
    settings = EvaluationSettings(resamples, targets, device=device, qualities={**own, **further})
    if model:
        learned = model.metadata.score_calibration
        settings = replace(
            settings, threshold=model.metadata.eer_threshold, calibration=learned.calibration if learned else None
        )
    report: Any = compared.evaluate(embeddings, settings)
    if spec_for(protocol.photos, cropper.spec).crop.needs_face:
        failures = protocol.count_failures(report, rows, embeddings if resamples else None)
        report = replace(report, acquisition=failures)
    return Result(name, report, protocol, compared, embeddings, rows, cropper, model)


def qualities_of(photos: Photos, path: str | Path | None) -> dict[str, np.ndarray]:
    """Qualities of photos by name, from a CSV with the column `path` and others of numbers, higher is better.

    Raises:
        InputError: see `read_table`; no other column, a cell that holds no number (an empty one is unknown), or none of
            the photos is listed.
    """
    if path is None:
        return {}
    names = [name for name in read_header(path) if name and name != "path"]
    table = read_table(path, ("path", *names))
    if not names:
        raise InputError(f"{path} has no column beside path: add one of numbers, such as sharpness.")
    rows = {name: row for row, name in enumerate(table["path"])}
    if not any(photo in rows for photo in photos.names):
        raise InputError(f"{path} lists none of the {len(photos):,} photos, such as {photos.names[0]!r}.")
    found = {}
    for name in names:
        for row, cell in enumerate(table[name]):
            if cell.strip() and not is_number(cell):
                raise InputError(f"Line {table.lines[row]} of {path} has {cell!r} as {name}: write a number.")
        values = np.array([float(cell) if cell.strip() else np.nan for cell in table[name]])
        found[name] = np.array([values[rows[photo]] if photo in rows else np.nan for photo in photos.names])
    return found


def measure_robustness(result: Result, encoder: Encoder, cache: str | None, pairs: int) -> Result:
    """Add to a result of pairs the rates when the first photo of some is damaged, by kind and severity.

    Results of other protocols are returned as they are.

    Args:
        result: of the same encoder on photos as they are.
        encoder: in evaluation mode.
        cache: of detected faces.
        pairs: number of pairs, half of them genuine; fewer if the protocol has fewer.
    """
    report, protocol = result.report, result.compared
    if not (isinstance(report, VerificationReport) and isinstance(protocol, PairProtocol)):
        return result
    listed = sampled_pairs(protocol, pairs)
    photos, places = np.unique(listed.left, return_inverse=True)
    rows: list[DamagedRates] = []
    for kind, corruption in CORRUPTIONS.items():
        for severity in corruption.severities:
            text = describe_corruption(kind, severity)
            damaged, _ = embed_photos(
                encoder,
                protocol.photos,
                FaceCropper(encoder.input_spec, cache, on_multiple_faces=result.cropper.on_multiple_faces),
                photos.tolist(),
                partial(corrupt, kind=kind, severity=severity),
                text,
            )
            scores = np.einsum("md,md->m", damaged[places], result.embeddings[listed.right])
            rows.append(damaged_rates(kind, text, scores, listed.same, report.threshold))
    return replace(result, report=replace(report, robustness=tuple(rows)))


def find_lfw_category(training: Mapping[str, Any], protocol: Protocol, spec: InputSpec) -> str | None:
    """Return the category of LFW's results page that a result may claim; None where it is not of pairs of LFW.

    Args:
        training: see `ModelMetadata`.
        protocol: what is measured.
        spec: input of the encoder.
    """
    photos = protocol.photos
    if not (isinstance(photos, LFWPhotos) and isinstance(protocol, PairProtocol)):
        return None
    stages = training.get("stages") or [training]
    sets = {training.get("data"), *(stage.get("data") for stage in stages)}
    of_lfw = [people_of(stage) for stage in stages if stage.get("data") == "lfw"] or [{}] * ("lfw" in sets)
    disjoint = not any(has_training_people(photos, **people) for people in of_lfw)
    data = next(iter(sets - {"lfw"}), "lfw") if disjoint else "lfw"  # outside data of any stage
    return lfw_category(data, training.get("pretrained"), detector=spec.crop.needs_face, disjoint=disjoint)


def check_claim(category: str | None, claim: str | None) -> None:
    """Check the LFW category that a result claims.

    Raises:
        InputError: the result falls in another category, or in none.
    """
    if claim is not None and claim != category:
        raise InputError(
            f"This result may not claim {claim!r}: its category is {category or 'none, it is not on pairs of LFW'}."
        )


def save_results(
    folder: Path,
    result: Result,
    others: Sequence[Figures],
    record: dict[str, Any],
    published: Sequence[PublishedCurve] = (),
    keep_embeddings: bool = False,
) -> Path:
    """Write the report of a result, with the metrics of others in a table; return the path of its page.

    The scores of listed pairs are written too, for `siamese-verify compare`; the embeddings of all pairs if asked for.
    """
    protocol = result.compared
    details = {
        "protocol": protocol.name,
        "photos": len(result.protocol.photos),
        **_threshold_details(result),
        "data (SHA-256 of the crops)": result.cropper.digest,
        PAIRS_DIGEST: protocol.digest(),
        **record,
    }
    if result.lfw_category:
        details["LFW category"] = result.lfw_category
    page = result.report.save(
        folder,
        title=f"{result.name} on {protocol.name}",
        details=details,
        comparison=[entry.row for entry in (result.figures, *others)] if others else None,
        published=published,
        left_out=_left_out(result),
        **(_pictures(protocol, result.cropper.spec) if isinstance(protocol, PairProtocol) else {}),
    )
    if isinstance(protocol, PairProtocol):
        _save_scores(folder, result, protocol, keep_embeddings)
    result.cropper.save_left_out(folder)
    return page


def _left_out(result: Result) -> list[LeftOut]:
    """The photos without a face, or with multiple faces, for a page."""
    photos = result.protocol.photos
    rows = {name: row for row, name in enumerate(photos.names)} if result.cropper.failures else {}
    return [LeftOut(name, reason, partial(photos.__getitem__, rows[name])) for name, reason in result.cropper.failures]


def _threshold_details(result: Result) -> dict[str, str]:
    """Where the threshold of a report of pairs was chosen, for its details."""
    report, model = result.report, result.model
    if not isinstance(report, VerificationReport):
        return {}
    elsewhere = model and report.at_threshold is not None
    return {"threshold chosen on": model.metadata.measured_on if model and elsewhere else "these pairs"}


def _pictures(protocol: PairProtocol, spec: InputSpec) -> dict[str, Any]:
    """Pictures and captions of pairs, for a page."""

    def pictures(pair: int) -> tuple[Image.Image, Image.Image]:
        left, right = (protocol.photos[row] for row in protocol.rows(pair))
        return (left, right) if spec.crop.needs_face else (picture_of(left, spec), picture_of(right, spec))

    return {"pictures": pictures, "captions": protocol.describe}


def _save_scores(folder: Path, result: Result, protocol: PairProtocol, keep_embeddings: bool) -> None:
    """Write the scores of listed pairs, or the embeddings of all pairs if asked for."""
    pairs, names, people = protocol.pairs, protocol.photos.names, protocol.photos.identities
    grouped = protocol.photo_groups
    if pairs is not None:
        photos = [(names[left], names[right]) for left, right in zip(pairs.left, pairs.right, strict=True)]
        known = [(str(people[left]), str(people[right])) for left, right in zip(pairs.left, pairs.right, strict=True)]
        write_scores(
            folder / "scores.csv",
            score_pairs(result.embeddings, pairs.left, pairs.right),
            pairs.same,
            photos,
            folds=pairs.folds,
            identities=known if protocol.identities_known else None,
            groups=pairs.groups,
            sides=None if grouped is None else grouped[np.stack([pairs.left, pairs.right], axis=1)],
        )
    elif keep_embeddings:
        write_embeddings(folder / EMBEDDINGS, result.embeddings, people, names)


def further_protocols(cfg: DictConfig) -> dict[str, Protocol | HeldOutShare]:
    """Protocols of the setting `protocols`, by name; a `HeldOutShare` is made `on_the_same` photos as the first one.

    Raises:
        InputError: a name that no folder should have, or all pairs of a share of the training set's people, which only
            the setting `protocol` can hold out.
    """
    found: dict[str, Protocol | HeldOutShare] = {}
    for name, settings in cfg.protocols.items():
        if not re.fullmatch(r"\w[\w.-]*", str(name)):
            raise InputError(f"A name in protocols is made of letters, digits, _, - and ., got {name!r}.")
        one = found[str(name)] = instantiate(settings)
        if isinstance(one, HeldOutShare) and one.make is None:
            raise InputError(f"protocols.{name} cannot hold people out of training: set protocol=held_out instead.")
    return found


def on_the_same(one: Protocol | HeldOutShare, first: Protocol) -> Protocol:
    """A further protocol; one without photos of its own is of those of the first protocol.

    Raises:
        InputError: the people on the photos of the first protocol are not known.
    """
    if not isinstance(one, HeldOutShare) or one.make is None:
        assert isinstance(one, Protocol)
        return one
    made = made_of(None, first, one.make)
    assert isinstance(made, Protocol)
    return made


def print_results(results: Mapping[str, tuple[Protocol, Sequence[Figures]]], folder: Path) -> str:
    """Print a table of metrics for each kind of them, warnings, and the paths of the reports; return what was printed.

    Args:
        results: protocols and the figures of several encoders, by the name of the report; "" for the first one.
        folder: of the run; the reports are in `report` and `report/NAME`.
    """
    from siamese_verify.evaluation.pages.page import number

    every = [(protocol, one) for protocol, figures in results.values() for one in figures]
    console = Console(record=True)
    for kind in dict.fromkeys(one.kind for _, one in every):  # each has its own metrics
        shown = [(protocol, one.row) for protocol, one in every if one.kind == kind]
        names = list(dict.fromkeys(name for _, row in shown for name in row))
        table = Table(title=escape(printable(every[0][0].name)) if len(results) == 1 else None)
        for name in names if len(results) == 1 else ["protocol", *names]:
            table.add_column(name, justify="left" if name in ("protocol", "model") else "right")
        for protocol, group in itertools.groupby(shown, lambda pair: pair[0]):
            table.add_section()
            for place, (_, row) in enumerate(group):
                cells = [escape(printable(number(row.get(name, "")))) for name in names]
                first = [] if len(results) == 1 else ["" if place else escape(printable(protocol.name))]
                table.add_row(*first, *cells)
        console.print(table)
    values = [value for _, one in every for value in one.metrics.values()]
    if any(isinstance(value, Mapping) and value.get("insufficient") for value in values):
        console.print("* Fewer than ten impostors decide it: a rough estimate.")
    for _, one in every:
        for sentence in one.sentences:
            console.print(printable(f"{one.name}: {sentence}"), soft_wrap=True, markup=False)
    for name in results:
        page = folder / "report" / name / "report.html"
        console.print(f"Report{f' on {name}' if name else ''}: {printable(page)}", soft_wrap=True, markup=False)
    return console.export_text().rstrip()
