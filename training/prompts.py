"""Prompts exactly as the runtime renders them, and training sequences that share a picture."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from internvl_rt.tabletop.questions import Look, Question
from internvl_rt.tabletop.scenes import Boxes
from preprocess import GRID, TOKENS_PER_TILE
from tokenizer import SYSTEM_MESSAGE

_SYSTEM = f"<|im_start|>system\n{SYSTEM_MESSAGE}<|im_end|>\n<|im_start|>user\n"
_ASSISTANT = "<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>"


def render(question: str, tiles: list[int]) -> str:
    """The template internvl2_5 with every `<image>` expanded; `tiles` counts those of each picture."""
    if tiles and "<image>" not in question:
        question = "<image>\n" + question
    first, *others = question.split("<image>")
    if len(others) != len(tiles):
        raise ValueError(f"{len(others)} <image> markers for {len(tiles)} pictures")
    text = first
    for count, rest in zip(tiles, others, strict=True):
        text += f"<img>{'<IMG_CONTEXT>' * (TOKENS_PER_TILE * count)}</img>{rest}"
    return _SYSTEM + text + _ASSISTANT


@dataclass
class Sequence:
    """One prompt prefix with several independent questions behind it.

    `ids`, `positions`, `segments` int64 [n]: segment 0 is the prefix that all questions see, and
    the positions of every question go on from the prefix, so each is computed as if it were alone.
    `tiles` names the tiles of the batch whose tokens fill the image places, in order.
    `answers` are (start, end, question): the tokens to be predicted, the stop token included.
    `looks` has per answer the tokens that need a look and bool [visual tokens], true for those that show it.
    """

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    segments: NDArray[np.int64]
    tiles: list[int]
    answers: list[tuple[int, int, Question]]
    looks: list[list[tuple[int, NDArray[np.bool_]]]]


def sequence_of(
    tokenizer: Tokenizer,
    questions: list[Question],
    areas: list[list[Boxes]],
    tiles: list[int],
) -> Sequence:
    """Packs questions about the same pictures; they share whatever their prompts begin with.

    `areas` says per picture what part of it each of its tiles shows.
    """
    tiles_per_picture = [len(shown) for shown in areas]
    prompts = [tokenizer.encode(render(q.text, tiles_per_picture)).ids for q in questions]
    answers = [tokenizer.encode(q.answer + END) for q in questions]
    shared = min(len(prompt) for prompt in prompts) - 1
    for prompt in prompts[1:]:
        same = next(i for i in range(shared + 1) if i == shared or prompt[i] != prompts[0][i])
        shared = min(shared, same)
    if len(prompts) == 1:
        shared = 0
    ids, positions, segments = prompts[0][:shared], list(range(shared)), [0] * shared
    spans, looks = [], []
    for segment, (prompt, answer, question) in enumerate(zip(prompts, answers, questions, strict=True), 1):
        own = prompt[shared:] + answer.ids
        start = len(ids) + len(prompt) - shared
        spans.append((start, len(ids) + len(own), question))
        ends = [end for _, end in answer.offsets]
        looks.append(
            [
                (start + bisect_right(ends, look.at), shown_in(look, question, areas))
                for look in question.looks
            ]
        )
        ids = ids + own
        positions += range(shared, shared + len(own))
        segments += [segment] * len(own)
    return Sequence(
        np.array(ids, np.int64),
        np.array(positions, np.int64),
        np.array(segments, np.int64),
        tiles,
        spans,
        looks,
    )


def shown_in(look: Look, question: Question, areas: list[list[Boxes]]) -> NDArray[np.bool_]:
    """Bool [visual tokens], true where a token's square touches what is looked at."""
    side = GRID // 2
    begins = np.arange(side) / side
    tokens = []
    for picture, shown in enumerate(areas):
        for left, top, right, bottom in shown:
            seen = np.zeros((side, side), bool)
            for number, (x1, y1, x2, y2) in look.things:
                if number != picture:
                    continue
                scene = question.scenes[number]
                columns = left + begins * (right - left), left + (begins + 1 / side) * (right - left)
                rows = top + begins * (bottom - top), top + (begins + 1 / side) * (bottom - top)
                across = (columns[1] > x1 / scene.width) & (columns[0] < x2 / scene.width)
                down = (rows[1] > y1 / scene.height) & (rows[0] < y2 / scene.height)
                seen |= down[:, None] & across[None, :]
            tokens.append(seen.reshape(-1))
    return np.concatenate(tokens) if tokens else np.zeros(0, bool)
