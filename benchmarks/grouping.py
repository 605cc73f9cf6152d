"""Grouping the faces of LFW by person beside other methods, the false-merge rate stated and measured, and label errors.

1. Pairwise F1 and BCubed F1 on the same embeddings beside DBSCAN and HDBSCAN (scikit-learn), Chinese whispers and
   average linkage (SciPy). Each of these is shown at the setting of its grid that is best for it on the very people it
   is measured on, once for each metric. People of View 1's test list are measured; ours has scores calibrated on people
   of its training list, but its correlation was chosen on photos of these test people too.
2. The false-merge rate that was stated, expected and measured.
3. Label errors planted in the labels: photos of 5 % moved to another person, 5 % of the people merged with another,
   5 % of those with two photos or more split; precision and recall of what `find_label_errors` lists.
4. Time of the neighbor search and of all of the grouping, of drawn embeddings.

Embeddings are read from a `.npz` with `embeddings`, `identities`, `names` and `splits`; made by the first run from
LFW's folder. Run: `python benchmarks/grouping.py EMBEDDINGS.npz [--lfw FOLDER] [--faces 100000]`.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from gallery import Crowd  # type: ignore[import-not-found]  # the benchmark beside this one
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.cluster import DBSCAN, HDBSCAN

from siamese_verify.albums.cleaning import Finding, find_label_errors
from siamese_verify.albums.grouping import NEIGHBORS, group_faces
from siamese_verify.evaluation import GroupingRates, ScoreCalibration, calibrate, grouping_rates
from siamese_verify.pairwise.neighbors import nearest_neighbors

SHARE = 0.05  # of the photos or people that errors are planted in
SEEDS = (0, 1, 2)
RATES = (0.001, 0.003, 0.01, 0.02, 0.05, 0.1, 0.2)
CORRELATIONS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
GRID = np.round(np.arange(0.30, 0.76, 0.025), 3)  # scores from which the other methods join
Rows = NDArray[np.float32]
Labels = NDArray[np.int64]


def embed(path: Path, lfw: Path, model: str) -> None:
    """Embed the photos of LFW."""
    from siamese_verify.atomic_write import cache_folder
    from siamese_verify.data import FaceCropper
    from siamese_verify.datasets.lfw import AllOfLFW
    from siamese_verify.verification import Verifier

    photos, verifier = AllOfLFW(lfw), Verifier.load(model, engine="onnx", threads=1)
    cropper = FaceCropper(verifier.metadata.input_spec, cache_folder())
    parts, rows = [], []
    for found, crops in cropper.stream(photos, range(len(photos)), "Embedding LFW"):
        parts.append(verifier.embed_crops(np.ascontiguousarray(crops.permute(0, 2, 3, 1).numpy())))
        rows += found
    names, splits = np.array(photos.names)[rows], np.array(photos.splits)[rows]
    np.savez(path, embeddings=np.concatenate(parts), identities=photos.identities[rows], names=names, splits=splits)


def alone(labels: Labels) -> Labels:
    """Labels in which those that belong nowhere (-1) are groups of their own."""
    lone = labels < 0
    return np.where(lone, labels.max(initial=0) + 1 + np.arange(len(labels)), labels)


def whispers(scores: Rows, threshold: float, seed: int = 0, rounds: int = 20) -> Labels:
    """Chinese whispers (Biemann 2006): each face takes the label with the largest sum of scores among its neighbors."""
    rng, labels = np.random.default_rng(seed), np.arange(len(scores))
    near = [np.flatnonzero(row >= threshold) for row in scores]
    for _ in range(rounds):
        before = labels.copy()
        for face in rng.permutation(len(scores)).tolist():
            others = near[face][near[face] != face]
            if len(others):
                found, place = np.unique(labels[others], return_inverse=True)
                labels[face] = found[np.bincount(place, weights=scores[face, others]).argmax()]
        if np.array_equal(before, labels):
            break
    return labels


def peers(rows: Rows) -> Iterator[tuple[str, str, Callable[[], Labels]]]:
    """Methods with the settings of their grids."""
    scores = np.clip(rows @ rows.T, -1, 1)
    distance = np.maximum(1 - scores, 0).astype(np.float64)
    for threshold in GRID:
        for least in (1, 2, 3):
            model = DBSCAN(eps=1 - threshold, min_samples=least, metric="precomputed")
            yield "DBSCAN", f"score {threshold}, min_samples {least}", partial(model.fit_predict, distance)
        yield "Chinese whispers", f"score {threshold}", partial(whispers, scores, threshold)
    # Other values of cluster_selection_epsilon end in a TypeError in scikit-learn 1.9.
    for least, way in product((1, 2, 3), ("eom", "leaf")):
        model = HDBSCAN(
            min_cluster_size=2, min_samples=least, cluster_selection_method=way, metric="precomputed", copy=True
        )
        yield "HDBSCAN", f"min_samples {least}, {way}", partial(model.fit_predict, distance)
    tree = linkage(distance[np.triu_indices(len(rows), 1)], "average")
    for threshold in GRID:
        yield "average linkage", f"score {threshold}", partial(fcluster, tree, 1 - threshold, "distance")


def choose(rows: Rows, people: Labels) -> None:
    """Print the F1 of each correlation: half of the people are grouped, with scores calibrated on the other half."""
    first = np.isin(people, np.random.default_rng(0).permutation(np.unique(people))[::2])
    calibrations = [(~half, calibrate(rows[half], people[half], intervals=False)) for half in (first, ~first)]
    rates = (0.003, 0.01, 0.03, 0.1)
    print(f"| correlation | mean of pairwise and BCubed F1 at the rates {', '.join(map(str, rates))} | mean |")
    print("| --- | --- | --- |")
    for correlation in CORRELATIONS:
        means = []
        for rate in rates:
            for half, calibration in calibrations:
                found = group_faces(rows[half], calibration, rate=rate, correlation=correlation).groups
                quality = grouping_rates(found, people[half])
                means += [quality.pair_f1, quality.bcubed_f1]
        said = ", ".join(f"{np.mean(means[4 * place : 4 * place + 4]):.4f}" for place in range(len(rates)))
        print(f"| {correlation} | {said} | {np.mean(means):.4f} |", flush=True)


def compare(rows: Rows, people: Labels, calibration: ScoreCalibration) -> None:
    """Print the table of methods, and of rates."""
    best: dict[tuple[str, str], tuple[GroupingRates, str]] = {}
    for method, setting, run in peers(rows):
        rates = grouping_rates(alone(run()), people)
        for metric in ("pair_f1", "bcubed_f1"):
            if getattr(rates, metric) > getattr(best.get((method, metric), (None,))[0], metric, -1.0):
                best[method, metric] = (rates, setting)
    print("| method | setting | pairwise F1 | BCubed F1 | false merges |\n| --- | --- | --- | --- | --- |")
    for (method, metric), (rates, setting) in sorted(best.items()):
        print(
            f"| {method} | best {metric}: {setting} | {rates.pair_f1:.4f} | {rates.bcubed_f1:.4f} "
            f"| {rates.false_merge_rate:.2%} |"
        )
    for rate in RATES:
        found = group_faces(rows, calibration, rate=rate)
        rates = grouping_rates(found.groups, people)
        print(
            f"| siamese_verify | false-merge rate {rate}, expected {found.expected_rate:.2%} | {rates.pair_f1:.4f} "
            f"| {rates.bcubed_f1:.4f} | {rates.false_merge_rate:.2%} |",
            flush=True,
        )


def plant(people: Labels, kind: str, seed: int) -> tuple[Labels, set[int]]:
    """Labels with errors: the labels, and what is wrong (rows for moved, new labels of people for merged and split)."""
    rng, labels = np.random.default_rng(seed), people.copy()
    numbers, counts = np.unique(people, return_counts=True)
    if kind == "moved":
        moved = rng.choice(len(people), round(SHARE * len(people)), replace=False)
        for row in moved.tolist():
            labels[row] = rng.choice(numbers[numbers != people[row]])
        return labels, set(moved.tolist())
    if kind == "merged":
        chosen = rng.permutation(numbers)[: 2 * round(SHARE * len(numbers) / 2)]
        for a, b in chosen.reshape(-1, 2).tolist():
            labels[people == b] = a
        return labels, set(chosen[::2].tolist())
    several = numbers[counts > 1]
    chosen = rng.choice(several, max(1, round(SHARE * len(several))), replace=False)
    for number in chosen.tolist():
        own = rng.permutation(np.flatnonzero(people == number))
        labels[own[: len(own) // 2]] = people.max() + 1 + number
    return labels, set(chosen.tolist())


def found_errors(kind: str, findings: list[Finding]) -> set[int]:
    """What findings say is wrong, in the terms of `plant`."""
    if kind == "moved":
        return {row for one in findings if one.kind in ("mislabelled", "two people") for row in one.rows}
    if kind == "merged":
        return {one.identity for one in findings if one.kind == "two people"}
    return {min(one.identity, one.other) for one in findings if one.kind == "one person"}


def clean(rows: Rows, people: Labels, calibration: ScoreCalibration) -> None:
    """Print precision and recall of planted errors, beside what is found without any."""
    print("| planted | seed | errors | found | precision | recall |\n| --- | --- | --- | --- | --- | --- |")
    for kind in ("moved", "merged", "split"):
        for seed in SEEDS:
            labels, wrong = plant(people, kind, seed)
            found = found_errors(kind, find_label_errors(rows, labels, calibration))
            right = len(found & wrong)
            print(
                f"| {kind} | {seed} | {len(wrong)} | {len(found)} | {right / max(1, len(found)):.3f} "
                f"| {right / len(wrong):.3f} |",
                flush=True,
            )


def measure_time(faces: int) -> None:
    """Print how long drawn faces take, in groups of the sizes of an album: many with one, few with hundreds."""
    rng = np.random.default_rng(1)
    sizes = np.minimum(rng.zipf(1.9, faces), faces // 20 + 1)
    people = rng.permutation(np.repeat(np.arange(faces), sizes)[:faces])
    crowd, own = Crowd(int(people.max()) + 1), np.repeat(np.arange(1000), 4)
    rows, calibration = crowd.photos(people), calibrate(Crowd(1000).photos(own), own, intervals=False)
    start = time.perf_counter()
    nearest_neighbors(torch.from_numpy(rows), None, NEIGHBORS)
    search = time.perf_counter() - start
    start = time.perf_counter()
    found = group_faces(rows, calibration)
    spent = time.perf_counter() - start
    rates = grouping_rates(found.groups, people)
    print(
        f"{faces:,} faces: neighbor search alone {search:.1f} s, grouping with its searches {spent:.1f} s; "
        f"{rates.people:,} people, pairwise F1 {rates.pair_f1:.4f}, false merges {rates.false_merge_rate:.2%}."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embeddings", type=Path)
    parser.add_argument("--lfw", type=Path, default=Path("data/lfw"))
    parser.add_argument("--model", default="sface", help="that embeds them (default: %(default)s)")
    parser.add_argument(
        "--people",
        choices=("test", "all", "train"),
        default="test",
        help="of View 1: test, all of them, or train, on which the correlation is chosen (default: %(default)s)",
    )
    parser.add_argument("--faces", type=int, help="measure time of as many instead")
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads")
    if options.faces:
        measure_time(options.faces)
        return 0
    if not options.embeddings.exists():
        embed(options.embeddings, options.lfw, options.model)
    with np.load(options.embeddings) as stored:
        rows, people, splits = (stored[name] for name in ("embeddings", "identities", "splits"))
    training = splits == "train"
    if options.people == "train":
        choose(rows[training], people[training])
        return 0
    chosen = splits == "test" if options.people == "test" else np.ones(len(rows), dtype=bool)
    calibration = calibrate(rows[training], people[training], intervals=False)
    print(
        f"Calibrated on {np.count_nonzero(training):,} photos of {len(np.unique(people[training])):,} training people, "
        f"measured on {np.count_nonzero(chosen):,} of {len(np.unique(people[chosen])):,} people."
    )
    compare(rows[chosen], people[chosen], calibration)
    clean(rows[chosen], people[chosen], calibration)
    return 0


if __name__ == "__main__":
    sys.exit(main())
