"""All metrics of one set of scored pairs, and the folder that shows them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siamese_verify.atomic_write import write_whole
from siamese_verify.errors import InputError
from siamese_verify.evaluation.bootstrap import Interval
from siamese_verify.evaluation.folds import KFoldAccuracy, kfold_of
from siamese_verify.evaluation.operating_points import (
    OperatingPoint,
    ThresholdRates,
    equal_error_of,
    point_of,
    rates_of,
    zero_fmr_of,
    zero_fnmr_of,
)
from siamese_verify.evaluation.pair_intervals import pair_intervals
from siamese_verify.evaluation.roc import RocCurve, auc_of, curve_of, curve_points, thinned
from siamese_verify.evaluation.score_statistics import (
    HardestPairs,
    ScoreHistogram,
    d_prime,
    hardest_pairs,
    score_histogram,
)
from siamese_verify.evaluation.scores import as_array, checked_pairs, checked_threshold, rank

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import ArrayLike
    from PIL.Image import Image

    from siamese_verify.evaluation.acquisition import Acquisition
    from siamese_verify.evaluation.calibration import CalibrationCheck
    from siamese_verify.evaluation.groups import DamagedRates, GroupRates
    from siamese_verify.evaluation.identification_rates import IdentificationReport
    from siamese_verify.evaluation.score_file import PublishedCurve

TARGETS = (1e-1, 1e-2, 1e-3)
PAIRS_DIGEST = "pairs (SHA-256)"  # among the details: equal where the same pairs were compared
CHANCE = 0.03  # that near to one half, the AUC of scores that say nothing may lie


def inverted_hint(auc: float, eer: float, remedy: str = "negate the scores, or exchange the labels") -> str | None:
    """Say that scores look like distances; None where they do not."""
    if auc >= 0.5 - CHANCE or eer <= 0.5:
        return None
    return f"Genuine pairs score lower than impostors (AUC {auc:.4f}, EER {eer:.2%}), as distances do: {remedy}."


def plain(value: Any) -> Any:
    """Turn what people put into details into what strict JSON can hold; NaN and infinity become None."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if hasattr(value, "tolist"):  # numpy scalars and arrays, tensors
        value = value.tolist()
    if hasattr(value, "items"):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


@dataclass(frozen=True)
class VerificationReport:
    """How well scores tell genuine pairs from impostors.

    Attributes:
        pairs: N = genuine + impostors.
        eer: equal error rate in [0, 1].
        eer_threshold: the operating point nearest to it.
        auc: P(genuine > impostor) + P(equal) / 2, in [0, 1].
        d_prime: separation in standard deviations; may be infinite.
        zero_fmr: lowest FRR without a false accept.
        zero_fnmr: lowest FAR without a false reject.
        operating_points: one per target, in the order asked for.
        kfold: accuracy over folds, None where the pairs have none.
        at_threshold: rates at a threshold chosen on other data, None where none was given.
        curve: all operating points; like what follows no part of JSON, repr and comparison.
        intervals: 95 % confidence intervals by name of the metric, where the people on the photos are known.
        calibration: how right the probabilities are that a calibration, learned elsewhere, gives these pairs.
        identification: how well a person is found among many.
        groups: rates of groups of people at the common threshold.
        robustness: rates when photos are damaged.
        acquisition: failures to acquire and the generalized rates, where photos were searched for faces.
        histogram: how the scores of both kinds are spread.
        hardest: the pairs that went most wrong, by row.
    """

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
    groups: tuple[GroupRates, ...] = ()
    robustness: tuple[DamagedRates, ...] = ()
    acquisition: Acquisition | None = None

    @property
    def hint(self) -> str | None:
        """What is probably wrong with the scores, in a sentence; None where nothing is."""
        return inverted_hint(self.auc, self.eer)

    @property
    def threshold(self) -> float:
        """The threshold that figures and mistakes refer to: the one given, else that of the EER."""
        return self.eer_threshold if self.at_threshold is None else self.at_threshold.threshold

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics as JSON types, None for what is infinite or absent."""
        return {field.name: plain(getattr(self, field.name)) for field in fields(self) if field.compare}

    def to_keep(self) -> dict[str, Any]:
        """Return what a model keeps of its measurement: the metrics, and how the scores are spread, for pictures."""
        return {**self.to_dict(), "histogram": {name: part.tolist() for name, part in self.histogram._asdict().items()}}

    def to_json(self) -> str:
        """Return the metrics as strict JSON: no NaN, no Infinity, null instead."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

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
    ) -> Path:
        """Write metrics.json, curve.csv, a PNG of each figure and report.html, each whole or not at all.

        Args:
            folder: made if it is missing; files of an earlier report are replaced.
            title: heading of the page.
            details: configuration, hash of the data, versions, provenance, claims; nested mappings become sections.
            pictures: gives the two photos of a pair by its row; InputError or OSError leaves a gap in the page.
            captions: says by row who is on them.
            comparison: rows of a table, e.g. this encoder beside raw pixels; floats are shown as they are.
            published: curves of others, to draw beside this one.

        Returns:
            The path of report.html.

        Raises:
            InputError: `folder` is a file.
        """
        from siamese_verify.evaluation.pages.figures import draw_figures
        from siamese_verify.evaluation.pages.page import render_page

        target = Path(folder)
        if target.exists() and not target.is_dir():
            raise InputError(f"The report needs a folder, and {target} is a file: name another place.")
        target.mkdir(parents=True, exist_ok=True)
        given = {"title": title, "details": plain(details or {}), "comparison": plain(list(comparison or []))}
        metrics = json.dumps({**self.to_dict(), **given}, indent=1, allow_nan=False)
        figures = draw_figures(self)
        page = render_page(self, figures, published=published, pictures=pictures, captions=captions, **given)
        for figure in figures:
            write_whole(target / f"{figure.name}.png", figure.png)
        write_whole(target / "curve.csv", curve_points(thinned(self.curve)).encode())
        write_whole(target / "metrics.json", metrics.encode())
        write_whole(target / "report.html", page.encode(), private=True)  # last: where it lies, the rest does
        return target / "report.html"


def verification_report(
    scores: ArrayLike,
    same: ArrayLike,
    folds: ArrayLike | None = None,
    identities: ArrayLike | None = None,
    threshold: float | None = None,
    targets: Sequence[float] = TARGETS,
) -> VerificationReport:
    """Measure scored pairs by every metric, with one sort.

    Args:
        scores: (N,) finite similarities, higher = more alike.
        same: (N,) bool, True for a genuine pair.
        folds: (N,) fold of each pair, for accuracy by cross-validation.
        identities: (N, 2) who is on the two photos of each pair, for confidence intervals.
        threshold: one that was chosen on other, held-out data; gives accuracy, FAR and FRR there.
        targets: false accept rates in [0, 1] to report the true accept rate at.

    Raises:
        InputError: see `checked_pairs`, `pair_intervals` and `kfold_accuracy`; NaN as the threshold; a target
            that is no rate.
    """
    values, labels = checked_pairs(scores, same)
    ranking = rank(values, labels)
    curve = curve_of(ranking.scores, ranking.same)
    intervals = None
    if identities is not None:
        intervals = pair_intervals(values, labels, identities, folds, threshold, targets)
    return report_of(
        curve,
        auc=auc_of(curve),
        d_prime=d_prime(values, labels),
        targets=targets,
        threshold=None if threshold is None else checked_threshold(threshold),
        kfold=None if folds is None else kfold_of(ranking, as_array(folds)),
        intervals=intervals,
        histogram=score_histogram(values, labels),
        hardest=hardest_pairs(values, labels),
    )


def report_of(
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
    """Read off a curve what can be read off it, and take along what can't."""
    crossing = equal_error_of(curve)
    return VerificationReport(
        pairs=curve.genuine + curve.impostors,
        genuine=curve.genuine,
        impostors=curve.impostors,
        eer=crossing.rate,
        eer_threshold=crossing.threshold,
        auc=auc,
        d_prime=d_prime,
        zero_fmr=zero_fmr_of(curve),
        zero_fnmr=zero_fnmr_of(curve),
        operating_points=tuple(point_of(curve, target) for target in targets),
        kfold=kfold,
        at_threshold=None if threshold is None else rates_of(curve, threshold),
        curve=curve,
        histogram=histogram,
        hardest=hardest,
        intervals=intervals or {},
    )
