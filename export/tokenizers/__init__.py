"""Tokenizers of checkpoints, each made into one fast tokenizer with the same ids."""

from internvl_rt.export.tokenizers.facts import prompt_facts
from internvl_rt.export.tokenizers.synthetic import synthetic_tokenizer

__all__ = ["prompt_facts", "synthetic_tokenizer"]
