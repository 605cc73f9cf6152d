"""Definitions of the figures on a report's page, with their sources, for those who audit it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from siamese_verify.evaluation.report import VerificationReport

Definition = tuple[str, str, str]

ALWAYS: tuple[Definition, ...] = (
    ("Genuine, impostor pair", "Two photos of one person; of two people.", "ISO/IEC 2382-37 (mated, non-mated)"),
    ("Accepted", "A pair whose score reaches the threshold.", "ISO/IEC 2382-37"),
    ("FAR (FMR)", "Share of the impostor pairs that are accepted, among pairs that were compared.", "ISO/IEC 19795-1"),
    ("FRR (FNMR), TAR", "Share of the genuine pairs that are rejected; TAR = 1 - FRR.", "ISO/IEC 19795-1"),
    (
        "Equal error rate",
        "Where FRR - FAR changes sign between two neighboring operating points, by linear interpolation.",
        "ISO/IEC 19795-1",
    ),
    (
        "TAR at a FAR",
        "At the lowest threshold whose FAR is within the target, without interpolation; marked where fewer than ten "
        "impostors decide it.",
        "ISO/IEC 19795-1",
    ),
    ("ZeroFMR, ZeroFNMR", "Lowest FRR without a false accept; lowest FAR without a false reject.", "ISO/IEC 19795-1"),
    ("Area under the ROC", "P(genuine > impostor) + P(equal) / 2.", "Hanley & McNeil 1982"),
    (
        "Partial area",
        "Area under the ROC for FAR in [0, f], divided by f: the mean TAR there.",
        "McClish 1989, without its correction",
    ),
    (
        "minDCF",
        "Least of (C_miss P FRR + C_fa (1 - P) FAR) over all thresholds, divided by min(C_miss P, C_fa (1 - P)), with "
        "the prior P of genuine pairs and the costs of a miss and of a false accept.",
        "NIST Speaker Recognition Evaluation",
    ),
    ("d\u2032", "Distance of the means of both kinds of scores, in standard deviations.", "Green & Swets 1966"),
)


def definitions_for(report: VerificationReport) -> list[Definition]:
    """Return name, definition and source of each figure that the page of a report shows."""
    found = list(ALWAYS)
    if report.intervals:
        found.append(
            (
                "95 % interval",
                "Exact binomial interval for an effective number of independent pairs, from the variance of the rate "
                "over people; one-sided where no error was observed.",
                "Korn & Graubard 1998; Aronow et al. 2015",
            )
        )
    if report.at_threshold:
        found += [
            (
                "HTER",
                "(FAR + FRR) / 2 at a threshold chosen on other data; balanced accuracy is 1 - HTER.",
                "bob.measure",
            )
        ]
    if report.acquisition:
        found += [
            ("FTA", "Share of the photos in which no face could be selected.", "ISO/IEC 19795-1"),
            (
                "Generalized FRR, FAR",
                "Over all pairs, compared or not, where a pair with a failure to acquire counts as rejected.",
                "ISO/IEC 19795-1",
            ),
        ]
    if report.extrapolated:
        found.append(
            (
                "Extrapolated threshold",
                "From a generalized Pareto distribution of the squared distances of the highest impostors from the "
                "median; interval by profile likelihood over people.",
                "Coles 2001; ISO/IEC 5152",
            )
        )
    if report.kfold:
        found.append(
            (
                "Accuracy over folds",
                "Each fold by the lowest threshold that maximizes accuracy on the others; mean and standard error.",
                "Huang et al. 2007 (LFW)",
            )
        )
    if report.differentials:
        found += [
            (
                "Largest over the geometric mean",
                "Of the groups' own rates: 1 if all are treated alike.",
                "NIST IR 8429; ISO/IEC 19795-10",
            ),
            (
                "Gini coefficient, GARBE",
                "G / (G - 1) times the sum of differences of all two of G rates, over 2 G\u00b2 times their mean; "
                "GARBE is the mean of those of FMR and FNMR.",
                "Howard et al. 2022; ISO/IEC 19795-10",
            ),
        ]
    if report.calibration:
        found.append(
            (
                "Cllr",
                "Cost of log-likelihood ratios in bits: 0 is perfect, 1 no information.",
                "Br\u00fcmmer & du Preez 2006",
            )
        )
    if report.discard:
        found.append(
            (
                "Error versus discard",
                "FNMR when the share d of genuine pairs of lowest quality, the lower of both photos, is left out, at a "
                "fixed threshold; area over d up to 20 %, less that of the ideal order, divided by 20 %.",
                "ISO/IEC 29794-1; Schlett et al. 2023",
            )
        )
    return found
