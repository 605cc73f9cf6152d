"""Failures to acquire, and the error rates that include them (ISO/IEC 19795-1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from siamese_verify.evaluation.operating_points import rates_at

if TYPE_CHECKING:
    from siamese_verify.evaluation.report import VerificationReport


class GeneralizedRates(NamedTuple):
    """Error rates at a threshold without and with failures to acquire.

    Attributes:
        threshold: accept at this score and above.
        fmr: false match rate: share of the compared impostor pairs that are accepted.
        fnmr: false non-match rate: share of the compared genuine pairs that are rejected.
        generalized_far: share of all impostor pairs that are accepted.
        generalized_frr: share of all genuine pairs that are rejected, those with a failure to acquire included.
    """

    threshold: float
    fmr: float
    fnmr: float
    generalized_far: float
    generalized_frr: float


class Acquisition(NamedTuple):
    """Failures to acquire of an evaluation; a pair with one is not compared.

    Attributes:
        photos: that pairs were to be made of.
        failures: photos without a face, or with multiple faces where it is unclear which one is meant.
        failure_rate: failure-to-acquire rate (FTA), in [0, 1].
        genuine: pairs, compared or not.
        genuine_failures: those not compared.
        impostors: pairs, compared or not.
        impostor_failures: those not compared.
        rates: at the report's threshold, and at its operating points.
    """

    photos: int
    failures: int
    failure_rate: float
    genuine: int
    genuine_failures: int
    impostors: int
    impostor_failures: int
    rates: tuple[GeneralizedRates, ...]

    @property
    def sentence(self) -> str:
        """The failures, and the rates at the report's threshold, in words."""
        at = self.rates[0]
        return (
            f"No face could be selected in {self.failures:,} of {self.photos:,} photos (FTA {self.failure_rate:.2%}). "
            f"At threshold {at.threshold:.4f}, FNMR is {at.fnmr:.2%} and generalized FRR {at.generalized_frr:.2%}, FMR "
            f"{at.fmr:.2%} and generalized FAR {at.generalized_far:.2%}."
        )


def add_failures(report: VerificationReport, photos: int, failures: int, genuine: int, impostors: int) -> Acquisition:
    """Add failures to acquire to the error rates of the pairs that could be compared.

    Args:
        report: of the compared pairs.
        photos: that pairs were to be made of.
        failures: photos that could not be used.
        genuine: pairs, compared or not.
        impostors: pairs, compared or not.
    """
    genuine_failures, impostor_failures = genuine - report.genuine, impostors - report.impostors
    rates = []
    for threshold in dict.fromkeys([report.threshold, *(point.threshold for point in report.operating_points)]):
        at = rates_at(report.curve, threshold)
        generalized = (at.false_accepts / impostors, (at.false_rejects + genuine_failures) / genuine)
        rates.append(GeneralizedRates(threshold, at.far, at.frr, *generalized))
    return Acquisition(
        photos, failures, failures / photos, genuine, genuine_failures, impostors, impostor_failures, tuple(rates)
    )
