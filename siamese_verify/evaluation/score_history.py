"""Distributions of genuine and impostor scores at each validation of a training, in a file of its run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from siamese_verify.atomic_write import atomic_write
from siamese_verify.errors import InputError
from siamese_verify.evaluation.score_statistics import ScoreHistogram

FILE = "score_history.json"
MOST = 128  # validations in a file: 200 KB


class EpochScores(NamedTuple):
    """Scores of one validation."""

    epoch: int  # from 0
    step: int  # of training, from 1
    histogram: ScoreHistogram


def add_scores(folder: Path, epoch: int, step: int, histogram: ScoreHistogram) -> None:
    """Add the scores of a validation to the file of a run.

    Of more than `MOST` validations one is dropped, whose neighbors in time are closest to each other. A run that is
    resumed repeats validations, which then replace the earlier ones.

    Args:
        folder: of the run.
        epoch: that was validated, from 0.
        step: of training, from 1.
        histogram: bins of equal width.
    """
    try:
        earlier = [one for one in read_score_history(folder) if one.step < step]
    except InputError:  # a damaged picture should not end a training
        earlier = []
    history = [*earlier, EpochScores(epoch, step, histogram)]
    if len(history) > MOST:
        steps = np.array([one.step for one in history])
        del history[1 + int(np.argmin(steps[2:] - steps[:-2]))]
    content = [
        {
            "epoch": one.epoch,
            "step": one.step,
            "range": [float(one.histogram.edges[0]), float(one.histogram.edges[-1])],
            "genuine": one.histogram.genuine.tolist(),
            "impostors": one.histogram.impostors.tolist(),
        }
        for one in history
    ]
    atomic_write(folder / FILE, json.dumps(content, separators=(",", ":")).encode())


def read_score_history(folder: Path) -> list[EpochScores]:
    """Return the scores of a run's validations, the first epoch first; none where the run has no such file.

    Raises:
        InputError: the file is damaged.
    """
    if not (folder / FILE).is_file():
        return []
    try:
        found = []
        for one in json.loads((folder / FILE).read_bytes()):
            genuine, impostors = (np.array(one[kind], dtype=np.int64) for kind in ("genuine", "impostors"))
            low, high = one["range"]
            if not (genuine.shape == impostors.shape == (genuine.size,) and genuine.size and low < high):
                raise ValueError("counts that do not fit")
            edges = np.linspace(low, high, genuine.size + 1)
            found.append(EpochScores(int(one["epoch"]), int(one["step"]), ScoreHistogram(edges, genuine, impostors)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / FILE} is damaged ({error}): delete it to go on without.") from None
    return found
