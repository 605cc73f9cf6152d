"""`pretrain=[OVERRIDES]`: a first stage of training in a process of its own, whose encoder the run then starts from."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from siamese_verify.cli.configuration import CONF, encoder_settings, override_error, trusted_code
from siamese_verify.cli.recorded_run import Recording, is_first_process, shortest
from siamese_verify.cli.resume import named_code, setting_of
from siamese_verify.errors import InputError
from siamese_verify.models import code_of_others
from siamese_verify.run_record import FIRST_STAGE, RunRecord, record_of
from siamese_verify.sweeps.child_run import OUTPUT, quoted, run_in_process
from siamese_verify.sweeps.resume_sweep import resume_override
from siamese_verify.sweeps.sweep_task import refuse_other_run
from siamese_verify.training.stopping import Stopped, StopSignals

log = logging.getLogger(__name__)
PERIOD = 2.0  # seconds between two looks at the first stage
GROUPS = ("data", "encoder", "protocol", "trainer", "logger")  # whose choices both stages share
OF_DATAMODULE = (
    *(
        "validation",
        "validation_share",
        "validation_max_samples_per_identity",
        "validation_max_identities",
        "split_seed",
    ),
    *("unlabeled_identity", "in_memory", "max_damaged", "on_multiple_faces", "cache", "workers", "device"),
)
SHARED = (
    *GROUPS,
    *("protocols", "seed", "threads", "license", "allow_leakage", "keep_embeddings", "cache", "baseline"),
    *(f"datamodule.{name}" for name in OF_DATAMODULE),
)
OWN_OF_TRAINER = (
    *("max_epochs", "max_steps", "max_time", "min_epochs", "min_steps", "gradient_clip_val", "cached_chunk"),
    *("freeze_batch_norm", "frozen_layers", "layer_decay"),
)
OWN = tuple(f"trainer.{name}" for name in OWN_OF_TRAINER)  # of each stage by itself
REFUSED = ("pretrain", "resume", "hydra", "earlier_stages")


def first_stage_overrides(cfg: DictConfig) -> list[str]:
    """Overrides that train the first stage: data, encoder, protocol and machine of the run, then those of `pretrain`.

    So both stages hold the same people out. Loss, sampler, augmentation, optimizer and schedule are not shared. Where
    `pretrain` chooses other data, the run's protocol comes along as it is.

    Args:
        cfg: composed configuration of the run.

    Raises:
        InputError: `pretrain` is no list of overrides, or one of them is of the run itself.
    """
    own = [cfg.pretrain] if isinstance(cfg.pretrain, str) else cfg.pretrain
    if not isinstance(own, list | ListConfig) or not all(isinstance(one, str) for one in own):
        raise InputError(f"pretrain is a list of overrides, such as [loss=nt_xent,trainer.max_epochs=9], got {own!r}.")
    try:
        named = {setting_of(one) for one in OverridesParser.create().parse_overrides([*own])}
    except HydraException as error:
        raise InputError(f"pretrain has an invalid override: {' '.join(str(error).split())}.") from None
    if wrong := [one for one in sorted(named) if one.partition(".")[0] in REFUSED]:
        raise InputError(f"pretrain cannot set {wrong[0]}, which is of the whole run: give it beside pretrain.")
    choices = HydraConfig.get().runtime.choices
    chosen = [f"{group}={choices[group]}" for group in GROUPS if choices.get(group) and group not in named]
    base = composed(chosen)
    changed: list[str] = []
    for place in SHARED:
        if place in named and place in GROUPS:
            continue
        resolved = place == "protocol" and "data" in named
        ours, theirs = (leaves(one, place, resolved) for one in (cfg, base))
        changed += [f"++{name}={literal(value)}" for name, value in ours.items() if theirs.get(name, ...) != value]
        changed += [f"~{name}" for name in theirs if not any(name == one or name.startswith(f"{one}.") for one in ours)]
    changed = [one for one in changed if not one.lstrip("+~").startswith(OWN)]
    if trusted := trusted_code(cfg):
        changed.append(f"trust_code={literal(trusted)}")
    alone = ["trainer.num_nodes=1"] if cfg.trainer.get("num_nodes", 1) != 1 else []
    return [*chosen, *changed, *alone, *own]


def composed(overrides: Sequence[str]) -> DictConfig:
    """A configuration of `train`, without Hydra's part.

    Raises:
        InputError: an override does not fit.
    """
    search = create_config_search_path(str(CONF))
    for folder in own_configs():
        search.append("command-line", folder)
    try:
        found = ConfigLoaderImpl(search).load_configuration("train", [*overrides], RunMode.RUN)
    except HydraException as error:
        folders = [f"hydra.searchpath=['file://{Path(folder).resolve()}']" for folder in own_configs()]
        raise InputError(f"The first stage: {override_error(error, 'train', [*overrides], folders)}") from None
    with open_dict(found):
        del found["hydra"]
    return found


def own_configs() -> list[str]:
    """Folders of configs of the user, given by --config-dir."""
    return [one.path for one in HydraConfig.get().runtime.config_sources if one.provider == "command-line"]


def leaves(cfg: DictConfig, place: str, resolved: bool = False) -> dict[str, Any]:
    """Dotted names and values of all settings below a place, lists as a whole; interpolations stay unless resolved."""
    found: dict[str, Any] = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, dict) and value:
            for key, one in value.items():
                walk(one, f"{name}.{key}")
        else:
            found[name] = value

    parent, _, last = place.rpartition(".")
    node = cfg if not parent else OmegaConf.select(cfg, parent)
    if node is not None and last in node:
        walk(cast("Any", OmegaConf.to_container(node, resolve=resolved))[last], place)
    return found


def literal(value: Any) -> str:
    """A value in Hydra's syntax of overrides."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(literal, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{name}:{literal(one)}' for name, one in value.items())}}}"
    return quoted(value) if isinstance(value, str) else str(value)


def train_first_stage(cfg: DictConfig, run: Recording, signals: StopSignals) -> DictConfig:
    """Train the first stage, if there is one that is not finished, and start the second from it.

    It is a run of its own in the folder `pretraining` of the run, by a process that the first process of the run
    starts; others wait for it. A signal stops it after a step, and it goes on when the run is resumed.

    Returns:
        The configuration, with `initialize_from` naming the first stage.

    Raises:
        InputError: it has failed, with its reason.
        Stopped: by a signal.
    """
    if not cfg.get("pretrain") or cfg.resume:
        return cfg
    if cfg.initialize_from and not cfg.earlier_stages:
        raise InputError("A run starts from its first stage or from another model: put initialize_from into pretrain.")
    folder = run.folder / FIRST_STAGE
    if is_first_process():
        overrides = first_stage_overrides(cfg)
        record = record_of(folder)
        refuse_other_run(folder, record, overrides)
        if record is None or record.status != "finished":
            trusted = [*trusted_code(cfg), *code_of_others(encoder_settings(cfg))]
            trusted += named_code(OverridesParser.create().parse_overrides(overrides))
            if resume := resume_override(folder):
                overrides = [*resume, *([f"trust_code={literal(trusted)}"] if trusted else [])]
            log.info("First stage: %s, which writes to %s.", shortest(folder), OUTPUT)
            signals.in_steps, signals.where = True, "in the first stage"
            flags = [f"--config-dir={one}" for one in own_configs()]
            stop = stopping(signals, folder)
            record = run_in_process(overrides, folder, flags=flags, stop=stop, alone=True)
            signals.leave_steps("in the first stage")
        refuse_unfinished(record, folder)
    else:
        began = False  # the record may be that of an earlier attempt
        while (record_of(folder) or RunRecord()).status != "finished":
            whole = record_of(run.folder) or RunRecord(status="skipped")
            began |= whole.status == "running"
            if began and whole.status in ("failed", "stopped"):
                raise Stopped(signal.SIGTERM, "in the first stage")
            time.sleep(PERIOD)
    found = cfg.copy()
    with open_dict(found):
        found.initialize_from = str(folder.absolute())
    return found


def stopping(signals: StopSignals, folder: Path) -> Callable[[], bool]:
    """Function that says whether the first stage is to stop; while it is asked, each validation is logged."""
    shown, due = len((record_of(folder) or RunRecord()).history), time.monotonic()

    def stop() -> bool:
        nonlocal shown, due
        if time.monotonic() > due:
            due = time.monotonic() + PERIOD
            history = (record_of(folder) or RunRecord()).history
            for epoch, _, metrics in history[shown:]:
                log.info("First stage, epoch %d: EER %.2f %%", epoch + 1, 100 * metrics.get("val/eer", float("nan")))
            shown = max(shown, len(history))
        return signals.received is not None

    return stop


def refuse_unfinished(record: RunRecord, folder: Path) -> None:
    """Check that the first stage is finished.

    Raises:
        InputError: it has failed.
        Stopped: it was told to stop, and the run was not.
    """
    if record.status == "stopped":
        raise Stopped(signal.SIGTERM, "in the first stage")
    if record.status != "finished":
        raise InputError(f"The first stage failed: {record.error} Its output is in {shortest(folder / OUTPUT)}.")
