"""From the losses of single items to one number, with a defined value where there are no items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, ParamSpec, TypeVar, get_args

import torch
from torch import Tensor, nn

from siamese_verify.errors import InputError
from siamese_verify.pairwise import Batch, both_ways, check_batch, each_once
from siamese_verify.pairwise.blocks import Items, Totals
from siamese_verify.structures import Pairs, Triplets

Reduction = Literal["mean", "mean_active", "sum", "none"]


def check_reduction(reduction: str) -> None:
    """Refuse a reduction that does not exist.

    Raises:
        InputError: naming the ones that do.
    """
    if reduction not in get_args(Reduction):
        raise InputError(f"reduction is {reduction!r}, but must be one of {', '.join(get_args(Reduction))}.")


def add_up(items: Items) -> Totals:
    """Sum and count losses; there may be none."""
    return Totals(items.loss.sum(), len(items.loss), torch.count_nonzero(items.active))


def reduce_totals(totals: Totals, reduction: Reduction) -> Tensor:
    """Reduce what was summed already; `none` has no meaning here. See `reduce_items`."""
    total, count, active = totals
    if reduction == "sum":
        return total
    divisor = count if reduction == "mean" else active
    return total / (divisor.clamp(min=1) if isinstance(divisor, Tensor) else max(divisor, 1))


def reduce_items(items: Tensor, reduction: Reduction = "mean", active: Tensor | None = None) -> Tensor:
    """Reduce the losses of single items.

    Args:
        items: (M,) losses, >= 0; M may be 0.
        reduction: `mean` over all items, `mean_active` over those above zero, `sum`, or `none`: the items themselves.
        active: (M,) bool, which are above zero before rounding; None asks the items themselves.

    Returns:
        A scalar, or (M,) for `none`. Without items, or without active ones, it is 0 with a gradient of 0 that is still
        connected to the embeddings: `backward()` and the hooks of distributed training run as on any other step.

    Raises:
        InputError: unknown reduction.
    """
    check_reduction(reduction)
    if reduction == "none":
        return items
    return reduce_totals(add_up(Items.of(items) if active is None else Items(items, active)), reduction)


def fraction_nonzero(totals: Totals) -> Tensor:
    """Share of the items that still teach something.

    Returns:
        Scalar in [0, 1] without gradient: items above zero over all items; 0 without items. It stays on the device,
        so that logging it does not wait for a GPU.
    """
    total, count, active = totals
    share = torch.as_tensor(active, device=total.device) / torch.as_tensor(count, device=total.device).clamp(min=1)
    return share.detach()


P = ParamSpec("P")
R = TypeVar("R")


class DirectedPairs(Pairs):
    """Pairs that count for their anchor only, as another library's miners give them: it chose for each anchor anew."""


Mined = Pairs | Triplets | Sequence[Tensor] | None


class Measured(NamedTuple):
    """One evaluation of an objective."""

    loss: Tensor  # scalar to descend
    fraction_nonzero: Tensor  # scalar in [0, 1] without gradient: items above zero over all items


class BatchObjective(nn.Module):
    """An objective made of items (pairs, triplets, rows), each with a loss of its own.

    A subclass defines `list_items`, and `add_up_all` if it can sum over everything without listing it.

    Args:
        reduction: `mean` over all items, `mean_active` over those above zero, `sum`, or `none`.

    Attributes:
        takes: what miners and samplers may choose for it: `Pairs`, `Triplets`, both or neither.
        instead: what to do in place of anything else.
        takes_references: whether rows of a memory can be partners.
        needs_rivals: whether an anchor chooses among several partners; pairs that are fed one by one teach it nothing.

    Raises:
        InputError: unknown reduction.
    """

    takes: tuple[type[Pairs | Triplets], ...] = (Pairs, Triplets)
    instead = "set miner=none"
    takes_references = True
    needs_rivals = False

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_reduction(reduction)
        self.reduction = reduction

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        tuples: Mined = None,
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
    ) -> Tensor:
        """Compute the reduced loss.

        Args:
            embeddings: (B, D) floating point; half and bfloat16 are computed in float32, also under autocast.
            labels: (B,) identities, of any integer type.
            tuples: rows to compare; None compares everything the objective can, without listing it. What the miners of
                pytorch-metric-learning return is understood too: three vectors are triplets, four are the anchors and
                positives of genuine pairs, then the anchors and negatives of impostor pairs. Where an objective looks
                at anchors, `Pairs` count for both rows, and such four vectors, which name a pair for each of its
                anchors, for the anchor alone; a pair that is named twice counts once.
            references: (R, D) further embeddings, such as a memory of past batches. They are partners, positives and
                negatives of the embeddings, but never anchors; `tuples` numbers them from B on.
            reference_labels: (R,) their identities.

        Returns:
            A scalar in the type of the embeddings, or (M,) items for the reduction `none`.

        Raises:
            InputError: embeddings that are not (B, D) floating point; labels that are not (B,) integers; references
                that don't fit; `tuples` of a kind the objective can't use, or with lengths that differ; on a CPU also
                NaN or infinite embeddings (a GPU would have to be waited for).
        """
        if self.reduction == "none":
            return self.items(embeddings, labels, tuples, references, reference_labels).to(embeddings.dtype)
        totals = self._add_up(embeddings, labels, tuples, references, reference_labels)
        return reduce_totals(totals, self.reduction).to(embeddings.dtype)

    def measure(
        self,
        embeddings: Tensor,
        labels: Tensor,
        tuples: Mined = None,
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
    ) -> Measured:
        """Compute the loss and the share of active items at once; arguments and errors as in `forward`."""
        totals = self._add_up(embeddings, labels, tuples, references, reference_labels)
        return Measured(reduce_totals(totals, self.reduction).to(embeddings.dtype), fraction_nonzero(totals))

    def _add_up(
        self,
        embeddings: Tensor,
        labels: Tensor,
        tuples: Mined,
        references: Tensor | None,
        reference_labels: Tensor | None,
    ) -> Totals:
        batch = check_batch(embeddings, labels, references, reference_labels)
        chosen = read_tuples(tuples)
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.add_up_all(batch) if chosen is None else add_up(self.list_items(batch, chosen))

    def items(
        self,
        embeddings: Tensor,
        labels: Tensor,
        tuples: Mined = None,
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of every item, unreduced; arguments and errors as in `forward`.

        Returns:
            (M,) losses, >= 0, in the type they were computed in: float32, or float64 for float64 embeddings. M may be
            0.
        """
        batch = check_batch(embeddings, labels, references, reference_labels)
        chosen = read_tuples(tuples)
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.list_items(batch, chosen).loss

    def list_items(self, batch: Batch, tuples: Pairs | Triplets | None) -> Items:
        """Compute M items from checked arguments."""
        raise NotImplementedError

    def add_up_all(self, batch: Batch) -> Totals:
        """Sum over everything the objective can compare."""
        return add_up(self.list_items(batch, None))


def read_tuples(tuples: Mined) -> Pairs | Triplets | None:
    """Refuse what says not which rows to compare; see `BatchObjective.forward`."""
    if tuples is None:
        return None
    known = isinstance(tuples, Pairs | Triplets)
    if not known and not (isinstance(tuples, tuple) and len(tuples) in (3, 4)):
        raise InputError(
            f"tuples must be Pairs, Triplets, None, or the three or four vectors of another library's miner, but is of "
            f"type {type(tuples).__name__}."
        )
    shapes = [tuple(field.shape) for field in tuples]
    halves = [shapes] if len(tuples) == 3 else [shapes[:2], shapes[2:]]
    if any(len(half[0]) != 1 or len(set(half)) != 1 for half in halves):
        name = type(tuples).__name__ if known else "tuples"
        raise InputError(f"the fields of {name} must be vectors of one length, but have shapes {shapes}.")
    if isinstance(tuples, Pairs | Triplets):
        return tuples
    if len(tuples) == 3:
        return Triplets(*tuples)
    genuine, impostors = tuples[:2], tuples[2:]
    same = torch.arange(len(genuine[0]) + len(impostors[0]), device=genuine[0].device) < len(genuine[0])
    anchor, other = map(torch.cat, zip(genuine, impostors, strict=True))
    return DirectedPairs(anchor, other, same)


def kind_of(miner: object) -> type[Pairs | Triplets] | None:
    """What a miner of ours or of pytorch-metric-learning chooses; None = there is no telling before it is called."""
    if isinstance(miner, nn.Module) and type(miner).__module__.startswith("pytorch_metric_learning."):
        with torch.random.fork_rng(devices=[]):
            tuples = read_tuples(miner(torch.randn(8, 8), torch.arange(8) // 2))
        return type(tuples) if tuples is not None else None
    kind: type[Pairs | Triplets] | None = getattr(miner, "gives", None)
    return kind


def refuse_miner(loss: type[nn.Module], miner: object) -> None:
    """Refuse a miner whose choice a loss cannot use; a loss of another library says so itself.

    Raises:
        InputError: naming both.
    """
    taken, kind = getattr(loss, "takes", None), kind_of(miner)
    if taken is None or kind is None or issubclass(kind, taken):
        return
    given = "pairs" if issubclass(kind, Pairs) else "triplets"
    way_out = getattr(loss, "instead", "set miner=none")
    raise InputError(f"{loss.__name__} takes no {given}, which {type(miner).__name__} chooses: {way_out}.")


def by_anchor(batch: Batch, tuples: Pairs) -> Pairs:
    """What each anchor is compared with, each once: pairs count for both rows, directed ones for their anchor."""
    if isinstance(tuples, DirectedPairs):
        return each_once(tuples._replace(same=tuples.same.bool()))
    return both_ways(tuples, len(batch.labels))


def pairs_of_triplets(triplets: Triplets) -> Pairs:
    """Take T triplets apart into 2T pairs: (anchor, positive) genuine, then (anchor, negative) impostor."""
    genuine = torch.ones_like(triplets.anchor, dtype=torch.bool)
    return Pairs(
        anchor=torch.cat([triplets.anchor, triplets.anchor]),
        other=torch.cat([triplets.positive, triplets.negative]),
        same=torch.cat([genuine, ~genuine]),
    )


def listed_pairs(batch: Batch, tuples: Pairs | Triplets | None) -> Pairs:
    """The pairs that were tuples, or all: ordered by i, then j > i; references come last of each i."""
    if isinstance(tuples, Triplets):
        return pairs_of_triplets(tuples)
    if tuples is not None:
        return tuples._replace(same=tuples.same.bool())
    labels, columns = batch.labels, batch.candidate_labels
    anchor, other = torch.triu_indices(len(labels), len(columns), offset=1, device=labels.device)
    return Pairs(anchor, other, labels[anchor] == columns[other])
