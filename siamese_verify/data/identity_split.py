"""Splits of photos by identity, for training, validation and testing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.protocols.held_out import HeldOutShare
from siamese_verify.samplers.epoch import IdentityIndex
from siamese_verify.structures import Photos


class Split(NamedTuple):
    """Rows for training, for validation and for testing, ascending; no identity is in two of them."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split_by_identity(
    identities: np.ndarray,
    share: float,
    max_samples_per_identity: int,
    seed: int,
    max_identities: int | None = None,
    test: HeldOutShare | None = None,
) -> Split:
    """Hold identities out for validation, and before that for testing, if asked to.

    Args:
        identities: (N,) integers.
        share: of the identities that are not held out for testing, see `hold_out`, also for the arguments that follow.
        max_samples_per_identity: of an identity held out for validation.
        seed: of the choice for validation.
        max_identities: held out for validation, at most.
        test: held out for testing, whatever the seed; None holds out nothing.

    Raises:
        InputError: see `hold_out`; fewer than six identities with two samples, where three parts are wanted.
    """
    rest, tested = np.arange(len(identities), dtype=np.int32), np.empty(0, dtype=np.int32)
    if test is not None:
        repeated = int((np.unique(identities, return_counts=True)[1] > 1).sum())
        if repeated < 6:
            raise InputError(
                f"{len(identities)} photos hold {repeated} people with two photos or more, but training, validation "
                "and testing need two such people each: add people, or test on other photos by protocol=folder "
                "protocol.root=... ."
            )
        rest, tested = hold_out(identities, **test.choice)
    train, validation = hold_out(identities[rest], share, max_samples_per_identity, seed, max_identities)
    return Split(rest[train], rest[validation], tested)


def check_share(share: float, max_samples_per_identity: int, max_identities: int | None) -> None:
    """Raise InputError if an argument of `hold_out` is out of range."""
    if not 0 < share < 1:
        raise InputError(f"The share of identities to hold out must lie between 0 and 1, got {share}.")
    if max_samples_per_identity < 2:
        raise InputError(f"Genuine pairs need 2 or more photos of a held-out person, got {max_samples_per_identity}.")
    if max_identities is not None and max_identities < 2:
        raise InputError(f"Impostor pairs need 2 or more people held out, got {max_identities}.")


def hold_out(
    identities: np.ndarray, share: float, max_samples_per_identity: int, seed: int, max_identities: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out a share of the identities, and the same share of those with one sample and of those with more.

    Args:
        identities: (N,) integers.
        share: of the identities to hold out, in (0, 1); two with genuine pairs or more.
        max_samples_per_identity: samples of a held-out identity that are used, >= 2, so that a few identities do not
            decide a validation; the others are in neither part.
        seed: of the choice.
        max_identities: to hold out, so that a validation on all pairs stays short; None = no limit.

    Returns:
        Rows of the identities that are left, and rows of those held out, ascending.

    Raises:
        InputError: an argument out of range, or fewer than two identities with two samples in one part.
    """
    check_share(share, max_samples_per_identity, max_identities)
    index = IdentityIndex(identities)
    repeated = index.counts > 1
    limit = 1.0 if max_identities is None else min(1.0, max_identities / max(1, round(share * len(index))))
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(index), dtype=bool)
    for group, least in ((np.flatnonzero(repeated), 2), (np.flatnonzero(~repeated), 0)):
        held_out[rng.permutation(group)[: max(least, round(limit * share * len(group)))]] = True
    if (repeated & ~held_out).sum() < 2 or (repeated & held_out).sum() < 2:
        raise InputError(
            f"{len(identities)} photos of {len(index)} people, {int(repeated.sum())} of them with two photos or more, "
            f"cannot be split with a share of {share} held out: each part needs two such people."
        )
    chosen = [
        index.rows(identity, rng.permutation(index.counts[identity])[:max_samples_per_identity])
        for identity in np.flatnonzero(held_out).tolist()
    ]
    return np.flatnonzero(~held_out[index.numbers()]).astype(np.int32), np.sort(np.concatenate(chosen))


class LabeledRows(NamedTuple):
    """Rows to train on, with labels or without."""

    rows: np.ndarray  # (n,)
    labeled: np.ndarray  # (n,) bool
    people: np.ndarray  # their identities, first those with labels, last that of photos of anyone
    num_identities: int  # how many have labels


def label_rows(
    identities: np.ndarray,
    train: np.ndarray,
    of_anyone: np.ndarray | None,
    labeled_identities: int | None,
    labeled_samples: int | None,
    seed: int,
) -> LabeledRows:
    """Choose whose labels may be learned from, and what else is trained on.

    Args:
        identities: (N,) integers.
        train: (n,) rows to choose among.
        of_anyone: (m,) rows without any identity, to train on beside those that were not chosen; None leaves out both.
        labeled_identities: see `choose_labeled`, also for the arguments that follow.
        labeled_samples: of each identity.
        seed: of the choice.
    """
    labeled = choose_labeled(identities[train], labeled_identities, labeled_samples, seed)
    known = np.unique(identities[train[labeled]])
    if of_anyone is None:
        chosen = train[labeled]
        return LabeledRows(chosen, np.ones(len(chosen), dtype=bool), known, len(known))
    hidden = np.setdiff1d(identities[train], known)
    people = np.concatenate([known, hidden, identities[of_anyone[:1]]])
    labeled = np.append(labeled, np.zeros(len(of_anyone), dtype=bool))
    return LabeledRows(np.append(train, of_anyone), labeled, people, len(known))


def rows_of_person(photos: Photos, name: str | None) -> np.ndarray:
    """Rows of the person of a name, none of None.

    Raises:
        InputError: there is no such person.
    """
    if name is None:
        return np.empty(0, dtype=np.int32)
    people = [str(one) for one in getattr(photos, "people", [])]
    if str(name) not in people:
        raise InputError(f"The data set has no person {name}: correct datamodule.unlabeled_identity.")
    return np.flatnonzero(photos.identities == people.index(str(name))).astype(np.int32)


def check_labeled(labeled_identities: int | None, labeled_samples: int | None) -> None:
    """Raise InputError for fewer than two identities or samples with labels; None stands for all."""
    if labeled_samples is not None and labeled_samples < 2:
        raise InputError(f"Genuine pairs need labeled_samples of 2 or more, got {labeled_samples}.")
    if labeled_identities is not None and labeled_identities < 2:
        raise InputError(f"Impostor pairs need labeled_identities of 2 or more, got {labeled_identities}.")


def choose_labeled(
    identities: np.ndarray, labeled_identities: int | None, labeled_samples: int | None, seed: int
) -> np.ndarray:
    """Choose identities, and samples of each, whose labels may be learned from.

    Args:
        identities: (N,) integers.
        labeled_identities: to choose among those with two samples or more; None = all identities.
        labeled_samples: to choose of each, at most, >= 2; None = all.
        seed: of the choice. More identities or samples add to those of fewer.

    Returns:
        (N,) bool.

    Raises:
        InputError: fewer than two identities or samples, or more identities than there are.
    """
    check_labeled(labeled_identities, labeled_samples)
    labeled = np.ones(len(identities), dtype=bool)
    if labeled_identities is None and labeled_samples is None:
        return labeled
    index, rng = IdentityIndex(identities), np.random.default_rng(seed)
    if labeled_identities is not None:
        repeated = np.flatnonzero(index.counts > 1)
        if labeled_identities > len(repeated):
            raise InputError(
                f"labeled_identities must be in 2 ... {len(repeated)}, the training people with two photos or more, "
                f"got {labeled_identities}."
            )
        chosen = np.zeros(len(index), dtype=bool)
        chosen[rng.permutation(repeated)[:labeled_identities]] = True
        labeled = chosen[index.numbers()]
    if labeled_samples is not None:
        order = np.lexsort((rng.random(len(identities)), identities))  # random within an identity
        place = np.arange(len(identities)) - np.repeat(index.starts, index.counts)
        labeled[order[place >= labeled_samples]] = False
    return labeled
