from __future__ import annotations

import ast
import graphlib
import inspect
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import internvl_rt as ivl
from internvl_rt import _core


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


def test_imports_between_folders_point_one_way() -> None:
    package = Path(ivl.__file__).parent
    modules = {
        path.relative_to(package).with_suffix("").parts: path
        for path in package.rglob("*.py")
        if "export" not in path.parts
    }
    after: dict[str, set[str]] = {}
    for parts, path in modules.items():
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("internvl_rt."):
                assert node.module is not None
                imported = node.module.split(".")[1]
                if imported != parts[0]:
                    after.setdefault(parts[0], set()).add(imported)
    assert len(after) > 8
    order = graphlib.TopologicalSorter(after)
    order.prepare()  # raises CycleError with the folders of a circle


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


def test_memory_and_cores_are_those_of_the_process_s_control_group(tmp_path: Path) -> None:
    """The walk through the groups is tested in C++; this is the extension's own door to it."""
    for name, text in (
        ("proc/meminfo", "MemTotal: 4000 kB\nMemAvailable: 3000 kB\n"),
        ("proc/self/cgroup", "0::/robot\n"),
        ("proc/self/mountinfo", "30 22 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
        ("sys/fs/cgroup/robot/cpu.max", "100000 100000\n"),
        ("sys/fs/cgroup/robot/memory.max", "2048000\n"),
        ("sys/fs/cgroup/robot/memory.current", "1024000\n"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    root = str(tmp_path)
    found = (_core.usable_cores(root), _core.usable_memory(root), _core.total_memory(root))
    assert found == (1, 1024000, 2048000)
    nowhere = str(tmp_path / "nothing")
    assert (_core.usable_memory(nowhere), _core.total_memory(nowhere)) == (None, None)
