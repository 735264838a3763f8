"""Trains the table-top model: the tower's patches first, then language on top of it.

    nice -n 19 python training/train.py --run training/runs/first

Every batch is drawn from (seed, index of the batch), and the state is saved every few minutes, so
that a run that was stopped goes on where it was, with the pictures that it would have seen.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import deque
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from export_checkpoint import export_checkpoint
from language import language_loss, new_score
from model import Sizes, TabletopModel, dense_loss, normalised, start_patches_from_pictures
from optimiser import Optimiser
from pictures import (
    ROUNDS,
    LanguageBatch,
    LanguageBatches,
    TowerBatches,
    in_background,
    tower_batch,
)
from prompts import Sequence
from tokenizer import train_tokenizer, write_tokenizer


class Log:
    """One JSON object per line; the learning curve is drawn from it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sums: dict[str, list[float]] = {}

    def add(self, **values: float) -> None:
        for name, value in values.items():
            self.sums.setdefault(name, []).append(value)

    def write(self, stage: str, pictures: int) -> None:
        means = {name: round(sum(v) / len(v), 5) for name, v in self.sums.items()}
        line = {"stage": stage, "pictures": pictures, "time": round(time.time()), **means}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)
        self.sums.clear()


def falling(step: int, steps: int) -> float:
    """The learning rate's share of its peak: a short rise, then linear to almost nothing."""
    return min(1.0, (step + 1) / 50) * max(0.02, 1 - step / steps)


def save(path: Path, model: TabletopModel, optimiser: Optimiser, **progress: Any) -> None:
    tower = {n: v for n, v in model.state_dict().items() if n.startswith(("vision_model", "dense."))}
    state = {"model": tower, "optimiser": optimiser.state_dict(), **progress}
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def train_tower(run: Path, model: TabletopModel, pictures: int, batch: int, seed: int) -> None:
    names = [n for n, _ in model.named_parameters() if n.startswith(("vision_model", "dense."))]
    optimiser = Optimiser(model, names, muon=0.02, adam=2e-3)
    steps, first = pictures // batch, 0
    state_file = run / "tower.pt"
    if state_file.exists():
        state = torch.load(state_file)
        model.load_state_dict(state["model"], strict=False)
        first = state["step"]
        if first >= steps:
            return
        if "optimiser" in state:
            optimiser.load_state_dict(state["optimiser"])
    else:
        start_patches_from_pictures(model, tower_batch(seed, 1 << 30, 256).tiles)
    log, saved = Log(run / "log.jsonl"), time.time()
    for step, drawn in enumerate(in_background(TowerBatches(seed, first, steps, batch)), first):
        features = model.vision_model(normalised(drawn.tiles))
        loss, right = dense_loss(
            model.dense(features),
            torch.as_tensor(drawn.classes).long(),
            torch.as_tensor(drawn.edges),
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step(falling(step, steps))
        log.add(loss=float(loss.detach()), **right)
        if not math.isfinite(float(loss.detach())):
            raise FloatingPointError(f"the loss is {float(loss.detach())} at step {step}")
        if (step + 1) % 25 == 0:
            log.write("tower", (step + 1) * batch)
        if time.time() - saved > 120 or step + 1 == steps:
            save(state_file, model, optimiser, step=step + 1)
            saved = time.time()


def train_language(
    run: Path, model: TabletopModel, steps: int, seed: int, joint_from: float, until: float | None
) -> None:
    """Language on top of the tower, which stands still at first and learns along at the end.

    Early on, what language asks of the tower is noise that undoes what the dense targets taught.
    """
    vision = [n for n, _ in model.named_parameters() if n.startswith(("vision_model", "dense."))]
    heads = [n for n, _ in model.named_parameters() if n.startswith("dense_tokens")]
    language = [n for n, _ in model.named_parameters() if n not in {*vision, *heads}]
    optimisers = {
        "vision": Optimiser(model, vision, muon=0.005, adam=1e-3),
        "language": Optimiser(model, language, muon=0.012, adam=2e-3),
        "heads": Optimiser(model, heads, muon=0.012, adam=2e-3),
    }
    tokenizer_folder = run / "tokenizer"
    if not (tokenizer_folder / "tokenizer.json").exists():
        write_tokenizer(train_tokenizer(), tokenizer_folder)
    tokenizer_file = str(tokenizer_folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(tokenizer_file)
    context_id = tokenizer.token_to_id("<IMG_CONTEXT>")
    state_file, first, pictures = run / "language.pt", 0, 0
    if state_file.exists():
        state = torch.load(state_file)
        model.load_state_dict(state["model"], strict=False)
        for name, kept in state["optimisers"].items():
            optimisers[name].load_state_dict(kept)
        first, pictures = state["step"], state["pictures"]
    started = time.time()
    log, saved, score = Log(run / "log.jsonl"), time.time(), new_score()
    replay = np.random.default_rng((seed, first))
    batches = LanguageBatches(tokenizer_file, seed, first, steps, started, until)
    seen: deque[tuple[Tensor, LanguageBatch]] = deque(maxlen=40)
    for step, batch in enumerate(in_background(batches), first):
        drawn, rate = batch.drawn, falling(step, steps)
        if until is not None:
            left = max(0.0, until - time.time()) / (until - started)
            rate = max(0.01, left * 0.7)
        joint = rate <= 1 - joint_from
        with torch.set_grad_enabled(joint):
            features = model.vision_model(normalised(drawn.tiles))
            dense, read = dense_loss(
                model.dense(features),
                torch.as_tensor(drawn.classes).long(),
                torch.as_tensor(drawn.edges),
            )

        def asked(features: Tensor, groups: list[list[Sequence]], *, fresh: bool) -> Tensor:
            visual = model.mlp1(features)
            total, tokens = visual.new_zeros(()), 0
            for group in groups:
                loss, count = language_loss(
                    model, tokenizer, group, visual, context_id, score if fresh else None
                )
                total, tokens = total + loss, tokens + count
            return total / tokens

        # Other questions about pictures that were looked at already cost half of a fresh step.
        seen.append((features.detach(), batch))
        for again in range(1, ROUNDS):
            old_features, old = seen[replay.integers(len(seen))]
            loss = asked(old_features, old.rounds[again], fresh=False)
            optimisers["language"].zero_grad()
            loss.backward()
            optimisers["language"].step(rate)
        kept, told = dense_loss(
            model.dense_tokens(model.mlp1(features)),
            torch.as_tensor(drawn.classes).long(),
            torch.as_tensor(drawn.edges),
        )
        log.add(**{f"token_{name}": value for name, value in told.items()})
        total = asked(features, batch.rounds[0], fresh=True)
        for optimiser in optimisers.values():
            optimiser.zero_grad()
        (total + dense + 0.3 * kept).backward()
        optimisers["language"].step(rate)
        optimisers["heads"].step(rate)
        if joint:
            optimisers["vision"].step(rate)
        pictures += len(drawn.tiles)
        log.add(language_loss=float(total.detach()), dense_loss=float(dense.detach()), **read)
        if not math.isfinite(float(total.detach())):
            raise FloatingPointError(f"the loss is {float(total.detach())} at step {step}")
        if (step + 1) % 20 == 0:
            log.add(**{f"right/{kind}": sum(v) / len(v) for kind, v in score.items()})
            score.clear()
            log.write("language", pictures)
        finished = step + 1 == steps or (until is not None and time.time() > until)
        if time.time() - saved > 120 or finished:
            states = {name: optimiser.state_dict() for name, optimiser in optimisers.items()}
            torch.save(
                {
                    "model": model.state_dict(),
                    "optimisers": states,
                    "step": step + 1,
                    "pictures": pictures,
                },
                state_file.with_suffix(".new"),
            )
            state_file.with_suffix(".new").replace(state_file)
            saved = time.time()
        if finished:
            break
    export_checkpoint(model, tokenizer_folder, run / "checkpoint")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("training/runs/first"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tower-pictures", type=int, default=20_800)
    parser.add_argument("--language-steps", type=int, default=2_000)
    parser.add_argument("--joint-from", type=float, default=0.6)
    parser.add_argument(
        "--until",
        type=lambda text: datetime.fromisoformat(text).timestamp(),
        help="a time (2026-01-31T18:00) by which the learning rate has fallen and training stops, "
        "for a machine that others use too",
    )
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    options.run.mkdir(parents=True, exist_ok=True)
    model = TabletopModel(Sizes())
    train_tower(options.run, model, options.tower_pictures, options.batch, options.seed)
    train_language(
        options.run, model, options.language_steps, options.seed, options.joint_from, options.until
    )


if __name__ == "__main__":
    main()
