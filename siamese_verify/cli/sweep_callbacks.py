"""Hydra callbacks of `train`: a folder that holds another run is refused, and a sweep is checked, shown and ended."""

from __future__ import annotations

import itertools
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from siamese_verify.cli.recorded_run import is_first_process
from siamese_verify.cli.training_checks import check_run
from siamese_verify.cli.user_errors import EXIT_BUG, report_user_errors
from siamese_verify.errors import InputError
from siamese_verify.run_lock import TRAINING, claim
from siamese_verify.sweeps.check_runs import refuse_invalid
from siamese_verify.sweeps.resume_sweep import record_sweep, refuse_other_sweep
from siamese_verify.sweeps.sweep_progress import SweepProgress
from siamese_verify.sweeps.sweep_task import end_of_sweep, stop_at_signals
from siamese_verify.sweeps.trial_pruning import refuse_password
from siamese_verify.training.run_files import refuse_used


class RefuseUsedFolder(Callback):
    """Hydra callback that takes a folder for a run, or refuses that of another, before Hydra writes its files there."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Exit if the folder holds another run; of one that is named by the time, take the next free name."""
        if config.hydra.output_subdir and is_first_process():  # null in `preview` and in further processes of a run
            report_user_errors(self._take)(config)

    def _take(self, config: DictConfig) -> None:
        folder = Path(config.hydra.run.dir)
        named = any("hydra.run.dir=" in one for one in config.hydra.overrides.hydra)
        for number in itertools.count(2):
            refuse_used(folder, config.resume)
            self.claimed = claim(folder / TRAINING)
            if self.claimed:
                break
            if named:
                raise InputError(f"Another training writes to {folder}: wait for it, or set another hydra.run.dir.")
            folder = Path(f"{config.hydra.run.dir}-{number}")
        config.hydra.run.dir = str(folder)


class WatchSweep(Callback):
    """Hydra callback that checks all runs of a sweep before the first, shows them, lets signals stop them, and ends."""

    runs = 0  # of the sweep, where that is known

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Exit if the folder holds another sweep, or runs can never work, or if the sweep cannot be watched.

        Hydra only warns of what callbacks raise.
        """
        try:
            report_user_errors(self._start)(config)
        except Exception:
            traceback.print_exc()
            raise SystemExit(EXIT_BUG) from None

    def _start(self, config: DictConfig) -> None:
        loader, folder = cast(ConfigLoaderImpl, GlobalHydra.instance().config_loader()), Path(config.hydra.sweep.dir)
        if storage := OmegaConf.select(config, "hydra.sweeper.storage"):
            written = OmegaConf.to_container(config.hydra.sweeper)
            refuse_password(str(storage), str(cast("dict[str, Any]", written)["storage"]))
        refuse_other_sweep(folder, sys.argv[1:])
        with suppress(HydraException, OmegaConfBaseException):  # Hydra finds it again, and it is reported in words
            self.runs = refuse_invalid(loader, config, check_run)
        record_sweep(folder, sys.argv[1:])
        self.handlers = stop_at_signals(folder)
        self.progress = SweepProgress(folder, lines=True)
        self.progress.start()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # launchers pickle callbacks for their workers, where no sweep starts or ends

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Show the results and say how many runs finished; exit if others did not, or if that cannot be shown.

        Hydra only warns of what callbacks raise.
        """
        try:
            try:
                print(self.progress.finish(), flush=True)
            finally:
                for number, handler in self.handlers.items():
                    signal.signal(number, handler)
                end_of_sweep(Path(config.hydra.sweep.dir), self.runs)
        except Exception as error:
            if not isinstance(error, BrokenPipeError):  # which `main` answers
                traceback.print_exc()
            raise SystemExit(EXIT_BUG) from None
