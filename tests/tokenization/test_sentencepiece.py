"""Converted SentencePiece tokenizers against the SentencePiece library, id for id."""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
import tempfile
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2
from tokenization_cases import INTERNLM2_CHAT, INTERNVL, TEXTS, UNUSED, train_sentencepiece
from tokenizers import Tokenizer

from internvl_rt.errors import CheckpointError
from internvl_rt.export.tokenizers import convert_tokenizer, prompt_rules
from internvl_rt.prompts.tokenizer import Control, PromptTokenizer

FLAGS: dict[str, dict[str, object]] = {
    "internlm2": {},
    "llama": {"add_dummy_prefix": True, "user_defined_symbols": ""},
    "dummy prefix": {"add_dummy_prefix": True},
    "extra whitespace": {"add_dummy_prefix": True, "remove_extra_whitespaces": True},
    "no bytes": {"byte_fallback": False},
}
Library = sentencepiece.SentencePieceProcessor
Pair = tuple[Library, Tokenizer]


def library(folder: Path) -> Library:
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """As prompts do it: special tokens switched off."""
    tokenizer.encode_special_tokens = True
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


@pytest.fixture(scope="session", params=FLAGS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("sentencepiece")
    train_sentencepiece(folder / "tokenizer.model", **FLAGS[request.param])
    return library(folder), convert_tokenizer(folder)


@pytest.mark.parametrize("text", [*TEXTS, f"a {UNUSED[1]}b{UNUSED[2]} ", UNUSED[1] + " b"])
def test_texts(pair: Pair, text: str) -> None:
    expected, converted = pair
    assert encode(converted, text) == expected.encode(text)


anything = st.text(st.characters(exclude_categories=["Cs"]))
# What the flags are about: runs of spaces, the space mark, repeated characters, user-defined symbols.
nasty = st.lists(st.sampled_from([*" -=a\t\n▁", "中", "한", "😀", *UNUSED[:3], "[UNUSED", "return "])).map(
    "".join
)


@settings(max_examples=200, deadline=None)
@given(text=anything | nasty)
def test_any_text(pair: Pair, text: str) -> None:
    expected, converted = pair
    if text.strip(" ▁") in UNUSED:
        return  # alone it has no dummy prefix: test_a_user_defined_symbol_alone
    assert encode(converted, text) == expected.encode(text)


@settings(max_examples=200, deadline=None)
@given(ids=st.lists(st.integers(0, 1499), max_size=40))
def test_any_ids_decode_as_the_library_decodes_them(pair: Pair, ids: list[int]) -> None:
    expected, converted = pair
    ids = [i for i in ids if not expected.is_control(i) and not expected.is_unknown(i)]
    assert PromptTokenizer(converted.to_str()).decode(ids) == expected.decode(ids)


def test_spaces_at_the_start_decode_as_the_library_decodes_them(pair: Pair) -> None:
    """The artificial space is one for a dummy prefix; a space that is a byte token is meant."""
    expected, converted = pair
    tokenizer = PromptTokenizer(converted.to_str())
    pieces = [i for i in range(3, 1500) if expected.id_to_piece(i).startswith("▁")][:20]
    byte = [expected.piece_to_id("<0x20>")] if expected.piece_to_id("<0x20>") != expected.unk_id() else []
    for first in (*pieces, *byte):
        for second in (*pieces, *byte, *expected.encode("ab")):
            assert tokenizer.decode([first, second]) == expected.decode([first, second])


def test_bytes_that_are_not_utf8(internlm2: Path) -> None:
    expected, converted = library(internlm2), PromptTokenizer(convert_tokenizer(internlm2).to_str())

    @settings(max_examples=200, deadline=None)
    @given(data=st.lists(st.binary(max_size=4) | st.text(max_size=4).map(str.encode)).map(b"".join))
    def check(data: bytes) -> None:
        assert converted.encode(data.decode("utf-8", "surrogateescape")) == expected.encode(data)

    check()
    for data in (b"\xff", b"a\xe4\xbd", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80", b"\x80 \xbf"):
        assert converted.encode(data.decode("utf-8", "surrogateescape")) == expected.encode(data)


def test_random_texts_over_few_letters_meet_every_tie() -> None:
    """Many merges of the same piece, many overlaps: where ranks and scores could part ways."""
    for seed in range(6):
        chance = random.Random(seed)
        letters = "ab" if seed % 2 else "ab -"
        lines = ["".join(chance.choices(letters, k=chance.randint(1, 60))) for _ in range(300)]
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=model, model_type="bpe", vocab_size=400 + 20 * seed,
            byte_fallback=True, normalization_rule_name="identity", add_dummy_prefix=False,
            remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, minloglevel=3,
            hard_vocab_limit=False, split_by_whitespace=seed % 3 == 0,
        )  # fmt: skip
        converted, expected = convert_bytes(model.getvalue()), Library(model_proto=model.getvalue())
        for _ in range(500):
            text = "".join(chance.choices(letters, k=chance.randint(1, 60)))
            assert encode(converted, text) == expected.encode(text)


def convert_bytes(data: bytes) -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tokenizer.model").write_bytes(data)
        return convert_tokenizer(Path(folder))


def test_chat_and_internvl_tokens_have_the_ids_of_the_files(internlm2: Path) -> None:
    tokenizer, expected = convert_tokenizer(internlm2), library(internlm2)
    for i, token in enumerate(INTERNLM2_CHAT):
        assert tokenizer.token_to_id(token) == expected.piece_to_id(UNUSED[i + 2])
    for i, token in enumerate(INTERNVL):
        assert tokenizer.token_to_id(token) == expected.get_piece_size() + i
    assert [tokenizer.token_to_id(t) for t in ("<unk>", "<s>", "</s>")] == [0, 1, 2]
    special = {t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special}
    assert special == {"<unk>", "<s>", "</s>", *INTERNLM2_CHAT, *INTERNVL}
    assert Tokenizer.from_str(tokenizer.to_str()).get_vocab() == tokenizer.get_vocab()


def test_prompts_are_encoded_as_the_slow_tokenizer_encodes_them(internlm2: Path) -> None:
    """Split out the special tokens; the library encodes what is between, each part for itself."""
    prompt = (
        "<|im_start|>system\n你是书生·万象<|im_end|><|im_start|>user\n"
        "<img><IMG_CONTEXT><IMG_CONTEXT></img>\nWhere is <ref>the red cup</ref>? <box>[[1, 2, 3, 4]]</box>"
        "<|im_end|><|im_start|>assistant\n"
    )
    expected, raw = library(internlm2), convert_tokenizer(internlm2)
    ids: list[int] = []
    for part in re.split("(" + "|".join(map(re.escape, (*INTERNLM2_CHAT, *INTERNVL))) + ")", prompt):
        ids += [raw.token_to_id(part)] if part in (*INTERNLM2_CHAT, *INTERNVL) else expected.encode(part)
    assert raw.encode(prompt, add_special_tokens=False).ids == ids

    pieces: list[str | Control] = [
        Control(part) if part.startswith("<") else part
        for part in re.split(r"(<\|im_start\|>|<\|im_end\|>|</?img>|<IMG_CONTEXT>)", prompt)
    ]
    assert PromptTokenizer(raw.to_str()).encode_pieces(pieces) == ids


@pytest.mark.parametrize("typed", [*INTERNLM2_CHAT, *INTERNVL[:3], "<s>", "</s>", "<unk>", "<0x0A>"])
def test_special_tokens_in_user_text_are_text(internlm2: Path, typed: str) -> None:
    tokenizer, expected = PromptTokenizer(convert_tokenizer(internlm2).to_str()), library(internlm2)
    text = f"a {typed}{typed} b"
    assert tokenizer.encode(text) == expected.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_what_chat_tokens_replaced_is_text(internlm2: Path) -> None:
    """The library turns a typed [UNUSED_TOKEN_7] into the id that is <|im_start|> by now."""
    assert INTERNLM2_CHAT[5] == "<|im_start|>"
    tokenizer = PromptTokenizer(convert_tokenizer(internlm2).to_str())
    ids = tokenizer.encode(UNUSED[7])
    assert tokenizer.control_id("<|im_start|>") not in ids
    assert tokenizer.decode(ids) == UNUSED[7]


def test_a_user_defined_symbol_alone(tmp_path: Path) -> None:
    """The one text that differs: a symbol alone has no dummy prefix in front."""
    train_sentencepiece(tmp_path / "tokenizer.model", add_dummy_prefix=True)
    symbol = library(tmp_path).piece_to_id(UNUSED[1])
    assert library(tmp_path).encode(UNUSED[1])[-1] == symbol
    assert encode(convert_tokenizer(tmp_path), UNUSED[1]) == [symbol]


def test_control_tokens_that_the_model_itself_defines_are_special(tmp_path: Path) -> None:
    train_sentencepiece(tmp_path / "tokenizer.model", user_defined_symbols="<img>,<|im_end|>,other")
    tokenizer, expected = convert_tokenizer(tmp_path), library(tmp_path)
    for token in ("<img>", "<|im_end|>"):
        assert tokenizer.token_to_id(token) == expected.piece_to_id(token)
        assert tokenizer.get_added_tokens_decoder()[tokenizer.token_to_id(token)].special
        assert PromptTokenizer(tokenizer.to_str()).decode(encode(tokenizer, token)) == token
        assert tokenizer.token_to_id(token) not in encode(tokenizer, token)
    assert encode(tokenizer, "other") == expected.encode("other")


NORMAL, CONTROL, USER_DEFINED, UNUSED_PIECE = 1, 3, 4, 5


@pytest.mark.parametrize("config", [{}, {"legacy": False}], ids=str)
@pytest.mark.parametrize(
    ("piece", "kind"),
    [
        # Releases of the library part ways at these, or refuse the model.
        ("\0", NORMAL), ("\0", USER_DEFINED), ("\0", UNUSED_PIECE), ("a\0", NORMAL), ("\0\0", USER_DEFINED),
        ("\x02", UNUSED_PIECE), ("\ufeff", UNUSED_PIECE),
        # And not at these.
        ("\ufeff", NORMAL), ("\ufeff", USER_DEFINED), ("▁▁▁", USER_DEFINED), ("th▁", USER_DEFINED),
         ("<mask>", CONTROL), ("zebra", CONTROL), ("[UNUSED_TOKEN_99]", UNUSED_PIECE),
    ],
)  # fmt: skip
def test_pieces_of_every_kind(tmp_path: Path, piece: str, kind: int, config: dict[str, object]) -> None:
    """A model is not refused for a character that no prompt has, and all other text keeps its ids."""
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    proto = with_piece(tmp_path, piece, kind)
    proto.pieces[-1].piece = piece.replace("\0", "no such text")
    expected, converted = Library(model_proto=proto.SerializeToString()), convert_tokenizer(tmp_path)
    disputed = {"\0", piece} if kind == UNUSED_PIECE else {"\0"}
    for text in [*TEXTS, "th   \ufeff th\ufeff\ufeffx", "<mask> zebra"]:
        text = text.translate(dict.fromkeys(map(ord, filter(lambda c: len(c) == 1, disputed))))
        assert encode(converted, text) == expected.encode(text)
    assert len(encode(converted, "a\0b")) >= 3


def with_piece(folder: Path, piece: str, kind: int) -> sentencepiece_model_pb2.ModelProto:
    """A trained model and one more piece, written to the folder."""
    train_sentencepiece(folder / "tokenizer.model", user_defined_symbols="")
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString((folder / "tokenizer.model").read_bytes())
    proto.pieces.add(piece=piece, score=-1.5, type=kind)
    (folder / "tokenizer.model").write_bytes(proto.SerializeToString())
    return proto


def test_a_null_piece_makes_no_noise(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with_piece(tmp_path, "\0", NORMAL)
    capfd.readouterr()
    convert_tokenizer(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_models_own_test_texts_do_not_matter(tmp_path: Path) -> None:
    """Up to 0.2.1 the library tries them, and they have the prefix that the settings turn off."""
    proto = with_piece(tmp_path, "zebra", NORMAL)
    proto.normalizer_spec.add_dummy_prefix = True
    expected = Library(model_proto=proto.SerializeToString()).encode("the", out_type=str)
    sample = b"".join(
        bytes((tag, len(text))) + text for tag, text in ((10, b"the"), (18, " ".join(expected).encode()))
    )
    field = bytes((4 << 3 | 2, 2 + len(sample), 10, len(sample))) + sample
    (tmp_path / "tokenizer.model").write_bytes(proto.SerializeToString() + field)
    (tmp_path / "tokenizer_config.json").write_text('{"legacy": false}')
    assert encode(convert_tokenizer(tmp_path), "the") != encode(convert_tokenizer(tmp_path), " the")


def test_bos(internlm2: Path, qwen2: Path, tmp_path: Path) -> None:
    assert prompt_rules(internlm2).add_bos
    assert not prompt_rules(qwen2).add_bos
    config = tmp_path / "tokenizer_config.json"
    config.write_text('{"tokenizer_class": "LlamaTokenizer", "add_bos_token": false}')
    assert not prompt_rules(tmp_path).add_bos
    config.write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    single = '[{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]'
    processor = (
        f'{{"type": "Sequence", "processors": [{{"type": "TemplateProcessing", "single": {single}}}]}}'
    )
    (tmp_path / "tokenizer.json").write_text(f'{{"post_processor": {processor}}}')
    assert prompt_rules(tmp_path).add_bos
    (tmp_path / "tokenizer.json").write_text('{"post_processor": {"type": "ByteLevel"}}')
    assert not prompt_rules(tmp_path).add_bos


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "unigram", "vocab_size": 800}, "'unigram'.*only 'bpe'"),
        ({"model_type": "char", "hard_vocab_limit": False}, "'char'"),
        ({"normalization_rule_name": "nmt_nfkc"}, "nmt_nfkc"),
        ({"treat_whitespace_as_suffix": True}, "treat_whitespace_as_suffix"),
    ],
)
def test_kinds_that_are_not_supported(tmp_path: Path, options: dict[str, object], message: str) -> None:
    train_sentencepiece(tmp_path / "tokenizer.model", **options)
    with pytest.raises(CheckpointError, match=message):
        convert_tokenizer(tmp_path)


def test_damaged_models(internlm2: Path, tmp_path: Path) -> None:
    good = (internlm2 / "tokenizer.model").read_bytes()
    path = tmp_path / "tokenizer.model"
    for data in {
        "empty": b"",
        "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1477754\n",
        "truncated": good[: len(good) // 2 + 1],
        "long field": b"\x0a\xff\xff\xff\xff\x0f",
        "endless number": b"\x0a" + b"\xff" * 20,
        "score": b"\x0a\x05\x0a\x01a\x15\x00",
        "type": b"\x0a\x05\x0a\x01a\x18\x09",
        "not UTF-8": b"\x0a\x04\x0a\x02\xff\xfe",
        "twice": b"\x0a\x03\x0a\x01a" * 2,
    }.values():
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=re.escape(str(path))):
            convert_tokenizer(tmp_path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_altered_model_converts_or_is_a_checkpoint_error(
    internlm2: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    good = bytearray((internlm2 / "tokenizer.model").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(CheckpointError):
        convert_bytes(bytes(good))
