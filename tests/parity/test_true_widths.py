"""The family's language models at their true widths and two layers, on every engine, to 1e-4.

Vocabularies are shortened, and the tower is small: both have tests of their own. Two layers of a 78B take
7 GB in fp32, and are on the disk twice. Of the largest model's 128 experts, which would take 20 GB, there are
32; the other mixture has all.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from internvl_rt.bundle.manifest import LanguageModel
from internvl_rt.export import export
from internvl_rt.export.family import FAMILY
from parity.checkpoints import TOWER_300M, VOCABULARY, authors_checkpoint, transformers_checkpoint
from parity.compare import ENGINES, opened, relative_error

EXPERTS = {"InternVL3_5-241B-A28B": 32}

TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": [28, 28],
    "patch_size": [14, 14],
}
TOKENS = 12


def config_of(llm: LanguageModel) -> dict[str, Any]:
    """The facts of a model in the words of a configuration; rope in those of transformers 5."""
    rope, experts = llm.rope, llm.experts
    parameters: dict[str, Any] = {"rope_type": "default", "rope_theta": rope.theta}
    if rope.scaling == "dynamic":
        parameters |= {"rope_type": "dynamic", "factor": rope.factor}
    if rope.scaling == "longrope":
        parameters |= {"rope_type": "longrope", "factor": rope.factor}
        parameters |= {"short_factor": list(rope.short_factor), "long_factor": list(rope.long_factor)}
    config: dict[str, Any] = {
        "model_type": llm.architecture,
        "hidden_size": llm.hidden_size,
        "num_hidden_layers": 2,
        "num_attention_heads": llm.heads,
        "num_key_value_heads": llm.kv_heads,
        "head_dim": llm.head_dim,
        "intermediate_size": llm.intermediate_size,
        "max_position_embeddings": rope.max_position_embeddings,
        "rms_norm_eps": llm.norm_eps,
        "rope_parameters": parameters,
        "pad_token_id": 0,
    }
    if rope.original_max_position_embeddings is not None:
        config["original_max_position_embeddings"] = rope.original_max_position_embeddings
    if experts is not None:
        config |= {
            "moe_intermediate_size": llm.intermediate_size,
            "num_experts": experts.count,
            "num_experts_per_tok": experts.chosen,
            "norm_topk_prob": experts.normalise,
        }
    return config


def expected_logits(folder: Path, llm: LanguageModel, ids: np.ndarray) -> np.ndarray:
    """Writes a checkpoint and returns the logits of its own library, or of the reference for InternLM2."""
    config = config_of(llm)
    if llm.architecture != "internlm2":
        model = transformers_checkpoint(folder, TOWER, config)
        with torch.no_grad():
            return np.asarray(model(input_ids=torch.tensor(ids[None])).logits[0])
    rope = {"type": "dynamic", "factor": llm.rope.factor}
    config |= {"rope_theta": llm.rope.theta, "rope_scaling": rope, "bias": False}
    del config["rope_parameters"]
    config["architectures"] = ["InternLM2ForCausalLM"]
    reference = authors_checkpoint(folder, TOWER_300M, config)
    return reference.logits(reference.embed(ids, None, -1))


# Releases that share a language model are one case.
DISTINCT = {repr(config_of(model.llm)): name for name, model in FAMILY.items()}.values()


@pytest.mark.true_widths
@pytest.mark.parametrize("name", DISTINCT)
def test_logits(tmp_path: Path, name: str) -> None:
    ids = np.random.default_rng(2).integers(1, VOCABULARY - 40, TOKENS)
    llm = FAMILY[name].llm
    if llm.experts is not None and name in EXPERTS:
        llm = dataclasses.replace(llm, experts=dataclasses.replace(llm.experts, count=EXPERTS[name]))
    wanted = expected_logits(tmp_path / "in", llm, ids)
    folder = export(tmp_path / "in", tmp_path / "out", weights="fp32", progress=False)
    for engine in ENGINES:
        with opened(engine, folder, cache_tokens=64) as model:
            sequence = model.new_sequence()
            embeddings = model.embed(ids, None)
            logits = [model.prefill(sequence, embeddings[:-1], all_logits=True)]
            logits.append(model.decode([sequence], [int(ids[-1])]))
            found = np.concatenate(logits)
            assert relative_error(found, wanted) < 1e-4, engine
            np.testing.assert_array_equal(found.argmax(-1), wanted.argmax(-1))
