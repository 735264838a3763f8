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
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from export_checkpoint import export_checkpoint
from language import AttentionLoss, WordLoss, language_loss, new_score
from model import Sizes, TabletopModel, dense_loss, normalised, start_patches_from_pictures
from optimiser import Optimiser
from parallel import Team, in_processes
from pictures import LanguageBatches, TowerBatches, in_background, tower_batch
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


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Never half of it: a run that is stopped while it writes has its last state."""
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


TOWER = ("vision_model", "dense.")
"""How the names of what the tower's stage trains begin."""


def train_tower(team: Team, run: Path, model: TabletopModel, pictures: int, batch: int, seed: int) -> None:
    names = [n for n, _ in model.named_parameters() if n.startswith(TOWER)]
    optimiser = Optimiser(model, names, muon=0.02, adam=2e-3)
    steps, first = pictures // (batch * team.size), 0
    state_file = run / "tower.pt"
    if state_file.exists():
        state = torch.load(state_file, map_location=torch.get_default_device())
        model.load_state_dict(state["model"], strict=False)
        first = state["pictures"] // (batch * team.size)
        if first >= steps:
            return
        optimiser.load_state_dict(state["optimiser"])
    else:
        start_patches_from_pictures(model, tower_batch(seed, 1 << 30, 256).tiles)
    log, saved = Log(run / "log.jsonl"), time.time()
    batches = TowerBatches(seed, range(first * team.size + team.rank, steps * team.size, team.size), batch)
    for step, drawn in enumerate(in_background(batches), first):
        features = model.vision_model(normalised(drawn.tiles))
        loss, right = dense_loss(
            model.dense(features),
            torch.as_tensor(drawn.classes).long(),
            torch.as_tensor(drawn.edges),
        )
        optimiser.zero_grad()
        loss.backward()
        team.share_gradients(optimiser.all)
        optimiser.step(falling(step, steps))
        log.add(loss=float(loss.detach()), **right)
        if not math.isfinite(float(loss.detach())):
            raise FloatingPointError(f"the loss is {float(loss.detach())} at step {step}")
        if team.rank > 0:
            continue
        seen = (step + 1) * batch * team.size
        if (step + 1) % 25 == 0:
            log.write("tower", seen)
        if time.time() - saved > 120 or step + 1 == steps:
            tower = {n: v for n, v in model.state_dict().items() if n.startswith(TOWER)}
            write_state(state_file, {"model": tower, "optimiser": optimiser.state_dict(), "pictures": seen})
            saved = time.time()


def train_language(
    team: Team,
    run: Path,
    model: TabletopModel,
    steps: int,
    seed: int,
    joint_from: float,
    until: float | None,
) -> None:
    """Language on top of the tower, which stands still at first and learns along at the end.

    Early on, what language asks of the tower is noise that undoes what the dense targets taught.
    """
    vision = [n for n, _ in model.named_parameters() if n.startswith(TOWER)]
    heads = [n for n, _ in model.named_parameters() if n.startswith("dense_tokens")]
    language = [n for n, _ in model.named_parameters() if n not in {*vision, *heads}]
    optimisers = {
        "vision": Optimiser(model, vision, muon=0.005, adam=1e-3),
        "language": Optimiser(model, language, muon=0.012, adam=2e-3),
        "heads": Optimiser(model, heads, muon=0.012, adam=2e-3),
    }
    tokenizer_folder = run / "tokenizer"
    tokenizer_file = str(tokenizer_folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(tokenizer_file)
    context_id = tokenizer.token_to_id("<IMG_CONTEXT>")
    words, attention = WordLoss(tokenizer), AttentionLoss(tokenizer, context_id)
    state_file, first, pictures, started = run / "language.pt", 0, 0, time.time()
    if state_file.exists():
        state = torch.load(state_file, map_location=torch.get_default_device())
        model.load_state_dict(state["model"])
        for name, kept in state["optimisers"].items():
            optimisers[name].load_state_dict(kept)
        first, pictures, started = state["step"], state["pictures"], state["started"]
    log, saved, score = Log(run / "log.jsonl"), time.time(), new_score()
    turns = range(first * team.size + team.rank, steps * team.size, team.size)
    batches = LanguageBatches(tokenizer_file, seed, turns, steps * team.size, started, until)
    for step, batch in enumerate(in_background(batches), first):
        drawn, rate = batch.drawn, falling(step, steps)
        if until is not None:
            left = max(0.0, until - time.time()) / (until - started)
            rate = max(0.01, min(1.0, 1.25 * left, (step + 1) / 50))
        joint = team.agreed(rate <= 1 - joint_from)
        classes, edges = torch.as_tensor(drawn.classes).long(), torch.as_tensor(drawn.edges)
        with torch.set_grad_enabled(joint):
            features = model.vision_model(normalised(drawn.tiles))
            dense, read = dense_loss(model.dense(features), classes, edges)
        visual = model.mlp1(features)
        asked, tokens, looks = visual.new_zeros(()), 0, []
        for group in batch.groups:
            loss, count = language_loss(model, tokenizer, group, visual, context_id, score)
            asked, tokens = asked + loss, tokens + count
            looking = attention(model, group)
            if looking is not None:
                looks.append(looking)
        asked = asked / tokens
        kept, told = dense_loss(model.dense_tokens(visual), classes, edges)
        resemblance = words(model, visual, classes)
        looked = torch.stack(looks).mean()
        log.add(word_loss=float(resemblance.detach()), attention_loss=float(looked.detach()))
        for optimiser in optimisers.values():
            optimiser.zero_grad()
        (asked + dense + 0.3 * kept + 0.2 * resemblance + 0.5 * looked).backward()
        team.share_gradients(model.parameters())
        optimisers["language"].step(rate)
        optimisers["heads"].step(rate)
        if joint:
            optimisers["vision"].step(rate)
        pictures += len(drawn.tiles) * team.size
        log.add(**{f"token_{name}": value for name, value in told.items()})
        log.add(language_loss=float(asked.detach()), dense_loss=float(dense.detach()), **read)
        if not math.isfinite(float(asked.detach())):
            raise FloatingPointError(f"the loss is {float(asked.detach())} at step {step}")
        finished = team.agreed(step + 1 == steps or (until is not None and time.time() > until))
        if team.rank == 0 and (step + 1) % 20 == 0:
            log.add(**{f"right/{kind}": sum(v) / len(v) for kind, v in score.items()})
            score.clear()
            log.write("language", pictures)
        if team.rank == 0 and (time.time() - saved > 120 or finished):
            kept_state = {
                "model": model.state_dict(),
                "optimisers": {name: o.state_dict() for name, o in optimisers.items()},
                "step": step + 1,
                "pictures": pictures,
                "started": started,
            }
            write_state(state_file, kept_state)
            saved = time.time()
        if finished:
            break
    if team.rank == 0:
        export_checkpoint(model, tokenizer_folder, run / "checkpoint")


def train(team: Team, options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    torch.set_default_device(options.device)
    torch.manual_seed(options.seed)
    model = TabletopModel(Sizes())
    train_tower(team, options.run, model, options.tower_pictures, options.batch, options.seed)
    train_language(
        team,
        options.run,
        model,
        options.language_steps,
        options.seed,
        options.joint_from,
        options.until,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("training/runs/first"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tower-pictures", type=int, default=48_000)
    parser.add_argument("--language-steps", type=int, default=6_000)
    parser.add_argument("--joint-from", type=float, default=0.6)
    parser.add_argument(
        "--until",
        type=lambda text: datetime.fromisoformat(text).timestamp(),
        help="a time (2026-01-31T18:00) by which the learning rate has fallen and training stops, "
        "for a machine that others use too",
    )
    parser.add_argument(
        "--processes", type=int, default=2, help="each takes one core, and its own pictures of a step"
    )
    parser.add_argument("--device", default="cpu", help='where torch computes; "cuda" with --processes 1')
    options = parser.parse_args()
    options.run.mkdir(parents=True, exist_ok=True)
    if not (options.run / "tokenizer" / "tokenizer.json").exists():
        write_tokenizer(train_tokenizer(), options.run / "tokenizer")
    in_processes(options.processes, train, options)


if __name__ == "__main__":
    main()
