"""Tokenizers of checkpoints, each made into one fast tokenizer with the same ids."""

from internvl_rt.export.tokenizers.convert import convert_tokenizer, prepends_bos
from internvl_rt.export.tokenizers.facts import prompt_facts
from internvl_rt.export.tokenizers.synthetic import synthetic_tokenizer

__all__ = ["convert_tokenizer", "prepends_bos", "prompt_facts", "synthetic_tokenizer"]
