"""Loggers of Lightning with names and groups of a sweep's runs: W&B and MLflow."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from pytorch_lightning.loggers import MLFlowLogger, WandbLogger

PLACES = ("hydra", "logger", "threads", "cache", "name", "experiment", "resume")  # what no run is about
LONGEST_NAME = 120


def wandb_logger(
    folder: str,
    project: str,
    name: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> WandbLogger:
    """Lightning's logger of Weights & Biases.

    Args:
        folder: of the run; its files go to `wandb` in it.
        project: of W&B.
        name: of the run; by default its overrides, see `run_name`.
        group: of the run; by default the sweep that it is a part of, see `sweep_name`.
        tags: of the run.
        overrides: of the configuration, `KEY=VALUE` each.
    """
    group = group or sweep_name(Path(folder)) or None
    name = name or run_name(Path(folder), overrides)
    logger = WandbLogger(project=project, name=name, group=group, tags=list(tags), save_dir=folder)
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
    """Lightning's logger of MLflow.

    Args:
        folder: of the run.
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
    return MLFlowLogger(
        experiment_name=project,
        run_name=name or run_name(Path(folder), overrides),
        tracking_uri=server or f"sqlite:///{Path(folder) / 'mlflow.db'}",
        tags={**dict.fromkeys(tags, "true"), **({"group": group} if group else {})},
        artifact_location=None if server else str(Path(folder) / "mlflow"),
    )


def run_name(folder: Path, overrides: Sequence[str]) -> str:
    """Name of a run: its overrides without places, such as `loss=triplet seed=1`, or else the name of its folder."""
    told = [one for one in overrides if one.lstrip("+~").partition("=")[0].partition(".")[0] not in PLACES]
    name = " ".join(one for one in told if "/" not in one.partition("=")[2])
    return name[:LONGEST_NAME] or folder.name


def sweep_name(folder: Path) -> str:
    """Name of the sweep that a run's folder is a part of, such as `demo/2025-01-31_12-00-00`; "" for a single run."""
    sweep = folder.resolve().parent
    return f"{sweep.parent.name}/{sweep.name}" if (sweep / "multirun.yaml").is_file() else ""
