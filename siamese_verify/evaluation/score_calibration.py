"""What a model's scores mean, learned from people it was not trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.all_pairs import all_pairs_report
from siamese_verify.evaluation.all_pairs_intervals import clustered_rows
from siamese_verify.evaluation.calibration import Calibration, choose_calibration, fit_logistic, limited
from siamese_verify.evaluation.impostor_tail import ImpostorTail, impostor_tail_of, with_intervals
from siamese_verify.evaluation.pair_intervals import one_rate
from siamese_verify.evaluation.scores import as_array

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    from siamese_verify.evaluation.roc import RocCurve


class ScoreCalibration(NamedTuple):
    """Probability and rarity of scores."""

    calibration: Calibration
    impostor_tail: ImpostorTail

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {"calibration": self.calibration.to_dict(), "impostor_tail": self.impostor_tail.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ScoreCalibration:
        """Read what `to_dict` wrote.

        Raises:
            InputError: a part is missing or damaged.
        """
        try:
            return cls(Calibration.from_dict(values["calibration"]), ImpostorTail.from_dict(values["impostor_tail"]))
        except (KeyError, TypeError) as error:
            raise InputError(f"The score calibration is damaged ({error}): measure it again.") from None


def calibrate(
    embeddings: ArrayLike,
    identities: ArrayLike,
    measured_on: str = "",
    seed: int = 0,
    *,
    intervals: bool = True,
) -> ScoreCalibration:
    """Learn what scores mean from all pairs of some people.

    Which kind of calibration is better is found out on people it was not learned from: they are split in halves. Where
    a half has no genuine or no impostor pair, it is the straight line.

    Args:
        embeddings: (N, D) of any non-zero length.
        identities: (N,) one number or name per row.
        measured_on: the data, for people.
        seed: of the split.
        intervals: of the strangers' shares, for which the pairs are looked at again. The evidence of a score is then
            limited to what people, not pairs, support: above the highest impostor to the share of strangers that may
            score there, below the lowest genuine pair likewise.

    Raises:
        InputError: see `all_pairs_report`.
    """
    rows, names = as_array(embeddings), as_array(identities)
    whole = all_pairs_report(rows, names).curve
    calibration, tail = _calibrated(rows, names, whole, measured_on, seed), impostor_tail_of(whole)
    if intervals:
        pairs = clustered_rows(rows, names)
        tail = with_intervals(tail, pairs)
        if tail.intervals and tail.intervals[-1]:
            missed = one_rate(0.0, float(len(np.unique(pairs.genuine_people))), 0.95).high
            calibration = limited(calibration, missed, tail.intervals[-1].high)
    return ScoreCalibration(calibration, tail)


def _calibrated(rows: NDArray[Any], names: NDArray[Any], whole: RocCurve, measured_on: str, seed: int) -> Calibration:
    people = np.unique(names)
    chosen = np.isin(names, np.random.default_rng(seed).permutation(people)[: len(people) // 2])
    try:
        halves = tuple(all_pairs_report(rows[half], names[half]).curve for half in (chosen, ~chosen))
    except InputError:  # too few people to hold some out
        return fit_logistic(whole, measured_on)
    return choose_calibration(whole, (halves[0], halves[1]), measured_on)
