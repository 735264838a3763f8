"""Trains the small tokenizers that the record is taken with.

They are kept as files, since other releases of the libraries may train others. Whoever runs this again has to
take the record again.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE

sys.path.insert(0, str(Path(__file__).parents[1]))

from internvl_rt.export.tokenizers import convert_tokenizer
from tokenization.tokenization_cases import PROSE, QWEN2_PATTERN

FOLDER = Path(__file__).parent / "tokenizers"
INTERNVL = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PHI3 = ("<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>")
TASK = ("<loc_1>", "<loc_12>", "[SEG]")
NOT_SPECIAL = ("<think>", "</think>")
TEXTS = [
    PROSE[-1],
    "红色的杯子在桌子上，蓝色的球在盒子里。",
    "The answer is red. The answer is blue, and the final answer: there are 12 apples!\n",
    "def answer(x):\n    return {'count': x, \"label\": 'the cup'}  # it isn't\n",
    "<ref>the red cup</ref><box>[[100, 200, 300, 400]]</box>\n[[0, 12, 345, 999]] there, here and everywhere",
]


def byte_level() -> Tokenizer:
    """Qwen2's form, with the tokens of a fine-tuning."""
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in (*CHATML, *INTERNVL, *TASK)])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in NOT_SPECIAL])
    return tokenizer


def sentencepiece_model(**options: Any) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 3),
        model_writer=model,
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        character_coverage=0.98,
        minloglevel=2,
        num_threads=1,
        **options,
    )
    return model.getvalue()


def converted(model: bytes, tokens: Sequence[str], eats: Sequence[str], **config: Any) -> Tokenizer:
    """A checkpoint's SentencePiece model and the tokens added to it, as the exporter converts them."""
    size = sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size()
    ids = {"<unk>": 0, "<s>": 1, "</s>": 2} | {token: size + i for i, token in enumerate(tokens)}
    decoder = {
        str(i): {"content": t, "lstrip": False, "rstrip": t in eats, "normalized": False, "special": True}
        for t, i in ids.items()
    }
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        (folder / "tokenizer.model").write_bytes(model)
        document = {"bos_token": "<s>", "added_tokens_decoder": decoder, **config}
        (folder / "tokenizer_config.json").write_text(json.dumps(document))
        return convert_tokenizer(folder)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    internlm2 = sentencepiece_model(add_dummy_prefix=False)
    llama = sentencepiece_model(add_dummy_prefix=True)
    phi3 = (*PHI3, *INTERNVL)
    made = {
        "byte_level": byte_level(),
        "internlm2": converted(internlm2, (*CHATML[1:], *INTERNVL), (), tokenizer_class="InternLM2Tokenizer"),
        "llama_legacy": converted(llama, phi3, PHI3[1:], tokenizer_class="LlamaTokenizer", legacy=True),
        "llama": converted(llama, phi3, PHI3[1:], tokenizer_class="LlamaTokenizer", legacy=False),
    }
    for name, tokenizer in made.items():
        document = json.loads(tokenizer.to_str())
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
