"""Training by `siamese-verify train` against a bare PyTorch loop of the same encoder, loss, optimizer and augmentation.

The bare loop has its faces on the device, draws rows at random, and augments there; on a GPU it runs in bfloat16,
channels last, with a fused optimizer. Ours is what the configuration composes, with its callbacks, but no validation.
Both start the clock behind the first steps, and by turns. Claim: at least 0.9 of the bare loop on a GPU, where it was
not measured yet, and 0.95 on a CPU.

Run: `python benchmarks/training.py --device cpu`, or `--device cuda --encoder resnet18 --size 112 --images 256`.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict

from siamese_verify.cli import training_parts
from siamese_verify.cli.configuration import CONF, make_encoder
from siamese_verify.data.face_dataset import FacesInMemory
from siamese_verify.training import without_unhelpful_warnings

WARM_UP = 5  # steps before the clock starts
FACES = ("data.photos.identities=80", "data.photos.images=8", "datamodule.validation_max_identities=2")
VIEWS = ("sampler=images", "loss=nt_xent", "datamodule.multi_view=2", "datamodule.instances=true")
WITHOUT = ("~callbacks.checkpoint", "~callbacks.last", "+trainer.limit_val_batches=0", "trainer.max_epochs=1")


class Clock(pl.Callback):
    """Images a second, after the first steps."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.start, self.images, self.steps = device, 0.0, 0, 0

    def now(self) -> float:
        """Seconds, when all work that was given to the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def count(self, images: int) -> None:
        """Count a step."""
        self.steps += 1
        if self.steps > WARM_UP:
            self.images += images
        if self.steps == WARM_UP:
            self.start = self.now()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count a step of ours."""
        self.count(len(batch.images))

    def rate(self) -> float:
        """Images a second."""
        return self.images / (self.now() - self.start)


def configured(folder: str, given: argparse.Namespace, augmentation: str) -> DictConfig:
    sizes = (f"encoder.size={given.size}", f"data.photos.size={given.size}", f"sampler.images={given.images // 2}")
    own = (f"encoder={given.encoder}", f"augmentation={augmentation}", f"sampler.batches={given.steps + WARM_UP}")
    trainer = "cpu" if given.device == "cpu" else "gpu"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        place = (f"hydra.runtime.output_dir='{folder}'", "hydra.job.num=0", f"trainer={trainer}")
        cfg = compose("train", [*FACES, *VIEWS, *WITHOUT, *sizes, *own, *place], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


def bare(cfg: DictConfig, faces: torch.Tensor, given: argparse.Namespace) -> float:
    device, on_gpu = torch.device(given.device), given.device != "cpu"
    faces, augment = faces.to(device), instantiate(cfg.augmentation) if cfg.get("augmentation") else None
    encoder, loss = make_encoder(cfg).to(device), instantiate(cfg.loss).to(device)
    optimizer = instantiate(cfg.optimizer)(encoder.parameters(), fused=on_gpu or None)
    clock, half = Clock(device), given.images // 2
    for _ in range(given.steps + WARM_UP):
        rows = torch.randperm(len(faces), device=device)[:half]
        images = torch.cat([faces[rows]] * 2)
        images = augment(images) if augment else images
        with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
            value = loss(encoder(images), rows.repeat(2))
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        clock.count(len(images))
    return clock.rate()


def ours(cfg: DictConfig, given: argparse.Namespace) -> tuple[float, torch.Tensor]:
    parts = training_parts.compose(cfg)
    clock = Clock(torch.device(given.device))
    parts.trainer.callbacks.append(clock)  # type: ignore[attr-defined]
    assert parts.data.train_set is not None
    faces = parts.data.train_set.faces
    assert isinstance(faces, FacesInMemory)
    with without_unhelpful_warnings():
        parts.trainer.fit(parts.module, datamodule=parts.data)
    return clock.rate(), faces.images


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--encoder", default="small")
    options.add_argument("--size", type=int, default=64, help="of a face, in pixels (%(default)s)")
    options.add_argument("--images", type=int, default=128, help="of a step, two views of each face (%(default)s)")
    options.add_argument("--steps", type=int, default=30, help="of training in one repetition (%(default)s)")
    options.add_argument("--repetitions", type=int, default=3)
    given = options.parse_args()
    machine = torch.cuda.get_device_name() if given.device == "cuda" else platform.processor() or platform.machine()
    threads = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{given.encoder} at {given.size} pixels, {given.images} images a step, on {machine}, {threads}")
    for augmentation in ("none", "default", "strong"):
        ratios = []
        for _ in range(given.repetitions):
            with tempfile.TemporaryDirectory() as folder:
                cfg = configured(str(Path(folder)), given, augmentation)
                rate, faces = ours(cfg, given)
                peer = bare(cfg, faces, given)
            ratios.append(rate / peer)
            print(
                f"augmentation={augmentation:<8} bare loop {peer:6.0f} images/s   train {rate:6.0f} images/s   "
                f"ratio {rate / peer:.3f}",
                flush=True,
            )
        print(f"augmentation={augmentation:<8} median ratio {statistics.median(ratios):.3f}", flush=True)


if __name__ == "__main__":
    main()
