"""`siamese-verify probe`: linear probe and nearest neighbors on the frozen embeddings of a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from siamese_verify.atomic_write import atomic_write
from siamese_verify.cli.configuration import check_values, trusted_code
from siamese_verify.cli.evaluate import first_protocol
from siamese_verify.cli.hydra_command import hydra_command
from siamese_verify.cli.run_metadata import set_threads, versions
from siamese_verify.data import FaceCropper
from siamese_verify.encoders import Encoder
from siamese_verify.errors import InputError, printable
from siamese_verify.evaluation.bootstrap import Interval
from siamese_verify.evaluation.linear_probe import ProbeResult, probe_embeddings, split_photos
from siamese_verify.models import PRETRAINED, embed_photos, load_model
from siamese_verify.protocols import TrainingSubset, find_leak, read_training_run
from siamese_verify.structures import Photos

COVERS = "95 % intervals over the people tested, for one choice of training photos"


def probe(cfg: DictConfig, folder: Path) -> float:
    """Probe a model, print a table and write `probe.json` to `folder`; return the accuracy of the last linear probe.

    Raises:
        InputError: no such model or data; see `split_photos` and `probe_embeddings`.
    """
    check_values(cfg)
    set_threads(cfg.threads)
    if OmegaConf.is_missing(cfg, "model"):
        raise InputError("No model is given: set model=sface, or the path of a bundle, a run or a checkpoint.")
    shots = shots_of(cfg)
    photos, seen = photos_to_probe(cfg)
    model = load_model(cfg.model, cfg.device, trusted_code(cfg), or_onnx=True)
    chosen = choose_photos(photos.identities, cfg.max_identities, cfg.max_samples_per_identity, cfg.seed)
    spec = model.encoder.input_spec
    encoders: dict[str, Encoder] = {"embeddings": model.encoder}
    if cfg.get("baseline"):
        simple = "raw pixels" if spec.is_photo else "raw inputs"
        encoders[simple] = instantiate(cfg.baseline, _partial_=True)(input_spec=spec).eval()
    embedded = {}
    for name, encoder in encoders.items():
        cropper = FaceCropper(encoder.input_spec, cfg.cache, on_multiple_faces=cfg.on_multiple_faces)
        embedded[name] = embed_photos(encoder, photos, cropper, chosen.tolist())
    rows = np.array(sorted(set.intersection(*(set(found.tolist()) for _, found in embedded.values()))))
    people = np.asarray(photos.identities)[rows]
    split = split_photos(people, cfg.test_share, cfg.seed)
    results = {
        name: probe_embeddings(one[np.isin(found, rows)], people, split, shots, cfg.neighbors, cfg.seed, progress=True)
        for name, (one, found) in embedded.items()
    }
    counts = {"people": len(np.unique(people[split.test])), "test photos": len(split.test), "embedded": len(rows)}
    content = {
        "model": str(cfg.model),
        **counts,
        "tested people": tested_people(cfg, photos, seen),
        "intervals": COVERS,
        "results": {name: [result._asdict() for result in found] for name, found in results.items()},
        "versions": versions(),
        "configuration": OmegaConf.to_container(cfg, resolve=True),
    }
    atomic_write(folder / "probe.json", json.dumps(content, indent=1).encode())
    print_table(results, counts)
    print(printable(f"People tested: {content['tested people']}. {COVERS}. Written to {folder / 'probe.json'}."))
    return results["embeddings"][-1].linear


def shots_of(cfg: DictConfig) -> list[int | None]:
    """Photos of each person to train on, None for all, after a check of every number of the configuration.

    Raises:
        InputError: one has another type or is out of range.
    """

    def is_whole(value: Any, least: int) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    for name, least in (("neighbors", 1), ("max_identities", 2), ("max_samples_per_identity", 2)):
        if not is_whole(cfg[name], least) and not (name == "max_identities" and cfg[name] is None):
            raise InputError(f"{name} must be a whole number of {least} or more, got {cfg[name]!r}.")
    if isinstance(cfg.test_share, bool) or not isinstance(cfg.test_share, int | float) or not 0 < cfg.test_share < 1:
        raise InputError(f"test_share must be above 0 and below 1, got {cfg.test_share!r}.")
    listed = cfg.shots if isinstance(cfg.shots, ListConfig) else [cfg.shots]
    for one in listed:
        if one not in ("all", None) and not is_whole(one, 1):
            raise InputError(f"shots must list whole numbers of 1 or more, or all, got {one!r}.")
    if not listed:
        raise InputError("shots is empty: list whole numbers, or all, such as shots=[1,5,all].")
    return [None if one in ("all", None) else int(one) for one in listed]


def photos_to_probe(cfg: DictConfig) -> tuple[Photos, Sequence[TrainingSubset] | None]:
    """Photos of the chosen data, else of the people that the model's run held out; and what the run has seen, if known.

    Raises:
        InputError: no data is chosen, and the model is of no run.
    """
    run = None if str(cfg.model) in PRETRAINED else read_training_run(cfg.model)
    if cfg.get("data"):
        photos: Photos = instantiate(cfg.data.photos)
        return photos, run.seen if run else None
    if run is None:
        raise InputError(f"No run of {cfg.model} has held people out: choose data, such as data=lfw.")
    asked = OmegaConf.create({"model": cfg.model, "trust_code": cfg.trust_code, "protocols": {}})
    protocol, _, seen = first_protocol(asked)
    return protocol.photos, seen


def choose_photos(identities: np.ndarray, most: int | None, samples: int, seed: int) -> np.ndarray:
    """Rows of some photos of some people, drawn from those with two photos or more; ascending.

    Args:
        identities: (N,) integers.
        most: people at most; None for all.
        samples: photos of each at most.
        seed: of the draws.

    Raises:
        InputError: fewer than two people or photos of each are to be drawn.
    """
    if samples < 2 or (most is not None and most < 2):
        raise InputError(
            "A probe needs two people with two photos or more: set max_identities and max_samples_per_identity to 2 or "
            "more."
        )
    rng = np.random.default_rng(seed)
    people, counts = np.unique(np.asarray(identities), return_counts=True)
    people = rng.permutation(people[counts > 1])[:most]
    order = rng.permutation(len(identities))
    order = order[np.isin(np.asarray(identities)[order], people)]
    order = order[np.argsort(np.asarray(identities)[order], kind="stable")]
    place = np.arange(len(order)) - np.searchsorted(np.asarray(identities)[order], np.asarray(identities)[order])
    return np.sort(order[place < samples])


def tested_people(cfg: DictConfig, photos: Photos, seen: Sequence[TrainingSubset] | None) -> str:
    """Whether the model was trained on the people, in words."""
    if seen is None:
        return f"not known to be held out, {Path(str(cfg.model)).name} has no record of its people"
    leak = find_leak(seen, photos).sentence
    return f"trained on in part: {leak}" if leak else "held out from training"


def print_table(results: dict[str, list[ProbeResult]], counts: dict[str, int]) -> None:
    """Print accuracies by photos of each person to train on."""
    title = f"Accuracy of {counts['test photos']:,} photos of {counts['people']:,} people"
    table = Table("training photos of each", title=title)
    for name in results:
        for kind in ("linear probe", "nearest neighbors"):
            table.add_column(kind if name == "embeddings" else f"{kind}, {name}", justify="right")
    table.add_column("most frequent person", justify="right")

    def cell(value: float, interval: Interval) -> str:
        return f"{value:.1%} ({interval.low:.1%} to {interval.high:.1%})"

    for row in zip(*results.values(), strict=True):
        cells = [
            one
            for result in row
            for one in (cell(result.linear, result.linear_interval), cell(result.knn, result.knn_interval))
        ]
        table.add_row("all" if row[0].shots is None else str(row[0].shots), *cells, f"{row[0].majority:.1%}")
    Console().print(table)


@hydra_command("probe")
def main(cfg: DictConfig) -> float:
    """Entry point."""
    return probe(cfg, Path(HydraConfig.get().runtime.output_dir))


if __name__ == "__main__":
    main()
