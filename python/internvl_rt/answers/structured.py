"""Answers of a given form: a JSON schema, a regular expression or a list of choices constrains decoding.

Before a token is chosen, every token that would leave the form is taken out of the logits. Which tokens
those are is computed from the bytes of each token, for choices by the core, for the others by llguidance (the
optional dependency ``internvl-rt[structured]``). Special tokens have none, so that a form never holds them;
the stop tokens end it.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from internvl_rt import _core
from internvl_rt.answers.settings import GenerationSettings
from internvl_rt.errors import InternVLError, PromptError
from internvl_rt.prompts.tokenizer import PromptTokenizer

_JSON_SEPARATORS = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}
"""Those of ``json.dumps``. Free white space would let a model write it for ever."""


class Constraint:
    """The form of one answer that is being written. Not for several threads at once."""

    def __init__(self, matcher: Any, tokens: Any, without_forcing: Callable[[], Any]) -> None:
        """Starts an answer.

        Args:
            matcher: llguidance's, at its beginning, and not used elsewhere.
            tokens: llguidance's tokenizer.
            without_forcing: makes a matcher of the same form that is at its beginning and forces nothing.
        """
        self._matcher = matcher
        self._tokens = tokens
        self._without_forcing = without_forcing
        self._taken: list[int] = []
        self._mask: npt.NDArray[np.uint8] | None = None

    def complete(self) -> bool:
        """The form is complete and nothing can follow but the end of the answer."""
        return bool(self._matcher.is_stopped())

    def allowed(self) -> npt.NDArray[np.uint8]:
        """The tokens that may come next: a bit for each, the lowest first, uint8 [vocab / 8].

        Raises:
            PromptError: if no token can follow, or the grammar grew beyond llguidance's limits.
        """
        bits = self._bits()
        self._check()
        return bits

    def forced(self) -> int | None:
        """The token that ``allowed`` would leave, where it is a single one.

        It is asked of the mask instead of llguidance's list of forced tokens, since a mask may depend on what
        was taken before. None if the form cannot be kept: ``allowed`` says why.
        """
        token = _single(self._bits())
        return None if self._matcher.is_error() else token

    def take(self, token: int) -> None:
        """Goes on with a token that ``allowed`` left.

        Raises:
            PromptError: if the grammar grew beyond llguidance's limits.
        """
        self._mask = None
        self._taken.append(token)
        self._matcher.consume_token(token)
        self._check()

    def _bits(self) -> npt.NDArray[np.uint8]:
        """A bit for every token, the lowest first; computed once for each token of the answer."""
        if self._mask is None:
            self._mask = self._computed()
            token = _single(self._mask)
            if token is not None and self._misread(token):
                self._matcher = self._without_forcing()
                self._matcher.consume_tokens(self._taken)
                self._mask = self._computed()
        return self._mask

    def _computed(self) -> npt.NDArray[np.uint8]:
        return np.frombuffer(self._matcher.compute_bitmask(), np.uint8)

    def _misread(self, token: int) -> bool:
        """Whether a forced token stands for the text that it is written as, such as ``<|im_end|>``.

        llguidance tokenises forced text as a whole, and a tokenizer finds special tokens in it. The form
        allows none of them.
        """
        end = self._matcher.is_error() or self._matcher.is_accepting()
        return not end and bool(self._tokens.is_special_token(token))

    def _check(self) -> None:
        if self._matcher.is_error():
            raise PromptError(f"the form of the answer cannot be kept: {_reason(self._matcher.get_error())}.")


class Constraints:
    """Compiles forms for one tokenizer. May be used from several threads."""

    def __init__(self, tokenizer: PromptTokenizer, stop_ids: Sequence[int], vocab_size: int) -> None:
        """Does nothing yet: the table of tokens is built for the first form."""
        self._tokenizer = tokenizer
        self._stop_ids = list(stop_ids)
        self._vocab_size = vocab_size
        self._lock = threading.Lock()
        self._table: _core.TokenTable | None = None
        self._llguidance_tokenizer: Any = None

    def compile(
        self, settings: GenerationSettings, answers: int
    ) -> Sequence[Constraint | _core.Choices | None]:
        """A constraint for each of so many answers; None for each where the settings name no form.

        Raises:
            InternVLError: if llguidance is not installed.
            PromptError: if the form is malformed, uses what is not supported, or nothing satisfies it.
        """
        if not settings.constrained:
            return [None] * answers
        if settings.choices is not None:
            return self._choices(settings.choices, answers)
        library = _llguidance()
        tokens = self._tokens(library)
        try:
            grammar = self._grammar(library, settings)
        except UnicodeEncodeError as error:
            raise _no_character(_name(settings), error) from error
        matcher = library.LLMatcher(tokens, grammar, log_level=0)
        if not matcher.is_error():
            matcher.compute_bitmask()  # finds out whether anything satisfies it
        if matcher.is_error():
            raise PromptError(f"{_name(settings)} cannot be kept: {_reason(matcher.get_error())}.")

        def without_forcing() -> Any:
            return library.LLMatcher(tokens, self._grammar(library, settings, forcing=False), log_level=0)

        return [Constraint(matcher.deep_copy(), tokens, without_forcing) for _ in range(answers)]

    def _choices(self, texts: Sequence[str], answers: int) -> list[_core.Choices]:
        try:
            for text in texts:
                text.encode()
        except UnicodeEncodeError as error:
            raise _no_character("choices", error) from error
        with self._lock:
            table = self._token_table()
        return [_core.Choices(self._tokenizer, table, texts, self._stop_ids) for _ in range(answers)]

    def _token_table(self) -> _core.TokenTable:
        """What each token writes. Under the lock."""
        if self._table is None:
            self._table = _core.TokenTable(self._tokenizer, self._vocab_size)
        return self._table

    def _grammar(self, library: Any, settings: GenerationSettings, *, forcing: bool = True) -> Any:
        # llguidance tokenises the text that a form forces, which begins anywhere in an answer. A tokenizer
        # that puts a space in front of every text cannot do that.
        forcing = forcing and _bytes_of(self._tokenizer, "a") == b"a"
        options = "" if forcing else '%llguidance {"no_forcing": true}\n'
        # A SentencePiece model may begin its answer with the space that stands for the beginning of a text,
        # and that is no part of the text. So a text that begins with a space of its own comes with two.
        space = bool(self._tokenizer.artificial_spaces)
        if settings.schema is not None:
            assert isinstance(settings.schema, dict), "the settings made a dictionary of it"
            schema = json.dumps({**settings.schema, "x-guidance": _JSON_SEPARATORS})
            lark = f"start: {'/ ?/ answer' if space else 'answer'}\nanswer: %json {schema}"
            return library.LLMatcher.grammar_from_lark(options + lark)
        pattern = settings.pattern
        assert pattern is not None, "one of the two is given"
        if not space and forcing:
            return library.LLMatcher.grammar_from_regex(f"(?:{pattern})")
        lark = f"start: {_lark_regex(f'(?:{pattern})')}\n"
        if space:
            lark = (
                f"start: WITH | WITHOUT\nWITH: {_lark_regex(f' (?:{pattern})')}\n"
                f"WITHOUT: {_lark_regex(f'(?:{pattern})')} & ~{_lark_regex(' (?s:.)*')}\n"
            )
        return library.LLMatcher.grammar_from_lark(options + lark)

    def _tokens(self, library: Any) -> Any:
        with self._lock:
            if self._llguidance_tokenizer is None:
                tokens = _Tokens(self._tokenizer, self._token_table(), self._stop_ids)
                self._llguidance_tokenizer = library.LLTokenizer(
                    library.TokenizerWrapper(tokens), n_vocab=self._vocab_size, eos_token=self._stop_ids
                )
            return self._llguidance_tokenizer


class _Tokens:
    """The tokens of a model as llguidance asks for them."""

    def __init__(self, tokenizer: PromptTokenizer, table: _core.TokenTable, stop_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = stop_ids[0]
        self.bos_token_id: int | None = None
        self.tokens = table.bytes
        self.special_token_ids = table.special_ids

    def __call__(self, text: bytes) -> list[int]:
        return self._tokenizer.encode(text.decode("utf-8", "surrogateescape"))


def _bytes_of(tokenizer: PromptTokenizer, text: str) -> bytes:
    return b"".join(tokenizer.token_bytes(i, "all") for i in tokenizer.encode(text))


def _single(bits: npt.NDArray[np.uint8]) -> int | None:
    """The number of the bit that is set, where it is a single one."""
    places = np.flatnonzero(bits)
    if len(places) != 1:
        return None
    byte = int(bits[places[0]])
    return int(places[0]) * 8 + byte.bit_length() - 1 if byte.bit_count() == 1 else None


def _llguidance() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise InternVLError(
            "schema and pattern need llguidance. Install it: pip install 'internvl-rt[structured]'"
        ) from error
    return llguidance


def _name(settings: GenerationSettings) -> str:
    return "pattern" if settings.schema is None else "schema"


def _no_character(name: str, error: UnicodeEncodeError) -> PromptError:
    return PromptError(
        f"{name} holds {error.object[error.start : error.end]!r}, which is no character. "
        "Decode the text as what it is encoded in, such as UTF-8."
    )


def _lark_regex(pattern: str) -> str:
    """A regular expression between slashes."""
    bare = {"/": r"\/", "\n": r"\n"}
    inside = re.sub(r"\\.|/|\n", lambda found: bare.get(found[0], found[0]), pattern)
    return f"/{inside}/"


def _reason(message: str) -> str:
    """What llguidance says, without the grammar that we made and its own state; in our words where we can."""
    said = " ".join(re.split(r"<state>|\n\s*\d+ \| ", message)[0].split())
    for known, words in _REASONS:
        found = re.search(known, said)
        if found is not None:
            return found.expand(words)
    return said.rstrip(".")[:200] or _NOTHING


_NOTHING = "no answer of finite length satisfies it"
_REASONS = (
    # What llguidance says, and what it means. Of a regular expression's error, the last part is a sentence.
    (r"NoExtensionBias", _NOTHING),
    (r"Unsatisfiable schema: (.*)", r"no answer satisfies it (\1)"),
    (r"Unimplemented keys: \[(.*)\]", r"\1 is not supported in a schema"),
    (r"Invalid type: (.*)", r'there is no type "\1" in JSON'),
    (r"Unknown format: (.*)", r'the format "\1" is not known'),
    (r"Pointer '(.*?)' does not exist", r'"$ref" points to \1, and the schema has nothing there'),
    (r"Resource '(.*?)' is not present", r'"$ref" names \1, and nothing is fetched: put it into the schema'),
    (r"recursion limit exceeded", "it is nested too deeply"),
    (
        r"[Ll]ookarounds? not supported",
        "anchors and look-around are not supported, since the whole answer matches",
    ),
    (r"regex parse error: .* error: (.*)", r"\1"),
    (
        r"[Tt]oo many|[Tt]oo large|limit",
        "it takes more than can be computed; a recursion in it may have no end",
    ),
)
