"""Where kernels are used, and what happens where they can't be."""

from __future__ import annotations

import importlib.util
import inspect
import re
import subprocess
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from siamese_verify.losses import ContrastiveLoss, InBatchNegatives, InfoNCELoss, NTXentLoss
from siamese_verify.miners import BatchHard, SemiHard
from siamese_verify.pairwise import blocks, kernel_check, tiles
from siamese_verify.pairwise.neighbors import nearest_neighbors

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
ROWS, LABELS = torch.randn(24, 8, generator=torch.Generator().manual_seed(0)), torch.arange(24) // 3


@pytest.fixture(autouse=True)
def untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has used no kernel, on a machine whose GPU is the CPU."""
    monkeypatch.setattr(tiles, "_verdicts", {})
    monkeypatch.setattr(tiles, "interpreted", True)
    monkeypatch.setattr(tiles, "enabled", True)
    monkeypatch.setattr(blocks, "SMALL", 0)


def everything() -> list[object]:
    """Losses and choices of losses and miners that have kernels."""
    losses = NTXentLoss(0.1), ContrastiveLoss(), InBatchNegatives(InfoNCELoss(0.1))
    chosen = [[field.tolist() for field in miner(ROWS, LABELS)] for miner in (BatchHard(), SemiHard())]
    return [*(float(loss(ROWS, LABELS)) for loss in losses), *chosen]


def failing(error: Exception | str) -> object:
    def wrong_kernel(device: torch.device) -> str:
        if isinstance(error, Exception):
            raise error
        return error

    return wrong_kernel


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("sum over pairs", "the sum over pairs of a small batch is wrong"),
        (RuntimeError("Failed to find C compiler. Please specify via CC"), "there is no C compiler"),
        (ImportError("libcuda.so: not found"), "ImportError: libcuda.so: not found"),
        (ValueError(), "ValueError"),
    ],
)
def test_what_kernels_cannot_do_pytorch_does_with_one_warning(
    error: Exception | str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(kernel_check, "wrong_kernel", failing(error))
    with pytest.warns(UserWarning, match="SIAMESE_VERIFY_KERNELS=1") as seen:
        found = everything()
    assert [reason in str(warning.message) for warning in seen] == [True]
    monkeypatch.setattr(tiles, "interpreted", False)
    assert found == everything()


@pytest.mark.parametrize("card", ["ROCm", "an old one"])
def test_other_gpus_are_not_tried(card: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_check, "wrong_kernel", lambda _: pytest.fail("tried"))
    monkeypatch.setattr(torch.version, "hip", "6.4" if card == "ROCm" else None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    with pytest.warns(UserWarning, match="for NVIDIA's GPUs" if card == "ROCm" else "Tesla T4 has .* below 8.0"):
        assert not tiles.has_kernels(torch.device("cuda", 0))


def test_a_device_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    tried = []
    monkeypatch.setattr(kernel_check, "wrong_kernel", lambda device: tried.append(device))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(tiles.has_kernels(torch.device("cpu")) for _ in range(3))
    assert tried == [torch.device("cpu")]


def test_kernels_are_for_gpus_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "has_kernels", lambda _: True)
    assert tiles.fused(ROWS)
    assert not tiles.fused(ROWS.double())
    monkeypatch.setattr(tiles, "interpreted", False)
    assert not tiles.fused(ROWS)
    for asked in ("0", "1"):
        code = f"from siamese_verify.pairwise import tiles; assert tiles.enabled == {asked}"
        subprocess.run([sys.executable, "-c", code], env={"SIAMESE_VERIFY_KERNELS": asked}, check=True)


def test_the_benchmark_of_a_gpu_can_be_tried_without_one() -> None:
    options = ["--device", "cpu", "--sizes", "48", "--precisions", "fp32", "--patience", "0.5", "--seconds", "20"]
    command = [sys.executable, str(BENCHMARK), *options]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "all within bounds" in ended.stdout
    for objective in ("NT-Xent", "SupCon", "InfoNCE", "contrastive", "cosine", "batch hard", "semi-hard"):
        assert re.search(rf"48 fp32 {objective}: ours +\d+\.\d+ ms", ended.stdout), ended.stdout


@pytest.mark.parametrize("name", ["gpu", "gpu_session"])
def test_a_benchmark_without_a_gpu_fails_where_one_is_asked_for(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for options, code in (([], 0), (["--device", "cuda"], 2)):
        monkeypatch.setattr(sys, "argv", [name, *options])
        assert module_of(name).main() == code
        assert capsys.readouterr().out.startswith("Not measured")


def test_a_part_of_the_session_on_a_gpu_ends_in_time_and_says_what_it_lacks(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    session = module_of("gpu_session")
    (tmp_path / "waits.py").write_text("import time; print('begun'); time.sleep(600)")
    assert not session.run(session.Part("waiting", str(tmp_path / "waits.py"), 600), 4)
    assert not session.run(session.Part("training", "-c pass", 600, "torch no_such_package"), 600)
    assert not session.run(session.Part("late", "-c pass", 600), 0)
    assert session.run(session.Part("done", "-c pass", 600), 600)
    told = capfd.readouterr().out
    for words in (
        "begun\n== waiting: ended at its limit",
        "no_such_package not installed",
        "time is over",
        "done: ended w",
    ):
        assert words in told, told
    for part in (*session.ON_GPU, *session.ON_CPU):
        assert (BENCHMARK.parents[1] / next(word for word in part.command.split() if word.endswith(".py"))).is_file()


def module_of(name: str) -> Any:
    """A benchmark, as a module."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARK.with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Launches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what a GPU would be asked to compute: operations that are no view and no allocation, and kernels."""

    count = 0

    def kernel(self, *_: Any, **__: Any) -> None:
        """Launch a kernel."""
        self.count += 1

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operation.overloadpacket.__name__
        self.count += not (operation.is_view or name.startswith(("empty", "new_empty", "detach", "_unsafe_view")))
        return operation(*args, **kwargs or {})


@pytest.mark.parametrize("name", ["NT-Xent", "SupCon", "contrastive", "cosine"])
def test_a_small_batch_launches_no_more_than_the_formula_by_hand(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a small batch takes on a GPU is to launch; no GPU is needed to count that."""
    triton = pytest.importorskip("triton")
    benchmark = module_of("gpu")
    monkeypatch.setattr(tiles, "has_kernels", lambda _: True)
    monkeypatch.setattr(blocks, "SMALL", blocks.SMALL_ON_GPU)
    monkeypatch.setattr(torch.cuda, "device_of", nullcontext)
    rows, labels = torch.empty(256, 32, device="meta", requires_grad=True), torch.empty(256, device="meta").long()
    counts = []
    for objective in (benchmark.ours()[name], benchmark.plain()[name]):
        with Launches() as launches:  # type: ignore[no-untyped-call]
            monkeypatch.setattr(triton.JITFunction, "run", launches.kernel)
            objective(rows, labels).backward()
        counts.append(launches.count)
    assert 20 < counts[0] <= 1.1 * counts[1]


def test_autocast_does_not_round_what_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "has_kernels", lambda _: False)
    near = torch.nn.functional.normalize(torch.ones(40, 16) + 1e-3 * torch.randn(40, 16))
    labels = torch.arange(40) // 2
    expected = nearest_neighbors(near, None, 3), SemiHard()(near, labels), BatchHard()(near, labels)
    monkeypatch.setattr("siamese_verify.pairwise.neighbors.fused", lambda _: True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = nearest_neighbors(near, None, 3), SemiHard()(near, labels), BatchHard()(near, labels)
    assert torch.equal(found[0], expected[0])
    assert [f.tolist() for each in found[1:] for f in each] == [f.tolist() for each in expected[1:] for f in each]


# Of each kernel f(loat), i(nteger) and their pointers F, L(ong), I, H(alf: bfloat16); "." is a constant.
SIGNATURES = {
    "_exponential_sums": "FFFFLLiii.....i",
    "_exponential_weights": "FHFFFFFLLiii......i",
    "_hinge_losses": "FHFILLFFiiiff......i",
    "_genuine_losses": "FLLLFFLiiiif....",
    "_nearest_impostors": "FLLLLFFFFFFiiiiii....i",
    "_farthest_genuine": "FFLLLLi..",
}
TYPES = {"F": "*fp32", "L": "*i64", "I": "*i32", "H": "*bf16", "f": "fp32", "i": "i32", ".": "constexpr"}


HEIGHTS = {"_exponential_sums": 64, "_exponential_weights": 64, "_hinge_losses": 32, "_nearest_impostors": 16}


def test_the_blocks_that_are_compiled_here_are_those_of_a_launch() -> None:
    pytest.importorskip("triton")
    from siamese_verify.pairwise import kernels

    for name, height in HEIGHTS.items():
        blocks = inspect.signature(getattr(kernels, name[1:])).parameters["blocks"].default
        assert blocks == (height, 128, 8)


@pytest.mark.slow
@pytest.mark.parametrize("single", [False, True])  # of one row and column, which Triton compiles anew
@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile_for_gpus_that_are_not_there(capability: int, single: bool, tmp_path: Path) -> None:
    """And keep their numbers in registers: what Triton's interpreter cannot show."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from siamese_verify.pairwise import kernels

    assembler = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    for name, letters in SIGNATURES.items():
        kernel = getattr(kernels, name)
        types = dict(zip(kernel.arg_names, map(TYPES.get, letters), strict=True))
        sizes = {"HEIGHT": HEIGHTS.get(name), "WIDTH": 128, "SIZE": 512}
        constants = {argument: sizes.get(argument, True) for argument, kind in types.items() if kind == "constexpr"}
        if single:
            constants |= {argument: 1 for argument in types if argument in ("n", "m", "queries", "size")}
            types |= dict.fromkeys(constants, "constexpr")
        aligned = [argument == "stride" or "*" in kind for argument, kind in types.items()]
        divisible = {(number,): [["tt.divisibility", 16]] for number, is_aligned in enumerate(aligned) if is_aligned}
        source = ASTSource(kernel, types, constants, divisible)
        options = {"num_warps": kernels.WARPS if name in HEIGHTS else 4}
        compiled = compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        assert compiled.asm["cubin"]
        (tmp_path / "kernel.ptx").write_text(compiled.asm["ptx"])
        architecture = f"sm_{capability}{'a' * (capability == 90)}"
        files = map(str, (assembler, tmp_path / "kernel.ptx", tmp_path / "kernel"))
        command = [next(files), "-v", f"--gpu-name={architecture}", next(files), "-o", next(files)]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        assert " 0 bytes spill stores, 0 bytes spill loads" in told, (name, told)
        if name in HEIGHTS:
            assert "ld.global.v4.b32" in compiled.asm["ptx"], f"{name} loads single numbers of a tile"
