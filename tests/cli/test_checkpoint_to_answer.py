"""The command line from a checkpoint's folder to an answer."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from export.checkpoints import TINY_INTERNLM2, TINY_QWEN2, Layout, Model, write_checkpoint
from internvl_rt.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return int(left.value.code or 0), captured.out, captured.err


@pytest.mark.parametrize("layout", ["authors", "native_second"])
@pytest.mark.parametrize("checkpoint", [TINY_INTERNLM2, TINY_QWEN2], ids=["internlm2", "qwen2"])
@pytest.mark.parametrize("weights", ["fp32", "int4"])
def test_from_a_checkpoint_to_an_answer(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    photo_file: Path,
    checkpoint: Model,
    layout: Layout,
    weights: str,
) -> None:
    write_checkpoint(tmp_path / "in", checkpoint, layout=layout)
    status, _, err = run(capsys, "export", tmp_path / "in", tmp_path / "out", "--weights", weights)
    assert status == 0, err
    answers = []
    for engine in ("native", "onnxruntime"):
        status, out, err = run(
            capsys,
            *("chat", tmp_path / "out", "Hello?", "-i", photo_file, "--engine", engine),
            *("--max-tiles", 1, "--max-new-tokens", 4, "--system", "", "--json"),
        )
        assert status == 0, err
        answers.append(json.loads(out)["token_ids"])
    if weights == "fp32":
        assert answers[0] == answers[1]
    else:
        # The native engine rounds activations for int4: among the near ties of random weights, other tokens
        # may win. The parity tests hold what may differ.
        assert all(answers)
    # A second export does not overwrite the first unless that is asked for.
    status, out, err = run(capsys, "export", tmp_path / "in", tmp_path / "out")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert run(capsys, "export", tmp_path / "in", tmp_path / "out", "--overwrite")[0] == 0


def test_a_successful_export_says_where_how_large_and_how_to_ask(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, photo_file: Path
) -> None:
    """The command that is printed is one that a shell takes, whatever the folder is called."""
    out = tmp_path / "my model's bundle"
    write_checkpoint(tmp_path / "in", TINY_QWEN2)
    status, told, err = run(capsys, "export", tmp_path / "in", out, "--weights", "int8")
    assert (status, err) == (0, "")
    first, second = told.splitlines()
    held = sum(file.stat().st_size for file in out.iterdir() if file.name != "manifest.json")
    assert first.startswith(f"{out}: in, ")
    assert f"{held / 1024:.2f} KiB (language model int8, vision tower bf16)" in first
    program, *arguments = shlex.split(second.removeprefix("Ask it: ").replace("PICTURE", str(photo_file)))
    assert program == "internvl-rt"
    status, answer, err = run(capsys, *arguments, "--max-new-tokens", 2)
    assert status == 0, err
    assert answer


@pytest.mark.parametrize("calibrated", [False, True])
def test_an_export_as_json(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, photo_file: Path, calibrated: bool
) -> None:
    write_checkpoint(tmp_path / "in", TINY_QWEN2)
    options = ["--vision", "int8", "--calibrate", photo_file.parent] if calibrated else ["--dialect", "ort"]
    status, out, err = run(capsys, "export", tmp_path / "in", tmp_path / "out", *options, "--json")
    assert (status, err) == (0, "")
    document = json.loads(out)
    files = {f.name: f.stat().st_size for f in (tmp_path / "out").iterdir() if f.name != "manifest.json"}
    assert document["bundle"] == str(tmp_path / "out")
    assert document["name"] == "in"
    assert document["files"] == files
    assert document["bytes"] == sum(files.values())
    assert document["graphs"] == ["onnx24" if calibrated else "ort"]
    assert document["precision"]["vit"] == ("int8" if calibrated else "bf16")
    if calibrated:
        assert {"name", "precision", "plain", "smoothed"} <= set(document["calibration"][0])
    else:
        assert document["calibration"] is None


def test_a_truncated_checkpoint(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "in", TINY_QWEN2)
    weights = tmp_path / "in" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    status, out, err = run(capsys, "export", tmp_path / "in", tmp_path / "out")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "model.safetensors" in err
    assert not (tmp_path / "out").exists()
