"""Builds of the C++ sources, which several test files use."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOT_PASSED_ON = ("INTERNVL_RT_ISA", "PYTHONPATH")


def run(*command: str | Path, fails: bool = False) -> subprocess.CompletedProcess[str]:
    """Runs a command in the root of the sources; its failure is the test's, unless it is meant to fail."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON},
        capture_output=True,
        text=True,
        check=False,
        timeout=1500,
    )
    assert (done.returncode != 0) == fails, f"{command}\n{done.stdout[-8000:]}\n{done.stderr[-4000:]}"
    return done


def build_preset(preset: str) -> Path:
    """Builds in the preset's folder, where one process of tests at a time may build; returns the folder."""
    folder = ROOT / "build" / preset
    folder.parent.mkdir(exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run("cmake", "--preset", preset)
        run("cmake", "--build", "--preset", preset)
    return folder
