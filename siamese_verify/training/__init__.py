"""LightningModule, schedules and callbacks: steps and logging only."""

from siamese_verify.training.callbacks import BestCheckpoint, CollapseMonitor, RefreshHardNegatives, ReseedEachBatch
from siamese_verify.training.distributed import gather_batch
from siamese_verify.training.log_figures import publish_report
from siamese_verify.training.module import VerificationModule
from siamese_verify.training.run_files import MetricsFile, WholeCheckpoints
from siamese_verify.training.schedules import cosine, one_cycle

__all__ = [
    "BestCheckpoint",
    "CollapseMonitor",
    "MetricsFile",
    "RefreshHardNegatives",
    "ReseedEachBatch",
    "VerificationModule",
    "WholeCheckpoints",
    "cosine",
    "gather_batch",
    "one_cycle",
    "publish_report",
]
