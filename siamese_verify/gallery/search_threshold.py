"""The threshold of a search among many: the more templates, the stricter."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from siamese_verify.errors import InputError
from siamese_verify.evaluation.operating_points import DECISIVE_IMPOSTORS

if TYPE_CHECKING:
    from siamese_verify.evaluation import ImpostorTail


RATES = (1e-3, 1e-2)  # of a search, of which the strictest that was measured well is taken


class SearchThreshold(NamedTuple):
    """From which score on somebody is found.

    With n templates, a stranger is taken for somebody with a probability of at most n f, where f is the rate of one
    comparison. That holds however the comparisons depend on each other, which they do, being made with one photo;
    1 - (1 - f)^n, for independent ones, is never more.
    """

    threshold: float  # cosine; may lie above 1, where nobody is found
    interval: tuple[float, float] | None  # 95 % of it, over people; an end is infinite where the data set none
    far: float | None  # of one search; None for a threshold of the caller's own
    impostors: int  # pairs that it was measured on; 0 for a threshold of the caller's own
    insufficient: bool  # the data cannot show the rate
    reason: str  # a sentence if it is insufficient, else empty


def search_threshold(impostor_tail: ImpostorTail, far: float | None, templates: int) -> SearchThreshold:
    """Find the threshold for a false accept rate of one search.

    Args:
        impostor_tail: how impostors of the model score.
        far: share of the searches with a stranger's photo that may name somebody, above 0 and up to 0.5; None for the
            strictest of `RATES` that the data can show, and for the loosest if there is none.
        templates: that one search compares with, 1 or more.

    Raises:
        InputError: another rate, or no templates.
    """
    if templates < 1:
        raise InputError(f"A search among {templates} templates has no threshold: enrol somebody first.")
    if far is None:
        shares = [(rate, rate / templates) for rate in RATES]
        far = next(
            (rate for rate, share in shares if impostor_tail.shows(share, impostor_tail.threshold(share)[1])), RATES[-1]
        )
    if not 0 < far <= 0.5:
        raise InputError(f"The false accept rate of a search is {far}: give one above 0 and up to 0.5.")
    share = far / templates
    threshold, known = impostor_tail.threshold(share)
    interval = (min(known.low, threshold), max(known.high, threshold)) if known else None
    insufficient = not impostor_tail.shows(share, known)
    reason = ""
    if not impostor_tail.decisive(share):
        least = DECISIVE_IMPOSTORS * templates / impostor_tail.impostors
        way = f"nothing stricter than {least:.2g} is" if least <= 0.5 else "no rate is for so many templates"
        reason = (
            f"A false accept rate of {far:g} for each search among {templates:,} templates asks for "
            f"{share:.2g} for each comparison, which {impostor_tail.impostors:,} impostor pairs cannot vouch "
            f"for: {way}."
        )
    elif insufficient:
        reason = (
            f"A false accept rate of {far:g} for each search among {templates:,} templates asks for "
            f"{share:.2g} for each comparison, which the people measured cannot show: ask for a looser one."
        )
    return SearchThreshold(threshold, interval, far, impostor_tail.impostors, insufficient, reason)
