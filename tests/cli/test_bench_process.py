"""The process that ``bench`` measures in: where it imports from, that it ends, and that no figure is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from commands import Run
from internvl_rt.bench import run as bench_run

SHORT = ("--repeats", 1, "--warmup", 0, "--new-tokens", 2, "--prompt-tokens", 4, "--cache-fill", 0)
FOR_EVER = (
    "--repeats",
    1_000_000,
    "--new-tokens",
    2,
    "--prompt-tokens",
    4,
    "--cache-fill",
    0,
    "--max-tiles",
    1,
)


def children(process: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def wait_until(holds: Any, what: str) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks at processes in /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_worker_ends_with_whoever_started_it(tiny_bundle: Path, how: signal.Signals) -> None:
    command = [sys.executable, "-m", "internvl_rt", "bench", tiny_bundle, *FOR_EVER]
    with subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_until(lambda: children(process.pid), "bench starts a worker")
            (worker,) = children(process.pid)
            # It computes: it has loaded the bundle, whose weights it maps.
            maps = Path(f"/proc/{worker}/maps")
            wait_until(lambda: "weights.safetensors" in maps.read_text(), "the worker loads the bundle")
            process.send_signal(how)
            assert process.stderr is not None
            # The pipe ends when both have ended: the worker holds it too.
            assert "Traceback" not in process.stderr.read()
            wait_until(lambda: not _lives(worker), "the worker has ended")
        finally:
            process.kill()


def _lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_figures_are_printed_though_the_plot_cannot_be_written(
    run: Run, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    def full(self: Figure, path: Path, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    plot = ("--plot", tmp_path / "a.png")
    done = run("bench", tiny_bundle, *SHORT, "--max-tiles", 1, *plot, "--json", status=1)
    assert done.document["engines"][0]["engine"] == "native"
    assert "a.png: the picture cannot be written (No space left on device)" in done.err


def test_a_plot_s_place_is_looked_at_before_anything_is_measured(
    run: Run, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(bench_run, "_in_own_process", lambda *_: pytest.fail("it was measured"))
    (tmp_path / "folder.png").mkdir()
    says = {
        tmp_path / "none" / "a.png": "there is no folder",
        tmp_path / "folder.png": "is a folder",
        tmp_path / "a.tiger": "name ends in one of",
    }
    for path, words in says.items():
        assert words in run("bench", tiny_bundle, *SHORT, "--plot", path, status=1).err
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    denied = run("bench", tiny_bundle, *SHORT, "--plot", tmp_path / "a.png", status=1)
    assert "permission denied" in denied.err
    assert "--plot" in denied.err


def test_an_engine_that_fails_does_not_take_the_others_figures_with_it(
    run: Run, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from internvl_rt.errors import DeviceError

    measure = bench_run._in_own_process

    def measured(bundle: str, engine: str, *rest: Any) -> Any:
        if engine == "onnxruntime":
            raise DeviceError("it broke, and engine='native' did not.")
        return measure(bundle, engine, *rest)

    monkeypatch.setattr(bench_run, "_in_own_process", measured)
    engines = ("--engine", "onnxruntime", "--engine", "native")
    done = run("bench", tiny_bundle, *SHORT, "--max-tiles", 1, *engines, "--json", status=1)
    assert [engine["engine"] for engine in done.document["engines"]] == ["native"]
    assert done.document["failed"] == {"onnxruntime": "it broke, and engine='native' did not."}
    assert done.err.count("\n") == 1
    assert "onnxruntime: it broke, and --engine native did not." in done.err


def test_the_worker_looks_for_modules_where_bench_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    package = str(Path(bench_run.__file__).parents[2])
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), "/some/where", f"{tmp_path}/lib"])
    assert bench_run._module_folders() == ["/some/where", f"{tmp_path}/lib", package]
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}")
    assert bench_run._module_folders() == [str(tmp_path), "/some/where", f"{tmp_path}/lib", package]
