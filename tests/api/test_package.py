from __future__ import annotations

import inspect
import pydoc
import subprocess
import sys

import pytest

import internvl_rt as ivl


def test_importing_loads_no_library() -> None:
    code = (
        "import sys, internvl_rt; "
        "heavy = 'numpy onnx onnxruntime PIL tokenizers rich typer internvl_rt._core'.split(); "
        "print(sorted(set(heavy) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_loading_a_model_needs_neither_exporter_nor_torch() -> None:
    code = (
        "import sys, internvl_rt; internvl_rt.load; internvl_rt.Model; "
        "print(sorted({'onnx', 'onnxruntime', 'torch', 'rich', 'typer', 'sentencepiece'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    for name in ivl.__all__:
        assert getattr(ivl, name) is not None
        assert name in dir(ivl)


def test_export_can_be_called_whether_or_not_its_package_was_imported() -> None:
    for code in ("import internvl_rt as i", "import internvl_rt.export.writer; import internvl_rt as i"):
        call = (
            f"{code}\ntry: i.export('/nowhere/at/all', '/unused')\nexcept i.CheckpointError: print('typed')"
        )
        done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "typed"


def test_help_of_export_tells_its_arguments() -> None:
    text = pydoc.plain(pydoc.render_doc(ivl.export))
    assert "makes a bundle" in text
    assert "Makes a bundle from a checkpoint folder" in text
    assert "weights: precision of the language model" in text
    assert list(inspect.signature(ivl.export).parameters)[:3] == ["checkpoint", "out", "weights"]


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        ivl.lod  # noqa: B018
