"""Every language model of the family, from a checkpoint in either format to tokens, on every engine.

Checkpoints in the authors' format are held against the NumPy reference, which knows the authors' names, those
of transformers against transformers' own classes.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import internvl_rt as ivl
from bundle.tiny import tiny_manifest
from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.errors import PromptError
from internvl_rt.export import export
from internvl_rt.export.family import FAMILY
from internvl_rt.model.cache_size import context_of
from parity.checkpoints import (
    IMAGE_CONTEXT_ID,
    LANGUAGE_MODELS,
    LONGROPE,
    TOWER_300M,
    VOCABULARY,
    authors_checkpoint,
    transformers_checkpoint,
)
from parity.compare import ENGINES, assert_greedy_agrees, greedy, opened, relative_error

TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": [28, 28],
    "patch_size": [14, 14],
}
TEXT: dict[str, Any] = {
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 224,
    "max_position_embeddings": 512,
    # A vocabulary smaller than the class's padding token is refused by some.
    "pad_token_id": 0,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
MOE: dict[str, Any] = {
    "num_experts": 12,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 64,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "llama3": {"model_type": "llama", "rope_parameters": LLAMA3_ROPE},
    "linear": {
        "model_type": "llama",
        "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0},
    },
    "dynamic": {
        "model_type": "qwen2",
        "max_position_embeddings": 60,
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
    },
    "phi3": {
        "model_type": "phi3",
        "num_key_value_heads": 8,
        "original_max_position_embeddings": 60,
        "rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, **LONGROPE},
    },
    "qwen3_moe": {"model_type": "qwen3_moe", "norm_topk_prob": True, **MOE},
    "qwen3_moe-plain": {"model_type": "qwen3_moe", "norm_topk_prob": False, **MOE},
}


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_authors_checkpoints(tmp_path: Path, name: str) -> None:
    """Prompts on both sides of the length where rope changes (Phi-3: 40 tokens)."""
    reference = authors_checkpoint(tmp_path / "in", TOWER_300M, LANGUAGE_MODELS[name])
    folder = export(tmp_path / "in", tmp_path / "out", weights="fp32", progress=False)
    prompt = open_bundle(folder).manifest.prompt
    rng = np.random.default_rng(8)
    for engine in ENGINES:
        with opened(engine, folder) as model:
            for length in (23, 61):
                ids = rng.integers(0, VOCABULARY - 40, length)
                embeddings = model.embed(ids, None)
                wanted = reference.embed(ids, None, prompt.image_context_id)
                assert relative_error(embeddings, wanted) == 0
                logits = model.prefill(model.new_sequence(), embeddings, all_logits=True)
                assert relative_error(logits, reference.logits(wanted)) < 1e-4, engine
                assert_greedy_agrees(greedy(model, embeddings, 8), *reference.greedy(wanted, 8))


@pytest.mark.parametrize(
    ("name", "trained", "longest"),
    [("InternVL3-1B", 32768, 65536), ("InternVL2-4B", 131072, 131072), ("InternVL3_5-1B", 40960, 40960)],
)
def test_contexts_beyond_the_trained_length_are_asked_for(name: str, trained: int, longest: int) -> None:
    manifest = dataclasses.replace(tiny_manifest(), llm=FAMILY[name].llm)
    assert context_of(manifest, 200_000, None) == (200_000, trained)
    assert context_of(manifest, 200_000, longest) == (200_000, longest)
    assert context_of(manifest, 200_000, 1000) == (200_000, 1000)
    assert context_of(manifest, 3000, None) == (3000, 3000)
    assert context_of(manifest, None, longest) == (longest, longest)
    with pytest.raises(PromptError, match=f"contexts of up to {longest}"):
        context_of(manifest, 200_000, longest + 1)
    with pytest.raises(PromptError, match=r"cache_tokens=3001 or more"):
        context_of(manifest, 3000, 3001)


CROSSING: dict[str, dict[str, Any]] = {
    "longrope": {
        **LANGUAGE_MODELS["phi3"],
        "original_max_position_embeddings": 600,
        "max_position_embeddings": 2048,
        "sliding_window": 4096,
    },
    "dynamic": {
        **LANGUAGE_MODELS["qwen2"],
        "rope_scaling": {"type": "dynamic", "factor": 3.0},
        "max_position_embeddings": 600,
    },
}
"""Models whose rotary frequencies change at 600 tokens."""


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", CROSSING)
def test_a_prompt_that_crosses_the_trained_length_has_one_set_of_frequencies(
    tmp_path: Path, name: str, engine: str
) -> None:
    """Through ``generate``, ``chat`` and ``logits``, with chunks on either side of the length."""
    reference = authors_checkpoint(tmp_path / "in", TOWER_300M, CROSSING[name])
    folder = export(tmp_path / "in", tmp_path / "out", weights="fp32", progress=False)
    rng = np.random.default_rng(4)
    settings: dict[str, Any] = {"max_new_tokens": 8, "ignore_stop_tokens": True}
    question = "on and on " * 90
    with ivl.load(folder, engine=engine, max_context=1200) as model, opened(engine, folder) as alone:
        prompts = [rng.integers(0, VOCABULARY - 40, length) for length in (598, 700)]
        prompts.append(np.array(model.render(question, system="").input_ids))
        assert len(prompts[-1]) > 700
        for ids in prompts:
            wanted = reference.logits(reference.embed(ids, None, model.manifest.prompt.image_context_id))
            assert relative_error(model.logits(ids), wanted) < 1e-4
            answer = model.generate(ids, **settings)
            second, first = np.sort(wanted[-1])[-2:]
            assert first - second > 1e-3
            assert answer.token_ids[0] == wanted[-1].argmax()
            # What decoding makes of it is held against transformers below.
            assert list(answer.token_ids) == greedy(alone, alone.embed(ids, None), 8)
        assert model.chat(question, system="", **settings).token_ids == answer.token_ids


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_checkpoints(tmp_path: Path, name: str) -> None:
    """Prompts on both sides of the length where rope changes, and an answer that grows beyond it."""
    theirs = transformers_checkpoint(tmp_path / "in", TOWER, TEXT | TRANSFORMERS[name])
    folder = export(tmp_path / "in", tmp_path / "out", weights="fp32", progress=False)
    rng = np.random.default_rng(9)
    for length, steps in ((50, 20), (97, 5)):
        ids = rng.integers(1, VOCABULARY - 40, length)
        assert IMAGE_CONTEXT_ID not in ids
        wanted, tokens = [], []
        with torch.no_grad():
            output = theirs(input_ids=torch.tensor(ids[None]), use_cache=True)
            prefilled = output.logits[0].numpy()
            for _ in range(steps):
                wanted.append(output.logits[0, -1:].numpy())
                tokens.append(int(wanted[-1].argmax()))
                # The inner model: the outer one counts image tokens, and Phi-3's recomputes its cache.
                output = theirs.model.language_model(
                    input_ids=torch.tensor([tokens[-1:]]),
                    past_key_values=output.past_key_values,
                    use_cache=True,
                )
                output.logits = theirs.lm_head(output.last_hidden_state)
        for engine in ENGINES:
            with opened(engine, folder) as model:
                sequence = model.new_sequence()
                logits = model.prefill(sequence, model.embed(ids, None), all_logits=True)
                assert relative_error(logits, prefilled) < 1e-4, engine
                for step, token in enumerate(tokens):
                    margin = np.diff(np.sort(wanted[step][0])[-2:])[0]
                    assert margin < 1e-3 or logits[-1].argmax() == token, engine
                    assert relative_error(logits[-1:], wanted[step]) < 1e-4, (engine, step)
                    logits = model.decode([sequence], [token])
