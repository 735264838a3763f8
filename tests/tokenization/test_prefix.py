"""SentencePiece's prefix in whole prompts, against the rule of the slow Llama tokenizer written out here."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenization_cases import INTERNVL, TEXTS, library_of_transformers, train_sentencepiece
from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers

import internvl_rt as ivl
from export.checkpoints import TINY_PHI3, write_checkpoint
from internvl_rt._core import PromptRenderer
from internvl_rt.bundle.manifest import Prompt
from internvl_rt.errors import CheckpointError
from internvl_rt.export.tokenizers import convert_tokenizer, prompt_facts, prompt_rules
from internvl_rt.prompts.messages import conversation
from internvl_rt.prompts.tokenizer import PromptTokenizer

SPACE = "▁"
PHI3 = ("<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>")
CHAT = ("<|im_start|>", "<|im_end|>")
MODELS: dict[str, dict[str, object]] = {
    "llama": {"add_dummy_prefix": True, "user_defined_symbols": ""},
    "no prefix": {"add_dummy_prefix": False, "user_defined_symbols": ""},
    "extra whitespace": {
        "add_dummy_prefix": True, "remove_extra_whitespaces": True, "user_defined_symbols": ""
    },
    "no space": {
        "add_dummy_prefix": True, "user_defined_symbols": "", "split_by_whitespace": False,
        "allow_whitespace_only_pieces": False,
    },
}  # fmt: skip
ABSENT: dict[str, Any] = {}
QUESTIONS = [
    *TEXTS,
    "  two spaces\n",
    f"{SPACE}mark {SPACE}{SPACE}marks{SPACE}",
    "<ref>the cup</ref> at <box>[[1, 2]]</box>",
    " <ref> spaced </ref> ",
]
# No library knows text that looks like a special token and is none.
HONEST = [question for question in QUESTIONS if "<s>" not in question and "<|" not in question]


class Slow:
    """The slow Llama tokenizer of transformers 4, and the classes that InternLM2 and InternLM3 ship."""

    def __init__(
        self, folder: Path, config: dict[str, Any], ids: dict[str, int], eats: tuple[str, ...]
    ) -> None:
        proto = sentencepiece_model_pb2.ModelProto()
        proto.ParseFromString((folder / "tokenizer.model").read_bytes())
        llama = not config.get("tokenizer_class", "").startswith("InternLM")
        self.legacy = not llama or config.get("legacy") is None or config["legacy"]
        self.add_prefix_space = config.get("add_prefix_space", True)
        self.strips = llama or config["tokenizer_class"].startswith("InternLM3")
        if not self.legacy:
            proto.normalizer_spec.add_dummy_prefix = False
        self.library = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        self.ids, self.eats = ids, eats
        self.listed = ["<unk>", "<s>", "</s>", *config.get("additional_special_tokens", [])]
        self.bos = [1] if config.get("add_bos_token", True) else []

    def encode(self, text: str) -> list[int]:
        if not self.legacy and text:
            text = text.replace(SPACE, " ")
            if self.add_prefix_space:
                text = SPACE + text
        tokens: list[str] = []
        parts = re.split("(" + "|".join(map(re.escape, self.ids)) + ")", text)
        for i, part in enumerate(parts):
            if i % 2:
                tokens.append(part)
                continue
            part = part.lstrip() if i and parts[i - 1] in self.eats else part
            tokens += self._pieces(part) if part else []
        if not self.legacy and len(tokens) > 1 and tokens[0] == SPACE and tokens[1] in self.listed:
            del tokens[0]
        return [*self.bos, *(self.ids.get(t, self.library.piece_to_id(t)) for t in tokens)]

    def _pieces(self, text: str) -> list[str]:
        if self.legacy or not text.startswith((SPACE, " ")):
            return list(self.library.encode(text, out_type=str))
        pieces = self.library.encode("<unk>" + text, out_type=str)
        return list(pieces[len(self.library.encode("<unk>")) :])

    def decode(self, ids: list[int]) -> str:
        tokens = [self.library.id_to_piece(i) for i in ids]
        if tokens and self.strips and self.add_prefix_space:
            tokens[0] = tokens[0].removeprefix(SPACE)
        return str(self.library.decode_pieces(tokens))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("trained") / "tokenizer.model"
    made = {}
    for name, options in MODELS.items():
        train_sentencepiece(path, vocab_size=1000, **options)
        made[name] = path.read_bytes()
    return made


def write_files(folder: Path, model: bytes, template: str, config: dict[str, Any]) -> Slow:
    """tokenizer.model and tokenizer_config.json, and the slow tokenizer that they make."""
    (folder / "tokenizer.model").write_bytes(model)
    names = (*(PHI3 if template == "phi3-chat" else CHAT), *INTERNVL)
    size = sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size()
    ids = {"<unk>": 0, "<s>": 1, "</s>": 2} | {name: size + i for i, name in enumerate(names)}
    eats = PHI3[1:] if template == "phi3-chat" else ()
    decoder = {
        str(i): {"content": t, "lstrip": False, "rstrip": t in eats, "normalized": False, "special": True}
        for t, i in ids.items()
    }
    document = {"bos_token": "<s>", "added_tokens_decoder": decoder, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(document))
    return Slow(folder, config, {t: i for t, i in ids.items() if i > 2}, eats)


def renderer(folder: Path, template: str) -> tuple[PromptRenderer, PromptTokenizer, Prompt]:
    """What a bundle of these files renders and decodes with."""
    raw = convert_tokenizer(folder)
    prompt = prompt_facts(raw, template, None, prompt_rules(folder))
    tokenizer = PromptTokenizer(raw.to_str(), task_ids=prompt.task_ids)
    return PromptRenderer(tokenizer, prompt, 2), tokenizer, prompt


def check_prompts(folder: Path, slow: Slow, template: str) -> None:
    render = renderer(folder, template)[0].render
    for question in HONEST:
        asked = conversation(question, history=[("Hi", " Yes ")], system="you")
        rendered = render(asked)
        assert rendered.input_ids.tolist() == slow.encode(rendered.text), question
    pictured = render(conversation("<image>\nWhat? <image>", images=[0, 1]), (1, 2))
    assert pictured.input_ids.tolist() == slow.encode(pictured.text)


LEGACY = [ABSENT, {"legacy": None}, {"legacy": True}, {"legacy": False}]
PREFIX = [ABSENT, {"add_prefix_space": True}, {"add_prefix_space": False}]
CLASSES = ["LlamaTokenizer", "LlamaTokenizerFast", "InternLM2Tokenizer", "InternLM3Tokenizer"]


@pytest.mark.parametrize("template", ["phi3-chat", "internvl2_5"])
@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("prefix", PREFIX, ids=str)
@pytest.mark.parametrize("legacy", LEGACY, ids=str)
def test_prompts_of_llamas_class(
    trained: dict[str, bytes], tmp_path: Path, template: str, listed: bool, legacy: dict, prefix: dict
) -> None:
    names = [*INTERNVL, *((*PHI3, *CHAT) if listed else ())]
    config = {"tokenizer_class": "LlamaTokenizer", "additional_special_tokens": names, **legacy, **prefix}
    for model in MODELS if template == "phi3-chat" else ("llama",):
        slow = write_files(tmp_path, trained[model], template, config)
        check_prompts(tmp_path, slow, template)


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("legacy", LEGACY, ids=str)
@pytest.mark.parametrize("kind", CLASSES)
def test_prompts_of_each_class(
    trained: dict[str, bytes], tmp_path: Path, kind: str, legacy: dict, bos: bool
) -> None:
    config = {"tokenizer_class": kind, "add_bos_token": bos, **legacy}
    slow = write_files(tmp_path, trained["llama"], "phi3-chat", config)
    check_prompts(tmp_path, slow, "phi3-chat")
    prompt = renderer(tmp_path, "phi3-chat")[2]
    assert len(prompt.prefix_ids) == (legacy.get("legacy") is False and kind.startswith("Llama"))


def test_a_class_that_only_auto_map_names(trained: dict[str, bytes], tmp_path: Path) -> None:
    config = {"auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]}}
    write_files(tmp_path, trained["llama"], "phi3-chat", config | {"legacy": False})
    assert renderer(tmp_path, "phi3-chat")[2].prefix_ids == ()
    assert prompt_rules(tmp_path).add_bos
    assert prompt_rules(tmp_path).clean_up_spaces


@pytest.mark.parametrize("prefix", PREFIX, ids=str)
@pytest.mark.parametrize("legacy", LEGACY[1:], ids=str)
@pytest.mark.parametrize("kind", CLASSES)
def test_answers_decode_as_the_slow_tokenizer_decodes_them(
    trained: dict[str, bytes], tmp_path: Path, kind: str, legacy: dict, prefix: dict
) -> None:
    for model in ("llama", "no prefix", "extra whitespace"):
        config = {"tokenizer_class": kind, **legacy, **prefix}
        slow = write_files(tmp_path, trained[model], "phi3-chat", config)
        tokenizer = renderer(tmp_path, "phi3-chat")[1]
        pieces = [i for i in range(259, 1000) if not slow.library.id_to_piece(i).startswith(SPACE * 2)]

        chance = random.Random(0)
        for _ in range(30):
            ids = chance.choices(pieces, k=chance.randint(0, 8))
            if [slow.library.id_to_piece(i) for i in ids[:1]] == [SPACE]:
                continue  # llama's class and the library both take a space away, where a prompt has put one
            assert tokenizer.decode(ids) == slow.decode(ids)


def scheme_of(scheme: str) -> tuple[Any, Any]:
    """The normaliser and the pre-tokenizer of a tokenizer.json."""
    if scheme == "prepend":
        steps = [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
        return normalizers.Sequence(steps), None
    metaspace = pre_tokenizers.Metaspace(SPACE, prepend_scheme=scheme.split()[0], split="split" in scheme)
    return None, pre_tokenizers.Sequence([metaspace]) if "sequence" in scheme else metaspace


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("scheme", ["always", "first", "first split", "first sequence", "never", "prepend"])
def test_prompts_of_a_tokenizer_json(
    trained: dict[str, bytes], tmp_path: Path, scheme: str, listed: bool
) -> None:
    """The tokenizers library on the whole prompt is right, whatever the settings of the slow class are."""
    config = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": False}
    write_files(tmp_path, trained["llama"], "phi3-chat", config)
    library = convert_tokenizer(tmp_path)
    library.normalizer, library.pre_tokenizer = scheme_of(scheme)
    library.add_tokens([AddedToken("<think>", normalized=False), AddedToken("word", single_word=True)])
    (tmp_path / "tokenizer.json").write_text(library.to_str())
    config |= {"additional_special_tokens": list(PHI3)} if listed else {}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    render = renderer(tmp_path, "phi3-chat")[0].render
    for question in [*HONEST, "<think> so </think>", "one word, words"]:
        rendered = render(conversation(question, system=" you"))
        assert rendered.input_ids.tolist() == library.encode(rendered.text, add_special_tokens=False).ids


@pytest.mark.parametrize("prefix", ["always", "first", "never", "strip"])
def test_answers_of_a_tokenizer_json(trained: dict[str, bytes], tmp_path: Path, prefix: str) -> None:
    """Its decoder is the library's, whatever the scheme of its pre-tokenizer."""
    write_files(tmp_path, trained["llama"], "phi3-chat", {"legacy": False})
    library = convert_tokenizer(tmp_path)
    library.normalizer, library.pre_tokenizer = scheme_of("first")
    if prefix == "strip":
        steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        library.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    else:
        library.decoder = decoders.Metaspace(SPACE, prepend_scheme=prefix)
    (tmp_path / "tokenizer.json").write_text(library.to_str())
    tokenizer = renderer(tmp_path, "phi3-chat")[1]
    # Metaspace takes away all spaces of a first token; pieces of several words are not made with it.
    pieces = [i for i in range(259, 1000) if library.id_to_token(i).rfind(SPACE) <= 0]
    chance = random.Random(1)
    for _ in range(200):
        ids = chance.choices(pieces, k=chance.randint(0, 8))
        assert tokenizer.decode(ids) == library.decode(ids)


def test_a_tokenizer_json_that_transformers_saved(trained: dict[str, bytes], tmp_path: Path) -> None:
    """Against transformers itself, whose Llama class writes the scheme "first" where it is not legacy."""
    original_class = library_of_transformers().LlamaTokenizer
    write_files(tmp_path, trained["llama"], "phi3-chat", {})
    made = json.loads(convert_tokenizer(tmp_path).to_str())["model"]
    for legacy, prefix, bos in itertools.product((False, True), (False, True), (False, True)):
        folder = tmp_path / f"{legacy}{prefix}{bos}"
        merges = [tuple(pair) for pair in made["merges"]]
        original = original_class(
            vocab=made["vocab"], merges=merges, legacy=legacy, add_prefix_space=prefix, add_bos_token=bos
        )
        original.add_tokens([AddedToken(t, special=True, rstrip=t in PHI3[1:]) for t in (*PHI3, *INTERNVL)])
        original.save_pretrained(folder)
        render = renderer(folder, "phi3-chat")[0].render
        for question in HONEST:
            rendered = render(conversation(question, system="you"))
            expected = original.encode(rendered.text)
            assert rendered.input_ids.tolist() == expected, (legacy, prefix, bos, question)


def test_what_the_bundle_says_is_what_the_model_renders(trained: dict[str, bytes], tmp_path: Path) -> None:
    """From the checkpoint to ids, above every seam: a chat token that is not listed keeps the space."""
    size = sentencepiece.SentencePieceProcessor(model_proto=trained["llama"]).get_piece_size()
    tiny = dataclasses.replace(TINY_PHI3, vocabulary=size + len(PHI3) + len(INTERNVL))
    folder = tmp_path / "checkpoint"
    write_checkpoint(folder, tiny)
    for file in folder.glob("*token*.json"):
        file.unlink()
    config = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True}
    slow = write_files(folder, trained["llama"], "phi3-chat", config)
    with ivl.load(ivl.export(folder, tmp_path / "bundle", weights="fp32", progress=False)) as model:
        rendered = model.render("What is <ref>it</ref>?")
        assert rendered.input_ids.tolist() == slow.encode(rendered.text)
        assert rendered.input_ids.tolist()[:2] == [1, slow.library.piece_to_id(SPACE)]
        assert model.manifest.prompt.prefix_ids == (slow.library.piece_to_id(SPACE),)


def test_the_converted_tokenizer_is_held_against_the_library(
    trained: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conversion that puts the prefix where there is none does not get through."""
    from internvl_rt.export.tokenizers import sentencepiece_bpe

    write_files(tmp_path, trained["llama"], "phi3-chat", {"legacy": False})
    monkeypatch.setattr(
        sentencepiece_bpe, "_inner_normaliser", lambda model: sentencepiece_bpe._normaliser(model, [])
    )
    with pytest.raises(CheckpointError, match="converts to a tokenizer with other ids"):
        convert_tokenizer(tmp_path)
