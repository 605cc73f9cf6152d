"""Scores -> ROC, EER, operating points, intervals, calibration, reports; importing it loads nothing before a use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from siamese_verify.evaluation.acquisition import add_failures, failure_interval
    from siamese_verify.evaluation.all_pairs import ALL_PAIRS_TARGETS, all_pairs_report
    from siamese_verify.evaluation.all_pairs_intervals import all_pairs_intervals
    from siamese_verify.evaluation.bootstrap import Interval
    from siamese_verify.evaluation.calibration import (
        Calibration,
        ScoreCalibration,
        calibrate,
        cllr,
        fit_isotonic,
        fit_logistic,
    )
    from siamese_verify.evaluation.calibration_check import CalibrationCheck, check_calibration, min_cllr
    from siamese_verify.evaluation.comparison import ScoreComparison, compare_scores
    from siamese_verify.evaluation.differentials import (
        GroupDifferentials,
        all_pairs_differentials,
        group_differentials,
        labels_of,
    )
    from siamese_verify.evaluation.discard import DiscardCurve, discard_curve
    from siamese_verify.evaluation.episodes import FewShotReport, few_shot_report
    from siamese_verify.evaluation.folds import KFoldAccuracy, kfold_accuracy
    from siamese_verify.evaluation.grouping_rates import GroupingRates, grouping_rates
    from siamese_verify.evaluation.groups import (
        DamagedRates,
        GroupRates,
        MeanOfGroups,
        damaged_rates,
        group_reports,
        mean_of_groups,
    )
    from siamese_verify.evaluation.identification_rates import IdentificationReport, identification_report
    from siamese_verify.evaluation.impostor_tail import ImpostorTail
    from siamese_verify.evaluation.inequality import garbe, gini, worst_ratio
    from siamese_verify.evaluation.operating_points import (
        DetectionCost,
        OperatingPoint,
        PartialArea,
        ThresholdRates,
        best_threshold,
        equal_error,
        equal_error_rate,
        min_detection_cost,
        operating_point,
        partial_auc,
        rates_at,
        tar_at_far,
        zero_fmr,
        zero_fnmr,
    )
    from siamese_verify.evaluation.pair_intervals import pair_intervals
    from siamese_verify.evaluation.report import TARGETS, VerificationReport, inverted_hint, verification_report
    from siamese_verify.evaluation.representation import (
        Representation,
        alignment,
        effective_rank,
        knn_decisions,
        measure_representation,
        uniformity,
    )
    from siamese_verify.evaluation.retrieval_rates import RetrievalReport, retrieval_report
    from siamese_verify.evaluation.roc import RocCurve, auc, read_curve, roc_curve
    from siamese_verify.evaluation.run_comparison import compare_runs, read_evaluation
    from siamese_verify.evaluation.score_file import PublishedCurve, read_published, read_scores, write_scores
    from siamese_verify.evaluation.score_statistics import d_prime
    from siamese_verify.evaluation.scores import score_pairs
    from siamese_verify.evaluation.tail_extrapolation import TailExtrapolation, extrapolate

_NAMES = {  # by module, imported when one of them is first used: verifying two photos needs three of them
    "acquisition": "add_failures failure_interval",
    "all_pairs": "ALL_PAIRS_TARGETS all_pairs_report",
    "all_pairs_intervals": "all_pairs_intervals",
    "bootstrap": "Interval",
    "calibration": "Calibration ScoreCalibration calibrate cllr fit_isotonic fit_logistic",
    "calibration_check": "CalibrationCheck check_calibration min_cllr",
    "comparison": "ScoreComparison compare_scores",
    "differentials": "GroupDifferentials all_pairs_differentials group_differentials labels_of",
    "discard": "DiscardCurve discard_curve",
    "episodes": "FewShotReport few_shot_report",
    "folds": "KFoldAccuracy kfold_accuracy",
    "grouping_rates": "GroupingRates grouping_rates",
    "groups": "DamagedRates GroupRates MeanOfGroups damaged_rates group_reports mean_of_groups",
    "identification_rates": "IdentificationReport identification_report",
    "impostor_tail": "ImpostorTail",
    "inequality": "garbe gini worst_ratio",
    "operating_points": (
        "DetectionCost OperatingPoint PartialArea ThresholdRates best_threshold equal_error "
        "equal_error_rate min_detection_cost operating_point partial_auc rates_at tar_at_far zero_fmr "
        "zero_fnmr"
    ),
    "pair_intervals": "pair_intervals",
    "report": "TARGETS VerificationReport inverted_hint verification_report",
    "representation": "Representation alignment effective_rank knn_decisions measure_representation uniformity",
    "retrieval_rates": "RetrievalReport retrieval_report",
    "roc": "RocCurve auc read_curve roc_curve",
    "run_comparison": "compare_runs read_evaluation",
    "score_file": "PublishedCurve read_published read_scores write_scores",
    "score_statistics": "d_prime",
    "scores": "score_pairs",
    "tail_extrapolation": "TailExtrapolation extrapolate",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = [
    "ALL_PAIRS_TARGETS",
    "TARGETS",
    "Calibration",
    "CalibrationCheck",
    "DamagedRates",
    "DetectionCost",
    "DiscardCurve",
    "FewShotReport",
    "GroupDifferentials",
    "GroupRates",
    "GroupingRates",
    "IdentificationReport",
    "ImpostorTail",
    "Interval",
    "KFoldAccuracy",
    "MeanOfGroups",
    "OperatingPoint",
    "PartialArea",
    "PublishedCurve",
    "Representation",
    "RetrievalReport",
    "RocCurve",
    "ScoreCalibration",
    "ScoreComparison",
    "TailExtrapolation",
    "ThresholdRates",
    "VerificationReport",
    "add_failures",
    "alignment",
    "all_pairs_differentials",
    "all_pairs_intervals",
    "all_pairs_report",
    "auc",
    "best_threshold",
    "calibrate",
    "check_calibration",
    "cllr",
    "compare_runs",
    "compare_scores",
    "d_prime",
    "damaged_rates",
    "discard_curve",
    "effective_rank",
    "equal_error",
    "equal_error_rate",
    "extrapolate",
    "failure_interval",
    "few_shot_report",
    "fit_isotonic",
    "fit_logistic",
    "garbe",
    "gini",
    "group_differentials",
    "group_reports",
    "grouping_rates",
    "identification_report",
    "inverted_hint",
    "kfold_accuracy",
    "knn_decisions",
    "labels_of",
    "mean_of_groups",
    "measure_representation",
    "min_cllr",
    "min_detection_cost",
    "operating_point",
    "pair_intervals",
    "partial_auc",
    "rates_at",
    "read_curve",
    "read_evaluation",
    "read_published",
    "read_scores",
    "retrieval_report",
    "roc_curve",
    "score_pairs",
    "tar_at_far",
    "uniformity",
    "verification_report",
    "worst_ratio",
    "write_scores",
    "zero_fmr",
    "zero_fnmr",
]


def __getattr__(name: str) -> Any:
    """Import the module of a name when the name is first used."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
