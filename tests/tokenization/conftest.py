"""Checkpoint folders with tokenizers trained on the spot, in the form that the published ones have."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece
from tokenization_cases import (
    INTERNLM2_CHAT,
    INTERNVL,
    QWEN2_PATTERN,
    UNUSED,
    corpus,
    train_sentencepiece,
    write_added_tokens,
)
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE


@pytest.fixture(scope="session")
def internlm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder in InternLM2's form: chat tokens replace [UNUSED_TOKEN_..] pieces."""
    folder = tmp_path_factory.mktemp("internlm2")
    train_sentencepiece(folder / "tokenizer.model")
    library = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    tokens = {"<unk>": 0, "<s>": 1, "</s>": 2}
    tokens |= {t: library.piece_to_id(UNUSED[i + 2]) for i, t in enumerate(INTERNLM2_CHAT)}
    tokens |= {t: library.get_piece_size() + i for i, t in enumerate(INTERNVL)}
    write_added_tokens(folder, tokens, tokenizer_class="InternLM2Tokenizer")
    return folder


@pytest.fixture(scope="session")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder in Qwen2's form: vocab.json, merges.txt, added_tokens.json."""
    folder = tmp_path_factory.mktemp("qwen2")
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        corpus(), trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.model.save(str(folder))
    base = tokenizer.get_vocab_size()
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *INTERNVL)
    write_added_tokens(folder, {t: base + i for i, t in enumerate(names)}, tokenizer_class="Qwen2Tokenizer")
    return folder
