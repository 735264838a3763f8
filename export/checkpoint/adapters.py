"""Adapters (LoRA and its relatives) that were never merged into the weights: named, and refused.

A bundle has one matrix for every linear layer. A checkpoint whose adapter is apart is another model without
it, so to leave it out would be wrong without a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from internvl_rt.errors import CheckpointError

ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_WEIGHT_FILES = ("adapter_model.safetensors", "adapter_model.bin")

MERGE = (
    "Merge it first: `merge_and_unload()` of peft and then `save_pretrained`, or InternVL's "
    "tools/merge_lora.py, and export the folder that this writes."
)

_TYPES = {
    "LORA": "LoRA",
    "ADALORA": "AdaLoRA",
    "LOHA": "LoHa",
    "LOKR": "LoKr",
    "VERA": "VeRA",
    "PROMPT_TUNING": "prompt tuning",
    "P_TUNING": "p-tuning",
    "PREFIX_TUNING": "prefix tuning",
}
"""How people write the ``peft_type`` of an adapter's configuration; others are shown as they are."""

_PARAMETERS = (
    ("DoRA", re.compile(r"(^|\.)lora_magnitude_vector(\.|$)")),
    ("LoRA", re.compile(r"(^|\.)lora_(embedding_)?[ABE](\.|$)")),
    ("LoHa", re.compile(r"(^|\.)hada_(w[12]_[ab]|t[12])(\.|$)")),
    ("LoKr", re.compile(r"(^|\.)lokr_(w[12](_[ab])?|t2)(\.|$)")),
    ("VeRA", re.compile(r"(^|\.)vera_(lambda_[bd]|[AB])(\.|$)")),
    ("IA3", re.compile(r"(^|\.)ia3_l(\.|$)")),
    ("BOFT", re.compile(r"(^|\.)boft_[RsP](\.|$)")),
    ("OFT", re.compile(r"(^|\.)oft_[rRs](\.|$)")),
    ("prompt", re.compile(r"(^|\.)(prompt_encoder|prompt_embeddings|adaption_prompt|adaption_gate)(\.|$)")),
    ("peft", re.compile(r"(^|\.)(base_layer|modules_to_save|base_model\.model)\.")),
)
"""What parameters of every kind of adapter are called, from the most telling to the least."""


def adapter_of_folder(folder: Path, settings: dict[str, Any] | None) -> CheckpointError:
    """The error for a folder in which an adapter lies, alone or beside weights.

    Args:
        folder: the checkpoint's.
        settings: of ``adapter_config.json``; None if there is none, or none that can be read.
    """
    settings = settings or {}
    written = settings.get("peft_type")
    kind = "an" if not isinstance(written, str) else f"a {_TYPES.get(written.upper(), written[:50])}"
    if settings.get("use_dora") is True:
        kind = "a DoRA"
    base = settings.get("base_model_name_or_path")
    of = f" to {base[:200]}" if isinstance(base, str) and base else ""
    return CheckpointError(
        f"{folder}: holds {kind} adapter{of} that is not merged into the weights of its base model. {MERGE} "
        "If the weights in this folder have the adapter in them already, move its adapter_* files elsewhere."
    )


def check_merged(names: Iterable[str], where: str) -> None:
    """Looks for an adapter's parameters among the names of a checkpoint's tensors.

    Raises:
        CheckpointError: naming the kind of adapter and a tensor of it.
    """
    listed = list(names)
    for kind, pattern in _PARAMETERS:
        found = next((name for name in listed if pattern.search(name)), None)
        if found is not None:
            raise CheckpointError(
                f"{where}: holds a {kind} adapter that is not merged into the weights (tensor "
                f"{found[:200]!r}). {MERGE}"
            )
