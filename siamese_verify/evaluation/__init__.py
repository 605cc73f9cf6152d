"""Scores -> curves, operating points, protocols, reports. Importing it loads numpy and nothing that draws."""

from siamese_verify.evaluation.all_pairs import all_pairs_report
from siamese_verify.evaluation.crossing import EqualError, equal_error, equal_error_rate
from siamese_verify.evaluation.folds import KFoldAccuracy, kfold_accuracy
from siamese_verify.evaluation.nearest_neighbour import nearest_neighbour_accuracy
from siamese_verify.evaluation.operating_point import OperatingPoint, tar_at_far, zero_fmr, zero_fnmr
from siamese_verify.evaluation.report import VerificationReport, verification_report
from siamese_verify.evaluation.roc import RocCurve, auc, roc_curve
from siamese_verify.evaluation.separation import d_prime
from siamese_verify.evaluation.threshold import ThresholdRates, accuracy, best_threshold, rates_at

__all__ = [
    "EqualError",
    "KFoldAccuracy",
    "OperatingPoint",
    "RocCurve",
    "ThresholdRates",
    "VerificationReport",
    "accuracy",
    "all_pairs_report",
    "auc",
    "best_threshold",
    "d_prime",
    "equal_error",
    "equal_error_rate",
    "kfold_accuracy",
    "nearest_neighbour_accuracy",
    "rates_at",
    "roc_curve",
    "tar_at_far",
    "verification_report",
    "zero_fmr",
    "zero_fnmr",
]
