"""Speed of drawing synthetic faces, compared with decoding JPEG photos, both on one core.

Claim: at least 500 images of 112 x 112 a second. Run: `python benchmarks/synthetic.py`.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import statistics
import time
from collections.abc import Callable

from PIL import Image

from siamese_verify.datasets import SyntheticFaces

IDENTITIES, IMAGES = 40, 10


def rate(work: Callable[[int], object], images: int) -> float:
    start = time.process_time()
    for row in range(images):
        work(row)
    return images / (time.process_time() - start)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--repetitions", type=int, default=5)
    repetitions = options.parse_args().repetitions
    file = io.BytesIO()
    SyntheticFaces(1, 1, size=250)[0].save(file, "JPEG", quality=90)

    def decode(_: int) -> Image.Image:
        return Image.open(io.BytesIO(file.getvalue())).convert("RGB").resize((112, 112), Image.Resampling.BILINEAR)

    drawn = []
    for repetition in range(repetitions):
        faces = SyntheticFaces(IDENTITIES, IMAGES, first=IDENTITIES * repetition)  # new ones: outlines are made too
        ours, peer = rate(faces.__getitem__, len(faces)), rate(decode, len(faces))
        drawn.append(ours)
        print(f"drawn {ours:5.0f}/s   decoded from 250 x 250 JPEG {peer:5.0f}/s   ratio {ours / peer:.2f}")
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, one used"
    print(f"median {statistics.median(drawn):.0f} images/s, {statistics.median(drawn) / 500:.2f} of 500, on {machine}")


if __name__ == "__main__":
    main()
