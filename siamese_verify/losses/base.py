"""Base class of losses over labeled batches, and the reduction of their items."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from siamese_verify.errors import InputError
from siamese_verify.pairwise import Batch, Totals, both_directions, check_batch, without_duplicates
from siamese_verify.pairwise.blocks import number_on, without_autocast
from siamese_verify.structures import Pairs, Triplets

Reduction = Literal["mean", "mean_nonzero", "sum", "none"]
Tuples = Pairs | Triplets | Sequence[Tensor] | None


class Items(NamedTuple):
    """Losses of single pairs, triplets or rows."""

    loss: Tensor  # (M,) >= 0
    nonzero: Tensor  # (M,) bool, whether a loss is above zero, even where it rounds to it

    @classmethod
    def from_losses(cls, loss: Tensor) -> Items:
        """Items that are above zero where their losses are."""
        return cls(loss, loss.detach() > 0)


class MeasuredLoss(NamedTuple):
    """Value of a loss, and how many items still contribute to it."""

    loss: Tensor  # scalar
    fraction_nonzero: Tensor  # scalar in [0, 1] without gradient: items above zero over all items


class BatchLoss(nn.Module):
    """Base class of losses over labeled batches, made of items: pairs, triplets or rows with a loss each.

    A subclass defines `list_items`, and `sum_all` if it can sum over everything without listing it.

    Args:
        reduction: `mean` over all items, `mean_nonzero` over those above zero, `sum`, or `none`: the items themselves.

    Attributes:
        takes: what it accepts as tuples: `Pairs`, `Triplets`, both or neither.
        instead: what a user can do who has other tuples.
        takes_references: whether it compares with rows of a memory.
        needs_negatives: whether an anchor is compared with several others at once. Then `Pairs` count in both
            directions, and pairs that a sampler gives one by one teach nothing.
        compares_rows: whether rows are compared with each other. If not, as in a softmax over identities, ranks that
            share a batch keep their rows to themselves: nothing is gathered, and `list_items` gets this rank's rows.

    Raises:
        InputError: unknown reduction.
    """

    takes: tuple[type[Pairs | Triplets], ...] = (Pairs, Triplets)
    instead = "set miner=none"
    takes_references = True
    needs_negatives = False
    compares_rows = True

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_reduction(reduction)
        self.reduction = reduction

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        tuples: Tuples = None,
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
        own: slice | None = None,
    ) -> Tensor:
        """Reduced loss of a batch.

        Args:
            embeddings: (B, D) floating point; half and bfloat16 are computed in float32, also under autocast.
            labels: (B,) identities, of any integer type.
            tuples: rows to compare; None compares everything, without listing it. The tuples of
                pytorch-metric-learning's miners are accepted too: three vectors are triplets; four are the anchors and
                positives of genuine pairs, then the anchors and negatives of impostor pairs. Where an anchor is
                compared with several others, `Pairs` count in both directions and such four vectors as they are;
                there a pair that is named twice counts once.
            references: (R, D) further embeddings, such as a memory of past batches. They are positives and negatives,
                never anchors; `tuples` numbers them from B on.
            reference_labels: (R,) their identities.
            own: rows of this rank where ranks share the batch, see `siamese_verify.training.gather_batch`. The items
                of its own anchors are computed here, and reduced with those of all ranks; tuples with other ranks'
                anchors are left to them. The gradient is `world_size` times that of these items, as
                DistributedDataParallel averages over ranks. None computes everything.

        Returns:
            A scalar in the type of the embeddings, or (M,) items for the reduction `none`. Without items it is 0 with
            a gradient of 0 that is connected to the embeddings, so that distributed training goes on.

        Raises:
            InputError: embeddings, labels or references of other shapes or types; tuples it does not take, or of
                lengths that differ; on a CPU also NaN or infinite embeddings (a GPU would have to be waited for).
        """
        if self.reduction == "none":
            return self.items(embeddings, labels, tuples, references, reference_labels, own).to(embeddings.dtype)
        totals = self._totals(embeddings, labels, tuples, references, reference_labels, own)
        return reduce_totals(totals, self.reduction).to(embeddings.dtype)

    def measure(
        self,
        embeddings: Tensor,
        labels: Tensor,
        tuples: Tuples = None,
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
        own: slice | None = None,
    ) -> MeasuredLoss:
        """Reduced loss and fraction of nonzero items; arguments and errors as in `forward`."""
        totals = self._totals(embeddings, labels, tuples, references, reference_labels, own)
        return MeasuredLoss(reduce_totals(totals, self.reduction).to(embeddings.dtype), fraction_nonzero(totals))

    def items(
        self,
        embeddings: Tensor,
        labels: Tensor,
        tuples: Tuples = None,
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
        own: slice | None = None,
    ) -> Tensor:
        """Losses of all items, or of this rank's, unreduced; arguments and errors as in `forward`.

        Returns:
            (M,) losses, >= 0, float32, or float64 for float64 embeddings.
        """
        batch, chosen = self._check(check_batch(embeddings, labels, references, reference_labels, own), tuples)
        with without_autocast(embeddings.device):
            return self.list_items(batch, chosen).loss

    def list_items(self, batch: Batch, tuples: Pairs | Triplets | None) -> Items:
        """Losses of M items of a validated batch; None lists all items of `batch.anchors`."""
        raise NotImplementedError

    def sum_all(self, batch: Batch) -> Totals:
        """Sum over everything that the loss compares, or over this rank's share of it."""
        return sum_items(self.list_items(batch, None))

    def _totals(
        self,
        embeddings: Tensor,
        labels: Tensor,
        tuples: Tuples,
        references: Tensor | None,
        reference_labels: Tensor | None,
        own: slice | None,
    ) -> Totals:
        batch, chosen = self._check(check_batch(embeddings, labels, references, reference_labels, own), tuples)
        with without_autocast(embeddings.device):
            totals = self.sum_all(batch) if chosen is None else sum_items(self.list_items(batch, chosen))
            return totals if own is None else totals.over_ranks()

    def _check(self, batch: Batch, tuples: Tuples) -> tuple[Batch, Pairs | Triplets | None]:
        name = type(self).__name__
        chosen = read_tuples(tuples, len(batch.labels) if self.needs_negatives else None)
        if chosen is not None and not isinstance(chosen, self.takes):
            kind = type(chosen).__name__.lower()
            raise InputError(f"{name} takes no {kind}, but was given {len(chosen.anchor)}: {self.instead}.")
        if len(batch.references) and not self.takes_references:
            raise InputError(
                f"{name} has no use for a memory, but was given {len(batch.references)} references: leave them out."
            )
        if not self.compares_rows:
            rows = batch.anchors
            return batch._replace(embeddings=batch.embeddings[rows], labels=batch.labels[rows], own=None), chosen
        return batch, own_tuples(batch, chosen, directed=self.needs_negatives)


def check_reduction(reduction: str) -> None:
    """Raise InputError for an unknown reduction."""
    if reduction not in get_args(Reduction):
        raise InputError(f"reduction is {reduction!r}, but must be one of {', '.join(get_args(Reduction))}.")


def reduce_items(items: Tensor, reduction: Reduction = "mean", nonzero: Tensor | None = None) -> Tensor:
    """Reduce (M,) losses >= 0 to a scalar; see `BatchLoss`.

    Args:
        items: (M,) losses; M may be 0.
        reduction: `mean`, `mean_nonzero`, `sum`, or `none`, which returns the items.
        nonzero: (M,) bool, which are above zero before rounding; None asks the items.

    Raises:
        InputError: unknown reduction.
    """
    check_reduction(reduction)
    if reduction == "none":
        return items
    return reduce_totals(sum_items(Items.from_losses(items) if nonzero is None else Items(items, nonzero)), reduction)


def sum_items(items: Items) -> Totals:
    """Sum and numbers of listed items; there may be none."""
    return Totals(items.loss.sum(), len(items.loss), torch.count_nonzero(items.nonzero))


def reduce_totals(totals: Totals, reduction: Reduction) -> Tensor:
    """Reduce sums as `reduce_items` does the items."""
    if reduction == "sum":
        return totals.total
    divisor = totals.items if reduction == "mean" else totals.nonzero
    return totals.total / (divisor.clamp(min=1) if isinstance(divisor, Tensor) else max(divisor, 1))


def fraction_nonzero(totals: Totals) -> Tensor:
    """Items above zero over all items, 0 without items: a scalar that stays on the device."""
    nonzero, count = (number_on(totals.total.device, number) for number in (totals.nonzero, totals.items))
    return (nonzero / count.clamp(min=1)).detach()


def read_tuples(tuples: Tuples, anchors: int | None = None) -> Pairs | Triplets | None:
    """Convert tuples of ours or of pytorch-metric-learning; see `BatchLoss.forward`.

    Args:
        tuples: what a miner or sampler returned.
        anchors: B, to return pairs as each anchor is compared with them: `Pairs` in both directions, those of four
            vectors as they are, each once. None returns pairs as they come.
    """
    if tuples is None:
        return None
    if not isinstance(tuples, tuple) or len(tuples) not in (3, 4):
        raise InputError(
            f"tuples must be Pairs, Triplets, None, or three or four vectors of a miner of pytorch-metric-learning, "
            f"but is of type {type(tuples).__name__}."
        )
    shapes = [tuple(field.shape) for field in tuples]
    for half in [shapes] if len(tuples) == 3 else [shapes[:2], shapes[2:]]:
        if len(half[0]) != 1 or len(set(half)) != 1:
            raise InputError(f"tuples must be vectors of one length, but have shapes {shapes}.")
    if len(tuples) == 4:
        genuine, impostors = tuples[:2], tuples[2:]
        same = torch.arange(len(genuine[0]) + len(impostors[0]), device=genuine[0].device) < len(genuine[0])
        anchor, other = map(torch.cat, zip(genuine, impostors, strict=True))
        pairs = Pairs(anchor, other, same)
        return pairs if anchors is None else without_duplicates(pairs)
    if isinstance(tuples, Pairs):
        return tuples._replace(same=tuples.same.bool()) if anchors is None else both_directions(tuples, anchors)
    return Triplets(*tuples)


def listed_pairs(batch: Batch, tuples: Pairs | Triplets | None) -> Pairs:
    """Pairs as given; 2T pairs of T triplets, genuine ones first; of None all, ordered by i, then j > i."""
    if isinstance(tuples, Pairs):
        return tuples
    if tuples is not None:
        genuine = torch.ones_like(tuples.anchor, dtype=torch.bool)
        other = torch.cat([tuples.positive, tuples.negative])
        return Pairs(torch.cat([tuples.anchor, tuples.anchor]), other, torch.cat([genuine, ~genuine]))
    labels, columns = batch.labels, batch.candidate_labels
    anchor, other = torch.triu_indices(len(labels), len(columns), offset=1, device=labels.device)
    pairs = own_tuples(batch, Pairs(anchor, other, labels[anchor] == columns[other]))
    assert isinstance(pairs, Pairs)
    return pairs


def own_tuples(batch: Batch, tuples: Pairs | Triplets | None, directed: bool = False) -> Pairs | Triplets | None:
    """Those of the tuples that this rank computes: each is exactly one rank's.

    Args:
        batch: and which of its rows are this rank's.
        tuples: all of the batch, or at least all that this rank's rows are part of.
        directed: whether pairs belong to their anchor, as triplets do. Otherwise, so that ranks have equally many, a
            pair belongs to its other row if the numbers of both are even or odd.
    """
    own = batch.anchors
    if tuples is None or own == slice(0, len(batch.labels)):
        return tuples
    row = tuples.anchor
    if isinstance(tuples, Pairs) and not directed:
        alike = (tuples.anchor + tuples.other) % 2 == 0
        row = torch.where(
            alike & (tuples.other < len(batch.labels)),
            torch.maximum(row, tuples.other),
            torch.minimum(row, tuples.other),
        )
    chosen = ((row >= own.start) & (row < own.stop)).nonzero().flatten()
    return type(tuples)(*(field.index_select(0, chosen) for field in tuples))


def refuse_miner(loss: type[nn.Module], miner: object) -> None:
    """Raise InputError for a miner whose tuples a loss does not take; losses of other libraries say so themselves."""
    taken, kind = taken_tuples(loss), kind_of(miner)
    if taken is None or kind is None or issubclass(kind, taken):
        return
    instead = getattr(loss, "instead", "set miner=none")
    raise InputError(
        f"{loss.__name__} takes no {kind.__name__.lower()}, which {type(miner).__name__} chooses: {instead}."
    )


def taken_tuples(loss: Any) -> tuple[type[Pairs | Triplets], ...] | None:
    """What a loss, or its class, accepts as tuples; None for a loss of others that takes some, which is not asked.

    Raises:
        InputError: a loss of others can be called neither as `loss(embeddings, labels)` nor with tuples as well.
    """
    own: tuple[type[Pairs | Triplets], ...] | None = getattr(loss, "takes", None)
    kind = loss if inspect.isclass(loss) else type(loss)
    makes_loss = inspect.isroutine(loss) and not inspect.isclass(loss)  # a function of the configuration
    if own is not None or makes_loss or hasattr(kind, "measure"):
        return own
    signature = inspect.signature(getattr(kind, "forward", kind.__call__))
    for tuples, taken in (((None,), None), ((), ())):
        try:
            signature.bind(loss, None, None, *tuples)
            return taken
        except TypeError:
            continue
    names = ", ".join([*signature.parameters][1:]) or "nothing"
    raise InputError(
        f"{kind.__name__} takes {names}, but training gives a loss embeddings and labels, and tuples if it takes three "
        "arguments: give further ones a default."
    )


def kind_of(miner: object) -> type[Pairs | Triplets] | None:
    """What a miner of ours or of pytorch-metric-learning chooses; None if that is not known before it is called."""
    if isinstance(miner, nn.Module) and type(miner).__module__.startswith("pytorch_metric_learning."):
        with torch.random.fork_rng(devices=[]):
            return Pairs if len(miner(torch.randn(8, 8), torch.arange(8) // 2)) == 4 else Triplets
    kind: type[Pairs | Triplets] | None = getattr(miner, "gives", None)
    return kind
