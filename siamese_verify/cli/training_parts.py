"""The objects that a training's configuration describes: data, protocols, module and trainer."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from siamese_verify.cli.configuration import encoder_settings, make_encoder
from siamese_verify.cli.initialization import earlier_people, take_weights
from siamese_verify.cli.measure import check_claim, find_lfw_category, further_protocols, on_the_same
from siamese_verify.cli.run_metadata import set_threads
from siamese_verify.cli.user_errors import configuring
from siamese_verify.data import FaceDataModule
from siamese_verify.encoders import Encoder
from siamese_verify.errors import InputError
from siamese_verify.methods import Method
from siamese_verify.models import code_of_others, export_network
from siamese_verify.models.metadata import training_of
from siamese_verify.protocols import HeldOutShare, PhotoSubset, Protocol, TrainingSubset, find_leak, refuse_leak
from siamese_verify.training import VerificationModule, without_unhelpful_warnings
from siamese_verify.training.run_files import check_resumed

log = logging.getLogger(__name__)
DERIVED = ("num_identities", "embedding_size")  # null in a margin softmax: the training set's, the encoder's
OF_MODULE = (
    "cached_chunk",
    "freeze_batch_norm",
    "frozen_layers",
    "layer_decay",
    "compile_encoder",
)  # of `trainer`, but the module's


class TrainingParts(NamedTuple):
    """The objects that a configuration describes."""

    data: FaceDataModule
    protocol: Protocol
    leak: str  # people or photos in both training and protocol, in words; empty if none
    baseline: Encoder | None  # what the results are compared with
    further: dict[str, tuple[Protocol, str]]  # other protocols by name, each with its leak
    module: VerificationModule
    trainer: pl.Trainer
    seen: list[TrainingSubset]  # trained and validated on, in earlier stages too
    all_known: bool  # whether `seen` has the people of all earlier stages


def compose(cfg: DictConfig) -> TrainingParts:
    """Instantiate everything that a configuration names."""
    set_threads(cfg.threads)
    quiet_lightning()
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    asked: Protocol | HeldOutShare = instantiate(cfg.protocol)  # first: a wrong pair file shows at once
    others = further_protocols(cfg)
    encoder = make_encoder(cfg)
    take_weights(encoder, cfg)
    refuse_empty(encoder)
    if code_of_others(encoder_settings(cfg)):
        log.info("The export of %s to ONNX is tried: its bundle will need it.", cfg.encoder._target_)
        export_network(encoder)
    if isinstance(cfg.get("baseline"), str):
        raise InputError(f"baseline must be null or have a _target_, got {cfg.baseline!r}.")
    with configuring("baseline"), torch.random.fork_rng(devices=[]):
        make_baseline = instantiate(cfg.baseline, _partial_=True) if cfg.get("baseline") else None
        baseline = make_baseline(input_spec=encoder.input_spec) if make_baseline else None
    with configuring("training set"):
        share = asked if isinstance(asked, HeldOutShare) else None
        data: FaceDataModule = instantiate(cfg.datamodule, _partial_=True)(input_spec=encoder.input_spec, test=share)
    data.earlier, all_known = earlier_people(cfg, data.photos)
    earlier, seen = data.earlier, [*data.seen, *data.earlier]
    protocol = data.test_protocol(cfg.data.name) if isinstance(asked, HeldOutShare) else asked
    leak = refuse_leak(earlier if isinstance(asked, HeldOutShare) else seen, protocol, cfg.allow_leakage)
    if cfg.get("claim"):
        training = training_of(cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True)))
        check_claim(find_lfw_category(training, protocol, encoder.input_spec), cfg.claim)
    made = {name: on_the_same(one, protocol) for name, one in others.items()}
    further = {name: (one, refuse_leak(seen, one, cfg.allow_leakage)) for name, one in made.items()}
    warn_of_known_validation(earlier, data)
    module = compose_module(cfg, encoder, data.num_identities, len(data.split.train))
    trainer = compose_trainer(cfg)
    data.setup()
    return TrainingParts(data, protocol, leak, baseline, further, module, trainer, seen, all_known)


def warn_of_known_validation(earlier: Sequence[TrainingSubset], data: FaceDataModule) -> None:
    """Warn if people that an earlier stage was trained on are those that this one is validated on."""
    validated = PhotoSubset(data.validation_source, data.split.validation)
    if known := find_leak(earlier[::2], validated).sentence:  # its training people, not those it was validated on
        log.warning("The validation, which measures the thresholds, overlaps with an earlier stage: %s.", known)


def compose_module(cfg: DictConfig, encoder: Encoder, identities: int, images: int) -> VerificationModule:
    """The LightningModule of encoder, loss, miner, method and optimizer; compared with the checkpoint to resume."""
    derived = dict(zip(DERIVED, (identities, encoder.embedding_size), strict=True))
    open_arguments = unset(cfg.get("loss"), derived)
    optimizer = instantiate(cfg.optimizer)
    scheduler = instantiate(cfg.scheduler) if cfg.get("scheduler") else None
    configuration = cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))
    miner = instantiate(cfg.miner) if cfg.get("miner") else None
    loss = instantiate(cfg.loss, **open_arguments) if cfg.get("loss") else None
    method = make_method(cfg.method, encoder, images=images, identities=identities) if cfg.get("method") else None
    settings = {name: cfg.trainer[name] for name in OF_MODULE if name in cfg.trainer}
    module = VerificationModule(encoder, loss, miner, optimizer, scheduler, configuration, method=method, **settings)
    if cfg.resume:
        check_resumed(Path(cfg.resume), module, configuration)
    return module


def compose_trainer(cfg: DictConfig) -> pl.Trainer:
    """Lightning's trainer with its loggers and callbacks."""
    settings = copy.deepcopy(cfg).trainer
    with open_dict(settings):
        for name in OF_MODULE:
            settings.pop(name, None)
        if settings.get("precision") == "auto":
            settings.precision = usual_precision(settings.accelerator)
    with configuring("trainer"), without_unhelpful_warnings():
        trainer: pl.Trainer = instantiate(
            settings,
            logger=[instantiate(logger) for logger in (cfg.get("logger") or {}).values() if logger],
            callbacks=[instantiate(callback) for callback in cfg.callbacks.values() if callback],
        )
    return trainer


@contextmanager
def unfilled_memory() -> Iterator[None]:
    """Context manager in which a deterministic run does not fill each new tensor before it is written."""
    deterministic: Any = torch.utils.deterministic
    before, deterministic.fill_uninitialized_memory = deterministic.fill_uninitialized_memory, False
    try:
        yield
    finally:
        deterministic.fill_uninitialized_memory = before


def usual_precision(accelerator: str) -> str:
    """`bf16-mixed` on GPUs that compute in bfloat16, `16-mixed` on older ones, `32-true` without a GPU."""
    if accelerator == "cpu" or not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


def make_method(settings: DictConfig, encoder: Encoder, **sizes: int) -> Method:
    """The method of a configuration; the sizes of the data set take the place of null."""
    with configuring("method"):
        method: Method = instantiate(settings)(encoder, **unset(settings, sizes))
    return method


def unset(settings: DictConfig | None, derived: dict[str, int]) -> dict[str, int]:
    """Those of the derived values whose setting is null."""
    return {name: value for name, value in derived.items() if settings and name in settings and settings[name] is None}


def refuse_empty(encoder: Encoder) -> None:
    """Raise InputError if an encoder's embeddings have no values, or a layer of it no weights."""
    if encoder.embedding_size < 1:
        raise InputError(f"encoder.embedding_size must be 1 or more, got {encoder.embedding_size}.")
    if not all(weight.numel() for weight in encoder.parameters()):
        raise InputError("The encoder has a layer without weights: set its widths and numbers of heads to 1 or more.")


def quiet_lightning() -> None:
    """Let Lightning print no advertisements between progress bars."""
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
