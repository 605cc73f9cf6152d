"""Commands that run on a configuration which Hydra composes from the command line."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import DictConfig

from siamese_verify.cli.configuration import CONF, GROUP_VALUE, override_error
from siamese_verify.cli.user_errors import EXIT_USER_ERROR, library_of, report_user_errors
from siamese_verify.errors import InputError
from siamese_verify.run_lock import TRAINING
from siamese_verify.run_record import RECORD

R = TypeVar("R")


def hydra_command(
    name: str, task: Callable[..., Any] | None = None
) -> Callable[[Callable[[DictConfig], R]], Callable[[], R]]:
    """Decorate a command that runs on the configuration `name`, composed by Hydra from the command line.

    Args:
        name: of the configuration.
        task: makes what Hydra's launchers call of the command, such as `SweepTask`; None for the command itself.
    """
    import hydra
    from hydra._internal.utils import get_args_parser

    def decorate(main: Callable[[DictConfig], R]) -> Callable[[], R]:
        # Reported inside as well: there the configuration is known, and a missing value is named by its setting.
        reported = discard_failed(report_user_errors(main))
        run = hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(
            task(reported) if task else reported
        )

        @report_user_errors
        def compose_and_run() -> R:
            try:
                return cast(R, run())
            except Exception as error:
                if isinstance(error, ValueError) and str(error).startswith("Only one of --run"):  # of Hydra itself
                    raise InputError("-m, --cfg and --info go one at a time: leave out all but one.") from None
                if library_of(error) not in ("hydra", "omegaconf") and not str(error).startswith(GROUP_VALUE):
                    raise
                given = get_args_parser().parse_args(sys.argv[1:])
                added = [f"hydra.searchpath=['file://{Path(given.config_dir).resolve()}']"] if given.config_dir else []
                raise InputError(override_error(error, name, given.overrides, added)) from None

        return compose_and_run

    return decorate


def discard_failed(main: Callable[[DictConfig], R]) -> Callable[[DictConfig], R]:
    """Decorate a command: of a mistake that ends it before it has left anything, no folder named by the time remains.

    A folder that the command line names keeps the record of the failure, and so does a run of a sweep.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    @wraps(main)
    def run(cfg: DictConfig) -> R:
        try:
            return main(cfg)
        except SystemExit as end:
            hydra = HydraConfig.get()
            named = hydra.mode != RunMode.RUN or any("hydra.run.dir=" in one for one in hydra.overrides.hydra)
            if end.code == EXIT_USER_ERROR and hydra.output_subdir and not named:
                folder = Path(hydra.runtime.output_dir)
                if {path.name for path in folder.iterdir()} <= {
                    *(hydra.output_subdir, RECORD, TRAINING, f"{hydra.job.name}.log")
                }:
                    shutil.rmtree(folder, ignore_errors=True)
                    with suppress(OSError, ValueError):  # not empty, or elsewhere
                        for parent in folder.relative_to(Path.cwd()).parents[:-1]:
                            parent.rmdir()
            raise

    return run
