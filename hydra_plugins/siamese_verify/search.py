"""`hydra/sweeper=optuna`, where Hydra looks for sweepers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from siamese_verify.errors import InputError
from siamese_verify.sweeps.sweep_task import SweepTask


class OptunaSweeper(Sweeper):
    """Sweeper whose trials Optuna proposes.

    Args:
        settings: see `SearchSettings` of `siamese_verify.sweeps.optuna_sweeper`.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra passes, and make the launcher."""
        from hydra.core.plugins import Plugins

        self.hydra_context, self.config, self.task = hydra_context, config, task_function
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        """Run the trials that are left; return what the launcher returned for each batch of them."""
        try:
            from siamese_verify.sweeps.optuna_sweeper import SearchSettings, search
        except ModuleNotFoundError as error:
            if error.name != "optuna":
                raise
            message = "hydra/sweeper=optuna needs Optuna, which is not installed: pip install 'siamese-verify[optuna]'."
            raise InputError(message) from None
        assert self.config is not None and self.hydra_context is not None and self.launcher is not None  # by setup
        if not isinstance(self.task, SweepTask):
            raise InputError("hydra/sweeper=optuna searches over trainings only: set hydra/sweeper=basic.")
        settings = SearchSettings(**self.settings)
        return search(settings, self.config, self.hydra_context, self.launcher, self.task, arguments)
