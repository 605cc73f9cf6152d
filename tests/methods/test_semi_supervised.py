"""Semi-supervised learning: which labels are used, what is sampled, and pseudo-labels against a naive loop."""

from __future__ import annotations

import copy
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_metric_learning import losses
from torch.nn import functional as F

from siamese_verify.data import FaceDataModule
from siamese_verify.datasets import FolderPhotos, SyntheticFaces
from siamese_verify.errors import InputError
from siamese_verify.losses import ArcFaceLoss, NTXentLoss, TripletLoss
from siamese_verify.methods import SemiSupervised
from siamese_verify.samplers import IdentityBatchSampler, SemiSupervisedSampler
from siamese_verify.structures import Crop, FaceBatch, InputSpec
from tests.cli.conftest import save_faces
from tests.methods.small_methods import small_encoder, trained_by, views_of

pytestmark = pytest.mark.filterwarnings("ignore:You are trying to `self.log")
SEMI = partial(SemiSupervisedSampler, identities_per_batch=2, samples_per_identity=2, images=6)


def data_of(sampler: Any = SEMI, **settings: Any) -> FaceDataModule:
    photos = SyntheticFaces(identities=20, images=5, size=16)
    settings = {"validation_share": 0.2, "multi_view": 2, **settings}
    data = FaceDataModule(photos, InputSpec(16, crop=Crop("whole")), sampler, **settings)
    data.setup()
    return data


def test_a_batch_is_of_labeled_identities_and_then_of_images_without_labels() -> None:
    data = data_of(unlabeled=True, labeled_identities=5, labeled_samples=3)
    assert data.num_identities == 5
    assert len(data.people) == 16
    assert len(data.labeled_rows) == 15
    seen: list[int] = []
    for batch in data.train_dataloader():
        assert batch.rows is not None and batch.labeled is not None
        assert batch.labeled.tolist() == [True] * 4 + [False] * 6
        assert len(batch.images) == 20
        assert batch.labels.tolist() == data.train_set.labels[batch.rows].tolist() * 2  # type: ignore[union-attr]
        assert max(batch.labels[:4]) < 5, "labeled identities are numbered first"
        names = data.photos.identities[data.split.train[batch.rows.numpy()]]
        assert data.people[batch.labels[:10].numpy()].tolist() == names.tolist()
        seen += batch.rows[4:].tolist()
    assert len(seen) == 66  # 65 images, and one twice in the last batch
    assert len(set(seen)) == 80 - 15


def test_the_choice_of_labels_goes_by_split_seed_and_grows() -> None:
    def labeled(**settings: Any) -> set[int]:
        return set(data_of(unlabeled=True, **settings).labeled_rows.tolist())

    few = labeled(labeled_identities=3)
    assert len(few) == 15
    assert few < labeled(labeled_identities=6)
    assert few == labeled(labeled_identities=3, seed=9)
    assert few != labeled(labeled_identities=3, split_seed=1)
    assert len(labeled(labeled_samples=2)) == 32


def test_without_unlabeled_photos_the_others_are_left_out() -> None:
    sampler = partial(IdentityBatchSampler, identities_per_batch=2, samples_per_identity=2)
    data = data_of(sampler, labeled_identities=4, labeled_samples=2)
    assert data.split.train.tolist() == data.labeled_rows.tolist()
    assert (len(data.train_set or ()), len(data.people)) == (8, 4)
    assert {batch.labeled for batch in data.train_dataloader()} == {None}


def test_photos_of_anyone_are_neither_validated_on_nor_labeled(tmp_path: Path) -> None:
    save_faces(tmp_path, 9, 4, 16)
    (tmp_path / "p03").rename(tmp_path / "of anyone")
    photos, settings = FolderPhotos(tmp_path), {"validation_share": 0.25, "multi_view": 2}
    name = {"unlabeled_identity": "of anyone"}
    sampler = partial(SEMI, images=4)
    data = FaceDataModule(photos, InputSpec(16, crop=Crop("whole")), sampler, unlabeled=True, **name, **settings)  # type: ignore[arg-type]
    data.setup()
    assert photos.people[int(data.people[-1])] == "of anyone"
    assert data.num_identities == 6
    assert "of anyone" not in {photos.people[number] for number in photos.identities[data.split.validation]}
    (batch,) = data.train_dataloader()
    assert batch.labels[:8].tolist()[4:] == [-1] * 4
    assert (batch.labels[:4] >= 0).all()
    assert batch.labeled is not None and batch.labeled.tolist() == [True] * 4 + [False] * 4
    labeled = partial(IdentityBatchSampler, identities_per_batch=2, samples_per_identity=2)
    left_out = FaceDataModule(photos, InputSpec(16, crop=Crop("whole")), labeled, **name, validation_share=0.25)  # type: ignore[arg-type]
    assert len(left_out.split.train) == 24


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"unlabeled_identity": "nobody"}, "The data set has no person nobody: correct"),
        ({"labeled_identities": 17}, r"labeled_identities must be in 2 \.\.\. 16, the training people"),
        ({"labeled_identities": 1}, "Impostor pairs need labeled_identities of 2 or more, got 1"),
        ({"labeled_samples": 1}, "Genuine pairs need labeled_samples of 2 or more, got 1"),
        ({}, "needs images without labels: set datamodule.unlabeled=true"),
        ({"local_views": 2}, "local_views must be 0 or more views by a local_transform of their own, got 2"),
    ],
)
def test_what_cannot_be_labeled_is_refused(settings: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        data_of(unlabeled=True, **settings)


def test_ranks_and_resumed_epochs_have_the_batches_of_one_process() -> None:
    identities = np.where(np.arange(60) % 3 == 0, np.arange(60) % 5, -1)
    whole = list(SEMI(identities))
    parts = [list(SEMI(identities, rank=rank, world_size=2)) for rank in range(2)]
    assert [batch for pair in zip(*parts, strict=True) for batch in pair][: len(whole)] == whole
    resumed = SEMI(identities)
    state = {**SEMI(identities).state_dict(), "start": 3}
    resumed.load_state_dict(state)
    assert list(resumed) == whole[3:]
    resumed.set_epoch(1)
    assert list(resumed) != whole


def semi_batch(rows: tuple[int, ...], labeled: int, seed: int = 0) -> FaceBatch:
    """The first `labeled` rows have a label; the identity of a row is row % 4, and only 3 identities are known."""
    numbers = torch.tensor(rows)
    batch = views_of(rows, seed=seed, labels=(numbers % 4).repeat(2))
    return batch._replace(labeled=torch.arange(len(rows)) < labeled)


def test_losses_and_pseudo_labels_are_those_of_a_loop() -> None:
    encoder = small_encoder()
    loss = TripletLoss(0.5)
    method = SemiSupervised(encoder, 3, threshold=0.6, contrastive_weight=0.3, temperature=0.2, momentum=0.7)
    module = trained_by(method, encoder, loss)
    logged: dict[str, float] = {}
    module.log = lambda name, value, **_: logged.update({name: float(value)})  # type: ignore[method-assign]
    other = copy.deepcopy(encoder)
    other.normalize = False
    centroids: dict[int, Any] = {}
    shares: list[float] = []
    for number in range(3):
        rows = (0, 4, 1, 5, 12, 13, 2, 14, 3, 7, 9) if number else (0, 4, 1, 5, 12, 13, 16, 17, 3, 7, 9)
        batch = semi_batch(rows, 6, seed=number)
        assert method.head is not None
        with torch.no_grad():
            raw = other(batch.images)
            unit = F.normalize(raw)
            projected = method.head(torch.cat([raw[6:11], raw[17:]]))
        for label in {row % 4 for row in rows[:6]}:
            mine = [unit[i] for i in range(22) if i % 11 < 6 and rows[i % 11] % 4 == label]
            mean = sum(mine) / len(mine)
            centroids[label] = mean if label not in centroids else 0.7 * centroids[label] + 0.3 * mean
        taken, labels, right = [*range(6), *range(11, 17)], [row % 4 for row in rows[:6]] * 2, 0
        guesses = {}
        for i in range(6, 11):
            cosines = {k: float(unit[i] @ v / v.norm()) for k, v in centroids.items()}
            total = sum(math.exp(c / 0.2) for c in cosines.values())
            best = max(cosines, key=lambda k: cosines[k])
            if math.exp(cosines[best] / 0.2) / total >= 0.6:
                guesses[i] = best
                right += best == rows[i] % 4
        for view in range(2):
            taken += [i + 11 * view for i in guesses]
            labels += guesses.values()
        expected = loss(unit[taken], torch.tensor(labels))
        expected = expected + 0.3 * NTXentLoss(0.5)(projected, torch.arange(5).repeat(2))
        assert module.training_step(batch, number).item() == pytest.approx(expected.item(), rel=0, abs=1e-10)
        assert logged["train/pseudo_label_share"] == len(guesses) / 5
        shares.append(len(guesses) / 5)
        assert logged.pop("train/pseudo_label_accuracy", 0.0) == right / max(1, len(guesses))
    assert 0 < sum(shares) < 3, "some images are confident, and some are not"
    for label, centroid in centroids.items():
        torch.testing.assert_close(method.centroids[label], centroid, rtol=0, atol=1e-12)
    assert torch.equal(method.centroids[2], torch.zeros(7, dtype=torch.float64)), "never seen"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"threshold": 1.5}, r"threshold is 1\.5, but is a probability"),
        ({"contrastive_weight": 0.0}, "used by contrastive_weight or threshold: set one of them"),
        ({"contrastive": NTXentLoss(0.5, reduction="none")}, "method.contrastive.reduction is none: set it to mean"),
        ({"contrastive": ArcFaceLoss(3, embedding_size=7)}, "which ArcFaceLoss does not: set method.contrastive"),
        ({"contrastive": losses.NTXentLoss()}, "knows those of each process, which NTXentLoss does not"),
    ],
)
def test_settings_without_use_are_refused(settings: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        SemiSupervised(small_encoder(), 3, **settings)
    module = trained_by(SemiSupervised(small_encoder(), 3), small_encoder(), TripletLoss())
    with pytest.raises(InputError, match="SemiSupervised needs images without labels"):
        module.training_step(views_of((1, 2, 3)), 0)
