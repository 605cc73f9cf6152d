"""The LightningModule, its callbacks, and the files of a run."""

from siamese_verify.training.callbacks import BestCheckpoint, CollapseMonitor, RefreshHardNegatives, ReseedEachBatch
from siamese_verify.training.distributed import gather_batch
from siamese_verify.training.log_figures import publish_report
from siamese_verify.training.module import VerificationModule, one_cycle
from siamese_verify.training.run_files import AtomicCheckpoints, MetricsFile

__all__ = [
    "AtomicCheckpoints",
    "BestCheckpoint",
    "CollapseMonitor",
    "MetricsFile",
    "RefreshHardNegatives",
    "ReseedEachBatch",
    "VerificationModule",
    "gather_batch",
    "one_cycle",
    "publish_report",
]
