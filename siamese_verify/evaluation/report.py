"""Verification report: all metrics of scored pairs, and the folder with its files and page."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from siamese_verify.evaluation.base_report import LeftOut, Report, given_details, write_report
from siamese_verify.evaluation.bootstrap import Interval, numbered_people
from siamese_verify.evaluation.clustered_pairs import cluster_pairs
from siamese_verify.evaluation.folds import KFoldAccuracy, kfold_accuracy
from siamese_verify.evaluation.operating_points import (
    DetectionCost,
    OperatingPoint,
    PartialArea,
    ThresholdRates,
    equal_error,
    min_detection_cost,
    operating_point,
    partial_auc,
    rates_at,
    zero_fmr,
    zero_fnmr,
)
from siamese_verify.evaluation.rate_intervals import pair_intervals
from siamese_verify.evaluation.roc import RocCurve, count_accepts, downsample, write_curve
from siamese_verify.evaluation.score_statistics import (
    HardestPairs,
    ScoreHistogram,
    d_prime,
    hardest_pairs,
    score_histogram,
)
from siamese_verify.evaluation.scores import checked_pairs
from siamese_verify.evaluation.tail_extrapolation import TailExtrapolation, extrapolate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import ArrayLike
    from PIL.Image import Image

    from siamese_verify.evaluation.acquisition import Acquisition
    from siamese_verify.evaluation.calibration_check import CalibrationCheck
    from siamese_verify.evaluation.differentials import GroupDifferentials
    from siamese_verify.evaluation.discard import DiscardCurve
    from siamese_verify.evaluation.groups import DamagedRates, GroupRates, MeanOfGroups
    from siamese_verify.evaluation.identification_rates import IdentificationReport
    from siamese_verify.evaluation.representation import Representation
    from siamese_verify.evaluation.score_file import PublishedCurve

TARGETS = (1e-1, 1e-2, 1e-3)
PAIRS_DIGEST = "pairs (SHA-256)"  # key of the details: equal where the same pairs were compared
CHANCE = 0.03  # the AUC of scores that say nothing may be that far from one half


def inverted_hint(auc: float, eer: float, remedy: str = "negate the scores, or exchange the labels") -> str | None:
    """Return a sentence if the scores look like distances, else None."""
    if auc >= 0.5 - CHANCE or eer <= 0.5:
        return None
    return f"Genuine pairs score lower than impostors (AUC {auc:.4f}, EER {eer:.2%}), as distances do: {remedy}."


class LabelDoubt(NamedTuple):
    """The metrics without the pairs of photos whose label is doubtful: a footnote, beside those of all pairs.

    Attributes:
        photos: with a doubtful label, among those compared.
        pairs: left out here.
        eer: equal error rate of the others.
        accuracy: mean over folds of the others, None without folds.
        source: who doubts the labels.
    """

    photos: int
    pairs: int
    eer: float
    accuracy: float | None
    source: str


@dataclass(frozen=True)
class VerificationReport(Report):
    """Metrics of scored pairs.

    Attributes:
        pairs: N = genuine + impostors.
        eer: equal error rate in [0, 1].
        eer_threshold: that of the nearest operating point.
        auc: area under the ROC curve, in [0, 1].
        d_prime: in standard deviations; may be infinite.
        zero_fmr: lowest FRR without a false accept.
        zero_fnmr: lowest FAR without a false reject.
        operating_points: one per target, in the order asked for.
        kfold: accuracy over folds, None without folds.
        at_threshold: rates at a threshold chosen on other data, None without one.
        curve: all operating points; like `histogram` and `hardest` not in JSON, repr and comparison.
        histogram: of the scores of both kinds.
        hardest: the hardest pairs of both kinds, by row.
        intervals: 95 % confidence intervals by name of the metric, empty where the people are unknown.
        calibration: check of a calibration that was learned on other data.
        identification: rates of a search among many.
        representation: measures of the embeddings, of all pairs.
        groups: rates of groups of people at the common threshold.
        mean_of_groups: of their own equal error rates.
        robustness: rates when photos are damaged.
        acquisition: failures to acquire and the generalized rates, where photos were searched for faces.
        extrapolated: operating points at false accept rates that too few impostors decide.
        differentials: rates within and across groups of photos at the common threshold.
        min_dcf: least detection cost over all thresholds.
        partial_auc: area under the ROC for low false accept rates.
        discard: error versus discard by quality, one for each measure.
        without_doubtful: metrics without the pairs of photos whose label is doubtful.
    """

    metric: ClassVar[str] = "eer"
    recorded: ClassVar[tuple[str, ...]] = ("auc",)

    pairs: int
    genuine: int
    impostors: int
    eer: float
    eer_threshold: float
    auc: float
    d_prime: float
    zero_fmr: float
    zero_fnmr: float
    operating_points: tuple[OperatingPoint, ...]
    kfold: KFoldAccuracy | None
    at_threshold: ThresholdRates | None
    curve: RocCurve = field(repr=False, compare=False)
    histogram: ScoreHistogram = field(repr=False, compare=False)
    hardest: HardestPairs = field(repr=False, compare=False)
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    calibration: CalibrationCheck | None = None
    identification: IdentificationReport | None = None
    representation: Representation | None = None
    groups: tuple[GroupRates, ...] = ()
    mean_of_groups: MeanOfGroups | None = None
    robustness: tuple[DamagedRates, ...] = ()
    acquisition: Acquisition | None = None
    extrapolated: TailExtrapolation | None = None
    differentials: GroupDifferentials | None = None
    min_dcf: DetectionCost | None = None
    partial_auc: PartialArea | None = None
    discard: tuple[DiscardCurve, ...] = ()
    without_doubtful: LabelDoubt | None = None

    @property
    def hint(self) -> str | None:
        """A sentence if the scores look like distances, else None."""
        return inverted_hint(self.auc, self.eer)

    @property
    def threshold(self) -> float:
        """The threshold that figures and hardest pairs refer to: the one given, else that of the EER."""
        return self.eer_threshold if self.at_threshold is None else self.at_threshold.threshold

    def record(self) -> dict[str, Any]:
        """See `Report.record`; with the balanced accuracy at a threshold that was chosen on other data."""
        chosen = self.at_threshold
        return super().record() | ({"balanced_accuracy": chosen.balanced_accuracy} if chosen else {})

    def row(self) -> dict[str, Any]:
        """Return metrics for a table: numbers, and rates as `{"rate": ...}` with their uncertainty where known."""
        eer = self.intervals.get("eer")
        row: dict[str, Any] = {
            "EER": {"rate": self.eer, **(eer._asdict() if eer else {})},
            "AUC": round(self.auc, 4),
        }
        for point in self.operating_points:
            if point.target == 0.01:
                row["TAR@FAR=1%"] = {"rate": point.tar, "insufficient": point.insufficient}
        if mean := self.mean_of_groups:
            row["mean EER of groups"] = {"rate": mean.eer, "low": mean.low, "high": mean.high}
        if self.acquisition:
            row["FTA"] = {"rate": self.acquisition.failure_rate, **self.acquisition.failure_interval._asdict()}
        if self.identification:
            row["rank-1"] = {"rate": self.identification.cmc[1]}
        if self.kfold:
            row["accuracy"] = {"rate": self.kfold.mean, "standard_error": self.kfold.standard_error}
        elif self.at_threshold:
            row["balanced accuracy"] = {"rate": self.at_threshold.balanced_accuracy}
        return row

    def logged(self) -> dict[str, float]:
        """Return metrics for loggers, by name."""
        found = {"eer": self.eer, "auc": self.auc}
        found |= {f"tar_at_far_{point.target:g}": point.tar for point in self.operating_points}
        if self.at_threshold:
            found["balanced_accuracy"] = self.at_threshold.balanced_accuracy
        if self.representation:
            names = ("knn_accuracy", "alignment", "uniformity", "effective_rank")
            found |= {name: getattr(self.representation, name) for name in names}
        return found

    def to_metadata(self) -> dict[str, Any]:
        """Return the metrics and the histogram of scores, as stored in the metadata of a model."""
        return {**self.to_dict(), "histogram": {name: part.tolist() for name, part in self.histogram._asdict().items()}}

    def save(
        self,
        folder: str | Path,
        *,
        title: str = "Face verification",
        details: Mapping[str, Any] | None = None,
        pictures: Callable[[int], tuple[Image, Image]] | None = None,
        captions: Callable[[int], str] | None = None,
        comparison: Sequence[Mapping[str, Any]] | None = None,
        published: Sequence[PublishedCurve] = (),
        left_out: Sequence[LeftOut] = (),
    ) -> Path:
        """Write metrics.json, curve.csv, a PNG of each figure and report.html, see `Report.save`.

        Here the page shows the pairs that were hardest, by `pictures` and `captions`, and `published` curves.
        """
        from siamese_verify.evaluation.pages.figures import report_figures
        from siamese_verify.evaluation.pages.page import render_report

        given = given_details(title, details, comparison)
        figures = report_figures(self, title, published)
        page = render_report(self, figures, pictures=pictures, captions=captions, left_out=left_out, **given)
        files = {"curve.csv": write_curve(downsample(self.curve)).encode()}
        return write_report(folder, self, given, figures, page, files)


def verification_report(
    scores: ArrayLike,
    same: ArrayLike,
    folds: ArrayLike | None = None,
    identities: ArrayLike | None = None,
    threshold: float | None = None,
    targets: Sequence[float] = TARGETS,
) -> VerificationReport:
    """Return every metric of scored pairs.

    Args:
        scores: (N,) finite similarities, higher = more alike.
        same: (N,) bool, True for a genuine pair.
        folds: (N,) fold of each pair, for accuracy by cross-validation.
        identities: (N,2) number or name of the person on either photo of each pair, for confidence intervals.
        threshold: chosen on other data; gives accuracy, FAR and FRR there.
        targets: false accept rates in [0, 1] to report the true accept rate at.

    Raises:
        InputError: see `checked_pairs`, `pair_intervals` and `kfold_accuracy`; a threshold of NaN; a target outside of
            [0, 1].
    """
    values, labels = checked_pairs(scores, same)
    order = np.argsort(values)[::-1]
    curve = count_accepts(values[order], labels[order])
    intervals, extrapolated = None, None
    if identities is not None:
        intervals = pair_intervals(values, labels, identities, folds, threshold, targets)
        people = numbered_people(labels, identities)
        extrapolated = extrapolate(cluster_pairs(values, labels, people), curve, targets)
    report = report_from_curve(
        curve,
        auc=curve.auc,
        d_prime=d_prime(values, labels),
        targets=targets,
        threshold=threshold,
        kfold=None if folds is None else kfold_accuracy(values, labels, folds),
        intervals=intervals,
        histogram=score_histogram(values, labels),
        hardest=hardest_pairs(values, labels),
    )
    return replace(report, extrapolated=extrapolated)


def report_from_curve(
    curve: RocCurve,
    *,
    auc: float,
    d_prime: float,
    targets: Sequence[float],
    threshold: float | None,
    histogram: ScoreHistogram,
    hardest: HardestPairs,
    kfold: KFoldAccuracy | None = None,
    intervals: Mapping[str, Interval] | None = None,
) -> VerificationReport:
    """Return the report with the operating points of a curve and metrics computed elsewhere."""
    eer = equal_error(curve)
    return VerificationReport(
        pairs=curve.genuine + curve.impostors,
        genuine=curve.genuine,
        impostors=curve.impostors,
        eer=eer.rate,
        eer_threshold=eer.threshold,
        auc=auc,
        d_prime=d_prime,
        zero_fmr=zero_fmr(curve),
        zero_fnmr=zero_fnmr(curve),
        operating_points=tuple(operating_point(curve, target) for target in targets),
        kfold=kfold,
        at_threshold=None if threshold is None else rates_at(curve, threshold),
        curve=curve,
        histogram=histogram,
        hardest=hardest,
        intervals=intervals or {},
        min_dcf=min_detection_cost(curve),
        partial_auc=partial_auc(curve),
    )
