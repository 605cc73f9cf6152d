"""Runs of a sweep that can never work, found when composed, before any data is read."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from tqdm import tqdm

from siamese_verify.errors import InputError, printable
from siamese_verify.run_record import RECORD, RunRecord, record_of
from siamese_verify.sweeps.sweep_task import refuse_other_run

SHOWN = 10  # runs in a message
BASIC = f"{BasicSweeper.__module__}.{BasicSweeper.__name__}"


def refuse_invalid(loader: ConfigLoaderImpl, sweep: DictConfig, check: Callable[[DictConfig], None]) -> int:
    """Check all runs of a grid that are not finished; with `sweep.skip_invalid` record the invalid ones as skipped.

    A record of what a run has done is never replaced; that of a skipped run that can work now is removed.

    Args:
        loader: of Hydra.
        sweep: configuration of the sweep, with Hydra's part. Other sweepers than Hydra's own check what they choose.
        check: raises InputError for a configuration that cannot be trained on.

    Returns:
        Number of runs; 0 where another sweeper chooses them one by one.

    Raises:
        InputError: the folder of a run holds another one.
        SystemExit: with status 2, when the runs that can never work are printed with the reasons.
    """
    if sweep.hydra.sweeper._target_ != BASIC:
        return 0
    params = [f"{name}={value}" for name, value in (sweep.hydra.sweeper.params or {}).items()]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides([*params, *sweep.hydra.overrides.task])
    (runs,) = BasicSweeper.split_arguments(parsed, None)
    reasons: dict[int, str] = {}
    varied: dict[int, str] = {}
    fixed = set.intersection(*map(set, runs))
    configs = tqdm(composed(loader, sweep, runs), "Checking", len(runs), delay=2, leave=False, disable=None)
    for number, config in enumerate(configs):
        folder = Path(config.hydra.runtime.output_dir)
        record = record_of(folder)
        refuse_other_run(folder, record, runs[number])
        if record is not None and record.status == "finished":
            continue  # it is not started again
        started = record is not None and record.status != "skipped"
        if reason := refusal(check, config):
            if config.sweep.skip_invalid and started:
                continue  # what it has done is kept: it goes on, and says itself why it cannot
            reasons[number] = reason
            varied[number] = " ".join(text for text in runs[number] if text not in fixed) or "no overrides"
            if config.sweep.skip_invalid:
                folder.mkdir(parents=True, exist_ok=True)
                settings = cast("dict[str, Any]", OmegaConf.to_container(config_of_task(config)))
                skipped = RunRecord("skipped", reason, overrides=[*runs[number]], configuration=settings)
                skipped.write(folder)
        elif record is not None and not started:
            (folder / RECORD).unlink()  # it can work now
    if not reasons:
        return len(runs)
    lines = [printable(f"{varied[number]}: {reason}") for number, reason in reasons.items()][:SHOWN]
    more = [f"and {len(reasons) - SHOWN} more"] if len(reasons) > SHOWN else []
    count = f"{len(reasons)} of {len(runs)} runs can never work"
    if sweep.sweep.skip_invalid:
        print("\n  ".join([f"{count} and are left out:", *lines, *more]), flush=True)
        return len(runs)
    way_out = "correct them, or leave them out by sweep.skip_invalid=true."
    print("\n  ".join([f"siamese-verify: {count}: {way_out}", *lines, *more]), file=sys.stderr)
    raise SystemExit(2)


def refusal(check: Callable[[DictConfig], None], config: DictConfig) -> str | None:
    """Why a configuration with Hydra's part cannot work, in words; None if it can."""
    try:
        check(config_of_task(config))
    except InputError as error:
        return str(error)
    return None


def composed(loader: ConfigLoaderImpl, sweep: DictConfig, runs: Sequence[Sequence[str]]) -> Iterator[DictConfig]:
    """Configurations of runs, with Hydra's part, which is that of HydraConfig until the next one.

    Files are read once for each choice of groups; the other overrides are applied to a copy.

    Args:
        loader: of Hydra.
        sweep: configuration of the sweep, with Hydra's part.
        runs: the overrides of each run.

    Raises:
        ConfigCompositionException: overrides that do not fit the configuration.
    """
    chosen: dict[tuple[str, ...], DictConfig] = {}
    parser = OverridesParser.create(config_loader=loader)
    for number, overrides in enumerate(runs):
        parsed = parser.parse_overrides([*overrides])
        values = [one for one in parsed if not loader.repository.group_exists(one.key_or_group)]
        choices = tuple(str(one.input_line) for one in parsed if one not in values)
        if choices not in chosen:
            chosen[choices] = loader.load_sweep_config(sweep, [*choices])
        config = copy.deepcopy(chosen[choices])
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        with read_write(config.hydra), read_write(config.hydra.runtime):
            config.hydra.job.num, config.hydra.job.id = number, str(number)
            config.hydra.overrides.task = [*overrides]
            HydraConfig.instance().set_config(config)
            folder = Path(config.hydra.sweep.dir, str(config.hydra.sweep.subdir))
            config.hydra.runtime.output_dir = str(folder.absolute())
        yield config


def config_of_task(config: DictConfig) -> DictConfig:
    """A configuration without Hydra's part."""
    task = copy.copy(config)
    with open_dict(task):
        del task["hydra"]
    return task
