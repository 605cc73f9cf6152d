"""The LightningModule, its callbacks, and the files of a run."""

from siamese_verify.training.callbacks import (
    BestCheckpoint,
    CollapseMonitor,
    MovingWeightAveraging,
    RefreshHardNegatives,
    ReseedEachBatch,
)
from siamese_verify.training.distributed import gather_batch
from siamese_verify.training.log_figures import publish_report
from siamese_verify.training.loggers import mlflow_logger, wandb_logger
from siamese_verify.training.module import VerificationModule, one_cycle
from siamese_verify.training.monitoring import EpochBar, StepMetrics, without_unhelpful_warnings
from siamese_verify.training.run_files import AtomicCheckpoints, MetricsFile
from siamese_verify.training.validation_pictures import ValidationPictures

__all__ = [
    "AtomicCheckpoints",
    "BestCheckpoint",
    "CollapseMonitor",
    "EpochBar",
    "MetricsFile",
    "MovingWeightAveraging",
    "RefreshHardNegatives",
    "ReseedEachBatch",
    "StepMetrics",
    "ValidationPictures",
    "VerificationModule",
    "gather_batch",
    "mlflow_logger",
    "one_cycle",
    "publish_report",
    "wandb_logger",
    "without_unhelpful_warnings",
]
