"""A model in a process that was forked from the one that loaded it."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path

import pytest

import internvl_rt as ivl
from internvl_rt import DeviceError
from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.engines.native import load_decoder


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("engine", ["native", "onnxruntime"])
def test_a_forked_process_can_close_the_model(tiny_bundle: Path, engine: str) -> None:
    """Threads stay behind in the parent: nothing may wait for them."""
    with ivl.load(tiny_bundle, engine=engine, threads=3) as model:
        model.chat("Hello", max_new_tokens=1)
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            model.close()
            del model
            gc.collect()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert model.chat("Hello", max_new_tokens=1).usage.new_tokens <= 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_can_destroy_a_decoder(tiny_bundle: Path) -> None:
    decoder = load_decoder(open_bundle(tiny_bundle), cache_tokens=64, threads=3)
    sequence = decoder.new_sequence()
    decoder.decode([sequence], [5])
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # it used to wait for ever
        del decoder
        gc.collect()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert decoder.decode([sequence], [6]).shape[0] == 1
