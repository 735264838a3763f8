"""Stage by stage: internvl_rt beside OpenVINO, llama.cpp and torch, at full size, alternating in one run.

    python benchmarks/model.py [--model InternVL2_5-1B] [--threads 2] [--rounds 5] [--json F] [--plot F]

Every contestant loads once, in a process of its own, and then they take turns: round by round, stage by
stage, one sample each, while the others wait. Medians are compared. Weights are random: times do not depend
on them. Contestants whose Python packages are missing are left out, and named. The packages may live in
another environment: --python openvino=/path/to/python.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from contestants.contestant import PROMPT_TOKENS, Work
from contestants.internvl_rt_engine import NATIVE_CACHE
from internvl_rt import _core
from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.bundle.manifest import Manifest
from internvl_rt.doctor import cpu_name
from internvl_rt.export.synthetic import export_synthetic, synthetic_manifest
from necessary import necessary

HERE = Path(__file__).parent
# Of 1920 x 1080 pixels, at most 12 tiles: 4 x 2 and the thumbnail, and a short question.
PICTURE_TILES = 9
TEXT_TOKENS = 84

Samples = dict[str, list[float]]
Peaks = dict[str, float]


@dataclass(frozen=True)
class Entry:
    """A row of the table: whom to load, on the bundle of which precisions (language model, vision)."""

    label: str
    name: str
    weights: str
    vision: str

    @property
    def package(self) -> str:
        return self.name.partition(":")[0]


ENTRIES = (
    Entry("internvl-rt int4, vision int8", "internvl-rt:native", "int4", "int8"),
    Entry("internvl-rt int8, vision bf16", "internvl-rt:native", "int8", "bf16"),
    Entry("internvl-rt bf16", "internvl-rt:native", "bf16", "bf16"),
    Entry("ONNX Runtime, our graphs, fp32", "internvl-rt:onnxruntime", "bf16", "bf16"),
    Entry("OpenVINO, our graphs, bf16", "openvino", "bf16", "bf16"),
    Entry("OpenVINO, our graphs, int8", "openvino", "int4", "int8"),
    Entry("transformers fp32", "transformers:float32", "bf16", "bf16"),
    Entry("transformers bf16", "transformers:bfloat16", "bf16", "bf16"),
    Entry("llama.cpp Q4_0", "llama.cpp:Q4_0", "bf16", "bf16"),
    Entry("llama.cpp Q8_0", "llama.cpp:Q8_0", "bf16", "bf16"),
)


@dataclass
class Running:
    """A loaded contestant that waits for its turn."""

    entry: Entry
    bundle: Path
    process: subprocess.Popen[str]
    load_ms: float
    stages: tuple[str, ...]
    samples: Samples = field(default_factory=dict)

    @property
    def is_ours(self) -> bool:
        return self.entry.name == "internvl-rt:native"

    def sample(self, stage: str) -> float:
        return float(_ask(self.process, {"stage": stage})["ms"])


def start(entry: Entry, work: Work, python: str) -> Running | None:
    """None where the contestant cannot be loaded; what it said is on stderr."""
    process = subprocess.Popen(
        [python, "-m", "contestants.worker"],
        cwd=HERE,
        env={**os.environ, "OMP_NUM_THREADS": str(work.threads)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        loaded = _ask(process, {"name": entry.name, "work": dataclasses.asdict(work)})
    except EOFError:
        return None
    return Running(entry, Path(work.bundle), process, loaded["load_ms"], tuple(loaded["stages"]))


def _ask(process: subprocess.Popen[str], message: dict[str, Any]) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise EOFError(f"the process ended with status {process.wait()}")
    answer: dict[str, Any] = json.loads(line)
    return answer


def machine_peaks(threads: int) -> Peaks:
    """Operations and bytes per second, by the kernels' benchmark, with as many threads."""
    command = [str(HERE / "kernels.sh"), "--peaks", "--threads", str(threads)]
    peaks: Peaks = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return peaks


def shares_of(runner: Running, peaks: Peaks) -> dict[str, dict[str, float]]:
    """Per stage, the least time that its arithmetic and its reading would take at the peaks, by its time."""
    bundle = open_bundle(runner.bundle)
    found = {}
    for stage, samples in runner.samples.items():
        needed = necessary(bundle, stage, NATIVE_CACHE)
        if needed is not None:
            seconds = statistics.median(samples) / 1e3
            arithmetic = (needed.operations - needed.integer) / peaks["fp32"] + needed.integer / peaks["int8"]
            found[stage] = {
                "arithmetic": arithmetic / seconds,
                "bandwidth": needed.bytes / peaks["bytes"] / seconds,
            }
    return found


def work_of(manifest: Manifest, bundle: Path, threads: int) -> Work:
    llm, vision = manifest.llm, manifest.vision
    return Work(
        bundle=str(bundle),
        threads=threads,
        tile_size=vision.image_size,
        hidden_size=llm.hidden_size,
        intermediate_size=llm.intermediate_size,
        layers=llm.layers,
        heads=llm.heads,
        kv_heads=llm.kv_heads,
        head_dim=llm.head_dim,
        vocab_size=llm.vocab_size,
        rope_theta=llm.rope.theta,
        norm_eps=llm.norm_eps,
        vision_hidden_size=vision.hidden_size,
        vision_intermediate_size=vision.intermediate_size,
        vision_layers=vision.layers,
        vision_heads=vision.heads,
        patch_size=vision.patch_size,
        picture_tiles=PICTURE_TILES,
        picture_tokens=PICTURE_TILES * manifest.tokens_per_tile + TEXT_TOKENS,
    )


def stages_of(runners: list[Running], chosen: list[str]) -> list[str]:
    """In the order in which contestants name them."""
    return list(dict.fromkeys(s for r in runners for s in r.stages if not chosen or s in chosen))


def take_turns(runners: list[Running], stages: list[str], rounds: int) -> None:
    console = Console(stderr=True)
    for stage in stages:
        running = [runner for runner in runners if stage in runner.stages]
        for number in range(rounds + 1):
            for runner in running:
                console.print(f"{stage}, round {number} of {rounds}: {runner.entry.label}", style="dim")
                milliseconds = runner.sample(stage)
                if number > 0:  # the first one warms up
                    runner.samples.setdefault(stage, []).append(milliseconds)


def shown(stage: str, milliseconds: float) -> str:
    if stage == "prefill":
        return f"{1e3 * PROMPT_TOKENS / milliseconds:.0f} tok/s"
    if stage.startswith("decode 8 "):
        return f"{8e3 / milliseconds:.1f} tok/s"
    if stage.startswith("decode "):
        return f"{1e3 / milliseconds:.1f} tok/s"
    return f"{milliseconds / 1e3:.2f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="InternVL2_5-1B")
    parser.add_argument("--layers", type=int, help="keep only so many layers, to try the script out")
    parser.add_argument("--threads", type=int, default=_core.usable_cores())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", default=[], help="contestants, by a part of the label")
    parser.add_argument("--stage", action="append", default=[], help="stages; all when left out")
    parser.add_argument("--bundles", type=Path, help="keep the bundles here for the next run")
    parser.add_argument("--python", action="append", default=[], metavar="PACKAGE=PATH")
    parser.add_argument(
        "--peaks", action="store_true", help="measure the machine's peaks too, and our share of them"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    pythons = dict(choice.split("=", 1) for choice in options.python)
    entries = [e for e in ENTRIES if not options.only or any(part in e.label for part in options.only)]
    with tempfile.TemporaryDirectory() as temporary:
        runners = []
        for entry in entries:
            bundle = (options.bundles or Path(temporary)) / f"{entry.weights}-{entry.vision}"
            manifest = synthetic_manifest(
                options.model, weights=entry.weights, vision=entry.vision, layers=options.layers
            )
            if not bundle.exists():
                export_synthetic(
                    options.model,
                    bundle,
                    weights=entry.weights,
                    vision=entry.vision,
                    layers=options.layers,
                )
            work = work_of(manifest, bundle, options.threads)
            runner = start(entry, work, pythons.get(entry.package, sys.executable))
            if runner is None:
                Console(stderr=True).print(f"left out: {entry.label} (see above)", style="yellow")
                continue
            runners.append(runner)
        load = os.getloadavg()[0]
        peaks = machine_peaks(options.threads) if options.peaks else None
        take_turns(runners, stages_of(runners, options.stage), options.rounds)
        for runner in runners:
            runner.process.kill()
        shares = {} if peaks is None else {r.entry.label: shares_of(r, peaks) for r in runners if r.is_ours}
    report = {
        "machine": {
            "cpu": cpu_name(),
            "instruction_set": _core.instruction_set(),
            "threads": options.threads,
            "load_average_before": load,
            "python": platform.python_version(),
        },
        "model": options.model,
        "layers": options.layers,
        "rounds": options.rounds,
        "peaks": peaks,
        "shares_of_peaks": shares,
        "samples_ms": {r.entry.label: {"load": [r.load_ms], **r.samples} for r in runners},
    }
    print_table(report)
    if shares:
        print_shares(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if options.plot:
        plot(report, options.plot)


def medians(report: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Per stage, the median milliseconds of everybody who has it."""
    found: dict[str, dict[str, float]] = {}
    for label, samples in report["samples_ms"].items():
        for stage, values in samples.items():
            found.setdefault(stage, {})[label] = statistics.median(values)
    return found


def print_table(report: dict[str, Any]) -> None:
    found = medians(report)
    table = Table(
        title=f"{report['model']}, {report['machine']['cpu']}, {report['machine']['threads']} threads"
    )
    table.add_column("")
    for stage in found:
        table.add_column(stage, justify="right")
    for label in report["samples_ms"]:
        table.add_row(label, *(shown(stage, by[label]) if label in by else "" for stage, by in found.items()))
    Console(width=200).print(table)


def print_shares(report: dict[str, Any]) -> None:
    peaks = report["peaks"]
    table = Table(
        title=f"share of the peaks: {peaks['fp32'] / 1e9:.0f} GFLOP/s fp32, "
        f"{peaks['int8'] / 1e9:.0f} GOP/s int8, {peaks['bytes'] / 1e9:.1f} GB/s"
    )
    stages = list(next(iter(report["shares_of_peaks"].values())))
    for heading in ("", *stages):
        table.add_column(heading, justify="left" if not heading else "right")
    for label, by in report["shares_of_peaks"].items():
        cells = (f"{100 * by[s]['arithmetic']:.0f} % / {100 * by[s]['bandwidth']:.0f} %" for s in stages)
        table.add_row(label, *cells)
    table.caption = "arithmetic / reading of weights and cache"
    Console(width=200).print(table)


def plot(report: dict[str, Any], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = {stage: by for stage, by in medians(report).items() if len(by) > 1 and stage != "load"}
    figure, axes = pyplot.subplots(1, len(found), figsize=(3.2 * len(found), 3.6), squeeze=False)
    for axis, (stage, by) in zip(axes[0], found.items(), strict=True):
        labels = list(by)[::-1]
        colours = ["tab:blue" if label.startswith("internvl-rt") else "lightgrey" for label in labels]
        axis.barh(labels, [by[label] for label in labels], color=colours)
        axis.set_title(stage)
        axis.set_xlabel("ms, less is better")
        if axis is not axes[0][0]:
            axis.set_yticklabels([])
    figure.tight_layout()
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main()
