"""Draws the learning curve of a run from its log.

python training/plot.py --run training/runs/first
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot


def read_log(path: Path) -> list[dict[str, Any]]:
    """The log's lines; of steps that were run twice, because a run was stopped between two saves,
    the later line counts."""
    lines: dict[tuple[str, int], dict[str, Any]] = {}
    for text in path.read_text("utf-8").splitlines():
        line = json.loads(text)
        lines[line["stage"], line["pictures"]] = line
    return sorted(lines.values(), key=lambda line: (line["stage"] != "tower", line["pictures"]))


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    tower = [line for line in lines if line["stage"] == "tower"]
    before = tower[-1]["pictures"] if tower else 0
    at = [line["pictures"] + (before if line["stage"] == "language" else 0) for line in lines]
    figure, (patches, answers) = pyplot.subplots(2, 1, figsize=(9, 8), sharex=True)
    for name in ("shape", "colour", "character", "index", "rank"):
        patches.plot(at, [line.get(name) for line in lines], label=name, linewidth=1)
    patches.set_ylabel("share of patches read right")
    patches.set_title("The tower, on pictures not seen before")
    for name in sorted({key for line in lines for key in line if key.startswith("right/")}):
        points = [(x, line[name]) for x, line in zip(at, lines, strict=True) if name in line]
        answers.plot(*zip(*points, strict=True), label=name.removeprefix("right/"), linewidth=1)
    answers.set_ylabel("share of answers right")
    answers.set_xlabel("pictures drawn")
    for axes in (patches, answers):
        axes.axvline(before, color="grey", linestyle=":", linewidth=1)
        axes.set_ylim(0, 1.02)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("training/runs/first"))
    parser.add_argument("--out", type=Path, default=Path("training"))
    options = parser.parse_args()
    lines = read_log(options.run / "log.jsonl")
    rows = ",\n ".join(json.dumps(line) for line in lines)
    (options.out / "learning_curve.json").write_text(f"[{rows}]\n", "utf-8")
    draw(lines, options.out / "learning_curve.png")


if __name__ == "__main__":
    main()
