"""Asks the torch model the held-out questions.

python training/evaluate.py [--checkpoint FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch.nn import functional

from export_checkpoint import PATCH_EMBEDDING
from internvl_rt.tabletop.held_out import Evaluation, evaluate, held_out_questions
from model import Sizes, TabletopModel
from preprocess import PATCH, POOL, tile_picture
from prompts import render


class TorchAnswers:
    """Greedy answers of a checkpoint folder, computed in float32 from its bf16 weights."""

    def __init__(self, folder: Path, max_new_tokens: int = 64) -> None:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        vision, llm = config["vision_config"], config["llm_config"]
        sizes = Sizes(
            vision_hidden=vision["hidden_size"],
            vision_intermediate=vision["intermediate_size"],
            vision_layers=vision["num_hidden_layers"],
            vision_heads=vision["num_attention_heads"],
            hidden=llm["hidden_size"],
            intermediate=llm["intermediate_size"],
            layers=llm["num_hidden_layers"],
            heads=llm["num_attention_heads"],
            kv_heads=llm["num_key_value_heads"],
            head_dim=llm["head_dim"],
            vocab=llm["vocab_size"],
            rope_theta=llm["rope_theta"],
        )
        self.max_tiles: int = config["max_dynamic_patch"]
        self.max_new_tokens = max_new_tokens
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.end = self.tokenizer.token_to_id("<|im_end|>")
        self.context = self.tokenizer.token_to_id("<IMG_CONTEXT>")
        self.model = TabletopModel(sizes).eval()
        tensors = {n: v.float() for n, v in load_file(folder / "model.safetensors").items()}
        assert tensors[PATCH_EMBEDDING].shape[-1] == PATCH
        tensors[PATCH_EMBEDDING] = functional.avg_pool2d(tensors[PATCH_EMBEDDING], POOL) * POOL**2
        missing, unexpected = self.model.load_state_dict(tensors, strict=False)
        if unexpected or any(not name.startswith("dense") for name in missing):
            raise ValueError(f"{folder}: missing {missing}, unexpected {unexpected}")

    @torch.inference_mode()
    def __call__(self, question: str, images: list[Image.Image]) -> str:
        tiled = [tile_picture(image, self.max_tiles) for image in images]
        prompt = render(question, [len(picture.tiles) for picture in tiled])
        ids = self.tokenizer.encode(prompt).ids
        hidden = self.model.sizes.hidden
        visual = [self.model.look(picture.tiles).reshape(-1, hidden) for picture in tiled]
        features = torch.cat(visual) if visual else torch.zeros(0, hidden)
        places = torch.tensor([i for i, t in enumerate(ids) if t == self.context], dtype=torch.int64)
        answer: list[int] = []
        while len(answer) < self.max_new_tokens:
            row = torch.tensor([ids + answer])
            length = row.shape[1]
            mask = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
            out = self.model.hidden(row, features, places, torch.arange(length)[None], mask)
            token = int(self.model.language_model.lm_head(out[0, -1]).argmax())
            if token == self.end:
                break
            answer.append(token)
        return self.tokenizer.decode(answer, skip_special_tokens=False)


def table(evaluation: Evaluation) -> str:
    lines = [f"{'kind':<14}{'right':>6}{'asked':>7}{'share':>9}"]
    rows = {**evaluation.kinds, "all": evaluation.overall, "(tiled)": evaluation.tiled}
    for kind, accuracy in rows.items():
        lines.append(f"{kind:<14}{accuracy.right:>6}{accuracy.asked:>7}{accuracy.share:>9.1%}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shipped = Path("python/internvl_rt/tabletop/checkpoint")
    parser.add_argument("--checkpoint", type=Path, default=shipped)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--every", type=int, default=1, help="ask every n-th question only")
    parser.add_argument("--mistakes", type=int, default=0, help="how many wrong answers to show")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    answers = TorchAnswers(options.checkpoint)
    evaluation = evaluate(answers, held_out_questions()[:: options.every])
    print(table(evaluation), f"\n{evaluation.seconds:.0f} s")
    for mistake in evaluation.mistakes[: options.mistakes]:
        print(dataclasses.asdict(mistake))
    if options.json:
        options.json.write_text(
            json.dumps(dataclasses.asdict(evaluation), ensure_ascii=False, indent=1) + "\n", "utf-8"
        )


if __name__ == "__main__":
    main()
