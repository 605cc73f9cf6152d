"""`siamese-verify preview`: contact sheets of the batches that training will see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from siamese_verify.cli.configuration import check_values, make_encoder
from siamese_verify.cli.hydra_command import hydra_command
from siamese_verify.cli.initialization import initialized_configuration
from siamese_verify.data import FaceDataModule
from siamese_verify.data.face_dataset import picture_of
from siamese_verify.datasets import identity_name
from siamese_verify.datasets.folder import refuse_within
from siamese_verify.encoders import list_layers
from siamese_verify.preparation import Cell, contact_sheet, in_rows, save_sheet
from siamese_verify.protocols import HeldOutShare
from siamese_verify.structures import FaceBatch, InputSpec, Pairs, Triplets

GENUINE, IMPOSTOR, ANCHOR = "#1a7f37", "#cf222e", "#57606a"
SHOWN = 20  # pairs or triplets of a batch


def preview(cfg: DictConfig) -> list[Path]:
    """Draw the first augmented batches of an epoch, one picture each; print the encoder's layers; return the paths."""
    check_values(cfg)
    cfg = initialized_configuration(cfg, HydraConfig.get().overrides.task)
    encoder = make_encoder(cfg)
    spec = encoder.input_spec
    print(f"Layers of the encoder, from the lowest: {', '.join(layer.name for layer in list_layers(encoder))}")
    protocol = instantiate(cfg.protocol)
    share = protocol if isinstance(protocol, HeldOutShare) else None
    data: FaceDataModule = instantiate(cfg.datamodule, _partial_=True)(input_spec=spec, test=share)
    data.setup()
    refuse_within(cfg.output, data.photos)
    paths = []
    for number, batch in enumerate(islice(data.train_dataloader(), cfg.batches), start=1):
        names = [name_of(data, label) for label in batch.labels.tolist()]
        title = f"{cfg.data.name}, batch {number}: {len(names)} images of {len(set(names))} identities"
        path = Path(cfg.output) / f"batch_{number}.png"
        save_sheet(contact_sheet(list(rows_of(batch, names, data.spec)), title), path)
        paths.append(path)
        print(path)
    return paths


def name_of(data: FaceDataModule, label: int) -> str:
    """Name of the identity of a training label."""
    if data.instances:
        return f"image {label}"
    return identity_name(data.photos, int(data.people[label]))


def rows_of(batch: FaceBatch, names: Sequence[str], spec: InputSpec) -> Iterator[Sequence[Cell]]:
    """Rows of pictures: one pair or triplet each, or the images by identity."""
    images, tuples = [picture_of(image, spec) for image in batch.images], batch.tuples
    if isinstance(tuples, Pairs):
        triples = zip(tuples.anchor.tolist(), tuples.other.tolist(), tuples.same.tolist(), strict=True)
        kinds = sorted(triples, key=lambda pair: not pair[2])
        half = [pair for pair in kinds if pair[2]][: SHOWN // 2] + [pair for pair in kinds if not pair[2]][: SHOWN // 2]
        for left, right, same in half:
            frame = GENUINE if same else IMPOSTOR
            words = "same" if same else "different"
            yield [Cell(images[left], names[left], frame), Cell(images[right], f"{words}: {names[right]}", frame)]
    elif isinstance(tuples, Triplets):
        rows = zip(tuples.anchor.tolist(), tuples.positive.tolist(), tuples.negative.tolist(), strict=True)
        for anchor, positive, negative in islice(rows, SHOWN):
            yield [
                Cell(images[anchor], f"anchor {names[anchor]}", ANCHOR),
                Cell(images[positive], f"positive {names[positive]}", GENUINE),
                Cell(images[negative], f"negative {names[negative]}", IMPOSTOR),
            ]
    else:
        order = np.argsort(batch.labels.numpy(), kind="stable")
        ends = np.flatnonzero(np.diff(batch.labels.numpy()[order])) + 1
        groups = [group for group in np.split(order, ends) if len(group) > 1]
        single = [row for group in np.split(order, ends) if len(group) == 1 for row in group]
        for group in groups:
            yield [Cell(images[row], names[row]) for row in group]
        yield from in_rows([Cell(images[row], names[row]) for row in single])


@hydra_command("preview")
def main(cfg: DictConfig) -> None:
    """Entry point."""
    preview(cfg)


if __name__ == "__main__":
    main()
