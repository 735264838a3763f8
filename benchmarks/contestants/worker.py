"""Loads one contestant and runs the stages that it is asked for, a line of JSON each."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

from contestants.contestant import Contestant, Work
from contestants.memory import MemoryWatch


def contestant_class(kind: str) -> Callable[..., Contestant]:
    if kind == "internvl-rt":
        from contestants.internvl_rt_engine import InternvlRt

        return InternvlRt
    if kind == "openvino":
        from contestants.openvino_graphs import OpenVino

        return OpenVino
    if kind == "transformers":
        from contestants.transformers_model import Transformers

        return Transformers
    if kind == "llama.cpp":
        from contestants.llama_cpp import LlamaCpp

        return LlamaCpp
    raise ValueError(f"there is no contestant {kind!r}")


def main() -> None:
    # What a library prints must not end up between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**message: Any) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    task = json.loads(sys.stdin.readline())
    kind, *variant = task["name"].split(":")
    make = contestant_class(kind)
    # Looking on takes a thousandth of a core, which the stages whose times count shall have.
    watch = MemoryWatch() if task["watch_memory"] else None
    begun = perf_counter()
    contestant = make(Work(**task["work"]), *variant)
    say(load_ms=1e3 * (perf_counter() - begun), stages=contestant.stages)
    for line in sys.stdin:
        stage = json.loads(line)["stage"]
        if stage == "memory" and watch is not None:
            say(**dataclasses.asdict(watch.peak()))
        else:
            say(ms=contestant.sample(stage))


if __name__ == "__main__":
    main()
