"""The bundles that requests are recorded with, and models of them that compute with an engine in Python."""

from __future__ import annotations

import dataclasses
import functools
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

import internvl_rt as ivl
from bundle.tiny import tiny_manifest
from internvl_rt.bundle.manifest import Flash
from internvl_rt.export.synthetic import write_synthetic
from internvl_rt.export.tokenizers import PromptRules, prompt_facts, synthetic_tokenizer
from internvl_rt.export.tokenizers.byte_alphabet import BYTE_ALPHABET
from internvl_rt.model import loading
from recorded_requests.engine import ArithmeticEngine, Reply

TOKENIZERS = Path(__file__).parent / "tokenizers"
_ENGINE = "arithmetic"


class Token(str):
    """One token by its name, where a text would be cut into others."""


Spoken = str | bytes | int
"""Of what the engine says: a text, a ``Token``, bytes of which each is a token, or an id."""


@dataclass(frozen=True)
class Says:
    """A text that the engine may say."""

    parts: tuple[Spoken, ...]
    logit: float = 0.0
    ends: bool = True


def says(*parts: Spoken, logit: float = 0.0, ends: bool = True) -> Says:
    return Says(parts, logit, ends)


@dataclass(frozen=True)
class BundleFacts:
    """What tells one of the bundles from the others."""

    tokenizer: str
    """Of the files beside this one; or a synthetic one's family."""
    template: str
    system_message: str | None = None
    rules: PromptRules = field(default_factory=PromptRules)
    positions: int = 1024
    native: bool = False
    """As if it came from a checkpoint of transformers' own classes."""
    flash: bool = False
    load: dict[str, Any] = field(default_factory=dict)
    """Arguments of ``load``, beside the engine's."""
    shares: str | None = None
    """The files are those of that bundle."""


_INTERNLM2 = PromptRules(add_bos=True, bos="<s>", clean_up_spaces=True)
_PHI3_LEGACY = PromptRules(add_bos=True, bos="<s>")
_PHI3 = PromptRules(add_bos=True, bos="<s>", begins_with_space=True)

BUNDLES: dict[str, BundleFacts] = {
    # Every byte is a token: whatever is said comes in many pieces.
    "bytes": BundleFacts("qwen2_5", "internvl2_5"),
    "byte-level": BundleFacts("byte_level", "internvl2_5"),
    "internvl-hf": BundleFacts("qwen3", "internvl-hf", native=True),
    "internlm2": BundleFacts("internlm2", "internlm2-chat", rules=_INTERNLM2),
    "internlm2 2.5": BundleFacts("internlm2", "internvl2_5", rules=_INTERNLM2),
    "yi": BundleFacts("yi", "Hermes-2"),
    "llama3": BundleFacts("llama3", "internlm2-chat"),
    "phi3 legacy": BundleFacts("llama_legacy", "phi3-chat", rules=_PHI3_LEGACY),
    "phi3": BundleFacts("llama", "phi3-chat", rules=_PHI3),
    "own system": BundleFacts("qwen2", "Hermes-2", system_message="You come with the bundle."),
    "flash": BundleFacts("qwen2_5", "internvl2_5", flash=True),
    "critic": BundleFacts("qwen2_5", "internvl2_5", positions=8192, load={"cache_tokens": 8192}),
    # The same bundle in other caches.
    "small cache": BundleFacts("", "", load={"cache_tokens": 512, "max_context": 512}, shares="bytes"),
    "patient": BundleFacts(
        "", "", load={"cache_tokens": 512, "max_context": 512, "max_wait_s": 60}, shares="bytes"
    ),
    "short": BundleFacts("", "", load={"cache_tokens": 128}, shares="bytes"),
    "short context": BundleFacts("", "", load={"cache_tokens": 1024, "max_context": 100}, shares="bytes"),
    "stretched": BundleFacts("", "", load={"cache_tokens": 2048, "max_context": 1500}, shares="bytes"),
    "no paths": BundleFacts("", "", load={"allow_paths": False, "max_pixels": 20_000}, shares="bytes"),
    "turned": BundleFacts("", "", load={"orientation": "exif"}, shares="bytes"),
}
CACHE_TOKENS = 1024
"""As many as the context of most of them: a model that has lost any has no room for a long answer."""


@functools.cache
def library_tokenizer(bundle: str) -> Tokenizer:
    """The tokenizer of a bundle as the ``tokenizers`` library has it; special tokens are found in a text."""
    facts = BUNDLES[bundle]
    if facts.shares is not None:
        return library_tokenizer(facts.shares)
    path = TOKENIZERS / f"{facts.tokenizer}.json"
    if path.is_file():
        return Tokenizer.from_file(str(path))
    return synthetic_tokenizer(facts.tokenizer, 350)


def ids_of(bundle: str, parts: Sequence[Spoken]) -> tuple[int, ...]:
    """The ids of what the engine says."""
    tokenizer = library_tokenizer(bundle)

    def named(token: str) -> int:
        found = tokenizer.token_to_id(token)
        assert found is not None, f"{bundle} has no token {token!r}"
        return int(found)

    ids: list[int] = []
    for part in parts:
        if isinstance(part, int):
            ids.append(part)
        elif isinstance(part, bytes):
            fallback = tokenizer.token_to_id("<0x00>") is not None
            ids += [named(f"<0x{byte:02X}>" if fallback else BYTE_ALPHABET[byte]) for byte in part]
        elif isinstance(part, Token):
            ids.append(named(part))
        else:
            ids += tokenizer.encode(part, add_special_tokens=False).ids
    return tuple(ids)


class Models:
    """Models by the names of their bundles, each written and loaded when it is first asked for."""

    def __init__(self, folder: Path, reuses: bool = False) -> None:
        """Writes nothing yet.

        Args:
            folder: for the bundles.
            reuses: whether models keep what they have computed for the requests that follow.
        """
        self._folder = folder
        self._loaded: dict[str, tuple[ivl.Model, ArithmeticEngine]] = {}
        self.reuses = reuses
        self._scale = 1.0

    def loaded(self, name: str) -> tuple[ivl.Model, ArithmeticEngine]:
        """The model, and the engine that it computes with."""
        if name not in self._loaded:
            self._loaded[name] = self.load(name)
        return self._loaded[name]

    def load(self, name: str) -> tuple[ivl.Model, ArithmeticEngine]:
        """The same, loaded anew."""
        facts = BUNDLES[name]
        options: dict[str, Any] = {"cache_tokens": CACHE_TOKENS, "max_wait_s": 0, **facts.load}
        if not self.reuses:
            options |= {"tile_cache_bytes": 0, "prefix_cache_tokens": 0}
        with _engine_in_python() as started:
            model = ivl.load(self._bundle(facts.shares or name), engine=_ENGINE, threads=1, **options)
        started[0].scale = self._scale
        return model, started[0]

    def scale(self, scale: float) -> None:
        """Scales the logits of all engines, those that are started later too."""
        self._scale = scale
        for _, engine in self._loaded.values():
            engine.scale = scale

    def replies(self, name: str, told: Sequence[Says]) -> tuple[Reply, ...]:
        """What the engine of that model says."""
        return tuple(Reply(ids_of(name, said.parts), said.logit, said.ends) for said in told)

    def _bundle(self, name: str) -> Path:
        out = self._folder / name.replace(" ", "-")
        if not out.is_dir():
            _write(out, name)
        return out


def _write(out: Path, name: str) -> None:
    facts, tokenizer = BUNDLES[name], library_tokenizer(name)
    manifest = tiny_manifest()
    vocabulary = tokenizer.get_vocab_size()
    rope = dataclasses.replace(manifest.llm.rope, max_position_embeddings=facts.positions)
    manifest = dataclasses.replace(
        manifest,
        llm=dataclasses.replace(manifest.llm, vocab_size=vocabulary, rope=rope),
        prompt=prompt_facts(tokenizer, facts.template, facts.system_message, facts.rules),
        source_format="internvl" if facts.native else "synthetic",
        flash=Flash(4, 4, 0.4, 0.25) if facts.flash else None,
        name=name,
        generator="the record",
    )
    write_synthetic(manifest, out, tokenizer=tokenizer, graphs=False, progress=False)


@contextmanager
def _engine_in_python() -> Iterator[list[ArithmeticEngine]]:
    """While this lasts, ``load`` knows the engine under its name; the list has those that were started."""
    started: list[ArithmeticEngine] = []

    def start(*arguments: Any, **options: Any) -> ArithmeticEngine:
        started.append(ArithmeticEngine(*arguments, **options))
        return started[-1]

    module = types.ModuleType(f"internvl_rt.engines.{_ENGINE}")
    module.ArithmeticEngine = start  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    loading.ENGINES[_ENGINE] = "ArithmeticEngine"
    try:
        yield started
    finally:
        del loading.ENGINES[_ENGINE], sys.modules[module.__name__]
