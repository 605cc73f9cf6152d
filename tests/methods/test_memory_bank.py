"""Instance discrimination and PIRL against loops over single numbers in float64."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from siamese_verify.errors import InputError
from siamese_verify.methods import PIRL, InstanceDiscrimination, MemoryBank, jigsaw, pirl_nce_loss
from siamese_verify.training import VerificationModule
from tests.methods.small_methods import IMAGES, gradients, small_encoder, take_steps, trained_by, views_of

pytestmark = pytest.mark.filterwarnings("ignore:You are trying to `self.log")
ROWS = (3, 17, 8, 0)


def drawn_in(module: VerificationModule, count: int) -> list[int]:
    return torch.randint(IMAGES, (count,), generator=module.generator()).tolist()


def raw(encoder: Any) -> Any:
    encoder = copy.deepcopy(encoder)
    encoder.normalize = False
    return encoder


def dot(a: Tensor, b: Tensor) -> float:
    return math.fsum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))


@pytest.mark.parametrize("negatives", [5, None])
def test_instance_discrimination_is_the_papers_loss_with_its_bank_and_constant(negatives: int | None) -> None:
    encoder = small_encoder()
    method = InstanceDiscrimination(encoder, IMAGES, 6, negatives, temperature=0.2, momentum=0.3, proximal=0.7)
    module = trained_by(method, encoder)
    bank = [row.clone() for row in method.bank.vectors]
    normalizer = math.nan
    for index in range(3):
        batch = views_of(ROWS, 1, seed=index)
        module._index = index
        with torch.no_grad():
            embeddings = F.normalize(method.head(raw(encoder)(batch.images)))
        drawn = drawn_in(module, negatives or 0)
        if index == 0 and negatives:
            found = [math.exp(dot(bank[k], f) / 0.2) for f in embeddings for k in drawn]
            normalizer = IMAGES * sum(found) / len(found)
        losses = []
        for row, f in zip(ROWS, embeddings, strict=True):
            own = math.exp(dot(bank[row], f) / 0.2)
            if negatives:
                noise = negatives / IMAGES
                loss = -math.log(own / normalizer / (own / normalizer + noise))
                for k in drawn:
                    other = math.exp(dot(bank[k], f) / 0.2) / normalizer
                    loss -= math.log(1 - other / (other + noise))
            else:
                loss = -math.log(own / sum(math.exp(dot(v, f) / 0.2) for v in bank))
            losses.append(loss + 0.7 * sum((a - b) ** 2 for a, b in zip(f.tolist(), bank[row].tolist(), strict=True)))
        assert module.training_step(batch, index).item() == pytest.approx(sum(losses) / len(ROWS), rel=0, abs=1e-10)
        for row, f in zip(ROWS, embeddings, strict=True):
            moved = 0.3 * bank[row] + 0.7 * f
            bank[row] = moved / math.sqrt(dot(moved, moved))
        torch.testing.assert_close(method.bank.vectors, torch.stack(bank), rtol=0, atol=1e-12)
    if negatives:
        assert method.log_normalizer == pytest.approx(math.log(normalizer), abs=1e-12)


def test_pirl_is_the_papers_loss_over_image_and_patches() -> None:
    encoder = small_encoder()
    method = PIRL(encoder, IMAGES, 6, 25, temperature=0.4, momentum=0.3, weight=0.3, grid=2)
    module, batch = trained_by(method, encoder), views_of(ROWS)
    bank, other = method.bank.vectors, raw(encoder)
    generator = module.generator()
    numbers = torch.rand(len(ROWS), 4, 3, generator=generator)
    drawn = torch.randint(IMAGES, (25,), generator=generator).tolist()
    assert set(drawn) & set(ROWS), "some are no negatives of their own image"
    whole, cut = batch.images.chunk(2)
    with torch.no_grad():
        image = F.normalize(method.image_head(other(whole)))
        patches = jigsaw(cut, 2, numbers)
        parts = [method.patch_head(other(patches[:, number])) for number in range(4)]
        pretext = F.normalize(method.jigsaw_head(torch.cat(parts, dim=1)))

    def nce(query: Tensor, row: int) -> float:
        noise = [math.exp(dot(query, bank[k]) / 0.4) for k in drawn if k != row]
        own = math.exp(dot(query, bank[row]) / 0.4)
        loss = -math.log(own / (own + sum(noise)))
        return loss - sum(math.log(1 - one / (one + sum(noise))) for one in noise)

    expected = sum(0.3 * nce(g, row) + 0.7 * nce(f, row) for row, f, g in zip(ROWS, image, pretext, strict=True)) / len(
        ROWS
    )
    assert module.training_step(batch, 0).item() == pytest.approx(expected, rel=0, abs=1e-10)
    moved = F.normalize(0.3 * bank[list(ROWS)] + 0.7 * image)
    torch.testing.assert_close(method.bank.vectors[list(ROWS)], moved, rtol=0, atol=1e-12)


def test_every_weight_of_pirl_and_instance_discrimination_learns() -> None:
    for make in (lambda e: PIRL(e, IMAGES, 6, 9, grid=2), lambda e: InstanceDiscrimination(e, IMAGES, 6, 9)):
        encoder = small_encoder()
        method: Any = make(encoder)
        module = trained_by(method, encoder)
        module.training_step(views_of(ROWS, method.views[0]), 0).backward()  # type: ignore[no-untyped-call]
        found = gradients(module)
        assert {name for name, _ in module.named_parameters()} == found.keys()
        assert min(float(one.abs().max()) for one in found.values()) > 1e-6


def test_absent_negatives_and_large_logits_leave_the_loss_of_pirl_finite() -> None:
    positive = torch.tensor([3.0, 80.0, -80.0], dtype=torch.float64, requires_grad=True)
    negatives = torch.tensor([[1.0, -torch.inf], [90.0, 2.0], [90.0, 2.0]], dtype=torch.float64, requires_grad=True)
    losses = pirl_nce_loss(positive, negatives)
    assert losses[0].item() == pytest.approx(-math.log(math.exp(3) / (math.exp(3) + math.exp(1))) + math.log(2))
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert negatives.grad is not None and negatives.grad.isfinite().all()
    assert negatives.grad[0, 1] == 0


def test_patches_are_of_each_cell_once_in_the_order_of_the_numbers() -> None:
    side, grid = 12, 3
    image = torch.arange(side * side, dtype=torch.float32).view(1, 1, side, side).repeat(2, 3, 1, 1)
    numbers = torch.rand(2, 9, 3, generator=torch.Generator().manual_seed(0))
    patches = jigsaw(image, grid, numbers)
    assert patches.shape == (2, 9, 3, side, side)
    for n in range(2):
        for place, cell in enumerate(numbers[n, :, 0].argsort().tolist()):
            top, left = (int(u * 2) for u in numbers[n, place, 1:])  # 3 of 4 pixels: two places each
            y, x = cell // grid * 4 + top, cell % grid * 4 + left
            small = image[n : n + 1, :, y : y + 3, x : x + 3]
            expected = F.interpolate(small, (side, side), mode="bilinear", align_corners=False)[0]
            torch.testing.assert_close(patches[n, place], expected)
        values = [int(value) for value in patches[n, :, 0, 0, 0]]
        assert {value // side // 4 * 3 + value % side // 4 for value in values} == set(range(9))


def test_a_bank_is_restored_as_it_was_and_refuses_one_of_another_size() -> None:
    bank, other = MemoryBank(7, 3).double(), MemoryBank(7, 3).double()
    bank.update(torch.tensor([2, 5]), F.normalize(torch.ones(2, 3, dtype=torch.float64)))
    other.load_state_dict(bank.state_dict())
    assert torch.equal(other.vectors, bank.vectors)
    assert bank.vectors.norm(dim=1).tolist() == pytest.approx([1] * 7, abs=1e-6)
    with pytest.raises(InputError, match=r"has the shape \(7, 3\), not \(8, 3\)"):
        MemoryBank(8, 3).load_state_dict(bank.state_dict())
    for wrong in ((0, 3), (4, 0)):
        with pytest.raises(InputError, match="A memory bank has 1 or more images"):
            MemoryBank(*wrong)


def test_the_last_embedding_of_an_image_counts() -> None:
    torch.manual_seed(0)
    bank = MemoryBank(9, 4, momentum=0.3).double()
    before, saved = bank.vectors, bank.get_extra_state()["vectors"]
    rows, embeddings = torch.tensor([5, 2, 5, 0, 2, 5]), F.normalize(torch.randn(6, 4, dtype=torch.float64))
    bank.update(rows, embeddings)
    expected = before.clone()
    for row, given in ((0, 3), (2, 4), (5, 5)):
        expected[row] = F.normalize(0.3 * before[row] + 0.7 * embeddings[given], dim=0)
    torch.testing.assert_close(bank.vectors, expected, rtol=0, atol=1e-15)
    assert torch.equal(saved, before), "what was read stays as it was"


def test_pirl_refuses_what_is_no_image() -> None:
    with pytest.raises(InputError, match="PIRL cuts images into 4 x 4 patches, but the encoder takes"):
        PIRL(small_encoder(), IMAGES, grid=4)


def test_cached_chunks_embed_patches_too() -> None:
    found = []
    for chunk in (None, 3):
        encoder = small_encoder()
        module = trained_by(PIRL(encoder, IMAGES, 6, 9, grid=2), encoder, cached_chunk=chunk)
        found.append(take_steps(module, [views_of(ROWS), views_of(ROWS, seed=1)]))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-12)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=1e-12)
