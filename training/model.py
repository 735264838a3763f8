"""The torch model: InternViT in the 300M style, pixel shuffle v2, mlp1, Qwen2; and its dense heads.

Parameters carry the names of the authors' checkpoints, so that saving is a rename of nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from preprocess import CLASSES, GRID, MEAN, PATCH, PATCHES, POOL, STD, TARGETS

# Of the places of edges along a tile.
BINS = 20


@dataclass(frozen=True)
class Sizes:
    vision_hidden: int = 128
    vision_intermediate: int = 512
    vision_layers: int = 6
    vision_heads: int = 4
    hidden: int = 192
    intermediate: int = 512
    layers: int = 4
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 32
    vocab: int = 1216
    rope_theta: float = 10000.0


class VisionEmbeddings(nn.Module):
    """Averaged tiles float32 [T, 3, 224, 224] to [T, 1 + P, C]."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.vision_hidden
        self.class_embedding = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.position_embedding = nn.Parameter(_sine_positions(width))
        self.patch_embedding = nn.Conv2d(3, width, PATCH // POOL, PATCH // POOL)

    def forward(self, pixels: Tensor) -> Tensor:
        tiles = pixels.shape[0]
        side = PATCH // POOL
        patches = pixels.reshape(tiles, 3, GRID, side, GRID, side)
        patches = patches.permute(0, 2, 4, 1, 3, 5).reshape(tiles, PATCHES, 3 * side * side)
        kernel = self.patch_embedding
        embedded = functional.linear(patches, kernel.weight.flatten(1), kernel.bias)
        start = self.class_embedding.expand(tiles, 1, -1)
        return torch.cat((start, embedded), 1) + self.position_embedding


def _sine_positions(width: int) -> Tensor:
    """[1, 1 + P, C]: half of the channels follow the row, half the column."""
    quarter = width // 4
    frequency = 2.0 ** torch.linspace(-1.5, 3.0, quarter)
    at = (torch.arange(GRID) + 0.5) / GRID * math.pi
    waves = torch.cat((torch.sin(at[:, None] * frequency), torch.cos(at[:, None] * frequency)), 1)
    rows = waves[:, None, :].expand(GRID, GRID, -1)
    columns = waves[None, :, :].expand(GRID, GRID, -1)
    grid = torch.cat((rows, columns), 2).reshape(1, PATCHES, width)
    return torch.cat((torch.zeros(1, 1, width), grid), 1)


class VisionAttention(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width, self.heads = sizes.vision_hidden, sizes.vision_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        tiles, length, width = x.shape
        qkv = self.qkv(x).view(tiles, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(tiles, length, width))
        return out


class VisionMLP(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.fc1 = nn.Linear(sizes.vision_hidden, sizes.vision_intermediate)
        self.fc2 = nn.Linear(sizes.vision_intermediate, sizes.vision_hidden)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return out


class VisionLayer(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.vision_hidden
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.attn = VisionAttention(sizes)
        self.mlp = VisionMLP(sizes)
        self.ls1 = nn.Parameter(torch.full((width,), 0.5))
        self.ls2 = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1 * self.attn(self.norm1(x))
        return x + self.ls2 * self.mlp(self.norm2(x))


class VisionEncoder(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.layers = nn.ModuleList(VisionLayer(sizes) for _ in range(sizes.vision_layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class VisionModel(nn.Module):
    """Normalised tiles [T, 3, 224, 224] to patch features [T, P, C], class token dropped."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(sizes)
        self.encoder = VisionEncoder(sizes)

    def forward(self, pixels: Tensor) -> Tensor:
        out: Tensor = self.encoder(self.embeddings(pixels))[:, 1:]
        return out


class DenseHeads(nn.Module):
    """Reads off each patch what the generator knows of it; trained along, thrown away afterwards."""

    def __init__(self, width: int, patches: int = 1) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.widths = [CLASSES[name] for name in TARGETS] + [4, 4 * BINS]
        self.read = nn.Linear(width, patches * sum(self.widths))

    def forward(self, features: Tensor) -> list[Tensor]:
        return list(self.read(self.norm(features)).split(self.widths, -1))


def dense_loss(predicted: list[Tensor], classes: Tensor, edges: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Args: heads' outputs [T, P, n]; classes int64 [T, 5, P]; edges [T, 4, P].

    Returns the loss and the share of patches read right, over things only, per target.
    """
    total = predicted[0].new_zeros(())
    right: dict[str, float] = {}
    weights = {"shape": 1.0, "colour": 0.5, "character": 2.0, "index": 0.5, "rank": 0.5}
    for row, name in enumerate(TARGETS):
        logits, target = predicted[row].flatten(0, 1), classes[:, row].flatten()
        thing = target > 0 if name in ("shape", "character") else target >= 0
        if name in ("shape", "character"):
            bare = target == 0
            loss = functional.cross_entropy(logits, target, reduction="none")
            on = (loss * thing).sum() / thing.sum().clamp(min=1)
            total = total + weights[name] * (on + 0.3 * (loss * bare).sum() / bare.sum())
        elif bool(thing.any()):
            total = total + weights[name] * functional.cross_entropy(logits, target, ignore_index=-1)
        if bool(thing.any()):
            right[name] = float((logits.argmax(-1) == target)[thing].float().mean())
    at = ~edges[:, 0].isnan()
    centres = (torch.arange(GRID) + 0.5) / GRID
    centre = torch.stack((centres.repeat(GRID), centres.repeat_interleave(GRID))).repeat(2, 1)
    sign = torch.tensor((-1.0, -1.0, 1.0, 1.0))[:, None]
    if bool(at.any()):
        error = predicted[-2][at] - edges.transpose(1, 2)[at]
        total = total + 10.0 * functional.smooth_l1_loss(error, torch.zeros_like(error), beta=0.02)
        # The places of the edges on the tile, in bins: answers spell them digit by digit, and a
        # digit is easier to read off a class than off a number.
        bins = ((centre + sign * edges) * BINS).clamp(0, BINS - 1).transpose(1, 2)[at].long()
        logits = predicted[-1][at].view(-1, 4, BINS)
        total = total + functional.cross_entropy(logits.flatten(0, 1), bins.flatten())
        right["edge_bin"] = float((logits.argmax(-1) == bins).float().mean())
        right["edge_error"] = float(error.detach().abs().mean())
    return total, right


def normalised(tiles: NDArray[np.uint8] | Tensor) -> Tensor:
    """uint8 [T, 224, 224, 3] to float32 [T, 3, 224, 224]."""
    raw = torch.as_tensor(tiles)
    scale = torch.tensor(1 / (255 * STD))
    shift = torch.tensor(-MEAN / STD)
    return (raw.float() * scale + shift).permute(0, 3, 1, 2)


class TokenHeads(DenseHeads):
    """The same, off each visual token for its four patches: the projector has to keep all of it."""

    def __init__(self, width: int) -> None:
        super().__init__(width, patches=4)

    def forward(self, visual: Tensor) -> list[Tensor]:
        tiles, half = visual.shape[0], GRID // 2
        read = self.read(self.norm(visual)).view(tiles, half, half, 2, 2, -1)
        patches = read.permute(0, 1, 3, 2, 4, 5).reshape(tiles, PATCHES, -1)
        return list(patches.split(self.widths, -1))


class Projector(nn.Sequential):
    """Patch features [T, P, C] to visual tokens [T, P / 4, H]: pixel shuffle v2, then mlp1."""

    def __init__(self, sizes: Sizes) -> None:
        wide = 4 * sizes.vision_hidden
        super().__init__(
            nn.LayerNorm(wide, eps=1e-5),
            nn.Linear(wide, sizes.hidden),
            nn.GELU(),
            nn.Linear(sizes.hidden, sizes.hidden),
        )

    def forward(self, features: Tensor) -> Tensor:
        tiles, _, width = features.shape
        half = GRID // 2
        blocks = features.view(tiles, half, 2, half, 2, width).permute(0, 1, 3, 2, 4, 5)
        out: Tensor = super().forward(blocks.reshape(tiles, half * half, 4 * width))
        return out


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.shape[-1],), self.weight, 1e-6)


class SelfAttention(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        wide, narrow = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
        self.q_proj = nn.Linear(sizes.hidden, wide)
        self.k_proj = nn.Linear(sizes.hidden, narrow)
        self.v_proj = nn.Linear(sizes.hidden, narrow)
        self.o_proj = nn.Linear(wide, sizes.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        batch, length, _ = x.shape
        s = self.sizes

        def heads(projected: Tensor, count: int) -> Tensor:
            return projected.view(batch, length, count, s.head_dim).transpose(1, 2)

        q = _rotated(heads(self.q_proj(x), s.heads), cos, sin)
        k = _rotated(heads(self.k_proj(x), s.kv_heads), cos, sin)
        self.rotated = q, k  # for losses on where it looks
        v = heads(self.v_proj(x), s.kv_heads)
        shared = s.heads // s.kv_heads
        k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))
        return out


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class GatedMLP(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(sizes.hidden, sizes.intermediate, bias=False)
        self.up_proj = nn.Linear(sizes.hidden, sizes.intermediate, bias=False)
        self.down_proj = nn.Linear(sizes.intermediate, sizes.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class DecoderLayer(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(sizes.hidden)
        self.post_attention_layernorm = RMSNorm(sizes.hidden)
        self.self_attn = SelfAttention(sizes)
        self.mlp = GatedMLP(sizes)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.embed_tokens = nn.Embedding(sizes.vocab, sizes.hidden)
        self.layers = nn.ModuleList(DecoderLayer(sizes) for _ in range(sizes.layers))
        self.norm = RMSNorm(sizes.hidden)

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """x [B, n, H], positions int64 [B, n], mask bool [B, 1, n, n] (true = may look)."""
        half = self.sizes.head_dim // 2
        frequency = self.sizes.rope_theta ** (-torch.arange(half, dtype=torch.float32) / half)
        angle = positions[:, None, :, None].float() * frequency
        cos, sin = torch.cat((angle, angle), -1).cos(), torch.cat((angle, angle), -1).sin()
        for layer in self.layers:
            x = layer(x, cos, sin, mask)
        out: Tensor = self.norm(x)
        return out


class LanguageModel(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.model = Decoder(sizes)
        self.lm_head = nn.Linear(sizes.hidden, sizes.vocab, bias=False)


class TabletopModel(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.vision_model = VisionModel(sizes)
        self.mlp1 = Projector(sizes)
        self.language_model = LanguageModel(sizes)
        self.dense = DenseHeads(sizes.vision_hidden)
        self.dense_tokens = TokenHeads(sizes.hidden)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2 and "embed" not in name and "dense" not in name:
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5 * 0.7)
            elif name.endswith(".bias"):
                nn.init.zeros_(parameter)
        nn.init.normal_(self.language_model.model.embed_tokens.weight, std=0.5)
        nn.init.normal_(self.language_model.lm_head.weight, std=0.02)
        for layer in self.vision_model.encoder.layers:
            # Alike queries and keys make fresh attention look at near positions first, which is
            # where the rest of a character or an object is.
            width = sizes.vision_hidden
            weight = layer.attn.qkv.weight.data
            weight[width : 2 * width] = 0.7 * weight[width : 2 * width] + 0.7 * weight[:width]

    def look(self, tiles: NDArray[np.uint8]) -> Tensor:
        """uint8 [T, 224, 224, 3] to visual tokens [T, P / 4, H]."""
        out: Tensor = self.mlp1(self.vision_model(normalised(tiles)))
        return out

    def hidden(self, ids: Tensor, visual: Tensor, places: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Decoder output [B, n, H]; `visual` [m, H] fills the flat places [m] of ids [B, n]."""
        embedded = self.language_model.model.embed_tokens(ids)
        flat = embedded.flatten(0, 1).index_copy(0, places, visual)
        out: Tensor = self.language_model.model(flat.view_as(embedded), positions, mask)
        return out


def start_patches_from_pictures(model: TabletopModel, tiles: NDArray[np.uint8]) -> None:
    """Starts the patch embedding from the principal components of drawn patches.

    From noise, the first thousands of pictures go into finding out that neighbouring pixels agree.
    """
    pixels = normalised(tiles)
    side = PATCH // POOL
    patches = pixels.reshape(-1, 3, GRID, side, GRID, side).permute(0, 2, 4, 1, 3, 5)
    flat = patches.reshape(-1, 3 * side * side)
    mean = flat.mean(0)
    values, vectors = torch.linalg.eigh((flat - mean).T @ (flat - mean) / len(flat))
    kernel = model.vision_model.embeddings.patch_embedding
    width = kernel.weight.shape[0]
    spread = values[-width:].clamp(min=1e-6).sqrt()
    weight = (vectors[:, -width:] / spread**0.5).T
    weight = weight / (spread**0.5).square().mean().sqrt()
    kernel.weight.data.copy_(weight.view_as(kernel.weight))
    kernel.bias.data.copy_(-(weight @ mean))
