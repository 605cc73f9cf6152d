"""Training throughput of the LightningModule against a bare PyTorch loop with the same encoder, data and loss.

Claim: at least 0.95 of the bare loop. Run: `python benchmarks/training.py`.
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import platform
import statistics
import tempfile
import time
import warnings

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from siamese_verify.data import EachImage, FaceDataset, FacesInMemory
from siamese_verify.encoders import SmallResNet
from siamese_verify.losses import TripletLoss
from siamese_verify.miners import SemiHard
from siamese_verify.samplers import IdentityBatchSampler
from siamese_verify.structures import Crop, FaceBatch
from siamese_verify.training import VerificationModule

IDENTITIES, SAMPLES = 32, 4


def loader(steps: int) -> DataLoader[FaceBatch]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64 * SAMPLES, 3, 64, 64), dtype=torch.uint8, generator=generator)
    labels = torch.arange(64).repeat_interleave(SAMPLES)
    transform = EachImage(v2.Compose([v2.RandomHorizontalFlip(), v2.RandomErasing(0.5)]))
    sampler = IdentityBatchSampler(labels.numpy(), IDENTITIES, SAMPLES, batches=steps)
    return DataLoader(FaceDataset(FacesInMemory(images), labels, transform), batch_size=None, sampler=sampler)


def bare(steps: int) -> float:
    torch.manual_seed(0)
    encoder, loss, miner = SmallResNet(crop=Crop("whole")), TripletLoss(squared=True), SemiHard(squared=True)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3)
    start = time.perf_counter()
    for batch in loader(steps):
        embeddings = encoder(batch.images)
        value = loss(embeddings, batch.labels, miner(embeddings.detach(), batch.labels))
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
    return steps * IDENTITIES * SAMPLES / (time.perf_counter() - start)


def lightning(steps: int) -> float:
    torch.manual_seed(0)
    module = VerificationModule(
        SmallResNet(crop=Crop("whole")),
        TripletLoss(squared=True),
        SemiHard(squared=True),
        functools.partial(torch.optim.AdamW, lr=1e-3),
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=1,
            gradient_clip_val=1.0,
            logger=pl.loggers.CSVLogger(folder),
            callbacks=[pl.callbacks.RichProgressBar()],
            enable_checkpointing=False,
            enable_model_summary=False,
            log_every_n_steps=10,
        )
        start = time.perf_counter()
        trainer.fit(module, loader(steps))
    return steps * IDENTITIES * SAMPLES / (time.perf_counter() - start)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--steps", type=int, default=60, help="of training in one repetition (%(default)s)")
    options.add_argument("--repetitions", type=int, default=5)
    given = options.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    bare(10)  # warm up
    ratios = []
    for _ in range(given.repetitions):
        peer, ours = bare(given.steps), lightning(given.steps)
        ratios.append(ours / peer)
        print(f"bare loop {peer:6.0f} images/s   LightningModule {ours:6.0f} images/s   ratio {ours / peer:.3f}")
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    print(f"median ratio {statistics.median(ratios):.3f} (claim: at least 0.95), on {machine}")


if __name__ == "__main__":
    main()
