"""llama.cpp (its server in this process, through xllamacpp) on a GGUF file with random weights."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import xllamacpp

from contestants.contestant import STEPS, Work, token_ids, tokens_of


class LlamaCpp:
    """Satisfies Contestant. Times are those that llama.cpp itself reports.

    The language model only: llama.cpp reads towers from files that its own converter makes of a checkpoint,
    and cuts a 1920x1080 picture into 13 tiles where the authors' rule gives 9, which is not the same work.
    What is loaded here was drawn and written a moment before, so that has no time worth telling.
    """

    stages = ("prefill 1024", "prefill 4096", "prefill 8192", "decode 0", "decode 1024", "decode 4096")

    def __init__(self, work: Work, quantisation: str) -> None:
        self.work = work
        name = f"llama-{quantisation}-{work.hidden_size}-{work.layers}-{os.getpid()}.gguf"
        file = Path(tempfile.gettempdir()) / name
        write_gguf(work, gguf.GGMLQuantizationType[quantisation], file)
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(file)
        parameters.cpuparams.n_threads = work.threads
        parameters.cpuparams_batch.n_threads = work.threads
        parameters.n_ctx = 16384
        parameters.n_parallel = 1
        parameters.warmup = True
        self.server = xllamacpp.Server(parameters)
        file.unlink()

    def sample(self, stage: str) -> float:
        if stage.startswith("prefill "):
            return float(self._complete(tokens_of(stage), 1)["prompt_ms"])
        return float(self._complete(max(1, tokens_of(stage)), STEPS + 1)["predicted_per_token_ms"])

    def _complete(self, prompt_tokens: int, new_tokens: int) -> dict[str, Any]:
        answer = self.server.handle_completions(
            {
                "prompt": token_ids(self.work, prompt_tokens),
                "n_predict": new_tokens,
                "cache_prompt": False,
                "ignore_eos": True,
                "temperature": 0.0,
            }
        )
        if "timings" not in answer:
            raise RuntimeError(f"llama.cpp answered {answer}")
        timings: dict[str, Any] = answer["timings"]
        if timings["prompt_n"] != prompt_tokens or timings["predicted_n"] != new_tokens:
            raise RuntimeError(f"llama.cpp did other work than it was asked for: {timings}")
        return timings


def write_gguf(work: Work, kind: gguf.GGMLQuantizationType, file: Path) -> None:
    """A Qwen2 of random weights; norms and biases are float32, everything else is of `kind`."""
    writer = gguf.GGUFWriter(file, "qwen2")
    writer.add_context_length(32768)
    writer.add_embedding_length(work.hidden_size)
    writer.add_block_count(work.layers)
    writer.add_feed_forward_length(work.intermediate_size)
    writer.add_head_count(work.heads)
    writer.add_head_count_kv(work.kv_heads)
    writer.add_rope_freq_base(work.rope_theta)
    writer.add_layer_norm_rms_eps(work.norm_eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([f"t{i}" for i in range(work.vocab_size)])
    writer.add_token_types([gguf.TokenType.NORMAL] * work.vocab_size)
    writer.add_token_merges(["t 0"])  # llama.cpp refuses a list without any
    writer.add_eos_token_id(work.vocab_size - 1)
    writer.add_bos_token_id(work.vocab_size - 1)
    writer.add_add_bos_token(False)
    rng = np.random.default_rng(0)

    def matrix(name: str, rows: int, columns: int) -> None:
        values = rng.standard_normal((rows, columns), dtype=np.float32) * 0.02
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    def vector(name: str, size: int) -> None:
        writer.add_tensor(name, np.ones(size, np.float32))

    queries, keys = work.heads * work.head_dim, work.kv_heads * work.head_dim
    matrix("token_embd.weight", work.vocab_size, work.hidden_size)
    matrix("output.weight", work.vocab_size, work.hidden_size)
    vector("output_norm.weight", work.hidden_size)
    for layer in range(work.layers):
        at = f"blk.{layer}"
        vector(f"{at}.attn_norm.weight", work.hidden_size)
        vector(f"{at}.ffn_norm.weight", work.hidden_size)
        for part, rows in (("q", queries), ("k", keys), ("v", keys)):
            matrix(f"{at}.attn_{part}.weight", rows, work.hidden_size)
            vector(f"{at}.attn_{part}.bias", rows)
        matrix(f"{at}.attn_output.weight", work.hidden_size, queries)
        matrix(f"{at}.ffn_gate.weight", work.intermediate_size, work.hidden_size)
        matrix(f"{at}.ffn_up.weight", work.intermediate_size, work.hidden_size)
        matrix(f"{at}.ffn_down.weight", work.hidden_size, work.intermediate_size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
