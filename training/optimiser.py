"""Muon for the hidden matrices, Adam for the rest.

Orthogonalised updates reach the same loss in roughly half as many pictures as Adam alone, and the
pictures are what costs time on a CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def _orthogonal(update: Tensor) -> Tensor:
    """Newton-Schulz on a stack [k, rows, columns]: all singular values brought close to 1."""
    tall = update.shape[-2] > update.shape[-1]
    x = update.mT if tall else update
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.mT if tall else x


class Optimiser:
    """`lr` scales both halves; 1.0 is the peak."""

    def __init__(self, model: nn.Module, names: list[str], muon: float, adam: float) -> None:
        self.muon_rate = muon
        chosen = {n: p for n, p in model.named_parameters() if n in set(names)}
        self.matrices: dict[tuple[int, int], list[tuple[str, nn.Parameter]]] = {}
        rest = []
        for name, parameter in chosen.items():
            if parameter.dim() == 2 and not any(word in name for word in ("embed", "lm_head", "dense")):
                self.matrices.setdefault((parameter.shape[0], parameter.shape[1]), []).append(
                    (name, parameter)
                )
            else:
                rest.append(parameter)
        self.adam = torch.optim.AdamW(rest, lr=adam, betas=(0.9, 0.98), weight_decay=0.0)
        self.adam_rate = adam
        self.momentum: dict[str, Tensor] = {}
        self.all = list(chosen.values())

    def zero_grad(self) -> None:
        for parameter in self.all:
            parameter.grad = None

    @torch.no_grad()
    def step(self, scale: float) -> None:
        nn.utils.clip_grad_norm_(self.all, 5.0)
        for group in self.adam.param_groups:
            group["lr"] = self.adam_rate * scale
        self.adam.step()
        for (rows, columns), members in self.matrices.items():
            live = [(n, p) for n, p in members if p.grad is not None]
            if not live:
                continue
            updates = []
            for name, parameter in live:
                gradient = parameter.grad
                assert gradient is not None
                mean = self.momentum.setdefault(name, torch.zeros_like(gradient))
                mean.lerp_(gradient, 0.05)
                updates.append(gradient.lerp(mean, 0.95))
            stack = torch.stack(updates)
            # A fused qkv is three matrices that share nothing but storage.
            if rows == 3 * columns and "qkv" in live[0][0]:
                stack = _orthogonal(stack.view(-1, columns, columns)).view(-1, rows, columns)
            else:
                stack = _orthogonal(stack) * max(1.0, rows / columns) ** 0.5
            for (_, parameter), update in zip(live, stack, strict=True):
                parameter.mul_(1 - 0.02 * self.muon_rate * scale)
                parameter.add_(update, alpha=-self.muon_rate * scale)

    def state_dict(self) -> dict[str, Any]:
        return {"adam": self.adam.state_dict(), "momentum": self.momentum}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.adam.load_state_dict(state["adam"])
        self.momentum = dict(state["momentum"])
