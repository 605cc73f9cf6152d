"""Checks of a training's configuration before any photo is read; of all runs of a sweep before the first starts."""

from __future__ import annotations

from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from siamese_verify import samplers
from siamese_verify.cli.configuration import check_values, encoder_settings
from siamese_verify.encoders import check_encoder
from siamese_verify.errors import InputError
from siamese_verify.losses.base import refuse_miner
from siamese_verify.methods import Method
from siamese_verify.models import code_of_others, load_checkpoint
from siamese_verify.samplers import PairSampler, TripletSampler
from siamese_verify.structures import Pairs, Triplets
from siamese_verify.training.module import VALIDATION_METRICS

DERIVED = ("num_identities", "embedding_size")  # null in a margin softmax: the training set's, the encoder's


def check(cfg: DictConfig) -> None:
    """Check, before any photo is read, what would fail later.

    Raises:
        InputError: a checkpoint that cannot be loaded; see also `check_settings`.
    """
    if cfg.resume:
        load_checkpoint(Path(cfg.resume), code_of_others(encoder_settings(cfg)))  # named in the command
    check_settings(cfg)


def check_settings(cfg: DictConfig) -> None:
    """Check what can be checked of a configuration by itself, without its data; of each run of a sweep, before any.

    Raises:
        InputError: values of a wrong type, an unknown metric, a loss that cannot use the tuples of the sampler or
            miner, an encoder that cannot be imported.
    """
    check_values(cfg)
    check_metric(cfg.sweep.metric, cfg.sweep.mode)
    check_method(cfg)
    check_loss(cfg)
    check_encoder(encoder_settings(cfg))


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
        InputError: see `check_settings`; a setting without a value, a missing folder or file, GPUs that do not exist.
    """
    check_settings(cfg)
    trainer = cfg.trainer
    if trainer.accelerator == "cpu" and trainer.get("sync_batchnorm"):
        raise InputError("trainer.sync_batchnorm=true needs GPUs: set it to false on CPUs.")
    for part in ("data", "protocol"):
        if missing := sorted(OmegaConf.missing_keys(cfg[part])):
            raise InputError(f"{missing[0]} is required: add {missing[0]}=... to the command.")
    if HydraConfig.get().launcher._target_.rpartition(".")[2].startswith(("Slurm", "Ray")):
        return  # other machines have other GPUs and folders
    for place in ("data.root", "data.path", "protocol.root", "protocol.path"):
        path = OmegaConf.select(cfg, place)
        if isinstance(path, str) and "://" not in path and not Path(path).expanduser().exists():
            raise InputError(f"There is no {path}: correct {place}.")
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
        if data.unlabelled or sampler is samplers.SemiSupervisedSampler:
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
    if method.sampler is samplers.SemiSupervisedSampler and data.labelled_identities is data.labelled_samples is None:
        raise InputError(
            f"{method.__name__} needs photos without labels: set datamodule.labelled_identities or "
            "datamodule.labelled_samples."
        )
    if views > 1 and not cfg.get("augmentation"):
        raise InputError(
            "The views of an image are all the same without augmentation: set augmentation=strong, or a transform of "
            "yours."
        )


def check_loss(cfg: DictConfig) -> None:
    """Check that a loss can use the tuples of the sampler or miner, and that not both give some.

    Raises:
        InputError: it cannot, they do, or the loss refuses its own arguments.
    """
    if not cfg.get("loss"):
        return
    loss, sampler = instantiate(cfg.loss, _partial_=True).func, instantiate(cfg.sampler).func
    sampled = Pairs if sampler is PairSampler else Triplets if sampler is TripletSampler else None
    accepted = getattr(loss, "takes", None)
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
