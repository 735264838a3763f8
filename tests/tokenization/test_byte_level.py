"""Qwen2-style files against transformers' Qwen2Tokenizer and against byte-level BPE written out here."""

from __future__ import annotations

import itertools
import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenization_cases import INTERNVL, QWEN2_PATTERN, TEXTS, library_of_transformers, write_added_tokens
from tokenizers import Tokenizer

from internvl_rt.errors import CheckpointError
from internvl_rt.export.tokenizers import PromptRules, convert_tokenizer, prompt_facts, prompt_rules
from internvl_rt.prompts.tokenizer import PromptTokenizer


def naive_byte_level_bpe(folder: Path) -> Callable[[str], list[int]]:
    """The algorithm of the original slow tokenizer: cut, then merge the best pair until there is none."""
    vocabulary = json.loads((folder / "vocab.json").read_text())
    lines = (folder / "merges.txt").read_text().split("\n")
    pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    ranks = {pair: i for i, pair in enumerate(pairs)}
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    names = {b: chr(b) for b in shown} | {
        b: chr(256 + i) for i, b in enumerate(b for b in range(256) if b not in shown)
    }

    def encode(text: str) -> list[int]:
        ids = []
        for word in regex.findall(QWEN2_PATTERN, unicodedata.normalize("NFC", text)):
            parts = [names[b] for b in word.encode()]
            while len(parts) > 1:
                best = min(itertools.pairwise(parts), key=lambda pair: ranks.get(pair, len(ranks)))
                if best not in ranks:
                    break
                merged, i = [], 0
                while i < len(parts):
                    both = tuple(parts[i : i + 2]) == best
                    merged.append("".join(parts[i : i + 1 + both]))
                    i += 1 + both
                parts = merged
            ids += [vocabulary[part] for part in parts]
        return ids

    return encode


@pytest.fixture(scope="session")
def converted(qwen2: Path) -> Tokenizer:
    return convert_tokenizer(qwen2)


@pytest.fixture(scope="session")
def tokenizer(converted: Tokenizer) -> PromptTokenizer:
    return PromptTokenizer(converted.to_str())


@pytest.fixture(scope="session")
def algorithm(qwen2: Path) -> Callable[[str], list[int]]:
    return naive_byte_level_bpe(qwen2)


@pytest.mark.parametrize("text", TEXTS)
def test_texts_against_transformers(qwen2: Path, converted: Tokenizer, text: str) -> None:
    original = library_of_transformers().Qwen2Tokenizer.from_pretrained(qwen2)
    assert converted.encode(text).ids == original.encode(text)


def test_special_tokens_against_transformers(qwen2: Path, converted: Tokenizer) -> None:
    original = library_of_transformers().Qwen2Tokenizer.from_pretrained(qwen2)
    text = "<|im_start|>user\n<img><IMG_CONTEXT></img>\nthe <ref>cup </ref><box>[[1]]</box><|im_end|>\n"
    ids = converted.encode(text).ids
    assert ids == original.encode(text)
    assert converted.decode(ids, skip_special_tokens=True) == original.decode(ids, skip_special_tokens=True)


# What Unicode had long ago: the tables of `regex` and of Python are of other versions than the tokenizer's.
# test_core_tokenizer.py holds every code point to the library.
assigned = st.characters(exclude_categories=["Cs", "Cn"]).filter(
    lambda c: unicodedata.ucd_3_2_0.category(c) != "Cn"
)


@settings(max_examples=300, deadline=None)
@given(text=st.text(assigned) | st.text(" \n\r\tab1'sé\u0301中"))
def test_any_text_against_the_algorithm(
    algorithm: Callable[[str], list[int]], tokenizer: PromptTokenizer, text: str
) -> None:
    if any(token in text for token in INTERNVL):
        return
    ids = tokenizer.encode(text)
    assert ids == algorithm(text)
    assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)


def test_lone_surrogates_become_the_replacement_character(tokenizer: PromptTokenizer) -> None:
    text = b"a\xff\xfe b".decode("utf-8", "surrogateescape")
    assert tokenizer.encode(text) == tokenizer.encode("a\ufffd\ufffd b")
    assert tokenizer.encode("\ud83d") == tokenizer.encode("\ufffd")


@settings(max_examples=300, deadline=None)
@given(ids=st.lists(st.integers(0, 1511), max_size=40))
def test_any_ids_decode_as_the_library_decodes_them(
    converted: Tokenizer, tokenizer: PromptTokenizer, ids: list[int]
) -> None:
    assert tokenizer.decode(ids) == converted.decode(ids, skip_special_tokens=True)


@pytest.fixture
def folder(qwen2: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(qwen2, tmp_path / "checkpoint"))


def rewrite(path: Path, change: Callable[[dict], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_tokenizer_json_is_taken_and_completed(folder: Path, converted: Tokenizer) -> None:
    """Its added tokens are a part of the checkpoint's, and some are not marked as special."""
    document = json.loads(converted.to_str())
    last = document["added_tokens"].pop()
    assert last["content"] == "</box>"
    del document["model"]["vocab"]["</box>"]
    document["added_tokens"][1]["special"] = False
    document["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    (folder / "vocab.json").unlink()
    tokenizer = convert_tokenizer(folder)
    assert tokenizer.get_vocab() == converted.get_vocab()
    assert all(token.special for token in tokenizer.get_added_tokens_decoder().values())
    for text in TEXTS:
        assert tokenizer.encode(text).ids == converted.encode(text).ids


def test_tokenizer_json_of_another_model(folder: Path, converted: Tokenizer) -> None:
    (folder / "tokenizer.json").write_text(converted.to_str())
    rewrite(folder / "added_tokens.json", lambda d: d.update({"<img>": d["<img>"] + 100}))
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(
        CheckpointError, match=r"tokenizer.json: '<img>' has the id 1503; it is 1603 in added"
    ):
        convert_tokenizer(folder)


def test_ids_may_have_gaps(folder: Path) -> None:
    tokens = {
        t: 2000 + 3 * i for i, t in enumerate(("<|endoftext|>", "<|im_start|>", "<|im_end|>", *INTERNVL))
    }
    write_added_tokens(folder, tokens)
    tokenizer = Tokenizer.from_str(convert_tokenizer(folder).to_str())
    assert {t: tokenizer.token_to_id(t) for t in tokens} == tokens
    assert tokenizer.encode("".join(tokens)).ids == list(tokens.values())


def test_text_that_merges_into_a_special_token_is_refused(folder: Path) -> None:
    vocabulary = json.loads((folder / "vocab.json").read_text())
    write_added_tokens(folder, {"self": vocabulary["self"]})
    with pytest.raises(CheckpointError, match="'self' is encoded as the special token 'self'"):
        convert_tokenizer(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", "", "is not JSON"),
        ("vocab.json", "[1]", "holds list; a JSON object"),
        ("vocab.json", "[" * 100_000, "is not JSON"),
        ("vocab.json", b"\xff\xfe", "is not UTF-8"),
        ("vocab.json", '{"a": 0, "b": 0}', "the id 0 belongs to 'a' and to 'b'"),
        ("vocab.json", '{"a": -1}', "'a' has the id -1"),
        ("vocab.json", '{"a": 1e9}', "'a' has the id 1000000000.0"),
        ("vocab.json", '{"a": true}', "'a' has the id True"),
        ("vocab.json", '{"a": 0}', "one of the 256 bytes, is missing"),
        ("merges.txt", "#version: 0.2\na b c\n", "line 2 is 'a b c'"),
        ("merges.txt", "a zzzzz\n", "line 1 merges 'zzzzz'"),
        ("added_tokens.json", '{"<img>": "5"}', "'<img>' has the id '5'"),
        ("added_tokens.json", '{"<img>": 7}', "added_tokens.json: "),
        (
            "added_tokens.json",
            '{"other": 1503}',
            "the id 1503 is 'other' here and '<img>' in tokenizer_config",
        ),
        ("tokenizer_config.json", '{"added_tokens_decoder": []}', "is not an object"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {}}}', "'x' in 'added_tokens_decoder'"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"1": {}}}', "has no 'content'"),
        ("tokenizer_config.json", '{"tokenizer_class": "GPT2Tokenizer"}', "'GPT2Tokenizer'.*not supported"),
        ("tokenizer.json", "{}", "has no 'model'"),
        ("tokenizer.json", '{"model": {"type": "WordPiece"}}', "'WordPiece'"),
        ("tokenizer.json", '{"model": {"type": "BPE"}, "added_tokens": [1]}', "has no 'content'"),
        ("tokenizer.json", '{"model": {"type": "BPE", "vocab": {}}}', "is not a tokenizer"),
    ],
)
def test_malformed_files(folder: Path, name: str, content: str | bytes, message: str) -> None:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError, match=message) as caught:
        convert_tokenizer(folder)
    assert str(folder) in str(caught.value)


def test_a_decoder_that_is_not_known(folder: Path, converted: Tokenizer) -> None:
    document = json.loads(converted.to_str())
    document["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=r"tokenizer.json: the tokenizer's decoder .* is not known"):
        convert_tokenizer(folder)


MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    "name", ["vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json", "tokenizer.json"]
)
def test_a_byte_order_mark_is_no_text(folder: Path, converted: Tokenizer, name: str) -> None:
    if name == "tokenizer.json":
        (folder / name).write_text(converted.to_str())
    (folder / name).write_bytes(MARK + (folder / name).read_bytes())
    assert convert_tokenizer(folder).to_str() == converted.to_str()


def test_keys_without_a_value_are_not_there(folder: Path, converted: Tokenizer) -> None:
    keys = ("tokenizer_class", "added_tokens_decoder", "add_bos_token", "legacy", "pad_token", "bos_token")
    keys += ("clean_up_tokenization_spaces", "additional_special_tokens", "auto_map", "extra_special_tokens")
    (folder / "tokenizer_config.json").write_text(json.dumps(dict.fromkeys(keys)))
    (folder / "special_tokens_map.json").write_text(json.dumps(dict.fromkeys(keys)))
    assert convert_tokenizer(folder).to_str() == converted.to_str()
    assert prompt_rules(folder) == PromptRules()
    document = json.loads(converted.to_str())
    document["model"] |= {"type": None, "dropout": None, "unk_token": None}
    document["added_tokens"][0] |= {"lstrip": None, "normalized": None, "special": None}
    (folder / "tokenizer.json").write_text(json.dumps(document | {"padding": None, "post_processor": None}))
    assert convert_tokenizer(folder).get_vocab() == converted.get_vocab()
    document["added_tokens"] = None
    (folder / "tokenizer.json").write_text(json.dumps(document))
    assert convert_tokenizer(folder).get_vocab() == converted.get_vocab()


def test_special_tokens_of_old_files_are_those_that_are_listed(folder: Path) -> None:
    """added_tokens.json has no flags; the lists beside it say which of its tokens are special."""
    base = len(json.loads((folder / "vocab.json").read_text()))
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *INTERNVL, "<loc>", "<seg>", "<fill>", "<plain>")
    (folder / "added_tokens.json").write_text(json.dumps({t: base + i for i, t in enumerate(names)}))
    (folder / "tokenizer_config.json").write_text('{"additional_special_tokens": ["<loc>"]}')
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    listed = {"additional_special_tokens": [{"content": "<seg>", **flags}], "pad_token": "<fill>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(listed))
    tokenizer = convert_tokenizer(folder)
    special = {t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special}
    assert special == set(names) - {"<plain>"}
    prompt = prompt_facts(tokenizer, "internvl2_5", None, prompt_rules(folder))
    assert prompt.task_ids == (tokenizer.token_to_id("<loc>"), tokenizer.token_to_id("<seg>"))


def test_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        convert_tokenizer(tmp_path)
