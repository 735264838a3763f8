"""What Python and the command line add to the core's errors: what to do, in their words."""

from __future__ import annotations

import multiprocessing
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

import internvl_rt as ivl
from bundle.tiny import tiny_manifest, tiny_tokenizer
from internvl_rt import _core, errors
from internvl_rt.cli.wording import for_command
from internvl_rt.export.synthetic import write_synthetic

CORE = Path(__file__).resolve().parents[2] / "csrc"


def test_every_code_of_the_core_has_advice() -> None:
    assert set(_core.ERROR_CODES) == errors.CODES
    assert len(set(_core.ERROR_CODES)) == len(_core.ERROR_CODES)
    for code in _core.ERROR_CODES:
        said = "What helps: take 12 frames, or wait."
        assert errors.with_advice(said, code) != said, code


def test_messages_of_the_core_name_nothing_of_python_s() -> None:
    others = re.compile(r"=True|=False|=None|onnxruntime|multiprocessing|num_frames|internvl-rt |\w\(\)")
    literal = re.compile(r"""'\\?.'|"((?:[^"\\\n]|\\.)*)"|//.*""")
    texts = {
        (path.name, text)
        for path in sorted(CORE.rglob("*"))
        if path.suffix in (".cpp", ".h")
        and "bindings" not in path.parts
        and path.name != "error_status.cpp"  # which has C's advice
        for text in literal.findall(path.read_text(encoding="utf-8"))
    }
    assert any("cache_tokens" in text for _, text in texts)
    assert {(name, text) for name, text in texts if others.search(text)} == set()


def test_a_message_without_a_code_is_left_alone() -> None:
    assert errors.with_advice("take 12 frames", "") == "take 12 frames"


@pytest.mark.parametrize(
    ("name", "said"),
    [("nothing", "there is no such folder."), ("", "is not a bundle: it has no manifest.json.")],
)
def test_what_is_no_bundle_is_made_one(tmp_path: Path, name: str, said: str) -> None:
    folder = tmp_path / name
    with pytest.raises(ivl.BundleError) as caught:
        ivl.load(folder)
    assert str(caught.value) == f"{folder}: {said} Make a bundle with `internvl-rt export CHECKPOINT OUT`."


def test_a_model_that_the_native_engine_cannot_compute_names_the_other_one(tmp_path: Path) -> None:
    manifest = tiny_manifest()
    manifest = replace(manifest, llm=replace(manifest.llm, head_dim=12))
    write_synthetic(manifest, tmp_path / "odd", tokenizer=tiny_tokenizer(), graphs=False, progress=False)
    with pytest.raises(ivl.BundleError) as caught:
        ivl.load(tmp_path / "odd")
    message = str(caught.value)
    assert message.startswith("the language model's head_dim is 12; the native engine takes multiples of 8")
    assert message.endswith(". Use engine='onnxruntime'.")
    assert for_command(message, {"--engine"}).endswith(". Use --engine onnxruntime.")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_is_told_of_the_other_way_to_start_a_process(tiny_bundle: Path) -> None:
    context = multiprocessing.get_context("fork")
    with ivl.load(tiny_bundle, threads=2) as model:
        told, tell = context.Pipe(duplex=False)

        def ask() -> None:
            try:
                model.chat("Hello", max_new_tokens=1)
            except ivl.DeviceError as error:
                tell.send(str(error))

        child = context.Process(target=ask)
        child.start()
        assert told.poll(60)
        message = told.recv()
        child.join()
    assert message.endswith("new process. Or start that process with multiprocessing's 'spawn' method.")
