"""Accuracy of the table-top model per engine and precision: what does quantisation cost?

Exports the checkpoint once per precision, asks the held-out questions of every engine, and prints the share
of right answers per kind of question, and how far each lies from the same engine in fp32.

    python benchmarks/accuracy.py [--every 1] [--json FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

import internvl_rt as ivl
from internvl_rt.tabletop import Evaluation, answers_of, checkpoint_folder, evaluate, held_out_questions

ENGINES = ("native", "onnxruntime")
# (weights of the language model, weights of the vision side)
PRECISIONS = (("fp32", "fp32"), ("bf16", "bf16"), ("int8", "int8"), ("int4", "bf16"), ("int4", "int8"))


def asked(bundle: Path, engine: str, every: int, threads: int | None) -> Evaluation:
    with ivl.load(bundle, engine=engine, threads=threads) as model:
        return evaluate(answers_of(model), held_out_questions()[::every])


def evaluations(
    checkpoint: Path, every: int, threads: int | None
) -> Iterator[tuple[str, str, str, Evaluation]]:
    with tempfile.TemporaryDirectory() as folder:
        for weights, vision in PRECISIONS:
            bundle = Path(folder) / f"{weights}-{vision}"
            ivl.export(checkpoint, bundle, weights=weights, vision=vision, progress=False)
            for engine in ENGINES:
                yield engine, weights, vision, asked(bundle, engine, every, threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="the one that ships when left out")
    parser.add_argument("--every", type=int, default=1, help="ask every n-th question only")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    table = Table(title="Right answers to held-out questions, %")
    columns = ("engine", "weights", "vision")
    rows: list[dict[str, object]] = []
    first: dict[str, float] = {}
    checkpoint = options.checkpoint or checkpoint_folder()
    for engine, weights, vision, found in evaluations(checkpoint, options.every, options.threads):
        if not rows:
            for column in (*columns, *found.kinds, "tiled", "all", "to fp32", "seconds"):
                table.add_column(column)
        overall = 100 * found.overall.share
        difference = overall - first.setdefault(engine, overall)
        shares = [f"{100 * accuracy.share:.1f}" for accuracy in (*found.kinds.values(), found.tiled)]
        table.add_row(
            engine, weights, vision, *shares, f"{overall:.1f}", f"{difference:+.1f}", f"{found.seconds:.0f}"
        )
        rows.append({"engine": engine, "weights": weights, "vision": vision, **dataclasses.asdict(found)})
    Console(width=160).print(table)
    if options.json:
        options.json.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
