"""`siamese-verify train resume=RUN`: a run goes on with its own configuration, in its own folder."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from siamese_verify.atomic_write import atomic_write
from siamese_verify.cli.configuration import CONF, refuse_code, targets_in, trusted_code
from siamese_verify.cli.recorded_run import is_first_process, shortest
from siamese_verify.errors import InputError
from siamese_verify.protocols.held_out import absolute_paths
from siamese_verify.run_record import RECORD, RunRecord, is_gone, runs_within
from siamese_verify.sweeps.child_run import quoted
from siamese_verify.sweeps.resume_sweep import FREE

COMPOSED = Path(".hydra") / "config.yaml"  # by Hydra, with its interpolations


class ResumedRun(NamedTuple):
    """A run that is to go on."""

    folder: Path | None  # None for a checkpoint outside of a run
    checkpoint: Path | None  # None if it was stopped before its first
    record: RunRecord


def find_run(asked: str | Path) -> ResumedRun:
    """The run that `resume=` names.

    Args:
        asked: folder of a run, or a checkpoint.

    Raises:
        InputError: it is neither.
    """
    path = Path(asked)
    if path.is_file():
        folder = next((one for one in path.absolute().parents[:2] if (one / RECORD).is_file()), None)
        return ResumedRun(folder, path, RunRecord.read(folder) if folder else RunRecord())
    if not path.is_dir():
        raise InputError(f"There is no run {asked}: name a run's folder, or one of its checkpoints.")
    if not (path / RECORD).is_file() and (runs := runs_within(path)):
        raise InputError(f"{asked}{runs}")
    found = [path / "checkpoints" / name for name in ("last.ckpt", "best.ckpt")]  # best is written before last
    return ResumedRun(path.absolute(), next((one for one in found if one.is_file()), None), RunRecord.read(path))


def resumed_arguments(arguments: Sequence[str]) -> list[str]:
    """Arguments of `siamese-verify train` in which `resume=RUN` has brought the overrides and the folder of the run.

    Raises:
        InputError: there is no such run, it is still running, an override contradicts it, or its overrides name code
            of others that the arguments do not name.
        SystemExit: it is finished.
    """
    parsed = get_args_parser().parse_known_args([*arguments])[0]
    flags = [one for one in arguments if one not in parsed.overrides]
    try:
        given = OverridesParser.create().parse_overrides(parsed.overrides)
    except HydraException:
        return [*arguments]  # Hydra finds it again, and it is reported in words
    asked = {one.key_or_group: one.value() for one in given}
    if not asked.get("resume"):
        return [*arguments]
    run = find_run(str(asked["resume"]))
    refuse_contradictions(run, given)
    if is_first_process():
        refuse_running(run)
    if run.record.status == "finished" and "trainer.max_epochs" not in asked:
        assert run.folder is not None
        if is_first_process():
            print(f"{shortest(run.folder)} is finished: its results are in {shortest(run.folder / 'report')}.")
        raise SystemExit(0)
    names = {setting_of(one) for one in given}
    own = [one for one in run.record.overrides if one.partition("=")[0].lstrip("+~") not in {*names, "trust_code"}]
    trusted = trusted_code(OmegaConf.create({"trust_code": asked.get("trust_code")})) + named_code(given)
    if parsed.config_dir:
        trusted += sorted(targets_in(Path(parsed.config_dir)) - targets_in())
    recorded = OverridesParser.create().parse_overrides([one for one in own if not one.startswith("~")])
    code = [*own, *({"_target_": target} for target in named_code(recorded))]
    refuse_code(code, trusted, f"The run {asked['resume']}")
    own = [one for one in own if not one.lstrip("+").startswith(("hydra.job_logging", "hydra.hydra_logging"))]
    if search := [one for one in own if one.lstrip("+").startswith("hydra.searchpath")]:
        raise InputError(f"The run {asked['resume']} has configs of its own: repeat {search[0]}, or --config-dir.")
    added = [str(one.input_line) for one in given]
    if run.folder and Path(str(asked.get("hydra.run.dir", run.folder))).absolute() == run.folder:
        added += [f"hydra.run.dir={quoted(str(run.folder))}", "hydra.output_subdir=null"]
    if trusted:
        added = [one for one in added if not one.startswith("trust_code=")] + [f"trust_code=[{','.join(trusted)}]"]
    return [*flags, *own, *dict.fromkeys(added)]


def named_code(overrides: Sequence[Override]) -> list[str]:
    """Targets that overrides name."""

    def targets(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [str(value["_target_"])] if "_target_" in value else []
            return own + [target for part in value.values() for target in targets(part)]
        return [target for part in value for target in targets(part)] if isinstance(value, list) else []

    found = []
    for one in overrides:
        value = OmegaConf.to_container(OmegaConf.create({"value": one.value()}))["value"]  # type: ignore[call-overload, index]
        found += [str(value)] if setting_of(one).endswith("_target_") else targets(value)
    return list(dict.fromkeys(found))


def refuse_contradictions(run: ResumedRun, given: Sequence[Override]) -> None:
    """Check overrides beside `resume` against the configuration of a run.

    Raises:
        InputError: some are others than those of the run; it names them.
    """
    configuration, choices = saved_configuration(run), OmegaConf.create()
    hydra = run.folder / ".hydra" / "hydra.yaml" if run.folder else None
    if hydra and hydra.is_file():
        choices = OmegaConf.load(hydra).hydra.runtime.choices
    wrong = []
    for one in given:
        key = setting_of(one)
        free = any(key == name or key.startswith((f"{name}.", f"{name}/")) for name in FREE)
        if free or key == "resume" or one.input_line in run.record.overrides:
            continue
        here = choices.get(key) if (CONF / key).is_dir() else selected(configuration, key)
        if here != one.value():
            wrong.append(f"{one.input_line} ({here} in the run)")
    if wrong:
        raise InputError(
            f"A resumed run keeps its settings, but {', '.join(wrong)} would change them: leave that out, or start "
            "another run."
        )


def setting_of(override: Override) -> str:
    """The setting or group of an override, with the package that the group is placed at."""
    return str(override.input_line).partition("=")[0].lstrip("+~")


def selected(configuration: DictConfig, key: str) -> Any:
    """A value of a configuration, None where there is none or it cannot be resolved."""
    return OmegaConf.select(configuration, key, throw_on_resolution_failure=False, throw_on_missing=False)


def refuse_running(run: ResumedRun) -> None:
    """Raise InputError if a run has not ended, as far as this machine knows."""
    record = run.record
    here = record.host == socket.gethostname() and record.process != os.getpid()
    if run.folder is None or record.status != "running" or not here:
        return
    if not is_gone(record.host, record.process, record.written or math.inf):
        raise InputError(f"The run still runs, as process {record.process}: stop it first, by SIGTERM.")


def saved_configuration(run: ResumedRun) -> DictConfig:
    """Configuration of a run as it was composed: from its folder, else from its checkpoint.

    Raises:
        InputError: there is none.
    """
    if run.folder and (run.folder / COMPOSED).is_file():
        loaded: Any = OmegaConf.to_container(OmegaConf.load(run.folder / COMPOSED))
    elif run.checkpoint:
        loaded = torch.load(run.checkpoint, map_location="cpu", weights_only=True)["hyper_parameters"]
        loaded = in_this_folder(loaded, loaded["trainer"]["default_root_dir"])
    else:
        raise InputError(f"{run.folder} has neither {COMPOSED} nor a checkpoint: start another run.")
    if run.record.working_folder and Path(run.record.working_folder) != Path.cwd():
        loaded = absolute_paths(loaded, Path(run.record.working_folder))
    configuration: DictConfig = OmegaConf.create(loaded)
    return configuration


def in_this_folder(value: Any, earlier: str) -> Any:
    """A resolved configuration whose paths within an earlier output folder are in the present one."""
    if isinstance(value, dict):
        return {name: in_this_folder(one, earlier) for name, one in value.items()}
    if isinstance(value, list):
        return [in_this_folder(one, earlier) for one in value]
    if isinstance(value, str) and value.startswith(earlier):
        return "${hydra:runtime.output_dir}" + value.removeprefix(earlier)
    return value


def resumed_configuration(cfg: DictConfig, overrides: Sequence[str], folder: Path) -> tuple[DictConfig, RunRecord]:
    """Configuration of this run, and its record so far.

    Args:
        cfg: composed from the command line; `resume` names the run that goes on, if any.
        overrides: that it was composed with.
        folder: of this run; the configuration is saved there.

    Returns:
        Without `resume` the same, and an empty record. Else the run's own configuration, with those settings of `FREE`
        that the command line gives, and `resume` as the path of the checkpoint, None if it has none yet.

    Raises:
        InputError: the run's own configuration names code of others that is not trusted.
    """
    if not cfg.resume:
        return cfg, RunRecord()
    run = find_run(str(cfg.resume))
    resumed = saved_configuration(run)
    code: Any = OmegaConf.to_container(resumed)
    pretrain = code.get("pretrain") or []
    first = OverridesParser.create().parse_overrides([pretrain] if isinstance(pretrain, str) else pretrain)
    code["of the first stage"] = [{"_target_": target} for target in named_code(first)]
    refuse_code(code, trusted_code(cfg), f"The run {cfg.resume}")
    for one in OverridesParser.create().parse_overrides([one for one in overrides if one not in run.record.overrides]):
        key = setting_of(one)
        if key in FREE or key.startswith("logger."):
            OmegaConf.update(resumed, key, OmegaConf.select(cfg, key), force_add=True)
    resumed.resume = str(run.checkpoint.absolute()) if run.checkpoint else None
    if is_first_process():
        save_configuration(resumed, folder)
    return resumed, run.record


def save_configuration(cfg: DictConfig, folder: Path) -> None:
    """Save the configuration of a run where Hydra has saved it as composed."""
    (folder / COMPOSED).parent.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / COMPOSED, OmegaConf.to_yaml(cfg).encode())
