"""`siamese-verify train`: compose, fit, report, bundle."""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.callbacks import ModelCheckpoint

from siamese_verify.atomic_write import write_whole
from siamese_verify.cli.config_values import check_values
from siamese_verify.cli.errors import configured, explained, making, set_threads, versions
from siamese_verify.cli.measure import measure, print_results, save_results
from siamese_verify.data import FaceCropper, FaceDataModule
from siamese_verify.errors import InputError
from siamese_verify.evaluation import calibrate
from siamese_verify.faces import ranges_of
from siamese_verify.losses.base import refuse_miner
from siamese_verify.models import encoder_class, load_checkpoint, save_bundle
from siamese_verify.protocols import HeldOutShare, Protocol, refuse_leak, save_people
from siamese_verify.samplers import PairSampler, TripletSampler
from siamese_verify.structures import Pairs, Triplets
from siamese_verify.training import VerificationModule, publish_report
from siamese_verify.training.run_files import check_resumed, refuse_used
from siamese_verify.verification import embed_faces

KNOWN = ("identities", "dimensions")  # what a loss with class weights leaves open: the training people, the encoder's


def refuse_loss(cfg: DictConfig) -> None:
    """Refuse a loss that cannot use what miner or sampler choose, before any photo is read.

    Raises:
        InputError: naming both; whatever the loss refuses by itself.
    """
    loss, sampler = instantiate(cfg.loss, _partial_=True).func, instantiate(cfg.sampler).func
    feeding: dict[Any, set[type]] = {PairSampler: {Pairs}, TripletSampler: {Triplets}}
    fed = feeding.get(sampler, set())
    taken = getattr(loss, "takes", None)
    rivals = getattr(loss, "needs_rivals", False) and Pairs in fed
    if fed and taken is not None and (rivals or not fed & {*taken}):
        raise InputError(f"{loss.__name__} cannot learn from what {sampler.__name__} feeds: set sampler=identity.")
    if all(name not in cfg.loss or cfg.loss[name] is not None for name in KNOWN):
        instantiate(cfg.loss)
    if cfg.get("miner") and not fed:
        refuse_miner(loss, instantiate(cfg.miner))


class RefuseUsedFolder(Callback):
    """Hydra's callback that looks at a run's folder before Hydra writes its own files there."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """End the command where the folder is another run's."""
        if config.hydra.output_subdir:  # `preview` has none, nor have the further processes of one run
            explained(refuse_used)(Path(config.hydra.run.dir), config.ckpt_path)


def descent(cfg: DictConfig) -> tuple[Any, Any]:
    """What makes the optimizer and the schedule, tried on one number before any photo is read.

    Raises:
        InputError: an argument that they refuse.
    """
    optimizer = instantiate(cfg.optimizer)
    scheduler = instantiate(cfg.scheduler) if cfg.get("scheduler") else None
    with making("optimizer"):
        tried = optimizer([{"params": [torch.nn.Parameter(torch.zeros(1))]}])
    if scheduler:
        with making("scheduler"):
            scheduler(tried, 100)
    return optimizer, scheduler


def trainer_of(cfg: DictConfig) -> pl.Trainer:
    """Lightning's trainer with its loggers and callbacks.

    Raises:
        InputError: batch norms that are to be synchronised on CPUs.
    """
    with making("trainer"):
        trainer: pl.Trainer = instantiate(
            cfg.trainer,
            logger=[instantiate(logger) for logger in cfg.logger.values() if logger],
            callbacks=[instantiate(callback) for callback in cfg.callbacks.values() if callback],
        )
    if cfg.trainer.get("sync_batchnorm") and isinstance(trainer.accelerator, CPUAccelerator):
        raise InputError("torch synchronises batch norms of GPUs only: on CPUs set trainer.sync_batchnorm=false.")
    return trainer


def train(cfg: DictConfig, folder: Path) -> float:
    """Train one model and leave its checkpoints, metrics, report and bundle in `folder`.

    Returns:
        EER on the protocol, what a sweep minimises.
    """
    refuse_used(folder, cfg.ckpt_path)
    check_values(cfg)
    if cfg.ckpt_path and not Path(cfg.ckpt_path).is_file():
        raise InputError(f"There is no checkpoint {cfg.ckpt_path} to resume from: give a run's checkpoints/last.ckpt.")
    if cfg.ckpt_path:
        load_checkpoint(Path(cfg.ckpt_path))  # or say what is wrong with it
    set_threads(cfg.threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # no advertisements between progress bars
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    configuration = cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))
    refuse_loss(cfg)
    asked_protocol: Protocol | HeldOutShare = instantiate(cfg.protocol)  # first: a wrong pair file shows at once
    encoder_class(configuration["encoder"])  # one that a bundle can hold
    encoder = instantiate(cfg.encoder)
    if encoder.embedding_size < 1:
        raise InputError(f"An embedding needs one number or more, got encoder.embedding_size={encoder.embedding_size}.")
    share = asked_protocol if isinstance(asked_protocol, HeldOutShare) else None
    with making("training set"):
        data: FaceDataModule = instantiate(cfg.datamodule, _partial_=True)(input_spec=encoder.input_spec, test=share)
    if isinstance(asked_protocol, HeldOutShare):
        protocol, leak = data.test_protocol(cfg.data.name), ""
    else:
        protocol, leak = asked_protocol, refuse_leak(data.seen, asked_protocol, cfg.allow_leakage)
    known = dict(zip(KNOWN, (len(data.people), encoder.embedding_size), strict=True))
    asked = {name: value for name, value in known.items() if name in cfg.loss and cfg.loss[name] is None}
    module = VerificationModule(
        encoder,
        instantiate(cfg.loss, **asked),
        instantiate(cfg.miner) if cfg.get("miner") else None,
        *descent(cfg),
        configuration,
    )
    if cfg.ckpt_path:
        check_resumed(Path(cfg.ckpt_path), module, configuration)
    trainer = trainer_of(cfg)
    data.setup()
    record: dict[str, Any] = {"versions": versions(), "data": data.digest}
    record["training set filtered"] = getattr(data.photos, "filtered", "no")
    record["tested people"] = f"trained on in part: {leak}" if leak else "held out from training"
    record["configuration"] = configuration
    if trainer.is_global_zero:  # one process writes

        def write_record() -> None:
            write_whole(folder / "run.json", json.dumps(record, indent=1).encode())
            save_people(folder, data.seen, protocol)

        trainer.callbacks.append(pl.callbacks.LambdaCallback(on_train_start=lambda *_: write_record()))  # type: ignore[attr-defined]
        data.cropper.save_account(folder)
        if data.cropper.damaged:
            print(f"{len(data.cropper.damaged)} damaged photos were left out: {folder / 'skipped.csv'} lists them.")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="pytorch_lightning")  # of its own code
        trainer.fit(module, datamodule=data, ckpt_path=cfg.ckpt_path, weights_only=True)
    if not trainer.is_global_zero:
        return 0.0

    best_path = cast(ModelCheckpoint, trainer.checkpoint_callback).best_model_path
    if not best_path:
        raise InputError("No epoch was finished and validated, so there is no model: train for one epoch or more.")
    best = load_checkpoint(Path(best_path))
    assert data.validation_set is not None
    held_out = embed_faces(best.encoder, data.validation_set.faces)
    labels, measured_on = data.validation_set.labels, best.metadata.measured_on
    measured = replace(
        best.metadata,
        score_calibration=calibrate(held_out, labels, measured_on, cfg.seed),
        quality=ranges_of(data.cropper.qualities),
        licence=cfg.licence or "",
    )
    best = replace(best, metadata=measured)
    save_bundle(folder / "bundle", best, record["versions"])

    result = measure("trained network", best.encoder, protocol, FaceCropper(best.encoder.input_spec, cfg.cache), best)
    baseline = instantiate(cfg.baseline)
    other = measure("raw pixels", baseline, protocol, FaceCropper(baseline.input_spec, cfg.cache))
    save_results(folder / "report", result, [other], record)
    for logger in trainer.loggers:
        publish_report(logger, result.report, folder / "report", trainer.global_step)
    print_results([result, other], folder)
    if leak:
        print(f"This result says nothing about strangers: {leak}.")
    return result.report.eer


@configured("train")
def main(cfg: DictConfig) -> float:
    """Entry point."""
    return train(cfg, Path(HydraConfig.get().runtime.output_dir))


if __name__ == "__main__":
    main()
