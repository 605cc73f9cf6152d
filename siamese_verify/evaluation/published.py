"""ROC curves that others have published, to draw beside one's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.thinning import STEPS

if TYPE_CHECKING:
    from numpy.typing import NDArray


class PublishedCurve(NamedTuple):
    """Points of somebody's curve."""

    name: str
    far: NDArray[np.float64]  # (K,) ascending, in [0, 1]
    tar: NDArray[np.float64]  # (K,) in [0, 1]


def read_published(folder: str | Path) -> list[PublishedCurve]:
    """Read all text files of a folder, each with two columns, TAR and FAR in either order, as LFW's authors keep them.

    The column that is larger on average is the TAR, as on any curve better than chance. Rows with NaN are left out.

    Raises:
        InputError: no such folder, no text file in it, or one that is no curve.
    """
    place = Path(folder)
    files = sorted(place.glob("*.txt")) if place.is_dir() else []
    if not files:
        raise InputError(f"There are no published curves (*.txt) in {folder}: name another folder, or published=null.")
    return [read_curve(file) for file in files]


def read_curve(file: Path) -> PublishedCurve:
    """Read one curve, see `read_published`; it is named after its file, without what they all are."""
    try:
        points = np.loadtxt(file, ndmin=2)
    except (ValueError, OSError) as error:
        raise InputError(f"{file} holds no curve of two columns: {error}.") from None
    points = points[np.isfinite(points).all(axis=1)]
    if points.shape[1] != 2 or len(points) < 2 or points.min() < 0 or points.max() > 1:
        raise InputError(f"{file} holds no curve: two columns of rates in [0, 1] are needed, two rows or more.")
    far, tar = sorted(points.T, key=lambda rates: float(rates.mean()))
    order = np.lexsort((tar, far))
    far, tar = far[order], tar[order]
    moved = np.diff(np.floor(np.stack([far, tar, np.log10(np.maximum(far, 1e-7)) / 7]) * STEPS), prepend=-np.inf).any(0)
    moved[-1] = True
    name = re.sub("[_-](lfw|roc|curve)(?![^_-])", "", file.stem, flags=re.IGNORECASE)
    return PublishedCurve(name.replace("_", " "), far[moved], tar[moved])
