"""SentencePiece BPE to the ``tokenizers`` library's BPE, with the same ids for every text."""

from __future__ import annotations

import re
from collections.abc import Iterator

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers
from tokenizers.models import BPE

from internvl_rt.errors import CheckpointError
from internvl_rt.export.tokenizers.added_tokens import AddedTokens, must_be_special
from internvl_rt.export.tokenizers.sentencepiece_model import SPACE, PieceType, SentencePieceModel
from internvl_rt.export.tokenizers.settings import TokenizerSettings


def convert_sentencepiece(
    model: SentencePieceModel, settings: TokenizerSettings, added: AddedTokens
) -> Tokenizer:
    """Converts a model and the tokens added to it.

    What is encoded is a piece of text behind a special token, so that a tokenizer that is not ``legacy`` puts
    no prefix in front of it.

    An added token whose id is that of a piece replaces the piece, as InternLM2's chat tokens replace
    ``[UNUSED_TOKEN_..]``: text no longer turns into that id. The result is held against the SentencePiece
    library on texts made of all pieces.

    Raises:
        CheckpointError: if the model uses what cannot be converted, or the converted one gives other ids.
    """
    _check_supported(model)
    # A piece such as <img> that the model itself defines is an added token to us: text must not become it.
    steering = {
        i: AddedToken(piece.text, normalized=False, special=True)
        for i, piece in enumerate(model.pieces)
        if must_be_special(piece.text)
    }
    added = AddedTokens(steering | added.by_id, added.path)
    texts = _texts_by_id(model, added)
    mergeable = {
        piece.text
        for i, piece in enumerate(model.pieces)
        if piece.type is PieceType.NORMAL and i not in added.by_id
    }
    unknown = next(texts[i] for i, piece in enumerate(model.pieces) if piece.type is PieceType.UNKNOWN)
    try:
        tokenizer = Tokenizer(
            BPE(
                vocab={text: i for i, text in texts.items()},
                merges=_merges(model, mergeable),
                unk_token=unknown,
                fuse_unk=True,
                byte_fallback=model.byte_fallback,
            )
        )
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(f"{model.path}: does not make a tokenizer ({error}).") from error
    user_defined = [
        piece.text
        for i, piece in enumerate(model.pieces)
        if piece.type is PieceType.USER_DEFINED and i not in added.by_id
    ]
    legacy = settings.legacy or settings.is_internlm
    tokenizer.normalizer = _normaliser(model, user_defined) if legacy else _inner_normaliser(model)
    tokenizer.decoder = _decoder(model, settings, legacy=legacy)

    tokens = dict(added.by_id)
    for i, piece in enumerate(model.pieces):
        if i in tokens:
            continue
        if piece.type in (PieceType.CONTROL, PieceType.UNKNOWN):
            tokens[i] = AddedToken(piece.text, normalized=False, special=True)
        elif piece.type is PieceType.USER_DEFINED:
            # Normalised: the prefix of the text must be there before the text is cut at these.
            tokens[i] = AddedToken(piece.text, normalized=True, special=False)
    for i in sorted(tokens):
        (tokenizer.add_special_tokens if tokens[i].special else tokenizer.add_tokens)([tokens[i]])
    _check_same_ids(model, added, tokenizer, legacy=legacy)
    return tokenizer


def _check_supported(model: SentencePieceModel) -> None:
    if model.algorithm != "bpe":
        raise CheckpointError(
            f"{model.path}: is a SentencePiece model ({model.algorithm!r}); only 'bpe' is supported."
        )
    for wrong, what in (
        # The library's own form of the rules loses combining marks and half of \r\n: other ids.
        (bool(model.charsmap), "normalises text by rules (such as nmt_nfkc)"),
        (model.whitespace_as_suffix, "writes spaces at the end of pieces (treat_whitespace_as_suffix)"),
        (not model.escape_whitespaces, "does not escape spaces (escape_whitespaces = false)"),
    ):
        if wrong:
            raise CheckpointError(f"{model.path}: {what}, which is not supported.")
    unknown = sum(piece.type is PieceType.UNKNOWN for piece in model.pieces)
    if unknown != 1:
        raise CheckpointError(f"{model.path}: has {unknown} unknown pieces; exactly one was expected.")
    if model.byte_fallback:
        there = {piece.text for piece in model.pieces if piece.type is PieceType.BYTE}
        for byte in range(256):
            if f"<0x{byte:02X}>" not in there:
                raise CheckpointError(f"{model.path}: falls back to bytes but has no piece <0x{byte:02X}>.")


def _texts_by_id(model: SentencePieceModel, added: AddedTokens) -> dict[int, str]:
    texts = {i: piece.text for i, piece in enumerate(model.pieces)}
    texts |= {i: token.content for i, token in added.by_id.items()}
    owners: dict[str, int] = {}
    for i, text in texts.items():
        if text in owners:
            raise CheckpointError(
                f"{added.path}: the token {text!r} has the ids {owners[text]} and {i}, one of them in "
                f"{model.path.name}."
            )
        owners[text] = i
    return texts


def _merges(model: SentencePieceModel, mergeable: set[str]) -> list[tuple[str, str]]:
    """The merges that the scores imply: any two pieces that make a third, the best score first.

    Two ways to make the same piece have the same score in SentencePiece, which takes the leftmost in the
    text, and different ranks here. They would have to overlap in the text to compete; trained models never
    let them, which the tests hold against random texts over two letters.
    """
    ranked: list[tuple[float, list[tuple[str, str]]]] = []
    for piece in model.pieces:
        text = piece.text
        if text not in mergeable or len(text) < 2:
            continue
        pairs = [
            (text[:cut], text[cut:])
            for cut in range(1, len(text))
            if text[:cut] in mergeable and text[cut:] in mergeable
        ]
        ranked.append((-piece.score, pairs))
    ranked.sort(key=lambda item: item[0])  # stable: equal scores stay in the order of ids
    return [pair for _, pairs in ranked for pair in pairs]


def _normaliser(model: SentencePieceModel, user_defined: list[str]) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = []
    if model.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
        steps.append(normalizers.Replace(Regex(rf"\A |[ {SPACE}]+\z"), ""))
    if model.add_dummy_prefix:
        if user_defined:
            # The library normalises the added tokens too, and those must stay as they are.
            so_far = normalizers.Sequence(steps)
            kept = "|".join(re.escape(so_far.normalize_str(text)) for text in user_defined)
            steps.append(normalizers.Replace(Regex(rf"\A(?!(?:{kept})\z)"), SPACE))
        else:
            steps.append(normalizers.Prepend(SPACE))
    steps.append(normalizers.Replace(" ", SPACE))
    return normalizers.Sequence(steps)


def _inner_normaliser(model: SentencePieceModel) -> normalizers.Normalizer:
    """Of text that never has a prefix: the slow tokenizer encodes it behind another word."""
    steps: list[normalizers.Normalizer] = [normalizers.Replace(SPACE, " ")]
    if model.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
        steps.append(normalizers.Replace(Regex(r" \z"), ""))
    steps.append(normalizers.Replace(" ", SPACE))
    return normalizers.Sequence(steps)


def _decoder(model: SentencePieceModel, settings: TokenizerSettings, *, legacy: bool) -> decoders.Decoder:
    steps: list[decoders.Decoder] = [decoders.Replace(SPACE, " ")]
    if model.byte_fallback:
        steps.append(decoders.ByteFallback())
    steps.append(decoders.Fuse())
    # SentencePiece takes the space that stands for its prefix away again; Llama's class and InternLM3's take
    # one away wherever they are set to put one in front of a prompt.
    by_library = legacy and model.add_dummy_prefix
    by_class = settings.kind.startswith(("Llama", "InternLM3")) or not legacy
    if model.remove_extra_whitespaces:
        steps.append(decoders.Strip(" ", 1 << 16, 0))  # all of them
    elif by_library or (by_class and settings.add_prefix_space):
        steps.append(decoders.Strip(" ", 1, 0))
    return decoders.Sequence(steps)


_PROBES = (
    "The quick brown fox; isn't it 12,345.67?\n\tdef f(x):\n        return x  # ok\r\n\r\n",
    "你是书生·万象，英文名是InternVL。你好，世界！ 三　四",
    "안녕하세요 세계, 한국어 문장입니다.  Привет, мир! مرحبا",
    "😀 👩‍👩‍👧 é e\u0301 \u00a0 \u200b ﬁ ① Ａ",
    "      ----====----      ",
    "\x01\x7f \ufffd",
)


def _probes(model: SentencePieceModel, added: AddedTokens) -> Iterator[str]:
    yield from _PROBES
    batch = [
        piece.text.replace(SPACE, " ")
        for i, piece in enumerate(model.pieces)
        if piece.type in (PieceType.NORMAL, PieceType.USER_DEFINED, PieceType.UNUSED) and i not in added.by_id
    ]
    for start in range(0, len(batch), 64):
        yield "".join(batch[start : start + 64])
    # Again in another order, so that other pieces meet.
    for start in range(64):
        yield "".join(batch[start::64][:512])


def _disputed(model: SentencePieceModel) -> set[str]:
    """Characters that releases of SentencePiece encode differently, so that none of them is the measure.

    U+0000 is a piece of its own up to 0.2.1 and a byte since 0.2.3, where the model has such a piece, as all
    of InternLM2's kind have. A single character that the model marks as unused or as a control piece came out
    of text up to 0.2.1 all the same.
    """
    marked = (PieceType.UNUSED, PieceType.CONTROL)
    return {"\0"} | {p.text for p in model.pieces if p.type in marked and len(p.text) == 1}


def _check_same_ids(
    model: SentencePieceModel, added: AddedTokens, tokenizer: Tokenizer, *, legacy: bool
) -> None:
    reference = _Reference(model, legacy=legacy)
    disputed = str.maketrans(dict.fromkeys(_disputed(model), ""))
    tokenizer.encode_special_tokens = True
    for probe in _probes(model, added):
        text = probe.translate(disputed)
        # Added tokens beyond the library's vocabulary, and pieces that they replace, differ on purpose.
        if any(token.content in text for token in added.by_id.values()):
            continue
        expected = reference.encode(text)
        found = tokenizer.encode(text, add_special_tokens=False).ids
        if expected != found:
            at = next((i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), 0)
            raise CheckpointError(
                f"{model.path}: converts to a tokenizer with other ids: {expected[at : at + 4]} became "
                f"{found[at : at + 4]} in the text {text[:80]!r}. Please report the model."
            )
    tokenizer.encode_special_tokens = False


class _Reference:
    """The SentencePiece library, called for a piece of text as the checkpoint's slow tokenizer calls it."""

    def __init__(self, model: SentencePieceModel, *, legacy: bool) -> None:
        self._legacy = legacy
        self._unknown = next(piece.text for piece in model.pieces if piece.type is PieceType.UNKNOWN)
        try:
            self._library = sentencepiece.SentencePieceProcessor(
                model_proto=model.for_library(dummy_prefix=legacy and model.add_dummy_prefix)
            )
        except RuntimeError as error:
            raise CheckpointError(f"{model.path}: SentencePiece does not load it ({error}).") from error

    def encode(self, text: str) -> list[int]:
        if not self._legacy:
            text = text.replace(SPACE, " ")
            if text.startswith(" "):
                # Alone, the spaces at the beginning might be lost.
                ids: list[int] = self._library.encode(self._unknown + text)
                return ids[len(self._library.encode(self._unknown)) :]
        encoded: list[int] = self._library.encode(text)
        return encoded
