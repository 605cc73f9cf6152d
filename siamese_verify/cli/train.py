"""`siamese-verify train`: check, compose, fit, calibrate, bundle, report."""

from __future__ import annotations

import logging
import math
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import LambdaCallback, ModelCheckpoint, WeightAveraging
from pytorch_lightning.utilities.exceptions import SIGTERMException

from siamese_verify.cli.hydra_command import hydra_command
from siamese_verify.cli.initialization import initialized_configuration
from siamese_verify.cli.measure import Figures, Result, measure, print_results, save_results
from siamese_verify.cli.pretraining import train_first_stage
from siamese_verify.cli.recorded_run import Recording, recorded, write_log
from siamese_verify.cli.remembered_baseline import baseline_key, may_remember, recall, remember
from siamese_verify.cli.resume import resumed_arguments, resumed_configuration, save_configuration
from siamese_verify.cli.training_checks import check, check_run
from siamese_verify.cli.training_parts import TrainingParts, compose, unfilled_memory
from siamese_verify.cli.user_errors import report_user_errors
from siamese_verify.data import FaceCropper, FaceDataModule
from siamese_verify.data.data_loaders import ignore_signals
from siamese_verify.encoders import Encoder
from siamese_verify.errors import InputError
from siamese_verify.evaluation import calibrate
from siamese_verify.evaluation.score_history import add_scores
from siamese_verify.faces import ranges_of
from siamese_verify.models import (
    FaceModel,
    embed_faces,
    load_checkpoint,
    save_bundle,
)
from siamese_verify.models.engines import embed_photos_by
from siamese_verify.models.exported_network import may_wait
from siamese_verify.protocols import Protocol, save_people
from siamese_verify.run_record import RunRecord
from siamese_verify.structures import InputSpec
from siamese_verify.sweeps.sweep_task import SweepTask
from siamese_verify.sweeps.trial_pruning import trial_of
from siamese_verify.training import publish_report, without_unhelpful_warnings
from siamese_verify.training.rank_processes import RankWatch
from siamese_verify.training.run_files import refuse_used
from siamese_verify.training.stopping import StopAfterStep, Stopped, StopSignals, receive_signals_instead

log = logging.getLogger(__name__)
COMPARED = 64  # arrays of the validation set that an exported network is compared on
ENDING = 30.0  # seconds that other ranks may take to end


def train(cfg: DictConfig, folder: Path) -> float:
    """Train one model; write its checkpoints, metrics, report, bundle and record to `folder`.

    Returns:
        Value of `sweep.metric` at the best epoch, whose weights are bundled: the objective of a sweep.
    """
    cfg, earlier = resumed_configuration(cfg, HydraConfig.get().overrides.task, folder)
    refuse_used(folder, cfg.resume)
    with StopSignals() as signals, recorded(cfg, folder, signals, earlier) as run, without_unhelpful_warnings():
        check(cfg)  # also the second stage, before the first is trained
        cfg = initialize(train_first_stage(cfg, run, signals), run)
        check(cfg)
        parts = compose(cfg)
        fit(parts, run, cfg, signals)
        if parts.trainer.is_global_zero and not run.record.pruned:  # one process finishes
            best = best_model(parts)
            best.encoder.to(parts.trainer.strategy.root_device)  # Lightning has brought the weights back to the CPU
            model = with_stage(calibrated(best, parts.data, cfg), run)
            now = cfg.export_onnx or not may_wait(model.metadata)
            save_bundle(folder / "bundle", model, run.record.versions, inputs=some_arrays(parts.data), network=now)
            report(model, parts, run, cfg)
    score = cast(ModelCheckpoint, parts.trainer.checkpoint_callback).best_model_score
    return math.nan if score is None else float(score)


def initialize(cfg: DictConfig, run: Recording) -> DictConfig:
    """The configuration with the encoder of the model that it starts from, if it does; saved and recorded."""
    initialized = initialized_configuration(cfg, HydraConfig.get().overrides.task)
    if initialized is not cfg:
        if run.first:
            save_configuration(initialized, run.folder)
        run.record.configuration = cast("dict[str, Any]", OmegaConf.to_container(initialized, resolve=True))
    return initialized


def describe(parts: TrainingParts, record: RunRecord) -> None:
    """Record what is trained on, once the data are read.

    Raises:
        InputError: the run that is resumed was trained on other data.
    """
    if record.data not in ("", parts.data.digest):
        raise InputError(
            f"The photos are not those that the run was started with (SHA-256 {record.data[:12]}... then, "
            f"{parts.data.digest[:12]}... now): bring them back, or start another run."
        )
    record.data = parts.data.digest
    record.filtered = getattr(parts.data.photos, "filtered", "no")
    record.tested_people = tested_people(parts.leak, parts.all_known)


def fit(parts: TrainingParts, run: Recording, cfg: DictConfig, signals: StopSignals) -> None:
    """Train; the first process records the people once training starts, and each validation.

    Raises:
        Stopped: by a signal.
        RankLost: another process of the run was killed.
    """
    data, trainer = parts.data, parts.trainer
    describe(parts, run.record)
    run.first = trainer.is_global_zero  # known for certain now

    def record_people(*_: Any) -> None:
        held_out = data.test_photos if data.test else None
        save_people(run.folder, parts.seen, parts.protocol, held_out, earlier_are_known=parts.all_known)

    def record_validation(*_: Any) -> None:
        if not trainer.sanity_checking:
            values = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
            run.add_validation(trainer.current_epoch, trainer.global_step, values, cfg.sweep.metric, cfg.sweep.mode)
            if validation := parts.module.validation:
                add_scores(run.folder, trainer.current_epoch, trainer.global_step, validation.histogram)

    if trial := trial_of(run.folder):  # on all ranks: they stop together
        trainer.callbacks.append(LambdaCallback(on_validation_end=trial.stop_if_hopeless))  # type: ignore[attr-defined]
    trainer.callbacks.append(LambdaCallback(on_train_start=refuse_early_end))  # type: ignore[attr-defined]
    if trainer.is_global_zero:
        run.save()
        hooks = LambdaCallback(on_train_start=record_people, on_validation_end=record_validation)
        trainer.callbacks.append(hooks)  # type: ignore[attr-defined]
        data.cropper.save_left_out(run.folder)
        if left_out := len(data.cropper.damaged) + len(data.cropper.failures):
            counts = f"{len(data.cropper.damaged)} damaged, {len(data.cropper.failures)} without a face"
            log.info("%s photos were left out (%s): %s lists them.", left_out, counts, run.folder / "left_out.csv")
    stop = StopAfterStep(signals, run.folder / "checkpoints" / "last.ckpt")
    trainer.callbacks.insert(0, stop)  # type: ignore[attr-defined]
    # The average of a step belongs into the checkpoint of that step.
    trainer.callbacks.sort(key=lambda one: not isinstance(one, WeightAveraging))  # type: ignore[attr-defined]
    receive_signals_instead(trainer)
    watch, wait = RankWatch(trainer, run.end), 0.0
    run.end_others = partial(watch.close, 0.0)
    try:
        with without_unhelpful_warnings(), unfilled_memory():
            trainer.fit(parts.module, datamodule=data, ckpt_path=cfg.resume, weights_only=True)
            wait = ENDING
    except SIGTERMException:
        wait = ENDING
        raise Stopped(stop.number, f"after step {trainer.global_step}") from None
    except RuntimeError as error:
        lost = watch.lost_soon(error)
        if lost is not None and signals.received:
            raise Stopped(signals.received, "within a step") from error
        if lost is not None:
            raise lost from error
        raise
    finally:
        watch.close(wait)
    run.record.pruned = trial is not None and trial.pruned


def refuse_early_end(trainer: pl.Trainer, _: pl.LightningModule) -> None:
    """Raise InputError if training ends before the first validation, which gives the model."""
    batches = (trainer.num_training_batches, trainer.val_check_batch or 0)  # of an epoch, until the validation in one
    epoch, validation = (math.ceil(number / trainer.accumulate_grad_batches) for number in batches)
    needed = ((trainer.check_val_every_n_epoch or 1) - 1) * epoch + validation
    if 0 <= trainer.max_steps < needed:
        raise InputError(
            f"trainer.max_steps={trainer.max_steps} ends before the first validation, which gives the model: set it to "
            f"{needed} or more."
        )


def best_model(parts: TrainingParts) -> FaceModel:
    """Model of the best epoch.

    Raises:
        InputError: no epoch was finished.
    """
    path = cast(ModelCheckpoint, parts.trainer.checkpoint_callback).best_model_path
    if not path:
        raise InputError("No epoch was finished and validated, so there is no model: train for one epoch or more.")
    return load_checkpoint(Path(path), encoder=cast(Encoder, parts.module.encoder))


def some_arrays(data: FaceDataModule) -> np.ndarray | None:
    """Arrays of the validation set to compare networks on, None if they are photos."""
    assert data.validation_set is not None
    return None if data.spec.is_photo else data.validation_set.faces[:COMPARED].numpy()


def calibrated(model: FaceModel, data: FaceDataModule, cfg: DictConfig) -> FaceModel:
    """The model with thresholds and score calibration measured on the validation people."""
    assert data.validation_set is not None
    embeddings = embed_faces(model.encoder, data.validation_set.faces)
    measured = replace(
        model.metadata,
        score_calibration=calibrate(embeddings, data.validation_set.labels, model.metadata.measured_on, cfg.seed),
        quality=ranges_of(data.cropper.qualities),
        license=cfg.license or "",
    )
    return replace(model, metadata=measured)


def with_stage(model: FaceModel, run: Recording) -> FaceModel:
    """The model whose last stage of training has the command, data and times of this run."""
    run.save()  # the time
    record, training = run.record, model.metadata.training
    first = training["stages"][-2].get("seconds", 0.0) if record.configuration.get("pretrain") else 0.0
    own = {
        **training["stages"][-1],
        "data_sha256": record.data,
        "started": record.started,
        "seconds": round(record.seconds - first, 1),
        "command": record.command,
    }
    training = {**training, "stages": [*training["stages"][:-1], own]}
    return replace(model, metadata=replace(model.metadata, training=training))


def report(model: FaceModel, parts: TrainingParts, run: Recording, cfg: DictConfig) -> None:
    """Evaluate the model and the raw pixels on each protocol; save, record, publish and print the results."""
    folder, record, baseline = run.folder / "report", run.record, parts.baseline
    if baseline:
        baseline.to(next(model.encoder.buffers()).device)
    results: dict[str, Result] = {}
    shown: dict[str, tuple[Protocol, list[Figures]]] = {}
    leaks = {"": (parts.protocol, parts.leak), **parts.further}
    for name, (protocol, leak) in leaks.items():
        results[name], others = measure_beside(model, baseline, protocol, record, cfg)
        result = results[name]
        shown[name] = protocol, [result.figures, *others]
        details = {
            "versions": record.versions,
            "data": record.data,
            "training set filtered": record.filtered,
            "tested people": tested_people(leak, parts.all_known),
            "configuration": record.configuration,
        }
        save_results(folder / name, result, others, details, keep_embeddings=cfg.keep_embeddings)
        record.test[name or protocol.name] = result.report.record()
        record.lfw_category = record.lfw_category or result.lfw_category or ""
    first, *rest = (one.report for one in results.values())
    further = dict(zip(parts.further, rest, strict=True))
    best, settings = record.metrics.get(cfg.sweep.metric), record.configuration
    for logger in parts.trainer.loggers:
        publish_report(logger, first, folder, parts.trainer.global_step, further, best, settings)
    write_log("\n" + print_results(shown, run.folder))
    for protocol, leak in leaks.values():
        if leak:
            log.warning("The result on %s does not hold outside of the training set: %s.", protocol.name, leak)


def measure_beside(
    model: FaceModel, baseline: Encoder | None, protocol: Protocol, record: RunRecord, cfg: DictConfig
) -> tuple[Result, list[Figures]]:
    """Measure a model on a protocol, and the baseline beside it if that is not remembered; photos are opened once."""
    spec = model.encoder.input_spec
    cropper, place = FaceCropper(spec, cfg.cache), next(model.encoder.buffers()).device
    encoders = [model.encoder.eval()]
    together = baseline is not None and same_crops(baseline.input_spec, spec)
    if baseline is not None and together:
        encoders.append(baseline.eval())
    (embeddings, *simple), rows = embed_photos_by(encoders, protocol.photos, cropper)
    device = str(place) if place.type == "cuda" else "cpu"  # counts need float64, which others lack
    options: dict[str, Any] = {"resamples": cfg.resamples, "device": device}
    result = measure("trained network", model.encoder, protocol, cropper, model, embedded=(embeddings, rows), **options)
    if baseline is None:
        return result, []
    settings = [OmegaConf.to_container(cfg.baseline, resolve=True), asdict(baseline.input_spec), record.versions]
    key = baseline_key(result, {"baseline": settings, "resamples": cfg.resamples, "left out": cropper.failures})
    remembering = cfg.cache if cfg.remember_baseline and may_remember(cfg.baseline, record.versions) else None
    figures = recall(remembering, key)
    if figures is None:
        name = "raw pixels" if spec.is_photo else "raw inputs"
        own = cropper if together else FaceCropper(baseline.input_spec, cfg.cache)
        embedded = (simple[0], rows) if together else None
        figures = measure(name, baseline, protocol, own, embedded=embedded, **options).figures
        remember(remembering, key, figures)
    return result, [figures]


def same_crops(one: InputSpec, other: InputSpec) -> bool:
    """Whether two encoders take the same crops of a photo."""
    return (one.shape, one.dtype, one.crop) == (other.shape, other.dtype, other.crop)


def tested_people(leak: str, all_known: bool = True) -> str:
    """Whether the people of a protocol were held out from training, in words.

    Args:
        leak: which were not; "" if none.
        all_known: whether those that all earlier stages were trained on are known.
    """
    if leak:
        return f"trained on in part: {leak}"
    unknown = "" if all_known else ", but the model that it started from has no record of its people"
    return f"held out from training{unknown}"


@hydra_command("train", partial(SweepTask, check=check_run))
def main(cfg: DictConfig) -> float:
    """Entry point."""
    try:
        return train(cfg, Path(HydraConfig.get().runtime.output_dir))
    finally:
        ignore_signals()  # nothing is left to stop


if __name__ == "__main__":
    sys.argv[1:] = report_user_errors(resumed_arguments)(sys.argv[1:])
    main()
