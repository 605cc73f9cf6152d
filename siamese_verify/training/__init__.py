"""LightningModule, schedules and callbacks: steps and logging only."""

from siamese_verify.training.callbacks import BestCheckpoint, CollapseMonitor, RefreshHardNegatives, ReseedEachBatch
from siamese_verify.training.gather import gather_batch
from siamese_verify.training.module import VerificationModule
from siamese_verify.training.publish import publish_report
from siamese_verify.training.run_files import MetricsFile, WholeCheckpoints
from siamese_verify.training.schedule import cosine, one_cycle

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
