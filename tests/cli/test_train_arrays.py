"""What is no photo goes the same way: data module, training, evaluation, bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

from siamese_verify.cli.evaluate import evaluate
from siamese_verify.datasets import pack_side
from siamese_verify.errors import InputError
from siamese_verify.models import load_model, open_bundle
from siamese_verify.run_record import RunRecord
from siamese_verify.structures import InputSpec
from siamese_verify.verification import Verifier

Trained = Callable[..., Path]
QUICK = ("data=arrays", "augmentation=none", "threads=1", "trainer.max_epochs=2", "encoder.embedding_size=8")
BATCHES = ("sampler.identities_per_batch=4", "sampler.samples_per_identity=4")


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Gray digits of 8 x 8 pixels, laid out as MNIST's are: (N,1,8,8) uint8."""
    from sklearn.datasets import load_digits

    inputs, labels = load_digits(return_X_y=True)
    return (inputs[:300] * 15.9).astype(np.uint8).reshape(-1, 1, 8, 8), labels[:300]


def noisy(shape: tuple[int, ...], people: int = 12, samples: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """A random array of each person, with noise."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(people), samples)
    own = rng.normal(size=(people, *shape))
    return (own[labels] + 0.5 * rng.normal(size=(len(labels), *shape))).astype(np.float32), labels


SETS = {
    "gray": (digits, "array_resnet encoder.shape=[1,8,8] encoder.dtype=uint8 encoder.std=255"),
    "vectors": (lambda: noisy((20,)), "perceptron encoder.shape=[20] encoder.widths=[16]"),
    "spectrograms": (lambda: noisy((1, 64, 100)), "array_resnet encoder.shape=[1,64,100]"),
}


@pytest.mark.parametrize("name", SETS)
def test_arrays_are_trained_measured_bundled_and_embedded(
    name: str,
    trained: Trained,
    configured: Callable[..., DictConfig],
    tmp_path: Path,
) -> None:
    make, encoder = SETS[name]
    inputs, labels = make()
    np.savez(tmp_path / "set.npz", inputs=inputs, labels=labels)
    small = ("encoder.width=8",) if "resnet" in encoder else ()
    settings = (*QUICK, *BATCHES, f"data.path='{tmp_path / 'set.npz'}'", *small, *f"encoder={encoder}".split())
    run = trained(tmp_path / "run", *settings)
    (tested,) = RunRecord.read(run).test.values()
    assert evaluate(configured("evaluate", tmp_path / "again", f"model='{run}'", "threads=1"), tmp_path / "again") == (
        pytest.approx(tested["eer"])
    )
    assert (run / "report" / "errors.png").is_file()
    assert tested["eer"] < 0.45 or name != "gray"

    model = load_model(run)
    assert model.metadata.input_spec.shape == inputs.shape[1:]
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(model.encoder(torch.from_numpy(inputs[:9]))).numpy()
    for engine in ("onnx", "torch"):
        verifier = Verifier.load(run, engine=engine)
        assert verifier.embed_arrays(inputs[:9]) == pytest.approx(expected, abs=1e-4)
    with pytest.raises(InputError, match=r"takes arrays of .* got float64"):
        Verifier.load(run, engine="torch").embed_arrays(np.zeros((2, 3)))
    photo = Image.new("RGB", (50, 50))
    with pytest.raises(InputError, match=r"takes arrays of shape .* not photos: use embed_arrays"):
        Verifier.load(run, engine="torch").verify(photo, photo, threshold=0.5)


def test_two_towers_learn_which_arrays_belong_together(trained: Trained, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(80, 3))  # what both kinds show of an item, each in its own way
    left = (hidden @ rng.normal(size=(3, 6)) + 0.05 * rng.normal(size=(80, 6))).astype(np.float32)
    right = (hidden @ rng.normal(size=(3, 10)) + 0.05 * rng.normal(size=(80, 10))).astype(np.float32).reshape(80, 2, 5)
    np.savez(tmp_path / "pairs.npz", left=left, right=right)
    towers = ("encoder=towers", "encoder.left.shape=[6]", "encoder.right.shape=[2,5]", "loss=info_nce")
    small = [f"encoder.{side}.{size}" for side in ("left", "right") for size in ("widths=[32]", "embedding_size=8")]
    pairs = ("data=array_pairs", f"data.path='{tmp_path / 'pairs.npz'}'", "sampler.samples_per_identity=2")
    steps = ("sampler.identities_per_batch=16", "trainer.max_epochs=30", "trainer.check_val_every_n_epoch=10")
    quick = ("augmentation=none", "threads=1", "optimizer.lr=1e-2", "protocol.share=0.2")
    run = trained(tmp_path / "run", *towers, *small, *pairs, *steps, *quick)
    (tested,) = RunRecord.read(run).test.values()
    assert tested["eer"] < 0.25, "items that were not trained on; 0.5 for unrelated embeddings"

    model = load_model(run)
    inputs = np.stack([pack_side(left[0], False, 10), pack_side(right[0], True, 10), pack_side(right[1], True, 10)])
    with torch.inference_mode():
        expected = model.encoder(torch.from_numpy(inputs)).numpy()
        alone = list(model.encoder.backbone.children())[1](torch.from_numpy(right[:2])).numpy()
    assert expected[1:] == pytest.approx(alone, abs=1e-5)
    assert Verifier.load(run).embed_arrays(inputs) == pytest.approx(expected, abs=1e-4)


def test_a_module_of_others_takes_arrays(fitted: Trained, tmp_path: Path) -> None:
    inputs, labels = noisy((2, 5))
    np.savez(tmp_path / "set.npz", inputs=inputs, labels=labels)
    module = ("encoder=module", "encoder._target_=torch.nn.Flatten", "+encoder.shape=[2,5]", "encoder.size=null")
    settings = ("encoder.crop=null", "loss=arc_face", *(one for one in QUICK if "embedding_size" not in one), *BATCHES)
    run = fitted(tmp_path / "run", *module, *settings, f"data.path='{tmp_path / 'set.npz'}'")
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["state_dict"]["loss.weights"].shape[1] == 10


def test_what_does_not_fit_is_refused_in_words(fitted: Trained, tmp_path: Path) -> None:
    inputs, labels = noisy((20,))
    path = tmp_path / "set.npz"
    np.savez(path, inputs=inputs, labels=labels)
    encoder = ("encoder=perceptron", "encoder.shape=[20]", "encoder.widths=[16]")
    settings = (*QUICK, *BATCHES, f"data.path='{path}'")
    with pytest.raises(InputError, match=r"encoder takes arrays of shape \(21,\), .* one of shape \(20,\)"):
        fitted(tmp_path / "a", *settings, *encoder, "encoder.shape=[21]")
    with pytest.raises(InputError, match=r"FaceAugmentation takes .* set augmentation=none"):
        fitted(tmp_path / "b", *settings, *encoder, "augmentation=default")
    with pytest.raises(InputError, match=r"takes arrays of shape .*, but the data set gives photos"):
        photos = ("data=synthetic", "data.photos.identities=12", "data.photos.images=4", "protocol=held_out")
        fitted(tmp_path / "c", *settings[1:-1], *encoder, *photos)
    inputs[3, 0] = np.nan
    np.savez(path, inputs=inputs, labels=labels)
    with pytest.raises(InputError, match="numbers that are not finite"):
        fitted(tmp_path / "d", *settings, *encoder, "datamodule.max_damaged=0")


def test_bundles_of_before_have_photos(tiny_run: Path) -> None:
    spec = open_bundle(tiny_run / "bundle").metadata.input_spec
    earlier = {"size": 32, "mean": [127.5] * 3, "std": [127.5] * 3, "crop": {"kind": "whole", "margin": 6.0}}
    assert InputSpec.from_dict(earlier) == spec
    assert (spec.shape, spec.dtype, spec.is_photo) == ((3, 32, 32), "uint8", True)
