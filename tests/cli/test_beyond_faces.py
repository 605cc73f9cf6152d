"""The examples of docs/beyond_faces.md: what is no face is trained, measured and used by the same commands."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from siamese_verify.cli.evaluate import evaluate
from siamese_verify.datasets import ItemChoices, ItemRanking, Pedestrians, Sentences, Signatures
from siamese_verify.errors import InputError
from siamese_verify.models import load_model, save_bundle
from siamese_verify.verification import Verifier

Trained = Callable[..., Path]
DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "beyond_faces.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = re.findall(r"^\$ siamese-verify (\w+ .+)$", PAGE, re.MULTILINE)
QUICK = ("threads=1", "trainer.max_epochs=1", "sampler.batches=4", "baseline=null")


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the files that the page shows, from which their modules are imported."""
    folder = tmp_path / "own"
    folder.mkdir()
    for block in BLOCKS:
        if named := re.match(r"# (\w+\.py)\n", block):
            (folder / named[1]).write_text(block, encoding="utf-8")
            monkeypatch.delitem(sys.modules, named[1].removesuffix(".py"), raising=False)
    monkeypatch.syspath_prepend(folder)
    return folder


def metrics(run: Path, name: str = "") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "report" / name / "metrics.json").read_bytes())
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_page_composes(
    command: str, configured: Callable[..., DictConfig], tmp_path: Path
) -> None:
    name, *overrides = shlex.split(command, comments=True)
    cfg = configured(name, tmp_path, *overrides)
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=name == "train")


def test_every_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, code in enumerate(BLOCKS):
        exec(compile(code, f"beyond faces {number}", "exec"), {"__name__": f"example{number}"})


def test_the_pictures_of_the_page_are_those_of_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["draw_beyond_faces.py", str(tmp_path)])
    runpy.run_path(str(DOCS / "draw_beyond_faces.py"))["main"]()
    shown = set(re.findall(r'src="beyond_faces/([^"]+)"', PAGE))
    drawn, kept_ones = ({path.name for path in folder.iterdir()} for folder in (tmp_path, DOCS / "beyond_faces"))
    assert shown == drawn == kept_ones
    for name in shown:
        with Image.open(tmp_path / name) as fresh, Image.open(DOCS / "beyond_faces" / name) as kept:
            assert np.abs(np.asarray(fresh.convert("L"), int) - np.asarray(kept.convert("L"), int)).mean() < 2


def test_signatures_are_verified_by_writer_and_kind_of_forgery(
    trained: Trained, configured: Callable[..., DictConfig], tmp_path: Path
) -> None:
    small = ("data.photos.identities=12", "data.validation.identities=6", "encoder.size=32", "encoder.width=8")
    sizes = [
        f"{part}.photos.{name}"
        for part in ("protocol", "protocols.random", "protocols.unskilled")
        for name in ("identities=5", "samples=3", "forgeries=2")
    ]
    batches = ("sampler.identities_per_batch=8", "sampler.samples_per_identity=3")
    run = trained(tmp_path / "run", "experiment=signatures", *QUICK, *small, *sizes, *batches)
    for name in ("", "random", "unskilled"):
        found = metrics(run, name)
        assert [group["genuine"] for group in found["groups"]] == [3] * 5, "a group for each writer"
        own = [group["eer"] for group in found["groups"]]
        assert found["mean_of_groups"]["eer"] == pytest.approx(np.mean(own))
        assert found["mean_of_groups"]["low"] <= np.mean(own) <= found["mean_of_groups"]["high"]
        assert found["at_threshold"]["threshold"] == load_model(run).metadata.eer_threshold, "of other writers"
    again = configured("evaluate", tmp_path / "again", f"model='{run}'", "threads=1", "resamples=10")
    assert evaluate(again, tmp_path / "again") == pytest.approx(metrics(run)["eer"])
    signatures = Signatures(1, 2)  # photos, as faces are: all that verifies faces verifies them
    assert -1 <= Verifier.load(run).verify(signatures[0], signatures[1], threshold=0.5).score <= 1


def test_speakers_are_verified_by_spectrograms(trained: Trained, tmp_path: Path) -> None:
    small = ("data.photos.identities=24", "data.photos.samples=6", "data.test.photos.identities=8", "encoder.width=8")
    shorter = ("data.photos.seconds=0.5", "encoder.shape=[1,40,47]", "sampler.identities_per_batch=12")
    steps = ("trainer.max_epochs=3", "sampler.batches=10", "datamodule.validation_share=0.2")
    run = trained(tmp_path / "run", "experiment=voices", *QUICK, *small, *shorter, *steps)
    assert metrics(run)["eer"] < 0.4, "0.5 for unrelated embeddings"


def test_people_are_found_again_by_other_cameras_only(trained: Trained, tmp_path: Path) -> None:
    small = ("data.photos.identities=24", "data.photos.samples=6", "data.photos.camera_count=3", "encoder.width=8")
    sizes = (
        "data.photos.size=32",
        "encoder.size=32",
        "data.test.photos.identities=8",
        "sampler.identities_per_batch=8",
    )
    run = trained(tmp_path / "run", "experiment=pedestrians", *QUICK, *small, *sizes, "sampler.identities_per_batch=8")
    found = metrics(run)
    assert (found["queries"], found["gallery"], found["people"]) == (24, 24, 8)
    tested = Pedestrians(8, 6, 3, 32, first=1_000_000)
    embeddings = Verifier.load(run).embed([tested[row] for row in range(48)])
    scores, cameras, splits = embeddings @ embeddings.T, np.array(tested.cameras), np.array(tested.splits)
    precisions = []
    for query in np.flatnonzero(splits == "query"):
        own = tested.identities == tested.identities[query]
        ranked = np.flatnonzero((splits == "gallery") & ~(own & (cameras == cameras[query])))
        hits = own[ranked[np.argsort(-scores[query, ranked], kind="stable")]]
        precisions.append((hits.cumsum() / np.arange(1, len(hits) + 1))[hits].mean())
    assert found["mean_average_precision"] == pytest.approx(np.mean(precisions), abs=1e-3)


def test_products_are_found_among_others_after_a_triplet_loss(trained: Trained, tmp_path: Path) -> None:
    small = ("data.photos.identities=30", "data.photos.samples=6", "data.photos.size=32", "encoder.size=32")
    sizes = ("data.test.photos.identities=10", "encoder.width=8", "sampler.identities_per_batch=8")
    run = trained(tmp_path / "run", "experiment=products", *QUICK, *small, *sizes)
    found = metrics(run)
    assert (found["queries"], found["gallery"], found["people"]) == (80, 79, 10), "all others"
    assert found["recall"]["1"] > 7 / 79, "more than by chance"


def test_what_users_choose_is_ranked_before_what_is_popular(trained: Trained, tmp_path: Path) -> None:
    small = ("data.photos.identities=500", "data.photos.items=200", "data.test.photos.identities=100")
    steps = ("sampler.batches=null", "sampler.identities_per_batch=64", "trainer.max_epochs=5")
    run = trained(tmp_path / "run", "experiment=choices", *QUICK, *small, *steps)
    found = metrics(run)
    assert (found["queries"], found["gallery"]) == (100, 200)
    tested, counts = ItemRanking(100, 200), np.bincount(ItemChoices(500, 4, 200).chosen, minlength=200)
    popular = np.isin(tested.chosen, np.argsort(-counts, kind="stable")[:10]).mean()
    assert 0.05 < popular < found["recall"]["10"]


def test_sentences_are_compared_by_a_network_of_ones_own(own_code: Path, trained: Trained, tmp_path: Path) -> None:
    small = ("data.photos.identities=300", "data.test.photos.identities=60")
    words = ("+encoder.width=32", "sampler.identities_per_batch=64", "sampler.batches=20", "trainer.max_epochs=2")
    run = trained(tmp_path / "run", "experiment=sentences", *QUICK, *small, *words)
    assert metrics(run)["eer"] < 0.3, "0.5 for unrelated embeddings"
    model = load_model(run, trust_code="text_encoder.TextEncoder")
    sentences = np.stack([Sentences(1, 3)[row] for row in range(3)])
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(model.encoder(torch.from_numpy(sentences))).numpy()
    assert Verifier.load(run).embed_arrays(sentences) == pytest.approx(expected, abs=1e-4)
    with pytest.raises(InputError, match=r"takes no random arrays .* use the bundle of its training"):
        save_bundle(tmp_path / "bundle", model)
    save_bundle(tmp_path / "bundle", model, inputs=sentences)


@pytest.mark.filterwarnings("ignore")  # of transformers
def test_a_model_of_sentence_transformers_is_fine_tuned(own_code: Path, trained: Trained, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    sentences = Sentences(60, 3)
    words = ["[PAD]", "[UNK]", *sorted({word for text in sentences.texts for word in text.split()})]
    level = tokenizers.models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(level)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    sizes = {
        "vocab_size": len(words),
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    torch.manual_seed(0)
    for part in (
        fast,
        transformers.BertModel(transformers.BertConfig(max_position_embeddings=32, **sizes)),
    ):
        part.save_pretrained(tmp_path / "bert")
    parts = library.sentence_transformer.modules
    layers = [parts.Transformer(str(tmp_path / "bert")), parts.Pooling(16, "mean")]
    name = str(tmp_path / "model")
    library.SentenceTransformer(modules=layers, device="cpu").save(name)

    own = __import__("sentence_encoder")
    own.write_sentences(tmp_path / "set.npz", name, sentences.texts, sentences.identities, 20)
    tokens = np.load(tmp_path / "set.npz")["inputs"]
    expected = library.SentenceTransformer(name, device="cpu").encode(sentences.texts[:5])
    with torch.inference_mode():
        assert own.SentenceEncoder(name).eval()(torch.from_numpy(tokens[:5])).numpy() == pytest.approx(
            expected, abs=1e-5
        )

    command = next(one for one in COMMANDS if "sentence_encoder" in one)
    overrides = shlex.split(command)[1:]
    given = {"data.path": tmp_path / "set.npz", "+encoder.name": name, "+encoder.shape": "[20]"}
    here = [f"{key}='{given[key]}'" if (key := one.partition("=")[0]) in given else one for one in overrides]
    run = trained(tmp_path / "run", *[one.replace("'[20]'", "[20]") for one in here], *QUICK, "protocol.share=0.2")
    embedded = Verifier.load(run).embed_arrays(tokens[:5])
    with torch.inference_mode():
        model = load_model(run, trust_code="sentence_encoder.SentenceEncoder")
        assert embedded == pytest.approx(model.encoder(torch.from_numpy(tokens[:5])).numpy(), abs=1e-4)
