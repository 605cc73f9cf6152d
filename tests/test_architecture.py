"""Who may import whom: the imports of the package, read without running them, against `design/architecture.md`."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = "siamese_verify"
FOLDER = Path(__file__).resolve().parents[1] / PACKAGE

# From the top down. A unit imports from the levels below its own, never from its own or from above.
LEVELS = (
    {"cli"},
    {"sweeps"},
    {"serving", "albums"},
    {"gallery"},
    {"verification", "training"},
    {"methods"},
    {"models", "preparation"},
    {"data"},
    {"protocols"},
    {"datasets", "samplers", "evaluation"},
    {"losses", "miners", "encoders", "faces"},
    {"pairwise"},
    {"run_record"},
    {"opencv_zoo"},
    {"onnx_folding"},
    {"structures", "atomic_write", "tables", "onnx_runtime", "download", "run_lock", "worker_pool"},
    {"errors"},
)
LEVEL = {unit: level for level, units in enumerate(LEVELS) for unit in units}
SHARED = LEVELS[-2] | LEVELS[-1]
ENTRY_POINTS = {"cli", "sweeps"}
FORBIDDEN_NAMES = {"utils", "common", "helpers", "misc"}


class Import(NamedTuple):
    target: str  # dotted, absolute, down to the imported name: a module or something in one
    line: int
    in_function: bool


def read_imports(source: str, module: str, is_package: bool = False) -> list[Import]:
    """All imports of a module, those inside functions and under `TYPE_CHECKING` too."""
    here = module.split(".") if is_package else module.split(".")[:-1]
    found: list[Import] = []

    def visit(node: ast.AST, in_function: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, in_function) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            anchor = here[: len(here) + 1 - node.level] if node.level else []
            origin = ".".join([*anchor, node.module] if node.module else anchor)
            found.extend(Import(f"{origin}.{alias.name}", node.lineno, in_function) for alias in node.names)
        inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(source), False)
    return found


def breaches(source: str, module: str, is_package: bool = False) -> list[str]:
    """What a module imports that it may not, a sentence each."""
    unit = module.split(".")[1] if "." in module else ""
    if unit and unit not in LEVEL:
        return [f"{module} is in no level of the layering: give {unit} one."]
    return [
        f"{module}, line {line}: {reason}"
        for target, line, in_function in read_imports(source, module, is_package)
        for reason in [_reason(unit, target, in_function)]
        if reason
    ]


def _reason(unit: str, target: str, in_function: bool) -> str | None:
    library, _, rest = target.partition(".")
    if library == PACKAGE:
        return _reason_within(unit, rest.split(".")[0])
    if library == "hydra" and unit not in ENTRY_POINTS:
        return f"{target}, but only entry points import hydra"
    if library == "facenet_pytorch" and unit not in {"encoders", "faces"}:
        return f"{target}, but only encoders and faces import facenet_pytorch"
    if library == "facenet_pytorch" and not in_function:
        return f"{target} at the top, but facenet_pytorch is imported inside functions"
    if library == "wandb":
        return f"{target}, but wandb appears only in conf/logger"
    return None


def _reason_within(unit: str, other: str) -> str | None:
    if other in {unit, "__version__"}:
        return None
    if other not in LEVEL:
        return f"{other or PACKAGE}, which is no part of the package by its own name"
    if not unit:  # the package itself shows its verifier
        return None if other == "verification" else f"{other}, but the package itself shows only its verifier"
    if LEVEL[other] <= LEVEL[unit]:
        return f"{unit} imports {other}, which stands {'beside' if LEVEL[other] == LEVEL[unit] else 'above'} it"
    return None


def modules() -> Iterator[tuple[Path, str]]:
    for file in sorted(FOLDER.rglob("*.py")):
        parts = file.relative_to(FOLDER.parent).with_suffix("").parts
        yield file, ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize(("file", "module"), [pytest.param(*pair, id=pair[1]) for pair in modules()])
def test_a_module_imports_only_what_stands_below_it(file: Path, module: str) -> None:
    assert not breaches(file.read_text(encoding="utf-8"), module, file.name == "__init__.py")


def test_the_package_is_read() -> None:
    names = {module for _, module in modules()}
    assert {PACKAGE, f"{PACKAGE}.cli", f"{PACKAGE}.data", f"{PACKAGE}.datasets.lfw"} <= names


def test_no_file_is_a_box_for_everything() -> None:
    parts = {part for _, module in modules() for part in module.split(".")}
    assert not parts & FORBIDDEN_NAMES


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("losses.triplet", "from siamese_verify.encoders import Encoder"),
        ("losses.triplet", "from siamese_verify import miners"),
        ("losses.triplet", "import siamese_verify.miners.batch_hard"),
        ("losses.triplet", "from ..miners.batch_hard import batch_hard"),
        ("losses.triplet", "from .. import faces"),
        ("miners.semi_hard", "from siamese_verify.losses import TripletLoss"),
        ("miners.semi_hard", "from siamese_verify.datasets import lfw"),
        ("encoders.resnet", "from siamese_verify.faces import crop_face"),
        ("faces.alignment", "def late():\n    from siamese_verify.data import FaceCropper"),
        ("datasets.lfw", "from siamese_verify.evaluation import auc"),
        ("datasets.lfw", "class A:\n    async def late(self):\n        import siamese_verify.training"),
        ("evaluation.roc", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from siamese_verify import data"),
        ("training.module", "from siamese_verify.verification import Verifier"),
        ("training.module", "try:\n    from siamese_verify import cli\nexcept ImportError:\n    pass"),
        ("models.bundle", "from siamese_verify.cli.measure import measure"),
        ("models.bundle", "from siamese_verify import Verifier"),
        ("models.bundle", "import siamese_verify"),
        ("structures", "from siamese_verify.atomic_write import atomic_write"),
        ("tables", "import siamese_verify.faces"),
        ("utilities", "import math"),
        ("training.module", "from hydra.utils import instantiate"),
        ("serving.app", "def late():\n    import hydra"),
        ("models.loading", "def late():\n    from facenet_pytorch import MTCNN"),
        ("cli.train", "def late():\n    import facenet_pytorch.models"),
        ("faces.detector", "from facenet_pytorch import MTCNN"),
        ("faces.detector", "class A:\n    import facenet_pytorch"),
        ("training.log_figures", "def late():\n    import wandb"),
        ("cli.train", "from wandb.sdk import init"),
    ],
)
def test_a_breach_is_found(module: str, source: str) -> None:
    assert len(breaches(source, f"{PACKAGE}.{module}")) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("losses.triplet", "from siamese_verify.structures import Pairs\nfrom siamese_verify.errors import InputError"),
        ("losses.triplet", "from siamese_verify.losses.base import Reduction\nfrom . import contrastive"),
        ("losses.triplet", "from .base import Reduction\nfrom ..structures import Pairs\nfrom .. import errors"),
        ("datasets.lfw", "from siamese_verify.faces import open_photo"),
        ("models.loading", "from siamese_verify import encoders, __version__"),
        ("cli.train", "import hydra\nfrom siamese_verify.cli.measure import measure"),
        ("faces.detector", "class A:\n    def __init__(self):\n        from facenet_pytorch import MTCNN"),
    ],
)
def test_what_is_allowed_is_no_breach(module: str, source: str) -> None:
    assert not breaches(source, f"{PACKAGE}.{module}")


def test_a_relative_import_of_a_package_starts_at_the_package() -> None:
    assert not breaches("from .base import Reduction", f"{PACKAGE}.losses", is_package=True)
    assert breaches("from ..miners import AllPairs", f"{PACKAGE}.losses", is_package=True)


def test_the_package_itself_shows_only_its_verifier() -> None:
    assert not breaches("from siamese_verify import verification", PACKAGE, is_package=True)
    assert breaches("from siamese_verify import training", PACKAGE, is_package=True)


def test_no_two_modules_import_each_other() -> None:
    class Running(ast.NodeTransformer):  # what only type checkers read is left out
        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if ast.unparse(node.test) == "TYPE_CHECKING" else node

    files = {".".join(file.relative_to(FOLDER.parent).with_suffix("").parts): file for file in FOLDER.rglob("*.py")}
    imported: dict[str, set[str]] = {}
    for module, file in files.items():
        found = read_imports(ast.unparse(Running().visit(ast.parse(file.read_text()))), module)
        names = {place for target, _, _ in found for place in (target, target.rpartition(".")[0])}
        imported[module] = names & set(files) - {module}
    TopologicalSorter(imported).prepare()  # raises of a cycle, and names its modules


@pytest.mark.parametrize("module", [PACKAGE, f"{PACKAGE}.structures", f"{PACKAGE}.errors", f"{PACKAGE}.cli.main"])
def test_importing_it_loads_no_torch(module: str) -> None:
    program = f"import sys, {module}; print(*({{'torch', 'numpy', 'PIL', 'hydra', 'matplotlib'}} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=FOLDER.parent, timeout=60)
    assert run.returncode == 0, run.stderr
    assert not run.stdout.split()


def test_test_files_have_names_of_their_own() -> None:
    names = [file.name for file in Path(__file__).parent.rglob("test_*.py")]
    assert len(set(names)) == len(names)  # pytest cannot tell them apart without packages


@pytest.mark.parametrize("name", ["albums", "data", "evaluation", "models", "verification"])
def test_no_public_name_is_also_a_module_of_its_package(name: str) -> None:
    """Names are imported when they are first used, and a module that was imported first would be found instead."""
    package = importlib.import_module(f"siamese_verify.{name}")
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    assert not modules & set(package.__all__)
