"""Loggers of Lightning with names and groups of a sweep's runs: W&B and MLflow."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import MLFlowLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from siamese_verify.atomic_write import atomic_write

PLACES = ("hydra", "logger", "threads", "cache", "name", "experiment", "resume")  # what no run is about
LONGEST_NAME = 120
MLFLOW_RUN = "mlflow_run.txt"  # in a run's folder: the id of its run in MLflow


def wandb_logger(
    folder: str,
    project: str,
    name: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> WandbLogger:
    """Lightning's logger of Weights & Biases; a resumed run goes on as the same run there.

    Args:
        folder: of the run; its files go to `wandb` in it, and their names tell a resumed run its id.
        project: of W&B.
        name: of the run; by default its overrides, see `run_name`.
        group: of the run; by default the sweep that it is a part of, see `sweep_name`.
        tags: of the run.
        overrides: of the configuration, `KEY=VALUE` each.
    """
    group = group or sweep_name(Path(folder)) or None
    name = name or run_name(Path(folder), overrides)
    known = [path.name.rpartition("-")[2] for path in sorted(Path(folder, "wandb").glob("*run-*-*"))]
    logger = WandbLogger(
        project=project, name=name, group=group, tags=list(tags), save_dir=folder, id=known[-1] if known else None
    )
    logger._wandb_init.pop("anonymous", None)  # Lightning passes it on, and W&B warns that it means nothing
    return logger


def mlflow_logger(
    folder: str,
    project: str,
    name: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
    overrides: Sequence[str] = (),
    tracking_uri: str | None = None,
) -> MLFlowLogger:
    """Lightning's logger of MLflow; a resumed run goes on as the same run there.

    Args:
        folder: of the run; `MLFLOW_RUN` in it has its id.
        project: MLflow's experiment.
        name: see `wandb_logger`.
        group: likewise; the value of the tag `group`.
        tags: of the run, each with the value `true`.
        overrides: of the configuration, `KEY=VALUE` each.
        tracking_uri: of a server; by default that of MLFLOW_TRACKING_URI, else `mlflow.db` in the folder, an SQLite
            database, because MLflow 3 refuses folders of files.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # or MLflow reports to its makers
    for library in ("mlflow.store.db.utils", "alembic", "pytorch_lightning.loggers.mlflow"):  # of a new database
        logging.getLogger(library).setLevel(logging.ERROR)
    group, server = group or sweep_name(Path(folder)), tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    return ContinuedMLFlowLogger(
        Path(folder),
        experiment_name=project,
        run_name=name or run_name(Path(folder), overrides),
        tracking_uri=server or f"sqlite:///{Path(folder) / 'mlflow.db'}",
        tags={**dict.fromkeys(tags, "true"), **({"group": group} if group else {})},
        artifact_location=None if server else str(Path(folder) / "mlflow"),
    )


class ContinuedMLFlowLogger(MLFlowLogger):
    """Lightning's MLFlowLogger that goes on with the run of an earlier training in the same folder.

    Its settings are not logged again: a resumed run keeps them, and MLflow lets nobody change them.

    Args:
        folder: of the run.
        settings: of MLFlowLogger.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.file = folder / MLFLOW_RUN
        earlier = self.file.read_text(encoding="utf-8").strip() if self.file.is_file() else None
        super().__init__(run_id=earlier, **settings)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """MLflow's client; the first call starts the run, or goes on with it if the server still has it."""
        if self._initialized:
            return super().experiment
        if self._run_id and not self._goes_on(self._run_id):
            self._run_id = None
        self.continued = self._run_id is not None
        client = super().experiment
        if not self.continued:
            atomic_write(self.file, str(self._run_id).encode())
        return client

    def _goes_on(self, run: str) -> bool:
        """Mark a run as running, if the server has it."""
        from mlflow.exceptions import MlflowException

        try:
            if self._mlflow_client.get_run(run).info.lifecycle_stage == "deleted":
                return False
            self._mlflow_client.update_run(run, status="RUNNING")
        except MlflowException:
            return False
        return True

    @rank_zero_only
    def log_hyperparams(self, *arguments: Any, **settings: Any) -> None:
        """Log the settings of a run that is not continued."""
        if self.experiment and not self.continued:
            super().log_hyperparams(*arguments, **settings)


def run_name(folder: Path, overrides: Sequence[str]) -> str:
    """Name of a run: its overrides without places, such as `loss=triplet seed=1`, or else the name of its folder."""
    told = [one for one in overrides if one.lstrip("+~").partition("=")[0].partition(".")[0] not in PLACES]
    name = " ".join(one for one in told if "/" not in one.partition("=")[2])
    return name[:LONGEST_NAME] or folder.name


def sweep_name(folder: Path) -> str:
    """Name of the sweep that a run's folder is a part of, such as `demo/2025-01-31_12-00-00`; "" for a single run."""
    sweep = folder.resolve().parent
    return f"{sweep.parent.name}/{sweep.name}" if (sweep / "multirun.yaml").is_file() else ""
