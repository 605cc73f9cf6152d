"""How well a grouping of faces agrees with known people: pairwise F1, BCubed F1 and the false-merge rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from siamese_verify.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class GroupingRates(NamedTuple):
    """Agreement of groups with people; all in [0, 1], and 1 where there is nothing to get wrong.

    Attributes:
        pair_precision: share of the pairs within groups that are genuine.
        pair_recall: share of the genuine pairs that are within groups.
        pair_f1: harmonic mean of the two.
        bcubed_precision: share of a face's group that is the same person, mean over the faces.
        bcubed_recall: share of a person's faces that is in a face's group, mean over the faces.
        bcubed_f1: harmonic mean of the two.
        false_merge_rate: of the N - G merges that make G groups of N faces, the share that any order of merging them
            needs to join two people: the sum over groups of the number of people less one, by N - G. 0 is best.
        groups: number of groups.
        people: number of people.
    """

    pair_precision: float
    pair_recall: float
    pair_f1: float
    bcubed_precision: float
    bcubed_recall: float
    bcubed_f1: float
    false_merge_rate: float
    groups: int
    people: int


def grouping_rates(groups: ArrayLike, people: ArrayLike) -> GroupingRates:
    """Return how well groups agree with people.

    Args:
        groups: (N,) number or name of each face's group.
        people: (N,) number or name of the person that each face shows.

    Raises:
        InputError: none, or not as many of one as of the other.

    Bagga & Baldwin, "Entity-Based Cross-Document Coreferencing Using the Vector Space Model", ACL 1998 (BCubed).
    """
    found, true = np.asarray(groups), np.asarray(people)
    if found.shape != true.shape or found.ndim != 1 or not len(found):
        raise InputError(f"Groups and people are one for each face, got shapes {found.shape} and {true.shape}.")
    _, group = np.unique(found, return_inverse=True)
    _, person = np.unique(true, return_inverse=True)
    both, shared = np.unique(group.astype(np.int64) * (int(person.max()) + 1) + person, return_counts=True)
    in_group, of_person = np.bincount(group), np.bincount(person)
    group_of, person_of = both // (int(person.max()) + 1), both % (int(person.max()) + 1)
    genuine, within, total = (float((sizes * (sizes - 1.0)).sum()) for sizes in (shared, in_group, of_person))
    precision, recall = (genuine / all_of if all_of else 1.0 for all_of in (within, total))
    bcubed = [float((shared**2 / sizes).sum() / len(found)) for sizes in (in_group[group_of], of_person[person_of])]
    merges, false = len(found) - len(in_group), len(both) - len(in_group)
    return GroupingRates(
        precision,
        recall,
        _f1(precision, recall),
        bcubed[0],
        bcubed[1],
        _f1(*bcubed),
        false / merges if merges else 0.0,
        len(in_group),
        len(of_person),
    )


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
