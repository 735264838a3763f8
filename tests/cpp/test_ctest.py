"""The C++ unit tests are part of the test suite; .ci/full runs them once more under the sanitizers, on 64-bit
Arm, on emulated AVX-512, AVX-VNNI and AMX, and with the instructions of AVX-VNNI as AVX-512 encodes them."""

import os
import shutil
from pathlib import Path

import pytest

from cpp_builds import build_preset, run


def cpu_flags() -> list[str]:
    """What Linux says of an x86-64 processor; nothing on others."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split() for line in lines if line.startswith("flags")), [])


def run_preset(preset: str) -> None:
    build_preset(preset)
    run("ctest", "--preset", preset, "--parallel", str(os.cpu_count() or 1))


@pytest.mark.cpp
def test_cpp_unit_tests() -> None:
    run_preset("release")


@pytest.mark.sanitizers
@pytest.mark.parametrize("preset", ["asan", "tsan"])
def test_cpp_unit_tests_under_sanitizers(preset: str) -> None:
    run_preset(preset)


@pytest.mark.sanitizers
@pytest.mark.skipif(
    not (shutil.which("aarch64-linux-gnu-g++") and shutil.which("qemu-aarch64")),
    reason="needs g++-aarch64-linux-gnu and qemu-user",
)
def test_cpp_unit_tests_on_arm() -> None:
    """Whole models run with the last of the instruction sets only: each takes a minute there."""
    run_preset("aarch64")


@pytest.mark.sanitizers
@pytest.mark.skipif(not Path("/usr/include/simde").is_dir(), reason="needs libsimde-dev")
def test_kernels_on_emulated_avx512_and_amx() -> None:
    """Few machines can run these kernels; one that can does so in the tests above."""
    run_preset("emulated")


@pytest.mark.sanitizers
@pytest.mark.skipif("avx512_bf16" not in cpu_flags(), reason="needs a processor with AVX-512 and bf16")
def test_kernels_on_emulated_amx() -> None:
    """The rest of such a kernel runs as it is compiled for a processor that has tiles."""
    run_preset("emulated-amx")


@pytest.mark.sanitizers
@pytest.mark.skipif("avx512_vnni" not in cpu_flags(), reason="needs a processor with AVX-512 VNNI")
def test_kernels_of_avx_vnni_in_evex() -> None:
    """Servers have these instructions in AVX-512 alone; small processors have them without it."""
    run_preset("evex")
