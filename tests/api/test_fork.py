"""A model in a process that was forked from the one that loaded it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import internvl_rt as ivl
from internvl_rt import DeviceError


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("engine", ["native", "onnxruntime"])
def test_a_forked_process_is_told_to_load_the_model_itself(tiny_bundle: Path, engine: str) -> None:
    with ivl.load(tiny_bundle, engine=engine, threads=2) as model:
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # it used to wait for ever
            try:
                model.chat("Hello", max_new_tokens=1)
            except DeviceError as error:
                os._exit(0 if "forked" in str(error) else 1)
            os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        assert model.chat("Hello", max_new_tokens=1).usage.new_tokens <= 1
