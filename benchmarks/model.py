"""Stage by stage: internvl_rt beside OpenVINO, llama.cpp and torch, at full size, alternating in one run.

    python benchmarks/model.py [--model InternVL2_5-1B] [--threads 2] [--rounds 5] [--json F] [--plot F]
    python benchmarks/model.py --stages "prefill 1024,decode 1024" --only int4 --only Q4_0 --rounds 3

Every contestant loads once, in a process of its own, and then they take turns: round by round, stage by
stage, one sample each, while the others wait. Medians are compared. Weights are random: times do not depend
on them. Contestants whose Python packages are missing are left out, and named. The packages may live in
another environment: --python openvino=/path/to/python.

The last stage is "memory": every contestant that can tell about a picture loads once more, alone, in a new
process, and is asked for that one answer; what is told is the most memory that the process had at any time.

Where a contestant has no figure, its docstring in contestants/ says why.
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
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import internvl_rt as ivl
from contestants.contestant import STAGES, Work, tokens_of
from contestants.internvl_rt_engine import NATIVE_CACHE
from internvl_rt import _core
from internvl_rt.bench.measure import QUESTION, drawn_picture
from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.bundle.manifest import WEIGHTS_FILE, Manifest
from internvl_rt.engines.doctor import cpu_name
from internvl_rt.export.synthetic import export_synthetic, synthetic_manifest
from necessary import necessary

HERE = Path(__file__).parent
PICTURE_SIZE = (1920, 1080)
MAX_TILES = 12
PICTURE_TILES = 9
"""What that makes: 4 x 2 and the thumbnail."""
LONG = ("prefill 4096", "prefill 8192", "picture")
MEMORY = "memory"
"""Chosen like a stage."""

Samples = dict[str, list[float]]
Peaks = dict[str, float]
Memory = dict[str, int]
"""``Resident`` of contestants/memory.py, and ``weights_file``; bytes."""


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
    Entry("OpenVINO, our graphs, int4, vision int8", "openvino", "int4", "int8"),
    Entry("OpenVINO, our graphs, int4, vision int8 by NNCF", "openvino:nncf", "int4", "bf16"),
    Entry("OpenVINO, our graphs, int8, vision bf16", "openvino", "int8", "bf16"),
    Entry("OpenVINO, our graphs, bf16", "openvino", "bf16", "bf16"),
    Entry("transformers fp32", "transformers:float32", "bf16", "bf16"),
    Entry("transformers bf16", "transformers:bfloat16", "bf16", "bf16"),
    Entry("llama.cpp Q4_0", "llama.cpp:Q4_0", "bf16", "bf16"),
    Entry("llama.cpp Q8_0", "llama.cpp:Q8_0", "bf16", "bf16"),
)


@dataclass
class Running:
    """A loaded contestant that waits for its turn."""

    entry: Entry
    work: Work
    process: subprocess.Popen[str]
    stages: tuple[str, ...]
    samples: Samples = field(default_factory=dict)

    @property
    def is_ours(self) -> bool:
        return self.entry.name == "internvl-rt:native"

    def sample(self, stage: str) -> float:
        return float(_ask(self.process, {"stage": stage})["ms"])

    def peak_memory(self) -> Memory:
        """Of a process that was started to be watched."""
        weights = (Path(self.work.bundle) / WEIGHTS_FILE).stat().st_size
        return {"weights_file": weights, **_ask(self.process, {"stage": MEMORY})}

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def start(entry: Entry, work: Work, python: str, *, watch_memory: bool = False) -> Running | None:
    """None where the contestant cannot be loaded; what it said is on stderr."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(work.threads)}
    if python != sys.executable:
        environment["PYTHONPATH"] = str(HERE.parent / "python")
    process = subprocess.Popen(
        [python, "-m", "contestants.worker"],
        cwd=HERE,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    task = {"name": entry.name, "work": dataclasses.asdict(work), "watch_memory": watch_memory}
    try:
        loaded = _ask(process, task)
    except EOFError:
        Console(stderr=True).print(f"left out: {entry.label} (see above)", style="yellow")
        return None
    running = Running(entry, work, process, tuple(loaded["stages"]))
    if "load" in running.stages:
        running.samples["load"] = [loaded["load_ms"]]
    return running


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
    bundle = open_bundle(runner.work.bundle)
    found = {}
    for stage, samples in runner.samples.items():
        needed = necessary(bundle, stage, NATIVE_CACHE)
        if needed is not None:
            seconds = statistics.median(samples) / 1e3
            exact = needed.operations - needed.integer - needed.bfloat16
            arithmetic = (
                exact / peaks["fp32"] + needed.bfloat16 / peaks["bfloat16"] + needed.integer / peaks["int8"]
            )
            found[stage] = {
                "arithmetic": arithmetic / seconds,
                "bandwidth": needed.bytes / peaks["bytes"] / seconds,
            }
    return found


def work_of(manifest: Manifest, bundle: Path, picture: Path, threads: int) -> Work:
    llm, vision = manifest.llm, manifest.vision
    with ivl.load(bundle, threads=1) as model:
        prompt = model.render(QUESTION, [picture], max_tiles=MAX_TILES)
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
        picture=str(picture),
        max_tiles=MAX_TILES,
        picture_tiles=PICTURE_TILES,
        picture_tokens=len(prompt.input_ids),
    )


def chosen_stages(text: str) -> list[str]:
    """Of the command line: all where ``text`` is empty."""
    known = [*STAGES, MEMORY]
    chosen = [stage.strip() for stage in text.split(",") if stage.strip()]
    for stage in chosen:
        if stage not in known:
            raise argparse.ArgumentTypeError(f"there is no stage {stage!r} among {', '.join(known)}")
    return [stage for stage in known if not chosen or stage in chosen]


def entry_work(entry: Entry, folder: Path, picture: Path, options: argparse.Namespace) -> Work:
    """On the entry's bundle in ``folder``, which is written if it is not there."""
    bundle = folder / f"{entry.weights}-{entry.vision}"
    shape: dict[str, Any] = {"weights": entry.weights, "vision": entry.vision, "layers": options.layers}
    if not bundle.exists():
        export_synthetic(options.model, bundle, **shape)
    return work_of(synthetic_manifest(options.model, **shape), bundle, picture, options.threads)


def in_turns(contestants: list[tuple[Entry, Work, str]], stages: list[str], rounds: int) -> list[Running]:
    """Measures everybody who can be loaded and has one of the stages."""
    runners: list[Running] = []
    try:
        for entry, work, python in contestants:
            runner = start(entry, work, python)
            if runner is not None:
                runners.append(runner)
        take_turns(runners, stages, rounds)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted: what was measured before is told", style="yellow")
    finally:
        for runner in runners:
            runner.end()
    return [runner for runner in runners if runner.samples]


def take_turns(runners: list[Running], stages: list[str], rounds: int) -> None:
    """Adds samples to the runners'. Who fails is left out from then on."""
    console = Console(stderr=True)
    for stage in stages:
        # The first round warms up. What a first time costs is lost in what takes many seconds.
        for number in range(1 if stage in LONG else 0, rounds + 1):
            for runner in runners:
                if stage not in runner.stages or stage == "load":
                    continue
                console.print(f"{stage}, round {number} of {rounds}: {runner.entry.label}", style="dim")
                try:
                    milliseconds = runner.sample(stage)
                except EOFError as error:
                    console.print(f"left out from here: {runner.entry.label}, {error}", style="yellow")
                    runner.stages = ()
                    continue
                if number > 0:
                    runner.samples.setdefault(stage, []).append(milliseconds)


def request_memory(entry: Entry, work: Work, python: str) -> Memory | None:
    """The peak of a process that loads and answers one question about a picture; None if it cannot."""
    Console(stderr=True).print(f"memory: {entry.label}", style="dim")
    runner = start(entry, work, python, watch_memory=True)
    if runner is None:
        return None
    try:
        if "picture" not in runner.stages:
            return None
        runner.sample("picture")
        return runner.peak_memory()
    except EOFError as error:
        Console(stderr=True).print(f"left out: {entry.label}, {error}", style="yellow")
        return None
    finally:
        runner.end()


def shown(stage: str, milliseconds: float) -> str:
    if stage.startswith("prefill "):
        return f"{1e3 * tokens_of(stage) / milliseconds:.0f} tok/s"
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
    parser.add_argument(
        "--stages",
        type=chosen_stages,
        default=chosen_stages(""),
        metavar="A,B,...",
        help=f"all when left out: {', '.join([*STAGES, MEMORY])}",
    )
    parser.add_argument("--bundles", type=Path, help="keep the bundles here for the next run")
    parser.add_argument("--python", action="append", default=[], metavar="PACKAGE=PATH")
    parser.add_argument(
        "--peaks", action="store_true", help="measure the machine's peaks too, and our share of them"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--keep", action="store_true", help="write --json into results/, under the kind of processor"
    )
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    if options.keep:
        options.json = HERE / "results" / f"{options.model.lower()}-{_core.instruction_set()}.json"
    pythons = dict(choice.split("=", 1) for choice in options.python)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.bundles or Path(temporary)
        picture = Path(temporary) / "picture.jpg"
        picture.write_bytes(drawn_picture(PICTURE_SIZE))
        contestants = []
        for entry in ENTRIES:
            if not options.only or any(part in entry.label for part in options.only):
                work = entry_work(entry, folder, picture, options)
                contestants.append((entry, work, pythons.get(entry.package, sys.executable)))
        load = os.getloadavg()[0]
        peaks = machine_peaks(options.threads) if options.peaks else None
        stages = [stage for stage in options.stages if stage != MEMORY]
        runners = in_turns(contestants, stages, options.rounds) if stages else []
        shares = {} if peaks is None else {r.entry.label: shares_of(r, peaks) for r in runners if r.is_ours}
        report = {
            "machine": {
                "cpu": cpu_name(),
                "instruction_set": _core.instruction_set(),
                "threads": options.threads,
                "date": time.strftime("%Y-%m-%d", time.gmtime()),
                "load_average_before": load,
                "python": platform.python_version(),
            },
            "model": options.model,
            "layers": options.layers,
            "rounds": options.rounds,
            "peaks": peaks,
            "shares_of_peaks": shares,
            "samples_ms": {r.entry.label: r.samples for r in runners},
            "memory_bytes": {},
        }
        if runners:
            print_table(report)
            tell(report, options)
        if shares:
            print_shares(report)
        if MEMORY in options.stages:
            found = {entry.label: request_memory(entry, *how) for entry, *how in contestants}
            report["memory_bytes"] = {label: memory for label, memory in found.items() if memory is not None}
            print_memory(report)
            tell(report, options)


def tell(report: dict[str, Any], options: argparse.Namespace) -> None:
    """Writes the files that were asked for."""
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    compared = {stage: by for stage, by in medians(report).items() if len(by) > 1 and stage != "load"}
    if options.plot and compared:
        plot(compared, options.plot)


def medians(report: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Per stage, the median milliseconds of everybody who has it."""
    measured = {stage for samples in report["samples_ms"].values() for stage in samples}
    return {
        stage: {
            label: statistics.median(samples[stage])
            for label, samples in report["samples_ms"].items()
            if stage in samples
        }
        for stage in STAGES
        if stage in measured
    }


def print_table(report: dict[str, Any]) -> None:
    found = medians(report)
    table = Table(
        title=f"{report['model']}, {report['machine']['cpu']}, {report['machine']['threads']} threads"
    )
    table.add_column("")
    for stage in found:
        table.add_column(stage, justify="right")
    for label in report["samples_ms"]:
        cells = (shown(stage, by[label]) if label in by else "-" for stage, by in found.items())
        table.add_row(label, *cells)
    if "picture" in found:
        table.caption = (
            f"picture: {PICTURE_TILES} tiles and a question, measured as a whole to the first token; "
            "internvl-rt from the JPEG file, the others from pixel values"
        )
    Console(width=200).print(table)


def print_memory(report: dict[str, Any]) -> None:
    table = Table(title=f"the most memory of one answer about a picture of {PICTURE_TILES} tiles, MB")
    columns = ("weights file", "peak", "mapped files", "own", "peak less weights file")
    for heading in ("", *columns):
        table.add_column(heading, justify="left" if not heading else "right")
    for label, found in report["memory_bytes"].items():
        more = found["total"] - found["weights_file"]
        sizes = (found["weights_file"], found["total"], found["files"], found["anonymous"], more)
        table.add_row(label, *(f"{size / 1e6:.0f}" for size in sizes))
    table.caption = "internvl-rt maps its weights; mapped files and own: at the fullest moment that was seen"
    Console(width=200).print(table)


def print_shares(report: dict[str, Any]) -> None:
    peaks = report["peaks"]
    table = Table(
        title=f"share of the peaks: {peaks['fp32'] / 1e9:.0f} GFLOP/s fp32, "
        f"{peaks['bfloat16'] / 1e9:.0f} bf16, {peaks['int8'] / 1e9:.0f} GOP/s int8, "
        f"{peaks['bytes'] / 1e9:.1f} GB/s"
    )
    stages = [stage for stage in STAGES if any(stage in by for by in report["shares_of_peaks"].values())]
    for heading in ("", *stages):
        table.add_column(heading, justify="left" if not heading else "right")
    for label, by in report["shares_of_peaks"].items():
        cells = (f"{100 * by[s]['arithmetic']:.0f} % / {100 * by[s]['bandwidth']:.0f} %" for s in stages)
        table.add_row(label, *cells)
    table.caption = "arithmetic / reading of weights and cache"
    Console(width=200).print(table)


def plot(found: dict[str, dict[str, float]], file: Path) -> None:
    """Of every stage, the milliseconds by contestant."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    labels = list(dict.fromkeys(label for by in found.values() for label in by))[::-1]
    colours = ["tab:blue" if label.startswith("internvl-rt") else "lightgrey" for label in labels]
    size = (3.2 * len(found), 1 + 0.3 * len(labels))
    figure, axes = pyplot.subplots(1, len(found), figsize=size, sharey=True, squeeze=False)
    for axis, (stage, by) in zip(axes[0], found.items(), strict=True):
        axis.barh(labels, [by.get(label, 0.0) for label in labels], color=colours)
        for label in labels:
            if label not in by:
                axis.text(0, label, " -", va="center")
        axis.set_title(stage)
        axis.set_xlabel("ms, less is better")
    figure.tight_layout()
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main()
