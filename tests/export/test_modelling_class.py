"""Checkpoints that another class computes are refused by name, copies of the plain class are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from export.checkpoints import TINY_INTERNLM2, TINY_QWEN2, Layout, write_checkpoint
from export.test_export import edit
from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.errors import CheckpointError
from internvl_rt.export.exporter import export

FILE = "modeling_internvl_chat.InternVLChatModel"
PLAIN: dict[str, dict[str, Any]] = {
    "as published": {
        "auto_map": {
            "AutoConfig": "configuration_internvl_chat.InternVLChatConfig",
            "AutoModel": FILE,
            "AutoModelForCausalLM": FILE,
        }
    },
    "saved by peft or swift": {
        "auto_map": {
            "AutoConfig": "OpenGVLab/InternVL2-1B--configuration_internvl_chat.InternVLChatConfig",
            "AutoModel": f"OpenGVLab/InternVL2-1B--{FILE}",
        }
    },
    "a repository with a dot in its name": {"auto_map": {"AutoModel": f"o/SI-1.1-InternVL3-2B--{FILE}"}},
    "code in a folder": {"auto_map": {"AutoModel": f"code.{FILE}"}},
    "a list of one": {"auto_map": {"AutoModel": [FILE, None]}},
    "other classes that compute nothing": {
        "auto_map": {
            "AutoProcessor": "processing.Mine",
            "AutoTokenizer": ["a.B", None],
            "AutoModel": FILE,
        }
    },
    "nothing said": {"auto_map": None, "architectures": None},
    "empty": {"auto_map": {}, "architectures": []},
    "a null inside": {"auto_map": {"AutoModel": None}, "architectures": [None]},
    "one name without a list": {"architectures": "InternVLChatModel"},
    "saved while it was sharded": {"architectures": ["FSDPInternVLChatModel"]},
}
OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "an audio model": ({"architectures": ["InternVLChatAudioModel"]}, "'InternVLChatAudioModel'"),
    "a class beside the plain one": ({"architectures": ["InternVLChatModel", "MyModel"]}, "'MyModel'"),
    "another file": (
        {"auto_map": {"AutoModel": "modeling_internvl_chat_hico2.InternVLChatModel"}},
        r"AutoModel names 'modeling_internvl_chat_hico2\.InternVLChatModel'",
    ),
    "another file of a repository": (
        {"auto_map": {"AutoModel": "o/r--modeling_video.InternVLChatModel"}},
        r"'modeling_video\.InternVLChatModel'",
    ),
    "another class of the file": (
        {"auto_map": {"AutoModel": "modeling_internvl_chat.CustomizedInternVLChatModel"}},
        "CustomizedInternVLChatModel",
    ),
    "for one of the tasks": (
        {"auto_map": {"AutoModel": FILE, "AutoModelForCausalLM": "modeling_sa2va.Sa2VA"}},
        r"AutoModelForCausalLM names 'modeling_sa2va\.Sa2VA'",
    ),
    "no text": ({"architectures": [[1]]}, r"architectures is \[\[1\]\].*names"),
    "a number": ({"architectures": 7}, "architectures is 7"),
    "no text in the map": ({"auto_map": {"AutoModel": {"a": 1}}}, "auto_map: AutoModel is"),
    "no map": ({"auto_map": ["AutoModel"]}, "auto_map is"),
}


@pytest.mark.parametrize("name", PLAIN)
def test_the_plain_class(tmp_path: Path, name: str) -> None:
    write_checkpoint(tmp_path / "in", TINY_INTERNLM2, config_changes=PLAIN[name])
    assert open_bundle(export(tmp_path / "in", tmp_path / "out")).manifest.source_format == "internvl_chat"


@pytest.mark.parametrize("name", OTHERS)
def test_another_class(tmp_path: Path, name: str) -> None:
    changes, message = OTHERS[name]
    write_checkpoint(tmp_path / "in", TINY_INTERNLM2, config_changes=changes)
    with pytest.raises(CheckpointError, match=message):
        export(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("layout", ["native_first", "native_second"])
def test_the_native_class(tmp_path: Path, layout: Layout) -> None:
    write_checkpoint(tmp_path / "in", TINY_QWEN2, layout=layout)
    export(tmp_path / "in", tmp_path / "out")
    for number, changes in enumerate(
        (
            {"architectures": ["InternVLForVideo"]},
            {"architectures": ["InternVLChatModel"]},
            {"auto_map": {"AutoModelForImageTextToText": "modeling_mine.InternVLForConditionalGeneration"}},
        )
    ):
        folder = tmp_path / str(number)
        write_checkpoint(folder, TINY_QWEN2, layout=layout, config_changes=changes)
        with pytest.raises(CheckpointError, match=r"names .*InternVLForConditionalGeneration"):
            export(folder, tmp_path / "other")


def test_language_models_inside_name_their_own_code(tmp_path: Path) -> None:
    """The authors' code goes by the class's name and never by the map in ``llm_config``."""
    write_checkpoint(tmp_path / "in", TINY_INTERNLM2)
    inner = {"AutoModel": "modeling_internlm2.InternLM2ForCausalLM", "AutoConfig": "x--y.InternLM2Config"}
    edit(tmp_path / "in", "llm_config", "auto_map", value=inner)
    edit(tmp_path / "in", "vision_config", "auto_map", value={"AutoModel": "modeling_intern_vit.X"})
    export(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("value", [[[1]], [{}], 3, {"a": 1}, [True]])
def test_language_models_whose_class_is_no_name(tmp_path: Path, value: object) -> None:
    write_checkpoint(tmp_path / "in", TINY_QWEN2)
    edit(tmp_path / "in", "llm_config", "architectures", value=value)
    with pytest.raises(CheckpointError, match="llm_config: architectures is"):
        export(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("value", [None, [], ...])
def test_language_models_without_a_class_go_by_their_type(tmp_path: Path, value: object) -> None:
    write_checkpoint(tmp_path / "in", TINY_QWEN2)
    edit(tmp_path / "in", "llm_config", "architectures", value=value)
    assert open_bundle(export(tmp_path / "in", tmp_path / "out")).manifest.llm.architecture == "qwen2"
