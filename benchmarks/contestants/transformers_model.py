"""torch with transformers' own classes, random weights of the same shapes."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import torch
import transformers

from contestants.contestant import STEPS, Work, pixel_values, token_ids, tokens_of


class Transformers:
    """Satisfies Contestant. The picture is computed from pixel values, tile after tile, then the prompt.

    Weights are drawn in place, so there is nothing to load.
    """

    stages = (
        "vit",
        "prefill 1024",
        "prefill 4096",
        "prefill 8192",
        "decode 0",
        "decode 1024",
        "decode 4096",
        "picture",
    )

    def __init__(self, work: Work, dtype: str) -> None:
        torch.set_num_threads(work.threads)
        self.work = work
        text = transformers.Qwen2Config(
            hidden_size=work.hidden_size,
            intermediate_size=work.intermediate_size,
            num_hidden_layers=work.layers,
            num_attention_heads=work.heads,
            num_key_value_heads=work.kv_heads,
            vocab_size=work.vocab_size,
            rope_parameters={"rope_type": "default", "rope_theta": work.rope_theta},
            rms_norm_eps=work.norm_eps,
            max_position_embeddings=32768,
        )
        vision = transformers.InternVLVisionConfig(
            hidden_size=work.vision_hidden_size,
            intermediate_size=work.vision_intermediate_size,
            num_hidden_layers=work.vision_layers,
            num_attention_heads=work.vision_heads,
            attention_bias=True,
            image_size=[work.tile_size] * 2,
            patch_size=[work.patch_size] * 2,
        )
        config = transformers.InternVLConfig(vision_config=vision, text_config=text)
        config._attn_implementation = "sdpa"
        previous = torch.get_default_dtype()
        torch.set_default_dtype(getattr(torch, dtype))
        self.model = transformers.InternVLForConditionalGeneration(config).eval()  # type: ignore[no-untyped-call]
        torch.set_default_dtype(previous)
        self.caches: dict[int, Any] = {}

    @torch.inference_mode()
    def sample(self, stage: str) -> float:
        if stage in ("vit", "picture"):
            tiles = self.work.picture_tiles if stage == "picture" else 1
            pixels = torch.from_numpy(pixel_values(self.work, tiles)).to(self.model.dtype)
            begun = perf_counter()
            for tile in pixels:
                self.model.get_image_features(tile[None])
            if stage == "picture":
                self._step(token_ids(self.work, self.work.picture_tokens), transformers.DynamicCache())
            return 1e3 * (perf_counter() - begun)
        fill = tokens_of(stage)
        if stage.startswith("prefill "):
            begun = perf_counter()
            self._step(token_ids(self.work, fill), transformers.DynamicCache())
            return 1e3 * (perf_counter() - begun)
        if fill not in self.caches:
            self.caches[fill] = transformers.DynamicCache()
            self._step(token_ids(self.work, max(1, fill)), self.caches[fill])
        cache = self.caches[fill]
        begun = perf_counter()
        for token in range(STEPS):
            self._step([token], cache)
        elapsed = 1e3 * (perf_counter() - begun) / STEPS
        cache.crop(-STEPS)
        return elapsed

    def _step(self, ids: list[int], cache: Any) -> None:
        self.model(input_ids=torch.tensor([ids]), past_key_values=cache, logits_to_keep=1)
