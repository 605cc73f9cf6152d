"""The LightningModule: encoder, miner and loss in one training step, and validation on all pairs."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from siamese_verify.encoders import Encoder
from siamese_verify.errors import InputError
from siamese_verify.evaluation import VerificationReport
from siamese_verify.losses.base import refuse_miner
from siamese_verify.methods import Method
from siamese_verify.pairwise.blocks import number_on
from siamese_verify.pairwise.ranks import world_size
from siamese_verify.structures import FaceBatch, Pairs, Triplets
from siamese_verify.training.chunks import batch_norms, embed_in_chunks
from siamese_verify.training.layer_rates import RateGroup, freeze_layers, rate_groups
from siamese_verify.training.log_figures import publish_validation
from siamese_verify.training.loss_over_ranks import Miner, loss_over_ranks
from siamese_verify.training.partial_weights import RowSteps, clip_shards, gather_shards, take_shard
from siamese_verify.training.validation import measure_validation

log = logging.getLogger(__name__)
DISTANCES_EVERY = 10  # steps
DISTANCE_ROWS = 1024  # of a rank, at most: half a million distances


class VerificationModule(pl.LightningModule):
    """Training of a Siamese network: one encoder, run over all images of a batch; the twins are rows of the batch.

    Args:
        encoder: (N,3,S,S) uint8 images -> (N,D) embeddings. For a loss that `needs_norms` it stops normalizing them.
        loss: called as `loss(embeddings, labels, tuples)`; its parameters are trained too. Losses of others get tuples
            as the miners of pytorch-metric-learning return them, and are called as `loss(embeddings, labels)` if they
            take no third argument; they return one number. None for a method with its own objective.
        miner: chooses tuples for batches without; None leaves all of them to the loss.
        optimizer: makes the optimizer from parameter groups; on a GPU fused, if it takes `fused`.
        scheduler: makes the scheduler from the optimizer and the number of steps; None keeps the learning rate.
        configuration: composed config of the run, saved in every checkpoint and sent to the logger.
        cached_chunk: images whose activations are held at once, see `embed_in_chunks`; None holds the whole batch's.
        freeze_batch_norm: batch norms use their running statistics in training too and leave them as they are; their
            weights are trained.
        method: how to learn without labels, or with a few; None learns from the labels by the loss. Its heads get
            embeddings before they are normalized.
        frozen_layers: how many of the encoder's layers, from the lowest, or names of those that keep their weights and
            the running statistics of their batch norms, see `siamese_verify.encoders.list_layers`.
        layer_decay: factor of the learning rate from a layer to the one below, in (0, 1]; None for one rate.
        compile_encoder: run the encoder as torch.compile makes it while fitting, or by this backend of it; weights keep
            their names.

    Raises:
        InputError: a loss without a reduction, one that cannot use the miner's tuples, or one that reads lengths that
            the encoder does not give; a method that cannot use the loss or miner; a chunk below 1; layers that do not
            exist, or nothing to train; when fitting, a schedule without an end, or another one than that of the resumed
            run.

    Attributes:
        validation: report of the last validation; its operating points are saved in the checkpoint, as thresholds of
            the model.
    """

    def __init__(
        self,
        encoder: nn.Module,
        loss: nn.Module | None,
        miner: Miner | None,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[[Optimizer, int], LRScheduler] | None = None,
        configuration: dict[str, Any] | None = None,
        cached_chunk: int | None = None,
        freeze_batch_norm: bool = False,
        method: Method | None = None,
        frozen_layers: int | Sequence[str | int] = 0,
        layer_decay: float | None = None,
        compile_encoder: bool | str = False,
    ) -> None:
        super().__init__()
        if cached_chunk is not None and not (isinstance(cached_chunk, int) and cached_chunk >= 1):
            raise InputError(f"cached_chunk is {cached_chunk}, but is a whole number of images, 1 or more, or null.")
        if cached_chunk in (1, 2) and not freeze_batch_norm and batch_norms(encoder):
            raise InputError(
                f"cached_chunk is {cached_chunk}, but batch norm needs two images or more in each chunk: set 3 or "
                "more, or trainer.freeze_batch_norm=true."
            )
        if not isinstance(freeze_batch_norm, bool):
            raise InputError(f"freeze_batch_norm is {freeze_batch_norm!r}, but is true or false.")
        if getattr(loss, "reduction", "") == "none":
            raise InputError("Training needs a scalar loss, but loss.reduction is none: set it to mean.")
        if method is not None:
            method.check(None if loss is None else type(loss), miner)
        elif loss is None:
            raise InputError("Learning from labels needs a loss: set one, such as loss=triplet, or a method.")
        if loss is not None:
            refuse_miner(type(loss), miner)
        needs_norms = getattr(loss, "needs_norms", False)
        if needs_norms and getattr(encoder, "always_normalizes", False):
            raise InputError(
                f"{type(loss).__name__} reads the length of embeddings, but {type(encoder).__name__} always gives "
                "length 1: set another loss, such as loss=arc_face, or another encoder."
            )
        self.save_hyperparameters(configuration or {})
        self.encoder = encoder
        self.loss = loss
        self.miner = miner
        self.method = method
        self.seed = int((configuration or {}).get("seed", 0))
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.validation: VerificationReport | None = None
        self._planned_steps: float | None = None
        self._validation_rows: list[tuple[Tensor, Tensor]] = []
        self.cached_chunk, self.freeze_batch_norm, self.layer_decay = cached_chunk, freeze_batch_norm, layer_decay
        self.compile_encoder = compile_encoder
        self._frozen_norms = freeze_layers(encoder, frozen_layers)
        self._rate_groups()
        self.train(self.training)
        for part in self.modules() if needs_norms or method is not None else ():
            if isinstance(part, Encoder):
                part.normalize = False  # in training; the encoder of a bundle does what its configuration says
        self._row_steps = RowSteps()
        self._index = 0  # of the step within its epoch

    def train(self, mode: bool = True) -> VerificationModule:
        """Set training or evaluation mode; frozen batch norms stay in the latter."""
        super().train(mode)
        # By name: Lightning's sync_batchnorm replaces the modules.
        frozen = [self.encoder.get_submodule(name) for name in self._frozen_norms]
        for norm in batch_norms(self.encoder) if self.freeze_batch_norm else frozen:
            norm.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Embed (N,3,S,S) images."""
        embeddings: Tensor = self.encoder(images)
        return embeddings

    def training_step(self, batch: FaceBatch, index: int) -> Tensor:
        """Return the loss of all ranks' batches together."""
        self._index = index
        if self.method is None:
            loss = self.compare(self.embed(batch.images), batch.labels, batch.tuples)
        else:
            loss = self.method.step(batch, self)
        self.log("train/loss", loss, prog_bar=True, on_step=True, on_epoch=False, batch_size=len(batch.images))
        return loss

    def embed(self, images: Tensor) -> Tensor:
        """(N,D) embeddings of N images, a chunk at a time; their distances are logged now and then."""
        embeddings = embed_in_chunks(self.encoder, images, self.cached_chunk or max(1, len(images)))
        if self.logs_figures:
            rows = embeddings.detach().float()
            rows = rows[:: -(-len(rows) // DISTANCE_ROWS) or 1]  # of very large batches some
            given = getattr(self.loss, "needs_norms", False) or self.method is not None  # before normalization
            distance = torch.pdist(F.normalize(rows) if given else rows)  # (N(N-1)/2,)
            self.log("train/distance_mean", distance.mean())
            self.log("train/distance_spread", distance.std())
        return embeddings

    def compare(
        self,
        embeddings: Tensor,
        labels: Tensor,
        tuples: Pairs | Triplets | None = None,
        *,
        loss: nn.Module | None = None,
    ) -> Tensor:
        """Return the loss of the rows of all ranks together, see `loss_over_ranks`.

        Args:
            embeddings: (N,D) of this rank.
            labels: (N,) identities, or numbers of images.
            tuples: of these rows; None lets the miner choose.
            loss: another one than the configured, over everything; its figures are not logged.

        Raises:
            InputError: pairs, for a loss that compares an anchor with many others at once.
        """
        compared: Any = self.loss if loss is None else loss
        if isinstance(tuples, Pairs) and getattr(compared, "needs_negatives", False):
            raise InputError(
                f"{type(compared).__name__} compares an anchor with many others at once, but the sampler gives single "
                "pairs: set sampler=identity, or loss=contrastive."
            )
        if self.method is not None and not getattr(compared, "needs_norms", False):
            embeddings = F.normalize(embeddings)
        # All ranks must draw the same, and a resumed run what the uninterrupted one would have drawn.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self._seed_of_step)
            miner = self.miner if loss is None else None
            value, fraction_nonzero = loss_over_ranks(compared, miner, embeddings, labels, tuples)
        if self.logs_figures and loss is None and fraction_nonzero is not None:
            self.log("train/fraction_nonzero", fraction_nonzero)
        return value

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Log a figure, as Lightning does; numbers are brought to the device without waiting for it."""
        figure = number_on(self.device, value, torch.get_default_dtype()) if isinstance(value, int | float) else value
        super().log(name, figure, *args, **kwargs)

    def generator(self) -> torch.Generator:
        """Random numbers of this step: on all ranks the same, and in a resumed run those of the uninterrupted one."""
        return torch.Generator().manual_seed(self._seed_of_step)

    @property
    def _seed_of_step(self) -> int:
        return hash((self.seed, self.current_epoch, self._index)) % 2**63

    @property
    def logs_figures(self) -> bool:
        """Whether this step logs figures that take time."""
        return (self.global_step + 1) % DISTANCES_EVERY == 0

    def validation_step(self, batch: FaceBatch, _: int) -> Tensor:
        """Embed a batch of validation photos; callbacks get the (N,D) embeddings."""
        embeddings: Tensor = self(batch.images)
        self._validation_rows.append((F.normalize(embeddings.float()).cpu(), batch.labels.cpu()))
        return embeddings

    def on_validation_epoch_end(self) -> None:
        """Score all pairs of the validation photos of all ranks; log error rates and measures of the embeddings."""
        embeddings = torch.cat([rows for rows, _ in self._validation_rows])  # (V,D) of this rank
        labels = torch.cat([rows for _, rows in self._validation_rows])  # (V,)
        self._validation_rows.clear()
        self.validation, figures = measure_validation(embeddings, labels, self.global_rank)
        for name, value in figures.items():
            self.log(name, value, prog_bar=name == "val/eer")
        if self.trainer.is_global_zero and not self.trainer.sanity_checking:
            for logger in self.loggers:
                publish_validation(logger, self.validation, self.global_step)

    @property
    def shard(self) -> nn.Parameter | None:
        """This rank's rows of weights that ranks share, which are no parameter of DistributedDataParallel's."""
        weights: nn.Parameter | None = getattr(self.loss, "weights", None)
        return weights if getattr(self.loss, "sharded", False) and world_size() > 1 else None

    def setup(self, stage: str) -> None:
        """Keep this rank's share of the loss's weights, before they are moved to the device or loaded."""
        if stage == "fit" and self.compile_encoder:
            self.encoder.compile(backend="inductor" if self.compile_encoder is True else self.compile_encoder)
        loss: Any = self.loss
        if stage == "fit" and hasattr(loss, "shard"):
            loss.shard()
            if loss.sharded or loss.sample_rate < 1:  # which in several processes means sharded
                self._ddp_params_and_buffers_to_ignore = ["loss.weights"]

    def teardown(self, stage: str) -> None:
        """Leave an encoder that is not compiled, which can be exported."""
        self.encoder._compiled_call_impl = None

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Show the optimizer the rows of sampled identities."""
        self._row_steps.narrow(optimizer)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip gradients by their norm over all ranks' weights, or by value."""
        if self.shard is None or not gradient_clip_val or gradient_clip_algorithm == "value":
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
        else:
            trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            clip_shards(trained, self.shard, gradient_clip_val)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and put the rows of sampled identities back among the others, even if interrupted."""
        try:
            super().optimizer_step(*args, **kwargs)
        finally:
            self._row_steps.widen()
        if self.method is not None:
            steps = self.trainer.estimated_stepping_batches  # infinite for a training without an end
            self.method.after_step(self.encoder, (self.global_step + 1) / steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the last validation with the weights that it measured."""
        checkpoint["validation"] = self.validation.to_metadata() if self.validation else None
        checkpoint["steps"] = self.trainer.estimated_stepping_batches
        checkpoint["processes"] = self.trainer.world_size
        if self.shard is not None:
            gather_shards(checkpoint, "loss.weights", self._position(self.shard))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the number of steps that the resumed run was planned for."""
        self._planned_steps = checkpoint.get("steps")
        before, now = checkpoint.get("processes", 0), self.trainer.world_size
        if before not in (0, now):
            log.warning(
                "The run goes on with %d processes instead of %d, so that a joined batch has other rows: to train as "
                "before, set trainer.devices and trainer.num_nodes.",
                now,
                before,
            )
        if self.shard is not None:
            first = int(getattr(self.loss, "first", 0))
            own = slice(first, first + len(self.shard))
            take_shard(checkpoint, "loss.weights", self._position(self.shard), own)

    def on_train_batch_start(self, batch: FaceBatch, batch_idx: int) -> None:
        """Drop the last validation, which measured other weights."""
        self.validation = None

    def _rate_groups(self) -> list[RateGroup]:
        own = {id(parameter) for parameter in self.encoder.parameters()}
        others = [parameter for parameter in self.parameters() if id(parameter) not in own]
        return rate_groups(self.encoder, others, self.layer_decay)

    def _fused(self, groups: Sequence[RateGroup]) -> dict[str, bool]:
        """`fused=True` for an optimizer of torch on a GPU that is not told otherwise: one kernel for all weights."""
        on_gpu = all(parameter.is_cuda for group in groups for parameter in group.parameters)
        argument = inspect.signature(self.make_optimizer).parameters.get("fused")
        return {"fused": True} if on_gpu and argument is not None and argument.default is None else {}

    def _position(self, matrix: nn.Parameter) -> int:
        """Number of a matrix in the optimizer's state."""
        trained = [parameter for group in self._rate_groups() for parameter in group.parameters]
        return next(number for number, one in enumerate(trained) if one is matrix)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make optimizer and schedule; weights of matrices and kernels decay, biases, norms and slopes do not."""
        groups = self._rate_groups()
        settings: list[dict[str, Any]] = [{} if group.decays else {"weight_decay": 0.0} for group in groups]
        trained = [{"params": group.parameters, **more} for group, more in zip(groups, settings, strict=True)]
        optimizer = self.make_optimizer(trained, **self._fused(groups))
        if getattr(optimizer, "_step_supports_amp_scaling", False):  # Lightning would not clip, whatever the precision
            optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        for made, group in zip(optimizer.param_groups, groups, strict=True):
            made["lr"] *= group.scale
        method = self.method if self.method is not None and self.method.scheduled else None
        if self.make_scheduler is None and (method is None or self._planned_steps is None):
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        if self.make_scheduler is not None and not math.isfinite(steps):
            raise InputError("A schedule needs an end: set trainer.max_epochs, or scheduler=constant.")
        if self._planned_steps not in (None, steps):
            what = "its schedule" if method is None else f"the momentum schedule of {type(method).__name__}"
            others = ", or train with scheduler=constant" if method is None else ""
            raise InputError(
                f"The run was planned for {self._planned_steps} steps and would now have {steps}: {what} cannot be "
                f"stretched, so resume with the same trainer.max_epochs{others}."
            )
        if self.make_scheduler is None:
            return optimizer
        scheduler = self.make_scheduler(optimizer, int(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def one_cycle(optimizer: Optimizer, steps: int, warmup: float = 0.1) -> LRScheduler:
    """Rise to the optimizer's learning rate over a share `warmup` of the steps, then fall to zero by a cosine.

    Smith & Topin, "Super-Convergence", 2018, with constant momentum.
    """
    warmup = warmup if warmup * steps > 1 else 0.0  # OneCycleLR divides by zero where the rise is a single step
    rates = [group["lr"] for group in optimizer.param_groups]
    return OneCycleLR(optimizer, rates, total_steps=steps, pct_start=warmup, cycle_momentum=False)
