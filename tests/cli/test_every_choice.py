"""Every file of the configuration composes, and what it names can be made and used."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from siamese_verify.cli.configuration import make_encoder
from siamese_verify.cli.training_checks import check_method, check_module
from siamese_verify.cli.training_parts import compose_trainer
from siamese_verify.cli.user_errors import report_user_errors
from siamese_verify.encoders import Encoder, wrap_module
from siamese_verify.errors import InputError
from siamese_verify.losses import ContrastiveLoss
from siamese_verify.methods import Method
from siamese_verify.miners import HardPairs
from siamese_verify.models import OnnxEngine, TorchEngine, export_network
from siamese_verify.models.engines import embed_crops
from siamese_verify.samplers import UNLABELED
from siamese_verify.structures import Crop, InputSpec, Pairs
from siamese_verify.training import VerificationModule
from siamese_verify.training.loss_over_ranks import pml_tuples
from tests.cli.conftest import CHOICES

Configured = Callable[..., DictConfig]

OWN = "loss=nt_xent ~loss.temperature ~loss.reduction loss._target_=tests.own_networks"
REFUSING = {
    "ada_face",
    "arc_face",
    "cos_face",
    "cross_batch_memory",
    "linear_softmax",
    "mag_face",
    "magnet",
}  # no miner may choose for them
EMBEDDINGS = torch.nn.functional.normalize(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)))
LABELS = torch.arange(4).repeat_interleave(2)


def make_loss(cfg: DictConfig) -> Any:
    return instantiate(cfg.loss, **({"num_identities": 4, "embedding_size": 4} if "num_identities" in cfg.loss else {}))


@pytest.mark.parametrize("experiment", CHOICES["experiment"])
def test_every_experiment_takes_every_loss(experiment: str, configured: Configured, tmp_path: Path) -> None:
    for override in ((), *((f"loss={loss}",) for loss in CHOICES["loss"])):
        cfg = configured("train", tmp_path, f"experiment={experiment}", *override)
        values: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        assert values["name"] == experiment
        miner = instantiate(cfg.miner) if cfg.get("miner") else None
        VerificationModule(torch.nn.Linear(4, 4), make_loss(cfg), miner, torch.optim.SGD)


@pytest.fixture(scope="module")
def chosen(configured: Configured, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any]]:
    """Every miner, and what it chooses of a small batch."""
    made = {}
    for name in CHOICES["miner"]:
        cfg = configured("train", tmp_path_factory.mktemp("miner"), f"miner={name}")
        miner = instantiate(cfg.miner) if cfg.get("miner") else None
        made[name] = miner, miner(EMBEDDINGS, LABELS) if miner else None
    return made


@pytest.mark.parametrize("loss", CHOICES["loss"])
def test_every_loss_takes_every_miner_or_refuses_it(
    loss: str, chosen: dict[str, tuple[Any, Any]], configured: Configured, tmp_path: Path
) -> None:
    objective = make_loss(configured("train", tmp_path, f"loss={loss}"))
    for name, (miner, tuples) in chosen.items():
        triplets_only = loss.startswith("triplet") and (isinstance(tuples, Pairs) or name == "multi_similarity")
        if tuples is not None and (loss in REFUSING or triplets_only):
            with pytest.raises(InputError, match=rf"{type(miner).__name__} chooses: set miner=none"):
                VerificationModule(torch.nn.Linear(4, 4), objective, miner, torch.optim.SGD)
            continue
        VerificationModule(torch.nn.Linear(4, 4), objective, miner, torch.optim.SGD)
        rows = (3 * EMBEDDINGS if getattr(objective, "needs_norms", False) else EMBEDDINGS.clone()).requires_grad_()
        given = tuples if hasattr(objective, "measure") else pml_tuples(tuples, len(LABELS))
        value: Any = objective(rows, LABELS, given)
        value.backward()
        assert value.isfinite()
        assert rows.grad is not None and rows.grad.isfinite().all()


def test_a_memory_takes_its_objective_and_its_miner_from_the_command_line(
    configured: Configured, tmp_path: Path
) -> None:
    overrides = ("experiment=demo", "loss=cross_batch_memory", "loss@loss.objective=contrastive")
    memory = instantiate(configured("train", tmp_path, *overrides, "miner@loss.miner=hard_pairs").loss)
    assert isinstance(memory.objective, ContrastiveLoss)
    assert isinstance(memory.miner, HardPairs)
    assert instantiate(configured("train", tmp_path, *overrides).loss).miner is None


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ("loss=triplet miner=hard_pairs", "TripletLoss takes no pairs, which HardPairs chooses: set miner=none, or"),
        ("loss=triplet miner=multi_similarity", "TripletLoss takes no pairs, which MultiSimilarityMiner chooses"),
        ("loss=arc_face miner=batch_hard", "ArcFaceLoss takes no triplets, which BatchHard chooses: set miner=none."),
        ("loss=cross_batch_memory miner=all_pairs", "CrossBatchMemory takes no pairs, which AllPairs chooses"),
        (
            "loss=cross_batch_memory loss@loss.objective=triplet miner@loss.miner=hard_pairs",
            "TripletLoss takes no pairs, which HardPairs chooses",
        ),
        ("loss=sup_con sampler=pairs", "SupConLoss cannot use the tuples of PairSampler"),
        ("loss=triplet sampler=pairs", "TripletLoss cannot use the tuples of PairSampler"),
        ("loss=magnet sampler=triplets", "MagnetLoss cannot use the tuples of TripletSampler"),
        (f"{OWN}.OwnLoss sampler=pairs", "OwnLoss cannot use the tuples of PairSampler: set sampler=identity."),
        (f"{OWN}.WeightedLoss", "WeightedLoss takes embeddings, labels, tuples, weights, but training"),
        ("loss=contrastive sampler=pairs miner=batch_hard", "PairSampler gives pairs itself, of which BatchHard would"),
    ],
)
def test_a_loss_that_cannot_use_the_tuples_is_refused_before_photos_are_looked_for(
    overrides: str, sentence: str, fitted: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = ("experiment=lfw_triplet", f"data.root={tmp_path / 'nowhere'}")
    with pytest.raises(SystemExit):
        report_user_errors(fitted)(tmp_path / "run", *nowhere, *overrides.split())
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and sentence in said


def test_a_package_that_is_missing_is_named(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    cfg = configured("train", tmp_path, "loss=multi_similarity")
    with pytest.raises(SystemExit) as ended:
        report_user_errors(instantiate)(cfg.loss)
    assert ended.value.code == 2
    expected = "asks for pytorch-metric-learning, which is not installed: pip install pytorch-metric-learning.\n"
    assert capsys.readouterr().err == f"siamese-verify: The configuration {expected}"


SMALL_ENCODERS = {
    "array_resnet": ("encoder.shape=[2,9,7]", "encoder.width=8"),
    "inception_resnet": (),
    "iresnet100": ("encoder.blocks=[1,2]", "encoder.width=8", "encoder.size=32", "encoder.embedding_size=16"),
    "iresnet50": ("encoder.blocks=[1,1]", "encoder.width=8", "encoder.size=31", "encoder.embedding_size=16"),
    "mobilefacenet": ("encoder.size=32", "encoder.embedding_size=16"),
    "module": ("encoder._target_=tests.own_networks.OwnNet", "encoder.size=16", "+encoder.width=3"),
    "openface": (),
    "perceptron": ("encoder.shape=[5]",),
    "resnet18": ("encoder.size=32",),
    "sface": (),
    "small": ("encoder.size=32", "encoder.width=8"),
    "timm": ("encoder.name=test_vit", "encoder.size=48", "encoder.embedding_size=16"),
    "tiny": ("encoder.size=32", "encoder.width=8"),
    "towers": ("encoder.left.shape=[5]", "encoder.right.shape=[2,3]"),
    "vit_small": ("encoder.size=20", "encoder.width=16", "encoder.depth=2", "encoder.heads=2"),
}


EXPORTED = {"iresnet100", "mobilefacenet", "resnet18", "small"}  # networks of their classes, here or in tests/models


@pytest.mark.parametrize("name", CHOICES["encoder"])
def test_every_encoder_gives_embeddings(name: str, configured: Configured, tmp_path: Path) -> None:
    target = SMALL_ENCODERS[name] if name in ("array_resnet", "perceptron", "towers") else ()
    target = SMALL_ENCODERS[name][:1] if name == "module" else target
    encoder = make_encoder(configured("train", tmp_path, f"encoder={name}", *target))
    assert isinstance(encoder, Encoder)
    with torch.inference_mode():
        embedding = encoder.eval()(torch.zeros(1, *encoder.input_spec.shape, dtype=torch.uint8))
    assert embedding.shape == (1, encoder.embedding_size)


@pytest.mark.parametrize("name", CHOICES["encoder"])
def test_every_encoder_passes_the_check_before_training(name: str, configured: Configured, tmp_path: Path) -> None:
    published = {"inception_resnet": "vggface2", "openface": "openface", "sface": "sface", "timm": "true"}
    for weights in (None, published.get(name)):
        more = [f"encoder.pretrained={weights}"] if weights else []
        check_module(configured("train", tmp_path, f"encoder={name}", *SMALL_ENCODERS[name], *more))


@pytest.mark.parametrize("name", CHOICES["encoder"])
def test_every_encoder_learns_and_is_exported(name: str, configured: Configured, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = make_encoder(configured("train", tmp_path, f"encoder={name}", *SMALL_ENCODERS[name]))
    spec = encoder.input_spec
    images = torch.randint(0, 256, (5, *spec.shape), dtype=torch.uint8)
    images[:2, 0] = 0  # towers: rows of the left kind
    images = images if spec.dtype == "uint8" else images.float()
    before = {name: weight.clone() for name, weight in encoder.named_parameters() if weight.requires_grad}
    optimizer = torch.optim.SGD([weight for weight in encoder.parameters() if weight.requires_grad], lr=0.01)
    encoder(images)[:, 0].sum().backward()
    optimizer.step()
    weights = dict(encoder.named_parameters())
    assert all(weights[name].isfinite().all() for name in before)
    assert any(not torch.equal(weight, weights[name]) for name, weight in before.items())
    if name in EXPORTED:
        return
    crops = spec.channels_last(images).numpy()
    engines = TorchEngine(encoder.eval()), OnnxEngine(export_network(encoder), name, arrays=spec.array_type)
    expected, found = (embed_crops(engine, crops, encoder.embedding_size) for engine in engines)
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("optimizer", CHOICES["optimizer"])
@pytest.mark.parametrize("scheduler", CHOICES["scheduler"])
def test_every_optimizer_takes_every_scheduler(
    optimizer: str, scheduler: str, configured: Configured, tmp_path: Path
) -> None:
    cfg = configured("train", tmp_path, f"optimizer={optimizer}", f"scheduler={scheduler}")
    made = instantiate(cfg.optimizer)([{"params": [torch.zeros(2, 2)]}])
    assert made.param_groups[0]["weight_decay"] > 0
    if cfg.get("scheduler"):
        instantiate(cfg.scheduler)(made, 100).step()


@pytest.mark.parametrize("method", CHOICES["method"])
@pytest.mark.parametrize("experiment", ["", "demo", "sweep_faces"])  # others choose loss and sampler themselves
def test_every_method_goes_with_an_experiment(
    method: str, experiment: str, configured: Configured, tmp_path: Path
) -> None:
    overrides = [f"method={method}", *[f"experiment={experiment}"] * bool(experiment), "augmentation=strong"]
    cfg = configured("train", tmp_path, *overrides, "datamodule.labeled_samples=3")
    check_method(cfg)
    if method != "supervised":
        encoder = wrap_module(torch.nn.Flatten(), InputSpec(8, crop=Crop("whole")))
        sizes = {name: 9 for name in ("images", "identities") if name in cfg.method}
        assert isinstance(instantiate(cfg.method)(encoder, **sizes), Method)


@pytest.mark.parametrize("name", CHOICES["sampler"])
def test_every_sampler_samples(name: str, configured: Configured, tmp_path: Path) -> None:
    cfg = configured("train", tmp_path, f"sampler={name}")
    identities = np.arange(200) // 4
    if name == "semi_supervised":
        identities = np.where(identities < 20, identities, UNLABELED)
    sampler = instantiate(cfg.sampler)(identities=identities, seed=0, rank=0, world_size=1)
    assert len(list(sampler)) == len(sampler) > 0


@pytest.mark.parametrize("name", CHOICES["trainer"])
@pytest.mark.parametrize("callbacks", CHOICES["callbacks"])
def test_every_trainer_takes_every_set_of_callbacks(
    name: str, callbacks: str, configured: Configured, tmp_path: Path
) -> None:
    on_this_machine = (
        "trainer.accelerator=cpu",
        "trainer.precision=32-true",
        "trainer.devices=1",
        "++trainer.sync_batchnorm=false",
    )
    cfg = configured("train", tmp_path, f"trainer={name}", f"callbacks={callbacks}", *on_this_machine)
    try:
        compose_trainer(cfg)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", CHOICES["logger"])
def test_every_logger_can_be_made(name: str, configured: Configured, tmp_path: Path) -> None:
    cfg = configured("train", tmp_path / "run", f"logger={name}")
    loggers = cfg.get("logger") or {}
    assert ("csv" in loggers) == (name != "none")
    assert all(instantiate(logger) for logger in loggers.values())


@pytest.mark.parametrize(
    ("data", "protocol"),
    [(data, "synthetic") for data in CHOICES["data"]] + [("lfw", protocol) for protocol in CHOICES["protocol"]],
)
def test_every_data_set_and_every_protocol_composes(
    data: str, protocol: str, configured: Configured, tmp_path: Path
) -> None:
    places = dict.fromkeys(("list", "arrays", "array_pairs"), ("data.path=x",))
    places |= dict.fromkeys(("folder", "prepared", "recordio"), ("data.root=x",))
    own = dict.fromkeys(("pair_file", "insightface", "retrieval_list"), ("protocol.path=x",))
    own["folder"] = ("protocol.root=x",)
    overrides = (f"data={data}", f"protocol={protocol}", *places.get(data, ()), *own.get(protocol, ()))
    for name, *model in (("train",), ("evaluate", "model=casia-webface")):
        cfg = configured(name, tmp_path, *overrides, *model)
        OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
