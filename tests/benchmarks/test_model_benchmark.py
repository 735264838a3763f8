"""benchmarks/model.py: every stage of contestants that are installed, their memory, and what is printed."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import mmap
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from internvl_rt.bench.measure import drawn_picture
from internvl_rt.bundle.bundle import open_bundle

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MIB = 1 << 20
CONTESTANTS = ("internvl-rt:native", "internvl-rt:onnxruntime", "openvino")


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("model")


@pytest.fixture(scope="module")
def work(benchmark: ModuleType, roomy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    picture = tmp_path_factory.mktemp("picture") / "picture.jpg"
    picture.write_bytes(drawn_picture(benchmark.PICTURE_SIZE))
    return benchmark.work_of(open_bundle(roomy_bundle).manifest, roomy_bundle, picture, 1)


def entry(benchmark: ModuleType, name: str) -> Any:
    if name == "openvino" and importlib.util.find_spec(name) is None:
        pytest.skip("openvino is not installed")
    return benchmark.Entry(name, name, "fp32", "fp32")


@pytest.mark.parametrize("name", CONTESTANTS)
def test_every_stage(benchmark: ModuleType, work: Any, name: str) -> None:
    (runner,) = benchmark.in_turns([(entry(benchmark, name), work, sys.executable)], benchmark.STAGES, 2)
    # Eight sequences at once are ours alone.
    wanted = [s for s in benchmark.STAGES if name != "openvino" or not s.startswith("decode 8")]
    assert {stage: len(samples) for stage, samples in runner.samples.items()} == {
        stage: 1 if stage == "load" else 2 for stage in wanted
    }
    assert all(milliseconds > 0 for samples in runner.samples.values() for milliseconds in samples)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_of_one_answer(benchmark: ModuleType, work: Any, roomy_bundle: Path) -> None:
    found = benchmark.request_memory(entry(benchmark, "internvl-rt:native"), work, sys.executable)
    assert found["weights_file"] == open_bundle(roomy_bundle).weights.stat().st_size
    # A Python process with NumPy and this model; the kernel's count may be of a moment that was not seen.
    assert 20 * MIB < found["files"] + found["anonymous"] <= found["total"] + 8 * MIB < 1024 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_is_told_apart(benchmark: ModuleType, tmp_path: Path) -> None:
    memory = importlib.import_module("contestants.memory")
    file = tmp_path / "mapped"
    file.write_bytes(bytes(48 * MIB))
    before = memory.resident()
    watch = memory.MemoryWatch()
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        ours = np.ones(64 * MIB, np.uint8)
        assert sum(mapped[:: mmap.PAGESIZE]) == 0
        time.sleep(0.1)
        del ours
    after = memory.resident()
    peak = watch.peak()
    assert 60 * MIB < peak.anonymous - before.anonymous < 100 * MIB
    assert 44 * MIB < peak.files - before.files < 80 * MIB
    assert peak.total > after.total + 100 * MIB


def test_who_cannot_be_loaded_is_left_out(benchmark: ModuleType, work: Any) -> None:
    assert benchmark.start(entry(benchmark, "nobody"), work, sys.executable) is None


def test_who_fails_is_left_out_from_then_on(benchmark: ModuleType, work: Any) -> None:
    running = [
        benchmark.start(benchmark.Entry(label, "internvl-rt:native", "", ""), given, sys.executable)
        for label, given in (("well", work), ("without its picture", replace(work, picture="/nowhere.jpg")))
    ]
    try:
        benchmark.take_turns(running, ["vit", "picture", "decode 0"], 1)
    finally:
        for runner in running:
            runner.end()
    well, ill = (runner.samples.keys() for runner in running)
    assert (well, ill) == ({"load", "vit", "picture", "decode 0"}, {"load", "vit"})


def test_chosen_stages(benchmark: ModuleType) -> None:
    assert benchmark.chosen_stages("decode 1024, vit") == ["vit", "decode 1024"]
    assert benchmark.chosen_stages("") == [*benchmark.STAGES, "memory"]
    with pytest.raises(argparse.ArgumentTypeError, match="no stage 'vitt'"):
        benchmark.chosen_stages("vitt")


def test_the_table(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    report = {
        "model": "InternVL2_5-1B",
        "machine": {"cpu": "a CPU", "threads": 2},
        "samples_ms": {
            "internvl-rt": {"load": [200.0], "decode 8 at 1024": [80.0, 90.0, 70.0], "picture": [5e4]},
            "llama.cpp": {"prefill 1024": [4000.0], "decode 0": [20.0]},
        },
        "memory_bytes": {
            "internvl-rt": {
                "weights_file": 868622384,
                "total": 1200000000,
                "files": 900000000,
                "anonymous": 299000000,
            }
        },
    }
    benchmark.print_table(report)
    benchmark.print_memory(report)
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("│")
    ]
    assert rows == [
        # load, prefill 1024, decode 0, decode 8 at 1024, picture
        ["internvl-rt", "0.20 s", "-", "-", "100.0 tok/s", "50.00 s"],
        ["llama.cpp", "-", "256 tok/s", "50.0 tok/s", "-", "-"],
        # weights file, peak, mapped files, own, peak less weights file
        ["internvl-rt", "869", "1200", "900", "299", "331"],
    ]
