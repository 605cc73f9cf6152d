"""Checks of a training's configuration before any photo is read; of all runs of a sweep before the first starts."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from siamese_verify import samplers
from siamese_verify.cli.configuration import check_values, encoder_settings
from siamese_verify.cli.initialization import initialized_configuration
from siamese_verify.cli.pretraining import composed, first_stage_overrides
from siamese_verify.cli.training_parts import DERIVED, OF_MODULE, make_method, quiet_lightning, refuse_empty
from siamese_verify.cli.user_errors import configuring, user_message
from siamese_verify.data.datamodule import check_device, check_views
from siamese_verify.data.identity_split import check_labeled, check_share
from siamese_verify.encoders import Encoder, check_encoder
from siamese_verify.errors import InputError
from siamese_verify.losses.base import refuse_miner, taken_tuples
from siamese_verify.methods import Method
from siamese_verify.models import code_of_others, load_checkpoint
from siamese_verify.samplers import PairSampler, TripletSampler
from siamese_verify.structures import Pairs, Triplets
from siamese_verify.training import without_unhelpful_warnings
from siamese_verify.training.layer_rates import freeze_layers, rate_groups
from siamese_verify.training.validation import VALIDATION_METRICS

NEEDED = (
    *("data", "encoder", "sampler._target_", "optimizer._target_", "trainer._target_", "callbacks"),
    *("protocol._target_", "sweep.metric", "datamodule._target_"),
)
OF_RUN = (  # that not every machine can check, or that are of one run
    *("accelerator", "devices", "num_nodes", "strategy", "precision", "sync_batchnorm", "deterministic", "plugins"),
    *("default_root_dir", "logger", "callbacks", "enable_checkpointing", "enable_progress_bar"),
)


def check(cfg: DictConfig) -> None:
    """Check, before any photo is read, what would fail later.

    Raises:
        InputError: a checkpoint that cannot be loaded; see also `check_settings`.
    """
    if cfg.resume:
        load_checkpoint(Path(cfg.resume), code_of_others(encoder_settings(cfg)))  # named in the command
    check_settings(cfg)


def check_settings(cfg: DictConfig) -> None:
    """Check what can be checked of a configuration by itself, without its data.

    Raises:
        InputError: values of a wrong type, an unknown metric, a loss that cannot use the tuples of the sampler or
            miner, an encoder that cannot be imported, values that a class refuses.
    """
    for part in NEEDED:
        if not OmegaConf.select(cfg, part, throw_on_resolution_failure=False):
            name = part.partition(".")[0]
            raise InputError(f"There is no training without {name}: leave out ~{name}.")
    check_values(cfg)
    check_metric(cfg.sweep.metric, cfg.sweep.mode)
    check_method(cfg)
    check_loss(cfg)
    check_encoder(encoder_settings(cfg))
    check_batches(cfg)
    check_optimizer(cfg)
    check_trainer(cfg)
    check_module(cfg)


def check_metric(metric: str, mode: str) -> None:
    """Check that validation measures a metric, and that better is what it says.

    Raises:
        InputError: no validation measures it, or the mode is the worse direction.
    """
    if metric not in VALIDATION_METRICS:
        raise InputError(f"sweep.metric must be one of {', '.join(VALIDATION_METRICS)}, got {metric}.")
    if mode != VALIDATION_METRICS[metric]:
        raise InputError(
            f"sweep.mode={mode} looks for the worst {metric}: set sweep.mode={VALIDATION_METRICS[metric]}."
        )


def check_run(cfg: DictConfig) -> None:
    """Check a run of a sweep before any is started: its settings, and the places of its data unless it runs elsewhere.

    Raises:
        InputError: see `check_settings`; a setting without a value, an encoder that cannot be built, a missing folder
            or file, GPUs that do not exist.
    """
    try:
        _check_run(cfg)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(user_message(error, (cfg,)) or str(error)) from error


def _check_run(cfg: DictConfig) -> None:
    if cfg.get("pretrain"):
        check_settings(composed(first_stage_overrides(cfg)))
    if not runs_elsewhere():
        cfg = initialized_configuration(cfg, HydraConfig.get().overrides.task)
    for part in ("data", "protocol", "encoder"):
        if missing := sorted(OmegaConf.missing_keys(cfg[part])):
            raise InputError(f"{missing[0]} is required: add {missing[0]}=... to the command.")
    check_settings(cfg)
    if runs_elsewhere():
        return
    for place in ("data.root", "data.path", "protocol.root", "protocol.path"):
        path = OmegaConf.select(cfg, place)
        if isinstance(path, str) and "://" not in path and not Path(path).expanduser().exists():
            raise InputError(f"There is no {path}: correct {place}.")
    trainer = cfg.trainer
    gpus = torch.cuda.device_count() if trainer.accelerator in ("gpu", "cuda") else None
    if gpus is not None and (gpus == 0 or (isinstance(trainer.devices, int) and trainer.devices > gpus)):
        raise InputError(f"trainer.devices={trainer.devices} asks for GPUs, but this machine has {gpus}.")


def check_method(cfg: DictConfig) -> None:
    """Check that a method of learning without labels can use loss, miner, sampler and views.

    Raises:
        InputError: it cannot, or the views would all be the same; without a method, there is no loss.
    """
    sampler, data = instantiate(cfg.sampler).func, cfg.datamodule
    loss = instantiate(cfg.loss, _partial_=True).func if cfg.get("loss") else None
    if not cfg.get("method"):
        if loss is None:
            raise InputError("Learning from labels needs a loss: set one, such as loss=triplet, or a method.")
        if data.unlabeled or sampler is samplers.SemiSupervisedSampler:
            raise InputError("Learning from labels has no use for photos without: set method=semi.")
        return
    method: type[Method] = instantiate(cfg.method, _partial_=True).func
    method.check(loss, instantiate(cfg.miner) if cfg.get("miner") else None)
    views = int(data.multi_view) + int(data.local_views)
    method.check_views(views)
    if sampler.__name__ in samplers.__all__ and not issubclass(sampler, method.sampler):
        raise InputError(
            f"{method.__name__} takes the batches of {method.sampler.__name__}, not of {sampler.__name__}: leave "
            "sampler out."
        )
    hidden = (data.labeled_identities, data.labeled_samples, data.unlabeled_identity)
    if method.sampler is samplers.SemiSupervisedSampler and hidden == (None, None, None):
        raise InputError(
            f"{method.__name__} needs photos without labels: set datamodule.labeled_identities, labeled_samples or "
            "unlabeled_identity."
        )
    if method.sampler is samplers.SemiSupervisedSampler and data.instances:
        raise InputError(f"{method.__name__} learns from the labels of identities: set datamodule.instances=false.")
    if views > 1 and not cfg.get("augmentation"):
        raise InputError(
            "The views of an image are all the same without augmentation: set augmentation=strong, or a transform of "
            "yours."
        )


def runs_elsewhere() -> bool:
    """Whether the runs of the present sweep are started on other machines, with other GPUs and folders."""
    hydra = HydraConfig.get()
    launcher = hydra.launcher._target_.rpartition(".")[2]
    return hydra.mode == RunMode.MULTIRUN and launcher.startswith(("Slurm", "Ray"))


def check_module(cfg: DictConfig) -> None:
    """Try encoder, method, frozen layers and rates of layers, if all code is ours.

    The layers of an encoder that comes from another model are checked once that is known.

    Raises:
        InputError: a class refuses its settings, layers do not exist, or nothing is trained.
    """
    encoder, loss, method, trainer = encoder_settings(cfg), cfg.get("loss"), cfg.get("method"), cfg.trainer
    if code_of_others(encoder):
        return
    first_stage = str(cfg.get("pretrain"))
    unknown = cfg.get("initialize_from") or "initialize_from" in first_stage or "encoder" in first_stage
    settings = {
        "encoder": encoder,
        "method": OmegaConf.to_container(method, resolve=True) if method and is_ours(method) else None,
        "frozen_layers": 0 if unknown and not cfg.earlier_stages else trainer.get("frozen_layers", 0),
        "layer_decay": trainer.get("layer_decay"),
        "others": bool(method or (loss and (not is_ours(loss) or any(name in loss for name in DERIVED)))),
    }
    if refused := refusal_of_module(OmegaConf.to_yaml(settings)):
        raise InputError(refused)


def is_ours(settings: DictConfig) -> bool:
    """Whether settings name a class of this package."""
    return str(settings._target_).startswith("siamese_verify.")


@cache
def refusal_of_module(settings: str) -> str | None:
    """Why parts of a training cannot be built, in words; None if they can. Nothing is allocated or downloaded.

    Args:
        settings: YAML with `encoder`, `method`, `frozen_layers`, `layer_decay`, and `others`, whether something beside
            the encoder may have weights.
    """
    own: Any = OmegaConf.create(settings)
    for part in (own.encoder, own.encoder.get("encoder")):
        if part and part.get("pretrained"):
            part.pretrained = None

    def build() -> None:
        encoder: Encoder = instantiate(own.encoder)
        refuse_empty(encoder)
        if own.method:
            make_method(own.method, encoder, images=2, identities=2)
        freeze_layers(encoder, cast("Any", OmegaConf.to_container(own))["frozen_layers"])
        rate_groups(encoder, [torch.nn.Parameter(torch.zeros(1))] if own.others else [], own.layer_decay)

    with torch.device("meta"), warnings.catch_warnings(action="ignore"):
        return refusal_of("encoder", build)


def check_batches(cfg: DictConfig) -> None:
    """Check the settings of sampler, augmentation and held-out people, whatever the data.

    Raises:
        InputError: a class refuses them.
    """
    sampler, data = instantiate(cfg.sampler), cfg.datamodule
    if sampler.func.__module__.startswith("siamese_verify."):
        people = max([2, *(value for value in cfg.sampler.values() if isinstance(value, int))])
        others = np.full(people if data.unlabeled else 0, samplers.UNLABELED)
        singles = people + np.arange(cfg.sampler.get("singles_per_batch", 0))
        sampler(identities=np.concatenate([np.arange(people).repeat(2), singles, others]), seed=cfg.seed)
    for transform in (cfg.get("augmentation"), data.get("local_transform")):
        if transform:
            instantiate(transform)
    check_views(data.multi_view, data.instances, data.workers, data.local_views, data.get("local_transform"))
    check_device(data.device, cfg.trainer.accelerator)
    check_labeled(data.labeled_identities, data.labeled_samples)
    if not data.validation:
        check_share(data.validation_share, data.validation_max_samples_per_identity, data.validation_max_identities)


def check_optimizer(cfg: DictConfig) -> None:
    """Try optimizer and schedule on one weight.

    Raises:
        InputError: they refuse their settings.
    """
    with configuring("optimizer"):
        optimizer = instantiate(cfg.optimizer)([{"params": [torch.nn.Parameter(torch.zeros(1))]}])
    if cfg.get("scheduler"):
        with configuring("scheduler"):
            instantiate(cfg.scheduler)(optimizer, 100)


def check_trainer(cfg: DictConfig) -> None:
    """Check the settings of Lightning's trainer that any machine can check.

    Raises:
        InputError: it refuses them, nothing would be trained, or sync_batchnorm is wanted on CPUs.
    """
    settings = cfg.trainer
    no_gpu = settings.accelerator == "auto" and not runs_elsewhere() and torch.cuda.device_count() == 0
    if settings.get("sync_batchnorm") and (settings.accelerator == "cpu" or no_gpu):
        raise InputError("trainer.sync_batchnorm=true needs GPUs: set it to false on CPUs.")
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if settings.get(name) == 0:
            raise InputError(f"trainer.{name}=0 trains nothing: set it to 1 or more.")
    if settings.get("limit_val_batches") == 0 or settings.get("fast_dev_run"):
        name = "fast_dev_run" if settings.get("fast_dev_run") else "limit_val_batches"
        raise InputError(f"trainer.{name}={settings[name]} validates no epoch, so there is no model: leave it out.")
    every, epochs = settings.get("check_val_every_n_epoch"), settings.get("max_epochs")
    if isinstance(every, int) and not 1 <= every <= (epochs if isinstance(epochs, int) and epochs > 0 else every):
        raise InputError(
            f"trainer.check_val_every_n_epoch={every} validates none of {epochs} epochs, so there is no model: set it "
            "to 1."
        )
    own = {name: value for name, value in settings.items() if name not in (*OF_MODULE, *OF_RUN)}
    if refused := refusal_of_trainer(OmegaConf.to_yaml({"trainer": own})):
        raise InputError(refused)


@cache
def refusal_of_trainer(settings: str) -> str | None:
    """Why Lightning's trainer refuses settings, in words; None if it takes them on a CPU.

    Args:
        settings: YAML of a configuration with its arguments.
    """
    own = OmegaConf.create(settings).trainer
    nothing = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet_lightning()
    with without_unhelpful_warnings():
        return refusal_of("trainer", lambda: instantiate(own, accelerator="cpu", **nothing))


def refusal_of(part: str, create: Callable[[], object]) -> str | None:
    """Why a part of a configuration cannot be created, in words; None if it can."""
    try:
        with configuring(part):
            create()
    except (InputError, HydraException) as error:
        return user_message(error, ())
    return None


def check_loss(cfg: DictConfig) -> None:
    """Check that a loss can use the tuples of the sampler or miner, and that not both give some.

    Raises:
        InputError: it cannot, they do, or the loss refuses its own arguments.
    """
    if not cfg.get("loss"):
        return
    if cfg.loss.get("sharded") and any("WeightAveraging" in one._target_ for one in cfg.callbacks.values() if one):
        raise InputError("Weights that ranks share are not averaged: leave out callbacks=ema or loss.sharded=true.")
    loss, sampler = instantiate(cfg.loss, _partial_=True).func, instantiate(cfg.sampler).func
    sampled = Pairs if sampler is PairSampler else Triplets if sampler is TripletSampler else None
    accepted = taken_tuples(loss)
    if sampled and accepted is not None:
        single_pairs = sampled is Pairs and getattr(loss, "needs_negatives", False)
        if sampled not in accepted or single_pairs:
            raise InputError(f"{loss.__name__} cannot use the tuples of {sampler.__name__}: set sampler=identity.")
    if all(name not in cfg.loss or cfg.loss[name] is not None for name in DERIVED):
        instantiate(cfg.loss)
    if cfg.get("miner"):
        miner = instantiate(cfg.miner)
        if sampled:
            raise InputError(
                f"{sampler.__name__} gives {sampled.__name__.lower()} itself, of which {type(miner).__name__} would "
                "choose nothing: set miner=none, or sampler=identity."
            )
        refuse_miner(loss, miner)
