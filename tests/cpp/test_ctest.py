"""The C++ unit tests are part of the test suite, and run once more under the sanitizers, on 64-bit Arm and
on emulated AVX-512 and AMX."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from internvl_rt import _core

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "INTERNVL_RT_ISA"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=1500
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-8000:]}\n{done.stderr[-4000:]}"


@pytest.mark.cpp
@pytest.mark.parametrize("preset", ["release", "asan", "tsan"])
def test_cpp_unit_tests(preset: str) -> None:
    run("cmake", "--preset", preset)
    run("cmake", "--build", "--preset", preset)
    run("ctest", "--preset", preset, "--parallel", str(os.cpu_count() or 1))


@pytest.mark.cpp
@pytest.mark.skipif(
    not (shutil.which("aarch64-linux-gnu-g++") and shutil.which("qemu-aarch64")),
    reason="needs g++-aarch64-linux-gnu and qemu-user",
)
def test_cpp_unit_tests_on_arm() -> None:
    """Whole models run with the last of the instruction sets only: each takes a minute there."""
    test_cpp_unit_tests("aarch64")


@pytest.mark.cpp
@pytest.mark.skipif(not Path("/usr/include/simde").is_dir(), reason="needs libsimde-dev")
def test_kernels_on_emulated_avx512_and_amx() -> None:
    """Few machines can run these kernels; one that can does so in the tests above."""
    test_cpp_unit_tests("emulated")


@pytest.mark.cpp
@pytest.mark.skipif(
    "avx512_bf16" not in _core.available_instruction_sets(), reason="needs a processor with AVX-512 and bf16"
)
def test_kernels_on_emulated_amx() -> None:
    """The rest of such a kernel runs as it is compiled for a processor that has tiles."""
    test_cpp_unit_tests("emulated-amx")
