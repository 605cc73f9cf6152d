from .acquisition import add_failures, failure_interval
from .all_pairs import ALL_PAIRS_TARGETS, all_pairs_report
from .all_pairs_rows import all_pairs_intervals
from .bootstrap import Interval
from .calibration import (
    Calibration,
    ScoreCalibration,
    calibrate,
    cllr,
    fit_isotonic,
    fit_logistic,
)
from .calibration_check import CalibrationCheck, check_calibration, min_cllr
from .comparison import ScoreComparison, compare_scores
from .differentials import (
    GroupDifferentials,
    all_pairs_differentials,
    group_differentials,
    labels_of,
)
from .discard import DiscardCurve, discard_curve
from .episodes import FewShotReport, few_shot_report
from .folds import KFoldAccuracy, kfold_accuracy
from .grouping_scores import GroupingRates, grouping_rates
from .groups import (
    DamagedRates,
    GroupRates,
    MeanOfGroups,
    damaged_rates,
    group_reports,
    mean_of_groups,
)
from .identification_rates import IdentificationReport, identification_report
from .impostor_tail import ImpostorTail
from .inequality import garbe, gini, worst_ratio
from .operating_points import (
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
from .rate_intervals import pair_intervals
from .report import TARGETS, VerificationReport, inverted_hint, verification_report
from .representation import (
    Representation,
    alignment,
    effective_rank,
    knn_decisions,
    measure_representation,
    uniformity,
)
from .retrieval_rates import RetrievalReport, retrieval_report
from .roc import RocCurve, auc, read_curve, roc_curve
from .run_comparison import compare_runs, read_evaluation
from .score_file import PublishedCurve, read_published, read_scores, write_scores
from .score_statistics import d_prime
from .scores import score_pairs
from .tail_extrapolation import TailExtrapolation, extrapolate

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
