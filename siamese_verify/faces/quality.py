"""How good a picture of a face is."""

from __future__ import annotations

import numpy as np
from PIL import Image


def sharpness(face: Image.Image) -> float:
    """Variance of the Laplacian of the grey levels, 0 for a flat or fully blurred picture.

    Comparable among faces of one size only. Pech-Pacheco et al., "Diatom Autofocusing in Brightfield Microscopy", ICPR
    2000.

    Args:
        face: RGB, 3 x 3 pixels or more.
    """
    grey = np.asarray(face.convert("L"), dtype=np.float64)
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    return float(laplacian.var())
