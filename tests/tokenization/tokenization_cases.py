"""Texts that tokenizers get wrong, and small tokenizers trained on the spot."""

from __future__ import annotations

import inspect
import io
import json
import pydoc
import textwrap
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

INTERNVL = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
INTERNLM2_CHAT = ("<|plugin|>", "<|interpreter|>", "<|action_end|>", "<|action_start|>", "<|im_end|>",
                  "<|im_start|>")  # fmt: skip
UNUSED = tuple(f"[UNUSED_TOKEN_{i}]" for i in range(len(INTERNLM2_CHAT) + 2))

PROSE = [
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。",
    "桌子上有什么？请用一句话描述这张图片。红色的杯子在盘子的左边，旁边有三个苹果和一本打开的书。",
    "탁자 위에 무엇이 있습니까? 빨간 컵은 접시의 왼쪽에 있고 사과 세 개가 있습니다. 한국어 문장을 더 씁니다.",
    "Что на столе? Красная чашка стоит слева от тарелки, рядом лежат три яблока и открытая книга.",
    "What is on the table? The red cup stands left of the plate, beside three apples and an open book.",
]


def library_of_transformers() -> Any:
    """transformers, which takes few releases of tokenizers: the test is skipped beside any other."""
    try:
        import transformers
    except ImportError as error:
        pytest.skip(f"transformers cannot be imported ({error})")
    return transformers


def corpus() -> list[str]:
    code = "".join(inspect.getsource(module) for module in (json, textwrap, io, pydoc))
    return [line for line in code.split("\n") if line.strip()] + PROSE * 20


TEXTS = [
    *PROSE,
    "def f(x):\n    if x:\n\t\treturn {'a': [1, 22, 333]}  # done\r\n\r\n",
    "😀👩‍👩‍👧🇰🇷 ∑∫ ﬁ ①Ａ é e\u0301 한",
    "\x00\x01\x1f\x7f\x85\u200b\ufeff\ufffd",
    " a  b   c    d     e      f       " + " " * 33 + "g\t\t\t\n\n\n ",
    "",
    " ",
    "    ",
    "----------==========__________aaaaaaaaaaaaa",
    "▁a▁▁b",
    "<0x41><0xE4> <unk><s></s>",
    "word<ref>",
    "it's I'M we'LL don't 12345 ½ ٣",
]


def train_sentencepiece(path: Path, **options: object) -> None:
    """InternLM2's settings where ``options`` do not say otherwise."""
    settings: dict[str, object] = {
        "model_type": "bpe",
        "vocab_size": 1500,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "user_defined_symbols": ",".join(UNUSED),
        "split_digits": True,
        "allow_whitespace_only_pieces": True,
        "character_coverage": 0.995,
        "minloglevel": 2,
        "num_threads": 1,
        "train_extremely_large_corpus": False,
    }
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()), model_writer=model, **(settings | options)
    )
    path.write_bytes(model.getvalue())


def write_added_tokens(folder: Path, tokens: dict[str, int], **config: object) -> None:
    (folder / "added_tokens.json").write_text(json.dumps(tokens))
    decoder = {
        str(i): {"content": t, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                 "special": True}
        for t, i in tokens.items()
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder, **config}))


QWEN2_PATTERN = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""  # noqa: E501
