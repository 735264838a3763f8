"""Several processes that train one model: each draws its own pictures, and gradients are averaged.

The matrices are small, so one process with two threads is hardly faster than with one.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import distributed, multiprocessing, nn


@dataclass(frozen=True)
class Team:
    """This process is number `rank` of `size`; number 0 writes logs and states."""

    rank: int
    size: int
    parent: int = field(default_factory=os.getppid)

    def share_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces every gradient by its mean over the processes; they must have the same ones."""
        if self.size == 1:
            return
        if os.getppid() != self.parent:
            raise SystemExit("the process that started this one is gone")
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= self.size
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def agreed(self, flag: bool) -> bool:
        """Process 0's flag, in every process."""
        if self.size == 1:
            return flag
        shared = torch.tensor([float(flag)])
        distributed.broadcast(shared, src=0)
        return bool(shared.item())


def in_processes(count: int, work: Callable[..., None], *arguments: object) -> None:
    """Calls `work(team, *arguments)` in `count` processes on this machine, and waits for them."""
    if count == 1:
        work(Team(0, 1), *arguments)
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(_join, (count, port, work, arguments), nprocs=count)


def _join(rank: int, count: int, port: int, work: Callable[..., None], arguments: tuple[object, ...]) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    address = f"tcp://127.0.0.1:{port}"
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=count)
    try:
        work(Team(rank, count), *arguments)
    finally:
        distributed.destroy_process_group()
