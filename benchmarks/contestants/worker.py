"""Loads one contestant and runs the stages that it is asked for, a line of JSON each."""

from __future__ import annotations

import json
import os
import sys
from time import perf_counter
from typing import Any

from contestants.contestant import Contestant, Work


def load(name: str, work: Work) -> Contestant:
    kind, _, variant = name.partition(":")
    if kind == "internvl-rt":
        from contestants.internvl_rt_engine import InternvlRt

        return InternvlRt(work, variant)
    if kind == "openvino":
        from contestants.openvino_graphs import OpenVino

        return OpenVino(work)
    if kind == "transformers":
        from contestants.transformers_model import Transformers

        return Transformers(work, variant)
    if kind == "llama.cpp":
        from contestants.llama_cpp import LlamaCpp

        return LlamaCpp(work, variant)
    raise ValueError(f"there is no contestant {name!r}")


def main() -> None:
    # What a library prints must not end up between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**message: Any) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    task = json.loads(sys.stdin.readline())
    begun = perf_counter()
    contestant = load(task["name"], Work(**task["work"]))
    say(load_ms=1e3 * (perf_counter() - begun), stages=contestant.stages)
    for line in sys.stdin:
        say(ms=contestant.sample(json.loads(line)["stage"]))


if __name__ == "__main__":
    main()
