"""benchmarks/table.py, arm_loops.py and busy.py: what they make of what was measured."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def on_the_path() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


REPORT = {
    "machine": {"cpu": "a CPU", "threads": 2, "instruction_set": "avx2"},
    "samples_ms": {
        "internvl-rt int4, vision int8": {
            "vit": [1000.0, 9000.0, 1000.0],
            "decode 1024": [20.0],
            "decode 8 at 1024": [40.0],
            "prefill 1024": [2048.0],
        },
        "internvl-rt bf16": {"vit": [3000.0]},
        "ONNX Runtime, our graphs, fp32": {"prefill 1024": [1.0]},
        "OpenVINO, our graphs, bf16": {"vit": [2000.0], "decode 1024": [50.0], "prefill 1024": [1024.0]},
        "OpenVINO, our graphs, int4, vision int8 by NNCF": {"vit": [1500.0]},
        "OpenVINO, our graphs, int4, vision int8": {"vit": [1600.0]},
        "llama.cpp Q4_0": {"decode 1024": [30.0]},
    },
}


def test_the_readme_table() -> None:
    other = json.loads(json.dumps(REPORT))
    other["machine"]["instruction_set"] = "neon"
    del other["samples_ms"]["internvl-rt bf16"]
    lines = module("table").markdown([REPORT, other]).splitlines()
    assert lines[:7] == [
        "|  | a CPU, 2 threads (`avx2`) | a CPU, 2 threads (`neon`) |",
        "|---|---|---|",
        "| ViT + projector in bf16 | 3.00 s / 2.00 s: 0.67x |  |",
        "| ViT + projector in int8 | 1.00 s / 1.50 s: 1.50x | 1.00 s / 1.50 s: 1.50x |",
        "| a prompt of 1024 tokens | 500 tok/s / 1000 tok/s: 0.50x | 500 tok/s / 1000 tok/s: 0.50x |",
        "| decode in int4 at 1024 | 50 tok/s / 33 tok/s: 1.50x | 50 tok/s / 33 tok/s: 1.50x |",
        "| eight sequences at 1024, against one of ours "
        "| 200 tok/s / 50 tok/s: 4.00x | 200 tok/s / 50 tok/s: 4.00x |",
    ]
    assert lines[8] == (
        "a CPU, 2 threads (`avx2`), against the fastest of the others. "
        "Slower: a prompt of 1024 tokens, 2.00 times as long as OpenVINO, our graphs, bf16; "
        "ViT + projector in bf16, 1.50 times as long as OpenVINO, our graphs, bf16. "
        "Faster: ViT + projector in int8, 1.50 times as fast as "
        "OpenVINO, our graphs, int4, vision int8 by NNCF; "
        "decode in int4 at 1024, 1.50 times as fast as llama.cpp Q4_0."
    )


def test_the_readme_shows_what_was_kept() -> None:
    table = module("table")
    shown = table.README.read_text().partition(table.BEGIN)[2].partition(table.END)[0].strip()
    assert shown == table.markdown(table.newest())


def test_the_innermost_loops_that_multiply_are_found() -> None:
    arm = module("arm_loops")
    lines = dict(
        enumerate(
            [
                "mov x1, #0x0",
                "ldr q0, [x0], #0x10",
                "fmla v1.4s, v0.4s, v2.4s",
                "cbz x3, 0x5 <f+0x5>",
                "fmla v1.4s, v0.4s, v2.s[1]",
                "subs x1, x1, #0x1",
                "b.ne 0x1 <f+0x1>",
                "add x1, x1, #0x1",
                "cbnz x1, 0x7 <f+0x7>",
                "b 0x0 <f>",
            ]
        )
    )
    (loop,) = arm.innermost(lines, "matmul/gemm_kernels", "f<4, 3>")
    assert loop.instructions == tuple(lines[at] for at in range(1, 7))
    assert (loop.multiplications, loop.template) == (8, "f<#, #>")
    assert not list(arm.innermost(lines, "matmul/integer_gemm_kernels", "f"))


def test_of_a_template_the_largest_and_the_smallest_instance_are_shown() -> None:
    arm = module("arm_loops")
    dot = ("sdot v0.4s, v1.16b, v2.16b",)
    loops = [
        arm.Loop("matmul/integer_gemv_kernels", name, times * dot)
        for name, times in (("f<1>", 1), ("f<1>", 2), ("f<2>", 4), ("f<3>", 6), ("finish", 9), ("g", 1))
    ]
    kept = [(loop.function, loop.multiplications) for loop in arm.chosen(loops)]
    assert kept == [("f<3>", 96), ("f<1>", 32), ("g", 16)]


@pytest.mark.parametrize(
    ("demangled", "name"),
    [
        ("void internvl::neon::(anonymous namespace)::tile<4, 3>(float const*, int)", "tile<4, 3>"),
        (
            "void internvl::neon::(anonymous namespace)::rows<1, internvl::neon::Plain<internvl::Half>>(int)",
            "rows<1, Plain<Half>>",
        ),
        ("internvl::neon_dotprod::(anonymous namespace)::multiply(internvl::Rows const&)", "multiply"),
    ],
)
def test_names_of_functions(demangled: str, name: str) -> None:
    assert module("arm_loops").readable(demangled) == name


@pytest.mark.skipif(sys.platform != "linux", reason="pins processes to cores")
def test_a_busy_machine_is_measured(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = module("busy")
    monkeypatch.setattr(busy, "IDLE_SECONDS", 0.1)
    monkeypatch.setattr(busy, "SETTLE", 0.05)
    file = tmp_path / "busy.json"
    arguments = ["busy.py", str(tiny_bundle), "--rounds", "2", "--seconds", "0.01", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--threads", "2"])
    busy.main()
    conditions = json.loads(file.read_text())["samples_ms"]
    assert {"quiet", "spinning anywhere"} <= conditions.keys()
    for by in conditions.values():
        assert {stage: {n: len(s) for n, s in of.items()} for stage, of in by.items()} == {
            "decode": {"1": 2, "2": 2},
            "tower": {"1": 2, "2": 2},
        }
