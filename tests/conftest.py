"""Every test has a home of its own; some share one tiny trained run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["OMP_NUM_THREADS"] = "1"  # as read by torch, here and in what tests start: they are too small for two

import pytest
import torch

if TYPE_CHECKING:  # tests of kernels run on machines with a GPU and no Hydra
    from omegaconf import DictConfig

# Overrides of a training that takes a second; the size of a batch is an option of the sampler.
TINY = (
    "threads=1",
    "trainer.log_every_n_steps=1",
    "data.photos.identities=12",
    "data.photos.images=4",
    "encoder.width=8",
    "encoder.size=32",
    "data.test.photos.identities=6",
    "data.test.photos.images=3",
)
SMALL_BATCHES = ("sampler.identities_per_batch=4", "sampler.samples_per_identity=2")


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Neither the user's caches nor the user's thresholds decide a test, and no test leaves anything in them."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME"):
            patch.setenv(name, str(folder / name.lower()))
        patch.setenv("COLUMNS", "80")  # what is printed does not depend on the terminal
        yield folder


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Ctrl-C reaches what a test starts, though a shell has it ignored in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def configured() -> Callable[..., DictConfig]:
    """`configured(name, folder, *overrides)`: a composed config of a run that leaves its files in `folder`."""

    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    from siamese_verify.cli.configuration import CONF

    def configure(name: str, folder: Path, *overrides: str) -> DictConfig:
        folder.mkdir(parents=True, exist_ok=True)
        with initialize_config_dir(str(CONF), version_base="1.3"):
            output = f"hydra.runtime.output_dir='{folder}'"
            cfg = compose(name, [*overrides, output, "hydra.job.num=0"], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        return cfg

    return configure


@pytest.fixture(scope="session")
def trained(configured: Callable[..., DictConfig]) -> Callable[..., Path]:
    """`trained(folder, *overrides)`: a run within this process, with its bundle and report."""

    def train(folder: Path, *overrides: str) -> Path:
        from siamese_verify.cli.train import train

        try:
            train(configured("train", folder, *overrides), folder)
        finally:
            torch.use_deterministic_algorithms(False)  # Lightning sets it for the whole process
        return folder

    return train


@pytest.fixture(scope="session")
def fitted(configured: Callable[..., DictConfig]) -> Callable[..., Path]:
    """`fitted(folder, *overrides)`: a run that ends with its checkpoints, before bundle and report are made."""

    def fit(folder: Path, *overrides: str) -> Path:
        from hydra.core.hydra_config import HydraConfig

        from siamese_verify.cli import train
        from siamese_verify.cli.pretraining import train_first_stage
        from siamese_verify.cli.recorded_run import recorded
        from siamese_verify.cli.resume import resumed_configuration
        from siamese_verify.cli.training_checks import check
        from siamese_verify.cli.training_parts import compose
        from siamese_verify.training.run_files import refuse_used
        from siamese_verify.training.stopping import StopSignals

        cfg = configured("train", folder, *overrides)
        cfg, earlier = resumed_configuration(cfg, HydraConfig.get().overrides.task, folder)
        try:
            refuse_used(folder, cfg.resume)
            with StopSignals() as signals, recorded(cfg, folder, signals, earlier) as run:
                cfg = train.initialize(train_first_stage(cfg, run, signals), run)
                check(cfg)
                train.fit(compose(cfg), run, cfg, signals)
        finally:
            torch.use_deterministic_algorithms(False)
        return folder

    return fit


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of four epochs that was started from the command line."""
    place = tmp_path_factory.mktemp("tiny")
    run = place / "run"
    command = [sys.executable, "-m", "siamese_verify.cli.main", "train", *TINY, *SMALL_BATCHES]
    ended = subprocess.run(
        [*command, "trainer.max_epochs=4", f"hydra.run.dir={run}"], cwd=place, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (place / "stderr.txt").write_text(ended.stderr)
    return run
