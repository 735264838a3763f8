"""Tokenizers of checkpoints, each made into one fast tokenizer with the same ids."""

from internvl_rt.export.tokenizers.convert import convert_tokenizer, prompt_rules
from internvl_rt.export.tokenizers.facts import PromptRules, prompt_facts
from internvl_rt.export.tokenizers.synthetic import synthetic_tokenizer

__all__ = ["PromptRules", "convert_tokenizer", "prompt_facts", "prompt_rules", "synthetic_tokenizer"]
