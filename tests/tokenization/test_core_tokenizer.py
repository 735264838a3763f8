"""The core's tokenizer against the ``tokenizers`` library: the same ids, words and texts for everything."""

from __future__ import annotations

import functools
import itertools
import json
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from packaging.version import Version
from real_vocabularies import MAKERS, tokenizer_json
from tokenization_cases import INTERNVL, PROSE, TEXTS, corpus, train_sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE

import internvl_rt
from internvl_rt.errors import BundleError
from internvl_rt.export.tokenizers import convert_tokenizer, synthetic_tokenizer
from internvl_rt.prompts.tokenizer import PromptTokenizer

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_PATTERN = LLAMA3_PATTERN.replace("{1,3}", "")
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CODE_POINTS = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def byte_level(*steps: Any, use_regex: bool = False, add_prefix_space: bool = False) -> Any:
    last = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=use_regex)
    return pre_tokenizers.Sequence([*steps, last]) if steps else last


def split(pattern: str, behavior: str = "isolated", invert: bool = False) -> Any:
    return pre_tokenizers.Split(Regex(pattern), behavior=behavior, invert=invert)


def trained(pre_tokenizer: Any, normalizer: Any = None, **model: Any) -> str:
    """Byte-level BPE, trained on the spot."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1200, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.decoder = decoders.ByteLevel()
    document = json.loads(tokenizer.to_str())
    document["model"] |= model
    return json.dumps(document)


def sentencepiece(**options: object) -> str:
    """A SentencePiece model, trained on the spot and converted."""
    with tempfile.TemporaryDirectory() as work:
        train_sentencepiece(Path(work) / "tokenizer.model", vocab_size=1200, **options)
        return str(convert_tokenizer(Path(work)).to_str())


def metaspace(scheme: str, *, split: bool) -> str:
    """A converted model with the words of Metaspace in place of a normaliser."""
    document = json.loads(sentencepiece(user_defined_symbols=""))
    document["normalizer"] = None
    document["pre_tokenizer"] = {
        "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split
    }  # fmt: skip
    document["decoder"] = dict(document["pre_tokenizer"])
    return json.dumps(document)


def tabletop() -> str:
    folder = Path(internvl_rt.__file__).parent / "tabletop" / "checkpoint"
    return str(convert_tokenizer(folder).to_str())


MADE: dict[str, Callable[[], str]] = {
    "qwen": lambda: trained(byte_level(split(QWEN_PATTERN)), normalizers.NFC()),
    "llama 3": lambda: trained(byte_level(split(LLAMA3_PATTERN)), ignore_merges=True),
    "gpt-2": lambda: trained(byte_level(use_regex=True)),
    "gpt-2 split": lambda: trained(byte_level(split(GPT2_PATTERN, "removed", invert=True))),
    "prefix space": lambda: trained(byte_level(use_regex=True, add_prefix_space=True)),
    "digits": lambda: trained(byte_level(pre_tokenizers.Digits(individual_digits=True), use_regex=True)),
    "digits together": lambda: trained(byte_level(pre_tokenizers.Digits(individual_digits=False))),
    "no words": lambda: trained(byte_level()),
    "internlm2": sentencepiece,
    "dummy prefix": lambda: sentencepiece(add_dummy_prefix=True),
    "llama": lambda: sentencepiece(add_dummy_prefix=True, user_defined_symbols=""),
    "extra whitespace": lambda: sentencepiece(add_dummy_prefix=True, remove_extra_whitespaces=True),
    "no bytes": lambda: sentencepiece(byte_fallback=False),
    "no space": lambda: sentencepiece(
        split_by_whitespace=False, allow_whitespace_only_pieces=False, user_defined_symbols=""
    ),
    "metaspace always": lambda: metaspace("always", split=True),
    "metaspace first": lambda: metaspace("first", split=False),
    "metaspace never": lambda: metaspace("never", split=False),
    "tabletop": tabletop,
    **{
        f"synthetic {family}": functools.partial(lambda f: str(synthetic_tokenizer(f, 9000).to_str()), family)
        for family in ("qwen2_5", "qwen3", "internlm2", "phi3", "llama3")
    },
}


@functools.cache
def both(name: str) -> tuple[PromptTokenizer, Tokenizer]:
    """The core's and the library's. Special tokens that a user may type are ordinary ones to the library."""
    document = json.loads(tokenizer_json(name) if name in MAKERS else MADE[name]())
    ours = PromptTokenizer(json.dumps(document, ensure_ascii=name in MADE))
    for token in document["added_tokens"]:
        if token["content"] in INTERNVL[3:]:
            token["special"] = False
    library = Tokenizer.from_str(json.dumps(document))
    library.encode_special_tokens = True
    return ours, library


def expected_ids(library: Tokenizer, text: str) -> list[int]:
    ids: list[int] = library.encode(text, add_special_tokens=False).ids
    return ids


def mixed_texts(seed: int, count: int) -> Iterator[str]:
    """Prose of many kinds in pieces, with rare characters, spaces and tokens between them."""
    chance = random.Random(seed)
    words = [word for text in (*PROSE, *TEXTS) for word in text.split(" ")]
    rare = [
        *" \n\t\r\u3000\u00a0\u2028'",
        "\r\n",
        "  ",
        "'S",
        "'ll",
        "'ſ",
        "e\u0301\u0323",
        "각",
        "👩‍👩‍👧",
        "½",
        "१२३",
    ]
    for _ in range(count):
        parts = (
            chance.choice(words)
            if chance.random() < 0.6
            else chance.choice(rare)
            if chance.random() < 0.7
            else chance.choice(CODE_POINTS)
            for _ in range(chance.randint(1, 60))
        )
        yield "".join(itertools.chain.from_iterable(zip(parts, itertools.cycle(["", " "]), strict=False)))


def check_texts(name: str, texts: Iterable[str]) -> None:
    ours, library = both(name)
    for text in texts:
        assert ours.encode(text) == expected_ids(library, text), text


@pytest.mark.parametrize("name", MADE)
def test_texts(name: str) -> None:
    check_texts(name, TEXTS)
    check_texts(name, mixed_texts(1, 300))
    check_texts(name, ["".join(corpus())])


@pytest.mark.parametrize("name", MAKERS)
def test_texts_of_published_vocabularies(name: str) -> None:
    check_texts(name, TEXTS)
    check_texts(name, mixed_texts(2, 500))
    check_texts(name, ["".join(corpus())])


anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
nasty = st.lists(
    st.sampled_from(
        [*" \n\r\t'▁09aAéſs", "'s", "'LL", "  ", "\u0301", "ᄀ", "ᅡ", "ᆨ", "가", "<ref>", "</box>", "½", "١"]
    )
).map("".join)


@pytest.mark.parametrize("name", MADE)
@settings(max_examples=120, deadline=None)
@given(text=anything | nasty)
def test_any_text(name: str, text: str) -> None:
    check_texts(name, [text])


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=200, deadline=None)
@given(text=anything | nasty)
def test_any_text_of_published_vocabularies(name: str, text: str) -> None:
    check_texts(name, [text])


@pytest.mark.parametrize("name", ["qwen3", "llama3", "qwen.tiktoken"])
def test_any_ids_of_published_vocabularies_decode_as_the_library_decodes_them(name: str) -> None:
    ours, library = both(name)
    chance = random.Random(3)
    for _ in range(300):
        ids = [chance.randrange(ours.vocab_size) for _ in range(chance.randint(0, 30))]
        assert ours.decode(ids, "all") == library.decode(ids, skip_special_tokens=False)
    assert all(ours.token_id(library.id_to_token(i)) == i for i in range(0, ours.vocab_size, 97))


@functools.cache
def known_code_points() -> list[str]:
    """All but what is not assigned in the older Unicode tables of releases before 0.22.2."""
    if Version(tokenizers.__version__) >= Version("0.22.2"):
        return CODE_POINTS
    unassigned = split(r"\p{Cn}", "removed", invert=True).pre_tokenize_str("".join(CODE_POINTS))
    return sorted(set(CODE_POINTS) - {c for c, _ in unassigned})


def words_of_the_library(library: Tokenizer, text: str) -> list[str]:
    """The words of a byte-level tokenizer as text."""
    if library.normalizer is not None:
        text = library.normalizer.normalize_str(text)
    data = text.encode()
    words, begin = [], 0
    for word, _ in library.pre_tokenizer.pre_tokenize_str(text):
        words.append(data[begin : begin + len(word)].decode())
        begin += len(word)
    return words


@pytest.mark.sweeps
@pytest.mark.parametrize(
    ("name", "around"),
    [("gpt-2", "{0}x{0}1{0}."), ("llama 3", "'{0} "), ("digits together", "a{0}")],
)
def test_every_code_point_is_what_the_library_takes_it_for(name: str, around: str) -> None:
    """Letters, digits, white space; and the letters that are the same in another case."""
    ours, library = both(name)
    code_points = known_code_points()
    for first in range(0, len(code_points), 1 << 14):
        text = "".join(around.format(c) for c in code_points[first : first + (1 << 14)])
        assert ours.words(text) == words_of_the_library(library, text)


@functools.cache
def composing() -> PromptTokenizer:
    """Its words, joined, are the NFC of a text."""
    return PromptTokenizer(trained(byte_level(), normalizers.NFC()))


@pytest.mark.sweeps
def test_every_code_point_is_composed_as_the_library_composes_it() -> None:
    ours, compose = composing(), normalizers.NFC().normalize_str
    decompose = normalizers.NFD().normalize_str
    for change in (str, decompose):
        for around in ("{0}x", "e{0}\u0301\u0323{0}", "\u1100{0}\u11a8"):
            for first in range(0, len(CODE_POINTS), 1 << 15):
                text = "".join(around.format(change(c)) for c in CODE_POINTS[first : first + (1 << 15)])
                assert "".join(ours.words(text)) == compose(text)


MOVING = [
    c
    for c in CODE_POINTS
    if normalizers.NFD().normalize_str("e\u0345" + c + "\u0334") != "e\u0345" + c + "\u0334"
]


@settings(max_examples=500, deadline=None)
@given(text=st.lists(st.sampled_from([*MOVING, "e", "\u1100", "\u1161", "\u11a8"]), max_size=12).map("".join))
def test_any_marks_are_composed_as_the_library_composes_them(text: str) -> None:
    assert "".join(composing().words(text)) == normalizers.NFC().normalize_str(text)


def with_tokens(tokens: list[AddedToken], normalizer: Any = None) -> tuple[PromptTokenizer, Tokenizer]:
    library = Tokenizer.from_str(synthetic_tokenizer("qwen2", 400).to_str())
    if normalizer is not None:
        library.normalizer = normalizer
    library.add_tokens(tokens)
    return PromptTokenizer(library.to_str()), library


@pytest.mark.sweeps
@pytest.mark.parametrize("flags", [{"lstrip": True, "rstrip": True}, {"single_word": True}], ids=str)
def test_every_code_point_beside_an_added_token(flags: dict[str, bool]) -> None:
    ours, library = with_tokens([AddedToken("<w>", normalized=False, **flags)])
    for first in range(0, len(CODE_POINTS), 256):
        text = "".join(f".{c}<w>{c}." for c in CODE_POINTS[first : first + (256)])
        assert ours.encode(text) == expected_ids(library, text)


flagged = st.builds(
    AddedToken,
    st.text("ab <é", min_size=1, max_size=4),
    single_word=st.booleans(),
    lstrip=st.booleans(),
    rstrip=st.booleans(),
    normalized=st.booleans(),
)


@settings(max_examples=300, deadline=None)
@example(tokens=[AddedToken(" ", lstrip=True, rstrip=True, normalized=False)], text="  ")
@given(tokens=st.lists(flagged, max_size=5, unique_by=lambda t: t.content), text=st.text("ab <e\u0301\n"))
def test_added_tokens_are_cut_out_by_the_rules_of_the_library(tokens: list[AddedToken], text: str) -> None:
    ours, library = with_tokens(tokens, normalizers.NFC())
    found = ours.encode(text)
    try:
        expected = expected_ids(library, text)
    except BaseException as error:  # its panic at a token within white space that another one has eaten
        if type(error).__name__ != "PanicException":
            raise
        return
    assert found == expected


def test_long_words_are_merged_as_short_ones_are() -> None:
    for name in ("no words", "no space", "qwen"):
        check_texts(name, ["ab" * n for n in (15, 19, 20, 21, 40, 500)])
        check_texts(name, ["return self " * n for n in (3, 4, 5, 300)])
        check_texts(name, ["x" + " " * n + "y" for n in (1, 2, 41, 5000)])


def test_more_words_than_are_kept() -> None:
    chance = random.Random(4)
    words = ["".join(chance.choices("abcdefgh", k=chance.randint(1, 50))) for _ in range(60_000)]
    check_texts("qwen", [" ".join(words + words[:5000])])


DOCUMENT = json.loads(synthetic_tokenizer("qwen2", 400).to_str())


def changed(path: str, value: object) -> str:
    document = json.loads(json.dumps(DOCUMENT))
    *parents, last = path.split(".")
    at = document
    for name in parents:
        at = at[name]
    at[last] = value
    return json.dumps(document)


SPLIT = {"type": "Split", "pattern": {"Regex": r"\w+|\W+"}, "behavior": "Isolated", "invert": False}
REMOVED = SPLIT | {"pattern": {"Regex": QWEN_PATTERN}, "behavior": "Removed"}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (changed("normalizer", {"type": "NFKC"}), r"normalizer \{.*NFKC.*\} is not known"),
        (changed("normalizer", {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}), "Lowercase"),
        (
            changed("normalizer", {"type": "Replace", "pattern": {"Regex": "a+"}, "content": "a"}),
            r"normalizer .*a\+.* is not known",
        ),
        (changed("pre_tokenizer", SPLIT), r"pre_tokenizer .*W\+.* is not known"),
        (changed("pre_tokenizer", {"type": "Sequence", "pretokenizers": [SPLIT, BYTES]}), "is not known"),
        (changed("pre_tokenizer", {"type": "Whitespace"}), "pre_tokenizer .*Whitespace.* is not known"),
        (changed("pre_tokenizer", REMOVED), "is not known"),
        (changed("pre_tokenizer", None), "ByteLevel as a pre_tokenizer or as a decoder, and not as both"),
        (changed("decoder", {"type": "BPEDecoder", "suffix": "</w>"}), "decoder .*BPEDecoder.* is not known"),
        (changed("decoder", None), "has no decoder"),
        (changed("model.type", "Unigram"), "model Unigram is not known"),
        (changed("model.dropout", 0.5), "dropout, 0.5, which is not known"),
        (changed("model.continuing_subword_prefix", "##"), "continuing_subword_prefix, ##"),
        (changed("model.end_of_word_suffix", "</w>"), "end_of_word_suffix"),
        (changed("model.byte_fallback", True), "byte_fallback beside ByteLevel"),
        (changed("model.unk_token", "<none>"), "<none> is not in model.vocab"),
        (changed("model.vocab", []), "model.vocab is not an object"),
        (changed("model.vocab", {"a": -1}), "the id of 'a' in model.vocab is -1"),
        (changed("model.vocab", {"a": 1.5}), "'a' in model.vocab is 1.5"),
        (changed("model.vocab", {"a": 10**12}), "1000000000000"),
        (changed("model.vocab", {"a": 1, "b": 1}), "the id 1 to 'a' and to 'b'"),
        (changed("model.merges", ["a"]), r"merges\[0\] is not a pair"),
        (changed("model.merges", [["a", "b", "c"]]), r"merges\[0\] is not a pair"),
        (changed("model.merges", [["a", 1]]), r"merges\[0\] is not a pair"),
        (changed("model.merges", ["a b", "zz zz"]), "has a token that model.vocab lacks"),
        (changed("model.merges", None), "no list of model.merges"),
        (changed("model", None), "has no model"),
        (changed("added_tokens", {}), "added_tokens is not a list"),
        (changed("added_tokens", [{"content": "<a>"}]), "no content or no id"),
        (changed("added_tokens", [{"content": "<a>", "id": 0}]), "id 0 of '<a>' in added_tokens is that of"),
        (changed("added_tokens", [{"content": "<|im_end|>", "id": 900}]), "or the token has two"),
        ("[1]", "has no model"),
        ("{" * 200, "at byte"),
        ("[" * 200, "no more than 64 levels"),
    ],
)  # fmt: skip
def test_what_is_not_known_or_malformed_is_refused_by_name(document: str, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        PromptTokenizer(document)


@settings(max_examples=300, deadline=None)
@given(
    cuts=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 6), st.binary(max_size=4)), max_size=4)
)
def test_any_altered_file_loads_or_is_a_bundle_error(cuts: list[tuple[int, int, bytes]]) -> None:
    data = json.dumps(DOCUMENT).encode()
    for at, length, new in cuts:
        at %= len(data)
        data = data[:at] + new + data[at + length :]
    try:
        tokenizer = PromptTokenizer(data)
    except BundleError:
        return
    tokenizer.decode(tokenizer.encode("It's a test of 12 <ref>things</ref> 中文 \U0001f600"))


@settings(max_examples=200, deadline=None)
@given(
    names=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=6),
    ascii_only=st.booleans(),
)
def test_names_are_read_as_json_writes_them(names: list[str], ascii_only: bool) -> None:
    document = json.loads(json.dumps(DOCUMENT))
    known = set(document["model"]["vocab"])
    names = [f"#{name}" for name in dict.fromkeys(names) if f"#{name}" not in known]
    document["added_tokens"] += [{"id": 1000 + i, "content": name} for i, name in enumerate(names)]
    tokenizer = PromptTokenizer(json.dumps(document, ensure_ascii=ascii_only, indent=1))
    for i, name in enumerate(names):
        assert tokenizer.token_id(name) == 1000 + i
        assert tokenizer.token_bytes(1000 + i, "none") == name.encode()
    assert tokenizer.vocab_size == 400 + len(names)
    assert tokenizer.longest_token == max(map(len, [*known, *names]))
