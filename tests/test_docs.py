"""The pages of losses and of evaluation: what they show, run and link to."""

from __future__ import annotations

import argparse
import inspect
import json
import os
import pkgutil
import posixpath
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from siamese_verify import losses, miners
from siamese_verify.cli import visualize
from siamese_verify.cli.configuration import CONF, choices_of
from siamese_verify.cli.main import COMMANDS as COMMANDS_OF_ALL
from siamese_verify.cli.pretraining import composed, first_stage_overrides
from siamese_verify.cli.training_checks import check_settings
from siamese_verify.datasets import SyntheticFaces
from siamese_verify.sweeps.child_run import quote_elements
from siamese_verify.training.loss_over_ranks import pml_tuples

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = (DOCS / "losses.md").read_text()
EVALUATION = (DOCS / "evaluation.md").read_text()
DATA = (DOCS / "data.md").read_text()
VERIFYING = (DOCS / "verifying.md").read_text()
STARTED = (DOCS / "getting_started.md").read_text()
GALLERY = (DOCS / "gallery.md").read_text()
SERVING = (DOCS / "serving.md").read_text()
METHODS = (DOCS / "methods.md").read_text()
TRAINING = (DOCS / "training.md").read_text()
PRETRAINING = (DOCS / "pretraining.md").read_text()
SEEING = (DOCS / "seeing.md").read_text()
PAGES = {
    "losses": PAGE,
    "evaluation": EVALUATION,
    "data": DATA,
    "methods": METHODS,
    "verifying": VERIFYING,
    "gallery": GALLERY,
    "serving": SERVING,
}
EXAMPLES = {
    f"{name} {number}": code
    for name, page in PAGES.items()
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE))
}
COMMANDS = re.findall(r"^\$ siamese-verify train (.+)$", PAGE, re.MULTILINE)
TEXT = re.sub(r"^```.*?^```$", "", PAGE, flags=re.DOTALL | re.MULTILINE)
LINKS = sorted(set(re.findall(r"\]\(([^)]+)\)", TEXT) + re.findall(r'src="([^"]+)"', TEXT)))
HERE = [link for link in LINKS if not link.startswith("https://")]


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def test_the_script_draws_every_picture_of_the_page_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["draw_losses.py", str(tmp_path)])
    runpy.run_path(str(DOCS / "draw_losses.py"))["main"]()
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {link.removeprefix("losses/") for link in HERE if link.startswith("losses/")}
    assert drawn == {path.name for path in (DOCS / "losses").iterdir()}
    for name in drawn:
        with Image.open(tmp_path / name) as fresh, Image.open(DOCS / "losses" / name) as kept:
            assert fresh.info == {}, "no date, no version: nothing that changes by itself"
            assert fresh.size == kept.size
    assert sum(path.stat().st_size for path in (DOCS / "losses").iterdir()) < 600_000


@pytest.mark.parametrize("name", sorted({*losses.__all__, *miners.__all__}))
def test_every_exported_name_is_on_the_page(name: str) -> None:
    assert re.search(rf"`[^`]*\b{name}\b[^`]*`", TEXT)


@pytest.mark.parametrize("group", ["loss", "miner"])
def test_every_config_is_in_a_command(group: str) -> None:
    defaults: Any = OmegaConf.load(CONF / "train.yaml").defaults
    named = {choice for command in COMMANDS for choice in re.findall(rf"\b{group}=(\w+)", command)}
    named |= {entry[group] for entry in defaults if group in entry}
    listing = {"all_pairs", "all_triplets"}  # the page says to leave these to loops of one's own
    assert {path.stem for path in (CONF / group).glob("*.yaml")} - listing == named


def test_the_page_says_what_each_config_sets_otherwise_than_its_class() -> None:
    expected = {}
    for path in sorted((CONF / "loss").glob("*.yaml")):
        settings: Any = OmegaConf.to_container(OmegaConf.load(path))
        if not settings.get("_target_", "").startswith("siamese_verify."):
            continue
        loss = pkgutil.resolve_name(settings["_target_"])
        parameters = inspect.signature(loss).parameters
        own = {
            name: tuple(one) if isinstance(one, list) else one for name, one in settings.items() if name in parameters
        }
        defaults = {name: parameters[name].default for name, one in own.items() if not isinstance(one, dict)}
        sets = [name for name, default in defaults.items() if own[name] not in (default, None)]
        if sets:
            values = (", ".join(f"{name}={given[name]!r}" for name in sets) for given in (own, defaults))
            expected[path.stem, loss.__name__] = tuple(text.replace("'", '"') for text in values)
    rows = re.findall(r"^\| `loss=(\w+)` \| `(\w+)` \| `(.+)` \| `(.+)` \|$", PAGE, re.MULTILINE)
    assert {(choice, name): values for choice, name, *values in rows} == {key: [*one] for key, one in expected.items()}


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    exec(compile(EXAMPLES[name], name, "exec"), {"__name__": "example"})


def test_the_readme_names_each_choice_of_each_group() -> None:
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*)(?: \(\[.*?\)\))? \| (.+) \|$", WRITTEN["README.md"], re.MULTILINE)
    named = {group: text for groups, text in rows for group in re.findall(r"`(\w+)`", groups)}
    own = {"experiment", "hparams_search", "sweep", "align"}  # told elsewhere
    groups = {group: names for group, names in choices_of("train").items() if group not in own and "/" not in group}
    variants = ("_lfw",)  # of an experiment
    assert {
        f"{group}={name}"
        for group, names in groups.items()
        for name in names
        if not name.endswith(variants) and not re.search(rf"`{name}`", named.get(group, ""))
    } <= {f"data={name}" for name in ("choices", "pedestrians", "products", "sentences", "signatures", "voices")}


def test_the_examples_of_the_readme_run(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from siamese_verify import Verifier

    monkeypatch.chdir(tmp_path)
    for row, name in enumerate("ab"):
        SyntheticFaces(1, 2)[row].save(f"{name}.jpg")
    load = Verifier.load
    monkeypatch.setattr(Verifier, "load", lambda _: load(tiny_run))  # nothing is downloaded
    rng = np.random.default_rng(0)
    namespace = {"scores": rng.normal(size=60), "same": np.arange(60) % 2 == 0}
    namespace |= {"embeddings": rng.normal(size=(24, 4)), "identities": np.arange(24) // 3}
    examples = re.findall(r"^```python\n(.*?)^```$", WRITTEN["README.md"], re.DOTALL | re.MULTILINE)
    assert len(examples) == 2
    for code in examples:
        exec(compile(code, "README.md", "exec"), namespace)
    assert (tmp_path / "report" / "report.html").is_file()
    assert namespace["embeddings"].shape == (2, 128)


@pytest.mark.parametrize(
    "command",
    re.findall(r"^\$ siamese-verify (\w+ .+)$", DATA, re.MULTILINE)
    + re.findall(r"^\$ siamese-verify ((?:prepare|preview|train) [^-].+)$", STARTED, re.MULTILINE),
)
def test_every_command_on_data_composes(command: str, configured: Callable[..., DictConfig], tmp_path: Path) -> None:
    name, *overrides = shlex.split(command, comments=True)
    cfg = configured(name, tmp_path, *overrides)
    assert cfg.data.name


@pytest.mark.parametrize(
    "command", re.findall(r"^\$ siamese-verify train (encoder=(?!module).+)$", TRAINING, re.MULTILINE)
)
def test_every_command_with_an_encoder_composes(
    command: str, configured: Callable[..., DictConfig], tmp_path: Path
) -> None:
    cfg = configured("train", tmp_path, *shlex.split(command, comments=True))
    assert cfg.encoder._target_.startswith("siamese_verify.encoders.")


@pytest.mark.parametrize("command", re.findall(r"^\$ siamese-verify train (.+)$", METHODS, re.MULTILINE))
def test_every_command_with_a_method_composes_and_passes_its_checks(
    command: str, configured: Callable[..., DictConfig], tmp_path: Path
) -> None:
    cfg = configured("train", tmp_path, *shlex.split(command, comments=True))
    check_settings(cfg)


def test_every_method_is_on_the_page_of_methods() -> None:
    named = set(re.findall(r"`(\w+)`", METHODS)) | set(re.findall(r"method=(\w+)", METHODS))
    assert named >= {path.stem for path in (CONF / "method").glob("*.yaml")}


@pytest.mark.parametrize("command", re.findall(r"^\$ siamese-verify train (.+)$", SEEING, re.MULTILINE))
def test_every_training_to_look_at_composes(
    command: str, configured: Callable[..., DictConfig], tmp_path: Path
) -> None:
    overrides = [one for one in shlex.split(command) if not one.startswith("hydra.run.dir=")]
    cfg = configured("train", tmp_path, *overrides)
    assert cfg.name in ("digits", "demo")
    assert ("pictures" in cfg.callbacks) == ("callbacks=pictures" in overrides)


def test_the_options_of_visualize_are_those_on_the_page() -> None:
    parser = argparse.ArgumentParser()
    visualize.add_arguments(parser)
    commands = re.findall(r"^\$ siamese-verify visualize (.+)$", SEEING, re.MULTILINE)
    assert len([parser.parse_args(shlex.split(command)) for command in commands]) == 3
    named = set(re.findall(r"--\w[\w-]+", SEEING))
    assert named == {option for action in parser._actions for option in action.option_strings} & named
    assert named >= {"--photos", "--seed", "--faces", "--no-pictures", "--no-umap"}


@pytest.mark.parametrize("command", re.findall(r"^\$ siamese-verify (\w+ .+)$", PRETRAINING, re.MULTILINE))
def test_every_command_of_two_stages_composes(
    command: str, configured: Callable[..., DictConfig], tmp_path: Path
) -> None:
    name, *overrides = map(quote_elements, shlex.split(command))
    cfg = configured(name, tmp_path, *overrides)
    if cfg.get("pretrain"):
        first = composed(first_stage_overrides(cfg))
        assert first.method._target_ == "siamese_verify.methods.SimCLR"
        assert first.datamodule.multi_view == 2
        assert (first.data, first.encoder, first.protocol) == (cfg.data, cfg.encoder, cfg.protocol)


@pytest.mark.parametrize(("staged", "alone"), [("lfw_pretrained", "lfw_triplet"), ("att_pretrained", "att_triplet")])
def test_both_arms_of_the_comparison_see_as_many_images(
    staged: str, alone: str, configured: Callable[..., DictConfig], tmp_path: Path
) -> None:
    cfg = configured("train", tmp_path, f"experiment={staged}")
    first, plain = composed(first_stage_overrides(cfg)), configured("train", tmp_path, f"experiment={alone}")

    def images(cfg: DictConfig) -> int:
        sampler = cfg.sampler
        batch = sampler.get("images") or sampler.identities_per_batch * sampler.samples_per_identity
        return int(batch * cfg.datamodule.multi_view * sampler.batches * cfg.trainer.max_epochs)

    assert images(first) + images(cfg) == images(plain)
    assert images(first) == images(cfg)
    assert (plain.data, plain.encoder, plain.protocol, plain.loss) == (cfg.data, cfg.encoder, cfg.protocol, cfg.loss)


def test_every_encoder_is_on_the_page_of_training() -> None:
    named = set(re.findall(r"`(\w+)`", re.sub(r"^```.*?^```$", "", TRAINING, flags=re.DOTALL | re.MULTILINE)))
    assert named >= {path.stem for path in (CONF / "encoder").glob("*.yaml")}


@pytest.mark.filterwarnings("ignore", "error::UserWarning:pytorch_lightning", "error:.*LeafSpec")
def test_a_network_is_trained_bundled_verified_and_resumed_from_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "example"}
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```$", TRAINING, re.DOTALL | re.MULTILINE)):
        exec(compile(code, f"training {number}", "exec"), names)
    assert names["trainer"].current_epoch == 3
    assert names["verifier"].metadata.operating_points
    assert (tmp_path / "bundle" / "model.onnx").is_file()


def test_every_source_sampler_and_augmentation_is_on_the_page_of_data() -> None:
    for group in ("data", "sampler", "augmentation"):
        for path in (CONF / group).glob("*.yaml"):
            assert re.search(rf"\b{path.stem}\b", DATA), f"{group}={path.stem}"


@pytest.mark.parametrize("command", re.findall(r"^\$ siamese-verify evaluate (.+)$", EVALUATION, re.MULTILINE))
def test_every_evaluation_composes(command: str, configured: Callable[..., DictConfig], tmp_path: Path) -> None:
    cfg = configured("evaluate", tmp_path, *shlex.split(command, comments=True))
    assert OmegaConf.is_missing(cfg, "model") == (cfg.scores is not None)
    OmegaConf.to_container(cfg.get("protocol", cfg.usual), resolve=True, throw_on_missing=True)


@pytest.mark.parametrize("command", re.findall(r"^\$ siamese-verify train (?!-m )(.+)$", EVALUATION, re.MULTILINE))
def test_every_training_with_a_protocol_composes(
    command: str, configured: Callable[..., DictConfig], tmp_path: Path
) -> None:
    cfg = configured("train", tmp_path, *shlex.split(command, comments=True))
    for settings in (cfg.protocol, *cfg.protocols.values()):
        OmegaConf.to_container(settings, resolve=True, throw_on_missing=True)


def test_every_protocol_and_setting_of_an_evaluation_is_on_the_page() -> None:
    named = set(re.findall(r"`(\w+)[`=]", EVALUATION))
    assert named >= {path.stem for path in (CONF / "protocol").glob("*.yaml")}
    machine = {"defaults", "model", "threads", "device", "cache", "hydra"}
    assert named >= {str(name) for name in OmegaConf.load(CONF / "evaluate.yaml")} - machine


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes_and_its_loss_takes_its_tuples(
    command: str, configured: Callable[..., DictConfig], tmp_path: Path
) -> None:
    cfg = configured("train", tmp_path, *shlex.split(command))
    values: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    torch.manual_seed(0)
    identities = torch.arange(320).numpy() // 8
    batch = next(iter(instantiate(cfg.sampler)(identities=identities, seed=0, rank=0, world_size=1)))
    rows, tuples = batch if isinstance(batch, tuple) else (batch, None)
    labels = torch.from_numpy(identities[rows])
    known = {"num_identities": 40, "embedding_size": 8} if "num_identities" in values["loss"] else {}
    loss = instantiate(cfg.loss, **known)
    if hasattr(loss, "shard"):
        loss.shard()
    embeddings = torch.randn(len(rows), 8)
    if not getattr(loss, "needs_norms", False):
        embeddings = torch.nn.functional.normalize(embeddings)
    embeddings.requires_grad_()
    if tuples is None and cfg.get("miner"):
        tuples = instantiate(cfg.miner)(embeddings.detach(), labels)
    ours = type(loss).__module__.startswith("siamese_verify")
    value = loss(embeddings, labels, tuples if ours else pml_tuples(tuples, len(labels)))
    value.backward()
    assert value > 0
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()
    assert embeddings.grad.abs().max() > 0, "it teaches something"


@pytest.mark.parametrize("link", HERE)
def test_every_link_within_the_project_leads_somewhere(link: str) -> None:
    path, _, anchor = link.partition("#")
    target = DOCS / path if path else DOCS / "losses.md"
    assert target.is_file()
    if anchor:
        assert anchor in {slug(heading) for heading in re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)}


def test_the_site_builds_with_every_page_and_link_and_loads_nothing_from_another_host(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--config-file", str(DOCS.parent / "mkdocs.yml")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(
        [*command, "--site-dir", str(tmp_path)], capture_output=True, text=True, env=environment, check=False
    )
    assert built.returncode == 0, built.stderr  # strict: a page without a place or a broken link fails it
    assert {path.stem for path in DOCS.glob("*.md")} <= {path.parent.name for path in tmp_path.rglob("index.html")}
    for page in tmp_path.rglob("*.html"):
        for picture in re.findall(r'<img\b[^>]*?src="?([^" >]+)', page.read_text()):
            assert (page.parent / picture).is_file(), f"{page}: {picture}"
        loaded = re.findall(r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=.?(https?://[^ >]+)", page.read_text())
        assert not loaded, page
    if find_spec("latex2mathml"):
        formulas = (tmp_path / "losses" / "index.html").read_text()
        assert formulas.count("</math>") == PAGE.count("```math") + PAGE.count("$`")
        assert "$`" not in formulas
    losses_page = (tmp_path / "reference" / "losses" / "index.html").read_text()
    assert all(f'id="siamese_verify.losses.{name}"' in losses_page for name in losses.__all__)
    groups = (tmp_path / "reference" / "configuration" / "index.html").read_text()
    assert all(f">{path.stem}<" in groups for path in (CONF / "loss").glob("*.yaml"))


def test_python_commands_name_files_that_exist_and_options_that_they_have() -> None:
    pages = [*DOCS.glob("*.md"), DOCS.parent / "README.md"]
    commands = {
        found for page in pages for found in re.findall(r"\bpython ((?:benchmarks|docs)/[^`\n]*)", page.read_text())
    }
    assert len(commands) > 10
    for command in commands:
        file, *given = shlex.split(command.strip("[]"), comments=True)
        code = (DOCS.parent / file).read_text()
        assert all(f'"{option}"' in code for option in given if option.startswith("--")), command


COVERED = ("losses", "methods", "evaluation", "data", "pretraining", "beyond_faces")  # by tests of their own
WRITTEN = {path.name: path.read_text() for path in sorted(DOCS.glob("*.md")) if path.stem not in COVERED}
WRITTEN["README.md"] = (DOCS.parent / "README.md").read_text()
WRITTEN |= {path.name: path.read_text() for path in sorted((DOCS.parent / "notebooks").glob("*.ipynb"))}


def written_commands(page: str) -> list[str]:
    """Command lines of a page, those in its tables too."""
    if page.endswith(".ipynb"):
        text = "".join(line for cell in json.loads(WRITTEN[page])["cells"] for line in [*cell["source"], "\n"])
    else:
        text = WRITTEN[page].replace("\\\n", " ")
    in_tables = [line for line in re.findall(r"^\|.*$", text, re.MULTILINE) if "siamese-verify" in line]
    found = re.findall(r"^\$ siamese-verify (.+)$", text, re.MULTILINE)
    return sorted({*found, *re.findall(r"`siamese-verify ([\w-]+ [^`]+)`", "\n".join(in_tables))})


@pytest.mark.parametrize("page", [page for page in WRITTEN if written_commands(page)])
def test_every_command_of_a_page_is_understood(
    page: str, configured: Callable[..., DictConfig], tmp_path: Path
) -> None:
    for line in written_commands(page):
        name, *given = shlex.split(re.sub(r"\[(--[^]]+)\]", r"\1", line), comments=True)  # [--option]: may be left out
        command = COMMANDS_OF_ALL[name]
        if "--config-dir" in given:
            continue  # files of the reader's own: tests/cli/test_own_encoder.py
        if command.add_arguments:
            parser = argparse.ArgumentParser()
            pkgutil.resolve_name(command.add_arguments)(parser)
            parser.parse_args(given)
        else:
            overrides = [one for one in given if "=" in one and not one.startswith("hydra.run.dir=")]
            configured("train" if name == "demo" else name, tmp_path, *map(first_value, overrides))


def first_value(override: str) -> str:
    """The first of the values that a sweep tries."""
    parsed = OverridesParser.create().parse_override(override)
    if not parsed.is_sweep_override():
        return override
    value: Any = parsed.value()
    first = value.start if isinstance(value, IntervalSweep) else next(parsed.sweep_string_iterator())
    return f"{parsed.get_key_element()}={first}"


SITE: dict[str, Any] = runpy.run_path(str(DOCS / "site_pages.py"))
MADE: dict[str, str] = dict(SITE["pages"]())
SITE_FILES = {*MADE, "LICENSE"} | {
    path.relative_to(DOCS).as_posix()
    for path in DOCS.rglob("*")
    if path.is_file() and path.suffix not in (".py", ".json")
}
SITE_PAGES = {path.name: SITE["on_page_markdown"](path.read_text()) for path in sorted(DOCS.glob("*.md"))} | MADE


def prose(text: str) -> str:
    """A page without its code."""
    return re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", [page for page in SITE_PAGES if not page.startswith("reference/")])
def test_every_link_of_a_page_leads_to_what_the_site_has(page: str) -> None:
    text = prose(SITE_PAGES[page])
    for link in re.findall(r"\]\(([^)\s]+)", text) + re.findall(r'(?:src|href)="([^"]+)"', text):
        path, _, anchor = link.partition("#")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page
        if "://" in link or link.startswith("mailto:"):
            continue
        assert target in SITE_FILES, f"{page} links to {link}, which the site does not have"
        if anchor and not target.startswith("reference/"):
            headings = re.findall(
                r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", SITE_PAGES[target], flags=re.DOTALL | re.M), re.M
            )
            assert anchor in {re.sub("-+", "-", slug(one)) for one in headings}, f"{page}: no section {link}"


def test_every_link_of_the_readme_leads_to_a_file() -> None:
    text = prose((DOCS.parent / "README.md").read_text())
    for link in re.findall(r"\]\(([^)\s]+)", text) + re.findall(r'src="([^"]+)"', text):
        assert "://" in link or (DOCS.parent / link.partition("#")[0]).is_file(), link


def test_the_pictures_of_the_notebooks_are_those_that_their_code_draws() -> None:
    kept: dict[str, str] = json.loads((SITE["PICTURES"] / SITE["CHECKSUMS"]).read_text())
    assert {path.name for path in SITE["PICTURES"].iterdir()} == {*kept, SITE["CHECKSUMS"]}
    for name, checksum in kept.items():
        notebook, _, cell = Path(name).stem.partition("-")
        codes = SITE["code_checksums"](DOCS.parent / "notebooks" / f"{notebook}.ipynb")
        assert codes.get(re.sub(r"^(cell-\d+)-\d+$", r"\1", cell)) == checksum, (
            f"The code of notebooks/{notebook}.ipynb is no longer that which drew docs/notebooks/{name}: "
            "`python docs/draw_notebooks.py` draws the pictures again."
        )
        assert f"]({name})" in MADE[f"notebooks/{notebook}.md"]
        assert not notebook.startswith("4_"), "no photos of people"
    sizes = [path.stat().st_size for path in SITE["PICTURES"].iterdir()]
    assert max(sizes) < 120_000
    assert sum(sizes) < 1_500_000


def test_the_numbers_of_the_results_are_those_of_the_pages_they_link_to() -> None:
    page, checked = "", 0
    for row in re.findall(r"^\| (.+) \|$", (DOCS / "results.md").read_text(), re.MULTILINE):
        *cells, last = row.split(" | ")
        page = link.group(1) if (link := re.search(r"\]\(([a-z_]+\.md)[#)]", last)) else page if last == "" else ""
        if page:
            text = (DOCS / page).read_text()
            numbers = re.findall(r"\d+[.,]\d+|\d+(?= %)", re.sub(r"`[^`]*`", "", " ".join(cells)))
            assert [one for one in numbers if one not in text] == [], f"{page} has no such number: {row}"
            checked += len(numbers)
    assert checked > 50


def test_the_results_on_the_first_page_are_among_all_results() -> None:
    readme = (DOCS.parent / "README.md").read_text()
    rows = re.findall(r"^\|.+[0-9] (?:%|ms|s|x)(?=[ ,]).+\|$", readme, re.MULTILINE)
    assert len(rows) > 4
    assert set(rows) <= set((DOCS / "results.md").read_text().splitlines())
