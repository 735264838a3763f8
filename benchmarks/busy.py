"""On a machine that is shared: a token and a tile beside a process that spins, by one thread and by more.

    python benchmarks/busy.py BUNDLE [--threads 2] [--rounds 5] [--json F]

Every condition is measured with one thread and with --threads in turns, and medians are compared: a spinning
process that may run on any core, one on each of the first and the last core alone, and none. At the end the
loaded models wait for some seconds, and the processor time that this takes is told.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from internvl_rt import _core
from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.engines.doctor import cpu_name
from internvl_rt.model.cache_size import context_of
from internvl_rt.model.loading import assemble

SETTLE = 0.3
"""Seconds that a condition lasts before it counts, and that every program is given to see it."""
IDLE_SECONDS = 5.0
PROMPT_TOKENS = 64


class Loaded:
    """The native engine with so many threads, and the two things that are measured."""

    def __init__(self, folder: Path, threads: int) -> None:
        bundle = open_bundle(folder)
        cache_tokens, context_tokens = context_of(bundle.manifest, 2048, None)
        _, self.engine = assemble(bundle, "native", cache_tokens, context_tokens, threads)
        self.most_steps = context_tokens - PROMPT_TOKENS
        size = bundle.manifest.vision.image_size
        self.pixels = np.random.default_rng(0).standard_normal((1, 3, size, size), dtype=np.float32)
        self.sequence = self.engine.new_sequence()
        self.engine.prefill(self.sequence, self.engine.embed(np.arange(PROMPT_TOKENS), None))

    def decode_ms(self, seconds: float) -> float:
        """The mean of a token over so long a time."""
        sequence = self.engine.fork(self.sequence)
        begun, steps = time.perf_counter(), 0
        while steps == 0 or (steps < self.most_steps and time.perf_counter() - begun < seconds):
            self.engine.decode([sequence], [steps % PROMPT_TOKENS])
            steps += 1
        elapsed = time.perf_counter() - begun
        self.engine.drop(sequence)
        return 1e3 * elapsed / steps

    def tile_ms(self) -> float:
        begun = time.perf_counter()
        self.engine.encode_tiles(self.pixels)
        return 1e3 * (time.perf_counter() - begun)


@contextlib.contextmanager
def spinning(cores: set[int] | None) -> Iterator[None]:
    """A process that spins on these cores; none for None."""
    if cores is None:
        yield
        return
    code = f"import os\nos.sched_setaffinity(0, {cores!r})\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        time.sleep(SETTLE)
        yield
    finally:
        process.kill()
        process.wait()


def measured(loaded: dict[int, Loaded], rounds: int, seconds: float, *, tower: bool) -> dict[str, Any]:
    """Per stage and number of threads, the samples of one condition."""
    samples: dict[str, dict[int, list[float]]] = {"decode": {n: [] for n in loaded}}
    if tower:
        samples["tower"] = {n: [] for n in loaded}
    for _ in range(rounds):
        for threads, model in loaded.items():
            samples["decode"][threads].append(model.decode_ms(seconds))
        if tower:
            for threads, model in loaded.items():
                samples["tower"][threads].append(model.tile_ms())
    return samples


def idle_share(seconds: float) -> float:
    """Processor time of this process while it sleeps, by the time that passes."""
    before = os.times()
    time.sleep(seconds)
    after = os.times()
    return (after.user + after.system - before.user - before.system) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, default=_core.usable_cores())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="decoding for one sample")
    parser.add_argument("--no-tower", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    conditions: dict[str, set[int] | None] = {
        "quiet": None,
        "spinning anywhere": set(cores),
        f"spinning on core {cores[0]}": {cores[0]},
        f"spinning on core {cores[-1]}": {cores[-1]},
    }
    loaded = {threads: Loaded(options.bundle, threads) for threads in (1, options.threads)}
    for model in loaded.values():
        model.decode_ms(SETTLE)
        if not options.no_tower:
            model.tile_ms()
    report: dict[str, Any] = {"cpu": cpu_name(), "threads": options.threads, "samples_ms": {}}
    table = Table(
        title=f"{options.bundle.name}, {cpu_name()}, {len(cores)} cores, medians of {options.rounds}"
    )
    for heading in ("", "stage", "1 thread", f"{options.threads} threads", "ratio"):
        table.add_column(heading, justify="left" if heading in ("", "stage") else "right")
    for condition, where in conditions.items():
        with spinning(where):
            samples = measured(loaded, options.rounds, options.seconds, tower=not options.no_tower)
        report["samples_ms"][condition] = samples
        for stage, by in samples.items():
            one, many = (statistics.median(by[threads]) for threads in (1, options.threads))
            table.add_row(condition, stage, f"{one:.1f} ms", f"{many:.1f} ms", f"{many / one:.2f}")
    report["idle_cores"] = idle_share(IDLE_SECONDS)
    table.caption = f"idle: {report['idle_cores']:.4f} cores over {IDLE_SECONDS:.0f} seconds"
    Console(width=120).print(table)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
