"""The README's table of measurements, from the files in benchmarks/results.

    python benchmarks/table.py              # prints it
    python benchmarks/table.py --readme     # puts it where the README has it

`benchmarks/results` keeps one file per model and kind of processor: `model.py --keep` writes it, over what
was measured before.
A cell is ours / the best of the others, and how many times faster that makes us; below the table the same in
words, slower things first.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contestants.contestant import tokens_of

HERE = Path(__file__).parent
RESULTS = HERE / "results"
README = HERE.parent / "README.md"
BEGIN, END = "<!-- benchmarks/table.py -->", "<!-- until here -->"
MODEL = "InternVL2_5-1B"

OURS = "internvl-rt "
EIGHT = "decode 8 at 1024"

Medians = dict[str, dict[str, float]]
"""Per stage and label, milliseconds."""


@dataclass(frozen=True)
class Row:
    """What is compared: a stage, ours on some precisions, and the others that do the same."""

    title: str
    stage: str
    ours: tuple[str, ...]
    others: tuple[str, ...] = ()
    """Parts of labels; everybody else where empty."""


INTEGER = ("int4, vision int8", "int8, vision bf16")
ROWS = (
    Row("ViT + projector in bf16", "vit", ("bf16",), ("our graphs, bf16", "transformers")),
    Row("ViT + projector in int8", "vit", ("int4, vision int8",), ("vision int8",)),
    Row("a prompt of 1024 tokens", "prefill 1024", INTEGER),
    Row("a prompt of 4096", "prefill 4096", INTEGER),
    Row("a prompt of 8192", "prefill 8192", INTEGER),
    Row("decode in int4 with an empty cache", "decode 0", INTEGER[:1]),
    Row("decode in int4 at 1024", "decode 1024", INTEGER[:1]),
    Row("decode in int4 at 4096", "decode 4096", INTEGER[:1]),
    Row("a 1920x1080 picture, file to first token", "picture", INTEGER),
)
EIGHT_TITLE = "eight sequences at 1024, against one of ours"


@dataclass(frozen=True)
class Comparison:
    title: str
    ours: str
    theirs: str
    times: float
    """How many times faster ours is: below 1 it is slower."""
    peer: str


def read(file: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(file.read_text())
    return report


def medians(report: dict[str, Any]) -> Medians:
    found: Medians = {}
    for label, samples in report["samples_ms"].items():
        for stage, values in samples.items():
            found.setdefault(stage, {})[label] = statistics.median(values)
    return found


def shown(stage: str, milliseconds: float) -> str:
    if stage.startswith("prefill "):
        return f"{1e3 * tokens_of(stage) / milliseconds:.0f} tok/s"
    if stage.startswith("decode "):
        return f"{(8e3 if stage == EIGHT else 1e3) / milliseconds:.0f} tok/s"
    return f"{milliseconds / 1e3:.2f} s"


def compare(found: Medians, row: Row) -> Comparison | None:
    """None where one side was not measured."""
    by = found.get(row.stage, {})
    ours = {label: ms for label, ms in by.items() if label in {OURS + part for part in row.ours}}
    others = {
        label: ms
        for label, ms in by.items()
        if not label.startswith((OURS, "ONNX Runtime, our"))
        and (not row.others or any(part in label for part in row.others))
    }
    if not ours or not others:
        return None
    peer = min(others, key=lambda label: others[label])
    mine, theirs = min(ours.values()), others[peer]
    return Comparison(row.title, shown(row.stage, mine), shown(row.stage, theirs), theirs / mine, peer)


def eight_of_ours(found: Medians) -> Comparison | None:
    label = OURS + INTEGER[0]
    eight, one = found.get(EIGHT, {}).get(label), found.get("decode 1024", {}).get(label)
    if eight is None or one is None:
        return None
    return Comparison(EIGHT_TITLE, shown(EIGHT, eight), shown("decode 1024", one), 8 * one / eight, "one")


def name_of(report: dict[str, Any]) -> str:
    machine = report["machine"]
    return f"{machine['cpu']}, {machine['threads']} threads (`{machine['instruction_set']}`)"


def comparisons(report: dict[str, Any]) -> dict[str, Comparison]:
    found = medians(report)
    made = [*(compare(found, row) for row in ROWS), eight_of_ours(found)]
    return {comparison.title: comparison for comparison in made if comparison is not None}


def markdown(reports: list[dict[str, Any]]) -> str:
    columns = {name_of(report): comparisons(report) for report in reports}
    lines = [f"| {' | '.join(['', *columns])} |", "|---" * (1 + len(columns)) + "|"]
    for title in [*(row.title for row in ROWS), EIGHT_TITLE]:
        cells = [cell(by.get(title)) for by in columns.values()]
        if any(cells):
            lines.append(f"| {' | '.join([title, *cells])} |")
    paragraphs = [words(name, by) for name, by in columns.items()]
    return "\n".join([*lines, "", *"\n\n".join(paragraphs).splitlines()])


def cell(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    return f"{comparison.ours} / {comparison.theirs}: {comparison.times:.2f}x"


def words(name: str, by: dict[str, Comparison]) -> str:
    def listed(some: list[Comparison], how: str) -> str:
        return "; ".join(
            f"{comparison.title}, {max(comparison.times, 1 / comparison.times):.2f} times as {how} as "
            f"{comparison.peer}"
            for comparison in some
        )

    against = [comparison for comparison in by.values() if comparison.title != EIGHT_TITLE]
    slower = sorted((c for c in against if c.times < 1), key=lambda c: c.times)
    faster = sorted((c for c in against if c.times >= 1), key=lambda c: -c.times)
    parts = []
    if slower:
        parts.append(f"Slower: {listed(slower, 'long')}.")
    if faster:
        parts.append(f"Faster: {listed(faster, 'fast')}.")
    return " ".join([f"{name}, against the fastest of the others.", *parts])


def newest() -> list[dict[str, Any]]:
    """Of every kind of processor."""
    reports = (read(file) for file in sorted(RESULTS.glob(f"{MODEL.lower()}-*.json")))
    return [report for report in reports if {"vit", "decode 0"} <= medians(report).keys()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--readme", action="store_true")
    options = parser.parse_args()
    table = markdown(newest())
    if not options.readme:
        print(table)
        return
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")


if __name__ == "__main__":
    main()
