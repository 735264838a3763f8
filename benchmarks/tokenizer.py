"""The core's tokenizer beside the ``tokenizers`` library, on long texts and on a question.

    python benchmarks/tokenizer.py TOKENIZER_JSON [TEXT_FILE]

Both encode the same text in turn, one thread each; prints medians, and stops if the ids differ. Without a
file the text is Python's own documentation and some Chinese.
"""

from __future__ import annotations

import argparse
import os
import pydoc_data.topics
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

from tokenizers import Tokenizer

from internvl_rt.prompts.tokenizer import PromptTokenizer

CHINESE = "桌子上有什么？请用一句话描述这张图片。红色的杯子在盘子的左边，旁边有三个苹果和一本打开的书。\n"
QUESTION = "Describe the image in two sentences, and count the red cups on the table."


def seconds(actions: list[Callable[[], object]], repeats: int) -> list[float]:
    """Medians of actions that take turns."""
    times: list[list[float]] = [[] for _ in actions]
    for _ in range(repeats):
        for action, taken in zip(actions, times, strict=True):
            begun = time.perf_counter()
            action()
            taken.append(time.perf_counter() - begun)
    return [statistics.median(taken) for taken in times]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("text", type=Path, nargs="?")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    document = options.tokenizer.read_text(encoding="utf-8")
    english = "".join(pydoc_data.topics.topics.values())
    text = options.text.read_text(encoding="utf-8") if options.text else english + CHINESE * 3000

    loading = seconds([lambda: PromptTokenizer(document), lambda: Tokenizer.from_str(document)], 3)
    ours, library = PromptTokenizer(document), Tokenizer.from_str(document)
    library.encode_special_tokens = True
    print(f"loading             ours {loading[0] * 1e3:8.1f} ms    library {loading[1] * 1e3:8.1f} ms")
    for name, part, repeats in (
        ("whole text", text, options.repeats),
        ("a quarter of it", text[: len(text) // 4], options.repeats),
        ("a question", QUESTION, 500),
    ):
        if ours.encode(part) != library.encode(part, add_special_tokens=False).ids:
            raise SystemExit(f"{name}: the ids differ")
        encoding = [lambda p=part: ours.encode(p), lambda p=part: library.encode(p, add_special_tokens=False)]
        taken = seconds(encoding, repeats)
        size = len(part.encode())
        speeds = [size / t / 1e6 for t in taken]
        print(
            f"{name:16} {size / 1e6:6.2f} MB  ours {speeds[0]:8.2f} MB/s  library {speeds[1]:8.2f} MB/s  "
            f"({speeds[0] / speeds[1]:.1f} times)"
        )


if __name__ == "__main__":
    main()
